"""A Report on the terminal."""

import math
from textwrap import indent

from rich.console import Console
from rich.table import Table
from rich.text import Text

from asr.scoring.bootstrap import Interval
from asr.scoring.calibration import Quality
from asr.scoring.evaluate import Report
from asr.scoring.wer import Counts, align

FEW_SPEAKERS = 10
"""Below this number the interval by speaker is itself uncertain, and the report says so."""

_COUNTS = ("errors", "sub", "del", "ins", "reference")


def print_report(report: Report, console: Console | None = None, worst: int = 5, speakers: int = 40) -> None:
    """Print rates, a table of the `speakers` with the highest WER, and the `worst` utterances aligned."""
    console = console or Console()
    console.print(_rates(report))
    console.print(Text(_summary(report)))
    if rows := report.speakers:
        console.print()
        console.print(_speakers(report, speakers))
        if len(rows) > speakers:
            console.print(Text(f"speakers with a lower WER, not shown: {len(rows) - speakers}"))
    for s in report.worst(worst):
        spoken_by = f", speaker {s.speaker}" if s.speaker is not None else ""
        console.print()
        console.print(
            Text(f"{s.id}{spoken_by}: word errors {s.words.errors}, words {s.words.length}", style="bold")
        )
        picture = align(s.reference, s.hypothesis, max(40, console.width - 2))
        console.print(Text(indent(picture, "  ")), soft_wrap=True)
    if report.problems:
        console.print()
        console.print(Text(f"could not be scored: {len(report.problems)}", style="bold red"))
        for problem in report.problems:
            console.print(Text(f"  {problem.id}: {problem.reason}"), soft_wrap=True)


def _rates(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in ("", "rate", "95 % interval", *_COUNTS):
        table.add_column(name, justify="left" if not name else "right", no_wrap=True)
    for name, counts, confidence in (
        ("WER", report.words, report.word_interval),
        ("CER", report.characters, report.character_interval),
    ):
        table.add_row(Text(name, style="bold"), _percent(counts.rate), _span(confidence), *_columns(counts))
    return table


def _summary(report: Report) -> str:
    total = len(report.scores) + len(report.problems)
    factor = "n/a" if math.isnan(report.real_time_factor) else f"{report.real_time_factor:.4f}"
    lines = [
        f"{len(report.scores)} of {total} utterances scored, {report.audio_seconds / 3600:.2f} h of audio in "
        f"{report.processing_seconds:.1f} s: real-time factor {factor}"
    ]
    if line := interval_line(report):
        lines.append(line)
    if report.confidence.words:
        lines.append(quality_line(report.confidence))
    return "\n".join(lines)


def interval_line(report: Report) -> str:
    """What was resampled for the intervals, in one line; empty where there are none."""
    confidence = report.word_interval
    if confidence is None:
        return ""
    rough = confidence.unit == "speaker" and confidence.units < FEW_SPEAKERS
    note = "; with so few speakers it is rough" if rough else ""
    return f"interval: bootstrap over {confidence.units} {confidence.unit}s{note}"


def quality_line(quality: Quality) -> str:
    """Calibration of confidences in one line."""
    entropy = "n/a" if math.isnan(quality.cross_entropy) else f"{quality.cross_entropy:.3f}"
    return (
        f"confidence: {_percent(quality.confidence)} on average, {_percent(quality.accuracy)} of the words "
        f"right; expected calibration error {quality.calibration_error:.3f}, NCE {entropy}"
    )


def _speakers(report: Report, limit: int) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("speaker", overflow="fold")
    for name in ("utterances", "WER", "CER", *_COUNTS):
        table.add_column(name, justify="right", no_wrap=True)
    for row in report.speakers[:limit]:
        rates = (_percent(row.words.rate), _percent(row.characters.rate))
        table.add_row(Text(row.speaker), str(row.utterances), *rates, *_columns(row.words))
    return table


def _columns(counts: Counts) -> tuple[str, ...]:
    numbers = (counts.errors, counts.substitutions, counts.deletions, counts.insertions, counts.length)
    return tuple(str(number) for number in numbers)


def _percent(rate: float) -> str:
    return "n/a" if math.isnan(rate) else f"{100 * rate:.2f} %"


def _span(confidence: Interval | None) -> str:
    return "n/a" if confidence is None else f"{100 * confidence.low:.2f} - {100 * confidence.high:.2f}"
