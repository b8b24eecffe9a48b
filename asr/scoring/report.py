"""Reports as text tables of at most the terminal's width, and as plots."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from asr.errors import AsrError
from asr.files import atomic_write
from asr.scoring.bootstrap import Interval
from asr.scoring.calibration import Quality
from asr.scoring.conditions import CLEAN, Robustness
from asr.scoring.evaluate import Report
from asr.scoring.wer import Counts, align

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FEW_SPEAKERS = 10
"""With fewer speakers the interval itself is uncertain; the report notes that."""

_COUNTS = ("errors", "sub", "del", "ins")


def print_report(report: Report, console: Console | None = None, worst: int = 5, speakers: int = 40) -> None:
    """Print rates, the `speakers` with the highest WER, and the alignments of the `worst` utterances."""
    console = console or Console()
    rows = [
        (name, _percent(counts.rate), _span(span, " - "), *_columns(counts))
        for name, counts, span in (
            ("WER", report.words, report.word_interval),
            ("CER", report.characters, report.character_interval),
        )
    ]
    _print(console, _table(("", "rate", "95 % interval", *_COUNTS, "reference"), rows, console.width))
    _print(console, _summary(report))
    if report.speakers:
        _print(console, "\n" + _speakers(report, speakers, console.width))
    for s in report.worst(worst):
        spoken_by = f", speaker {s.speaker}" if s.speaker is not None else ""
        title = f"\n{s.id}{spoken_by}: word errors {s.words.errors}, words {s.words.length}"
        _print(console, title, "bold")
        _print(console, indent(align(s.reference, s.hypothesis, max(40, console.width - 2)), "  "))
    if report.problems:
        _print(console, f"\ncould not be scored: {len(report.problems)}", "bold red")
        for problem in report.problems:
            _print(console, f"  {problem.id}: {problem.reason}")


def print_robustness(result: Robustness, console: Console | None = None) -> None:
    """Print one row per condition, and the utterances that could not be scored."""
    console = console or Console()
    rows = []
    for condition, report in result.reports.items():
        words, characters = report.words, report.characters
        word_rate = _rate(words.rate), _span(report.word_interval)
        character_rate = _rate(characters.rate), _span(report.character_interval)
        rows.append((condition.name, *word_rate, *character_rate, *_columns(words)[1:4]))
    header = ("", "WER, %", "95 %", "CER, %", "95 %", "sub", "del", "ins")
    _print(console, _table(header, rows, console.width))
    clean = result.reports[CLEAN]
    total = len(clean.scores) + len(clean.problems)
    summary = f"{len(clean.scores)} of {total} utterances scored when clean, {clean.words.length} words"
    if any(condition.snr is not None for condition in result.reports):
        summary += f"; noise: {result.noise}, seed {result.seed}"
    _print(console, summary)
    if line := interval_line(clean):
        _print(console, line)
    for condition, report in result.reports.items():
        for p in report.problems:
            _print(console, f"could not be scored: {condition.name}: {p.id}: {p.reason}", "bold red")


def interval_line(report: Report) -> str:
    """Unit of the bootstrap in one line; empty without intervals."""
    if (span := report.word_interval) is None:
        return ""
    rough = span.unit == "speaker" and span.units < FEW_SPEAKERS
    return f"interval: bootstrap over {span.units} {span.unit}s" + "; rough with so few speakers" * rough


def quality_line(quality: Quality) -> str:
    """Calibration of confidences in one line."""
    return (
        f"confidence: mean {_percent(quality.confidence)}, words correct {_percent(quality.accuracy)}, "
        f"ECE {_number(quality.calibration_error, 3)}, NCE {_number(quality.cross_entropy, 3)}"
    )


def _summary(report: Report) -> str:
    total = len(report.scores) + len(report.problems)
    lines = [
        f"{len(report.scores)} of {total} utterances scored",
        f"{report.audio_seconds / 3600:.2f} h of audio in {report.processing_seconds:.1f} s: "
        f"real-time factor {_number(report.real_time_factor, 4)}",
        interval_line(report),
        quality_line(report.confidence) if report.confidence.words else "",
    ]
    return "\n".join(line for line in lines if line)


def _speakers(report: Report, limit: int, width: int) -> str:
    rows = [
        (r.speaker, str(r.utterances), _rate(r.words.rate), _rate(r.characters.rate), *_columns(r.words))
        for r in report.speakers
    ]
    table = _table(("speaker", "utt.", "WER, %", "CER, %", *_COUNTS, "words"), rows[:limit], width)
    hidden = len(rows) - limit
    return table + (f"\nspeakers with a lower WER, not shown: {hidden}" if hidden > 0 else "")


def _table(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Columns two spaces apart, the first aligned left. A name too long for `width` gets its own line."""
    numbers = [max(map(len, column)) for column in zip(*(row[1:] for row in (header, *rows)), strict=True)]
    room = width - sum(numbers) - 2 * len(numbers)
    names = [" ".join(row[0].split()) for row in (header, *rows)]
    first = max((cell_len(name) for name in names if cell_len(name) <= room), default=0)
    lines = []
    for name, row in zip(names, (header, *rows), strict=True):
        if cell_len(name) > room:
            lines.append(name)
            name = ""
        cells = (f"  {cell:>{size}}" for cell, size in zip(row[1:], numbers, strict=True))
        lines.append(set_cell_size(name, first) + "".join(cells))
    return "\n".join(lines)


def _print(console: Console, text: str, style: str = "") -> None:
    """Print without wrapping or markup."""
    console.print(Text(text, style=style), soft_wrap=True)


def _columns(counts: Counts) -> tuple[str, ...]:
    numbers = (counts.errors, counts.substitutions, counts.deletions, counts.insertions, counts.length)
    return tuple(map(str, numbers))


def _percent(rate: float) -> str:
    return _rate(rate) + ("" if math.isnan(rate) else " %")


def _rate(rate: float) -> str:
    return _number(100 * rate, 2)


def _number(value: float, digits: int) -> str:
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}"


def _span(span: Interval | None, dash: str = "-") -> str:
    return "n/a" if span is None else f"{100 * span.low:.2f}{dash}{100 * span.high:.2f}"


def check_plot() -> None:
    """Raise AsrError if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise AsrError("matplotlib is not installed; --plot needs pip install matplotlib") from None


def plot(systems: Mapping[str, Robustness], png: Path) -> None:
    """Plot the WER of systems, by name, against SNR and tempo, with intervals."""
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
    """Curve over tempo, or over SNR with the rate on clean speech as a dotted line."""
    points = sorted(
        (c.tempo if c.snr is None else c.snr, 100 * report.words.rate, report.word_interval)
        for c, report in result.reports.items()
        if (c.snr is None) == by_tempo
    )
    places, rates = [p[0] for p in points], [p[1] for p in points]
    spans = [(0.0, 0.0) if i is None else (rate - 100 * i.low, 100 * i.high - rate) for _, rate, i in points]
    below, above = ([max(0.0, span[side]) for span in spans] for side in (0, 1))
    axes.errorbar(places, rates, [below, above], color=colour, marker="o", capsize=3, label=name)
    axes.set_xticks(places)
    if not by_tempo:
        clean = 100 * result.reports[CLEAN].words.rate
        axes.axhline(clean, color=colour, linestyle=":", label=f"{name}, clean")
