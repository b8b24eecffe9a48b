"""Reports as text tables of at most the terminal's width, and as plots."""

import math
from collections.abc import Mapping, Sequence
from operator import itemgetter
from pathlib import Path
from textwrap import indent
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
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

FEW_SPEAKERS = 10  # with fewer, the interval itself is uncertain

_COUNTS = ("errors", "sub", "del", "ins")


def print_report(report: Report, console: Console | None = None, worst: int = 5, speakers: int = 40) -> None:
    """Print rates, the `speakers` with the highest WER, and the alignments of the `worst` utterances."""
    console = console or Console()
    kinds = ("WER", report.words, report.word_interval), ("CER", report.characters, report.character_interval)
    rows = [
        (name, _percent(counts.rate), _span(span, " - "), *_columns(counts)) for name, counts, span in kinds
    ]
    _print_table(console, ("", "rate", "95 % interval", *_COUNTS, "reference"), rows)
    hours, seconds = report.audio_seconds / 3600, report.processing_seconds
    factor = _number(report.real_time_factor, 4)
    _print(console, _scored(report))
    _print(console, f"{hours:.2f} h of audio in {seconds:.1f} s: real-time factor {factor}")
    _print_interval(console, report)
    if report.confidence.words:
        _print(console, quality_line(report.confidence))
    if found := report.speakers:
        rows = [
            (r.speaker, str(r.utterances), _rate(r.words.rate), _rate(r.characters.rate), *_columns(r.words))
            for r in found[:speakers]
        ]
        _print(console, "")
        _print_table(console, ("speaker", "utt.", "WER, %", "CER, %", *_COUNTS, "words"), rows)
        if len(found) > speakers:
            _print(console, f"speakers with a lower WER, not shown: {len(found) - speakers}")
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
        words, spans = report.words, (report.word_interval, report.character_interval)
        wer, cer = (_rate(counts.rate) for counts in (words, report.characters))
        rows.append((condition.name, wer, _span(spans[0]), cer, _span(spans[1]), *_columns(words)[1:4]))
    _print_table(console, ("", "WER, %", "95 %", "CER, %", "95 %", "sub", "del", "ins"), rows)
    clean = result.reports[CLEAN]
    noisy = any(condition.snr is not None for condition in result.reports)
    noise = f"; noise: {result.noise}, seed {result.seed}" if noisy else ""
    _print(console, f"{_scored(clean)} when clean, {clean.words.length} words{noise}")
    _print_interval(console, clean)
    for condition, report in result.reports.items():
        for p in report.problems:
            _print(console, f"could not be scored: {condition.name}: {p.id}: {p.reason}", "bold red")


def quality_line(quality: Quality) -> str:
    """Calibration of confidences in one line."""
    return (
        f"confidence: mean {_percent(quality.confidence)}, words correct {_percent(quality.accuracy)}, "
        f"ECE {_number(quality.calibration_error, 3)}, NCE {_number(quality.cross_entropy, 3)}"
    )


def _scored(report: Report) -> str:
    return f"{len(report.scores)} of {len(report.scores) + len(report.problems)} utterances scored"


def _print_interval(console: Console, report: Report) -> None:
    if span := report.word_interval:
        rough = "; rough with so few speakers" if span.unit == "speaker" and span.units < FEW_SPEAKERS else ""
        _print(console, f"interval: bootstrap over {span.units} {span.unit}s{rough}")


def _print_table(console: Console, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Columns two spaces apart, the first aligned left and folded where it is too long."""
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="")
    table.add_column(header[0], overflow="fold")
    for name in header[1:]:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table, markup=False, highlight=False, emoji=False)


def _print(console: Console, text: str, style: str = "") -> None:
    """Print without wrapping or markup."""
    console.print(Text(text, style=style), soft_wrap=True)


def _columns(counts: Counts) -> tuple[str, ...]:
    numbers = (counts.errors, counts.substitutions, counts.deletions, counts.insertions, counts.length)
    return tuple(map(str, numbers))


def _percent(rate: float) -> str:
    return _number(100 * rate, 2, " %")


def _rate(rate: float) -> str:
    return _number(100 * rate, 2)


def _number(value: float, digits: int, unit: str = "") -> str:
    return "n/a" if math.isnan(value) else f"{value:.{digits}f}{unit}"


def _span(span: Interval | None, dash: str = "-") -> str:
    return f"{100 * span.low:.2f}{dash}{100 * span.high:.2f}" if span else "n/a"


def check_plot() -> None:
    """Raise AsrError if matplotlib is not installed."""
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError:
        raise AsrError("matplotlib is not installed; --plot needs pip install matplotlib") from None


def plot(systems: Mapping[str, Robustness], png: Path) -> None:
    """Plot the WER of systems, by name, against each kind of condition, with intervals."""
    from matplotlib.figure import Figure

    first = next(iter(systems.values()))
    axis = {"snr": f"SNR, dB ({first.noise} noise)", "level": "RMS level, dBFS", "silence": "silence, s"}
    kinds = list(dict.fromkeys(c.changed[0] for c in first.reports if c.changed)) or ["tempo"]
    figure = Figure(figsize=(5.5 * len(kinds), 4), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        for number, (name, result) in enumerate(systems.items()):
            _draw(axes, f"C{number}", name, result, kind)
        axes.set(xlabel=axis.get(kind, kind), ylabel="word error rate, %", ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.legend()
    with atomic_write(png, "wb") as file:
        figure.savefig(file, dpi=120, format="png")


def _draw(axes: "Axes", colour: str, name: str, result: Robustness, kind: str) -> None:
    """Curve over one kind of condition, with clean speech on it (tempo 1, silence 0) or as a dotted line."""
    on_curve = kind in ("tempo", "silence")
    chosen = [(c, r) for c, r in result.reports.items() if (c.changed or ("", 0))[0] == kind]
    chosen += [(CLEAN, result.reports[CLEAN])] * on_curve
    places, rates, below, above = [], [], [], []
    for place, report in sorted(((getattr(c, kind), r) for c, r in chosen), key=itemgetter(0)):
        rate, span = report.words.rate, report.word_interval
        places.append(place)
        rates.append(100 * rate)
        below.append(100 * max(0.0, rate - span.low) if span else 0.0)
        above.append(100 * max(0.0, span.high - rate) if span else 0.0)
    axes.errorbar(places, rates, [below, above], color=colour, marker="o", capsize=3, label=name)
    axes.set_xticks(places)
    if not on_curve:
        clean = 100 * result.reports[CLEAN].words.rate
        axes.axhline(clean, color=colour, linestyle=":", label=f"{name}, clean")
