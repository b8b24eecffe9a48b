"""Tables and plots of the study; figures are means over seeds, with minimum and maximum."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from asr.frames import FrameGrid
from recipes.cells.measure import Result

Settings = dict[str, list[Result]]
"""Results by the quantity held equal."""

FRAME = FrameGrid().frame_seconds
"""Seconds per output frame."""

COLOURS = {"rnn": "tab:red", "lstm": "tab:blue", "gru": "tab:green"}


def tables(settings: Settings, levels: list[float]) -> str:
    """All tables of the study, in Markdown."""
    parts = []
    for name, results in settings.items():
        parts += [f"At equal {name}:\n", training_table(results, levels), error_table(results)]
        parts.append(reach_table(results))
    return "\n".join(parts)


def rate_table(results: list[Result]) -> str:
    """Lowest validation loss by learning rate, one seed."""
    rates = sorted({result.run.rate for result in results})
    found = {(r.run.cell, r.run.rate): f"{min(r.losses):.3f}" for r in results}
    rows = [
        [same[0].run.cell, *(found[same[0].run.cell, rate] for rate in rates)] for same in by_cell(results)
    ]
    return markdown(["cell", *(f"lowest loss at {rate:g}" for rate in rates)], rows)


def training_table(results: list[Result], levels: list[float]) -> str:
    """Size, speed and convergence."""
    header = ["cell", "hidden", "learning rate", "parameters", "of them recurrent", "CPU s an epoch"]
    header += [f"{unit} to {level:g}" for level in levels for unit in ("epochs", "CPU s")] + ["lowest loss"]
    rows = []
    for same in by_cell(results):
        one = same[0]
        row = [one.run.cell, str(one.run.hidden), f"{one.run.rate:g}"]
        row += [
            f"{one.parameters:,}",
            f"{one.recurrent_parameters:,}",
            spread([r.seconds for r in same], "{:.1f}"),
        ]
        for level in levels:
            epochs = [epochs_to(level, r.losses) for r in same]
            row += [spread(epochs, "{:.0f}")]
            row += [spread([n * r.seconds for n, r in zip(epochs, same, strict=True)], "{:.0f}")]
        rows.append([*row, spread([min(r.losses) for r in same], "{:.3f}")])
    return markdown(header, rows)


def error_table(results: list[Result]) -> str:
    """WER in percent by part and condition."""
    conditions = list(results[0].wer["dev"])
    rows = [
        [same[0].run.cell, str(same[0].run.hidden), part]
        + [spread([100 * r.wer[part][name] for r in same], "{:.1f}") for name in conditions]
        for part in results[0].wer
        for same in by_cell(results)
    ]
    return markdown(["cell", "hidden", "WER, %", *conditions], rows)


def reach_table(results: list[Result]) -> str:
    """Lags in ms that contain 50, 90 and 99 % of the gradient's norm, and the share beyond two lags."""
    rows = []
    for same in by_cell(results):
        for name, curves in (
            ("trained", [r.reach for r in same]),
            ("untrained", [r.reach_untrained for r in same]),
        ):
            row = [same[0].run.cell, str(same[0].run.hidden), name]
            for share in (0.5, 0.9, 0.99):
                row.append(spread([1000 * FRAME * lag_of(share, curve) for curve in curves], "{:.0f}"))
            for seconds in (0.4, 0.8):
                beyond = [100 * sum(curve[round(seconds / FRAME) + 1 :]) for curve in curves]
                row.append(spread(beyond, "{:.2g}"))
            rows.append(row)
    header = [
        "cell",
        "hidden",
        "gradient",
        "50 % within, ms",
        "90 %",
        "99 %",
        "% beyond 0.4 s",
        "% beyond 0.8 s",
    ]
    return markdown(header, rows)


def epochs_to(level: float, losses: list[float]) -> float:
    """First epoch, from 1, with a validation loss of at most `level`; infinite if there is none."""
    return next((float(epoch) for epoch, loss in enumerate(losses, start=1) if loss <= level), float("inf"))


def lag_of(share: float, curve: list[float]) -> int:
    """Smallest lag up to which `curve` sums to `share` of its total."""
    total = np.cumsum(curve)
    return int(np.searchsorted(total, share * total[-1]))


def by_cell(results: list[Result]) -> Iterator[list[Result]]:
    """Group results by cell, one per seed."""
    for cell in dict.fromkeys(result.run.cell for result in results):
        yield [result for result in results if result.run.cell == cell]


def spread(values: list[float], form: str) -> str:
    """Mean (minimum - maximum) of the finite values; the others are counted as "never"."""
    reached = [value for value in values if np.isfinite(value)]
    if not reached:
        return "never"
    low, high = form.format(min(reached)), form.format(max(reached))
    text = form.format(np.mean(reached)) + ("" if low == high else f" ({low} - {high})")
    missing = len(values) - len(reached)
    return text + (f", {missing} of {len(values)} never" if missing else "")


def markdown(header: list[str], rows: list[list[str]]) -> str:
    """Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def plot(settings: Settings, png: Path) -> None:
    """Plot validation loss, WER by condition and gradient shares by lag, one row per comparison."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, rows = pyplot.subplots(
        len(settings), 3, figsize=(15, 4.2 * len(settings)), layout="constrained", squeeze=False
    )
    for (name, results), (losses, errors, reach) in zip(settings.items(), rows, strict=True):
        conditions = list(results[0].wer["test"])
        for place, same in enumerate(by_cell(results)):
            one = same[0].run
            look = {"color": COLOURS[one.cell], "label": f"{one.cell} {one.hidden}"}
            epochs = np.arange(1, len(same[0].losses) + 1)
            band(losses, epochs, [r.losses for r in same], **look)
            rates = 100 * np.array([[r.wer["test"][c] for c in conditions] for r in same])
            x = np.arange(len(conditions)) + 0.25 * (place - 1)
            errors.bar(x, rates.mean(0), 0.24, yerr=around(rates), capsize=3, **look)
            lags = FRAME * np.arange(len(same[0].reach))
            band(reach, lags, [r.reach for r in same], **look)
            untrained = np.mean([r.reach_untrained for r in same], axis=0)
            reach.plot(lags, untrained, "--", color=look["color"], alpha=0.6)
        losses.set(
            title=f"equal {name}", xlabel="epoch", ylabel="validation loss, nats a token", yscale="log"
        )
        errors.set(ylabel="test WER, %", xticks=range(len(conditions)), xticklabels=conditions)
        reach.set(xlabel="lag, s (dashed: untrained)", ylabel="share of the gradient's norm", yscale="log")
        reach.set(ylim=(1e-6, 1))
        for axes in (losses, errors, reach):
            axes.legend()
            axes.grid(alpha=0.3)
    figure.savefig(png, dpi=110)
    pyplot.close(figure)


def band(axes: Any, x: np.ndarray, curves: list[list[float]], color: str, label: str) -> None:
    """Draw the mean of the seeds' curves and their range."""
    y = np.array(curves)
    axes.plot(x, y.mean(0), color=color, label=label)
    axes.fill_between(x, y.min(0), y.max(0), color=color, alpha=0.2, linewidth=0)


def around(values: np.ndarray) -> np.ndarray:
    """Distances `[2, N]` of minimum and maximum from the mean of `[seeds, N]`, for error bars."""
    mean = values.mean(0)
    return np.stack([mean - values.min(0), values.max(0) - mean])
