"""Error rates against noise and tempo: measured, as a table, as JSON, as curves."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asr.errors import AsrError
from asr.files import atomic_write
from asr.inference.transcriber import TranscribeOptions, Transcriber
from asr.manifest import Utterance
from asr.scoring.bootstrap import Interval
from asr.scoring.conditions import CLEAN, Condition, apply_condition
from asr.scoring.evaluate import Report, evaluate_utterances
from asr.scoring.noise import Noise
from asr.scoring.report import interval_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class Robustness:
    """A report for each condition; `noise` is the noise's name."""

    reports: dict[Condition, Report]
    noise: str
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single utterances."""
        rows = [
            {"condition": c.name, "snr": c.snr, "tempo": c.tempo, **report.to_dict()}
            for c, report in self.reports.items()
        ]
        return {"noise": self.noise, "seed": self.seed, "conditions": rows}

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)


def measure(
    model: Transcriber,
    utterances: Sequence[Utterance],
    conditions: Sequence[Condition],
    noise: Noise | None = None,
    name: str = "white",
    seed: int = 0,
    progress: bool = False,
    options: TranscribeOptions = TranscribeOptions(),
) -> Robustness:
    """Evaluate a model under each condition; `name` is that of the noise. Raises AsrError without PyAV."""
    reports = {}
    for condition in conditions:
        source_of = partial(apply_condition, condition=condition, noise=noise, seed=seed)
        reports[condition] = evaluate_utterances(
            model, utterances, source_of, progress, condition.name, options=options
        )
    return Robustness(reports, name, seed)


def print_robustness(result: Robustness, console: Console | None = None) -> None:
    """Print a row a condition, and what could not be scored."""
    console = console or Console()
    table = Table(box=None, pad_edge=False)
    for title in ("", "WER, %", "95 %", "CER, %", "95 %", "sub", "del", "ins"):
        table.add_column(title, justify="left" if not title else "right", no_wrap=True)
    for condition, report in result.reports.items():
        words = report.words
        rates = (
            _percent(words.rate),
            _span(report.word_interval),
            _percent(report.characters.rate),
            _span(report.character_interval),
        )
        counts = (str(n) for n in (words.substitutions, words.deletions, words.insertions))
        table.add_row(Text(condition.name, style="bold"), *rates, *counts)
    console.print(table)
    clean = result.reports[CLEAN]
    total = len(clean.scores) + len(clean.problems)
    summary = f"{len(clean.scores)} of {total} utterances scored when clean, {clean.words.length} words"
    if any(condition.snr is not None for condition in result.reports):
        summary += f"; noise: {result.noise}, seed {result.seed}"
    console.print(Text(summary))
    if line := interval_line(clean):
        console.print(Text(line))
    for condition, report in result.reports.items():
        for problem in report.problems:
            line = f"could not be scored: {condition.name}: {problem.id}: {problem.reason}"
            console.print(Text(line, style="bold red"), soft_wrap=True)


def _percent(rate: float) -> str:
    return f"{100 * rate:.2f}"


def _span(interval: Interval | None) -> str:
    return "n/a" if interval is None else f"{100 * interval.low:.2f}-{100 * interval.high:.2f}"


def check_plot() -> None:
    """Raise AsrError where matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise AsrError("matplotlib is not installed; --plot needs pip install matplotlib") from None


def plot(systems: Mapping[str, Robustness], png: Path) -> None:
    """Draw the word error rates of systems, by their names, with their intervals."""
    from matplotlib.figure import Figure

    results = list(systems.values())
    panels = []
    if any(c.snr is not None for c in results[0].reports):
        panels.append(f"SNR, dB ({results[0].noise} noise)")
    if not panels or any(c.tempo != 1 for c in results[0].reports):
        panels.append("tempo")
    figure = Figure(figsize=(5.5 * len(panels), 4), layout="constrained")
    for axes, label in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for number, (name, result) in enumerate(systems.items()):
            _draw(axes, f"C{number}", name, result, label == "tempo")
        axes.set(xlabel=label, ylabel="word error rate, %", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_write(png, "wb") as file:
        figure.savefig(file, dpi=120, format="png")


def _draw(axes: "Axes", colour: str, name: str, result: Robustness, by_tempo: bool) -> None:
    """A curve over tempo or over SNR; beside the latter the rate without noise, as a line."""
    points = sorted(
        (c.tempo if c.snr is None else c.snr, 100 * report.words.rate, report.word_interval)
        for c, report in result.reports.items()
        if (c.snr is None if by_tempo else c.snr is not None)
    )
    places, rates = [p[0] for p in points], [p[1] for p in points]
    spans = [(0.0, 0.0) if i is None else (rate - 100 * i.low, 100 * i.high - rate) for _, rate, i in points]
    below, above = ([max(0.0, span[side]) for span in spans] for side in (0, 1))
    axes.errorbar(places, rates, [below, above], color=colour, marker="o", capsize=3, label=name)
    axes.set_xticks(places)
    if not by_tempo:
        clean = 100 * result.reports[CLEAN].words.rate
        axes.axhline(clean, color=colour, linestyle=":", label=f"{name}, no noise")
