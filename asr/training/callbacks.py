"""What a run leaves to look at: a line an epoch, and the curves."""

import csv
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytorch_lightning as pl
from pytorch_lightning.callbacks import Callback
from pytorch_lightning.utilities import rank_zero_only

RATES = {"val_wer": "WER", "val_cer": "CER", "val_per": "PER"}
"""Validation's error rates of words, characters and phones; a run logs the first two or the last."""


class EpochLine(Callback):
    """Prints one line after each validation, which also reads well in a log file; seconds since the last."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print what was measured."""
        m = {name: float(value) for name, value in trainer.callback_metrics.items()}
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        rates = (f"{name} {m[metric]:.2%}  " for metric, name in RATES.items() if metric in m)
        print(
            f"epoch {trainer.current_epoch:3d}  step {trainer.global_step:6d}  loss {m.get('loss', 0):.3f}  "
            f"val_loss {m['val_loss']:.3f}  {''.join(rates)}{seconds:.0f} s",
            flush=True,
        )


def plot_curves(logs: Path, png: Path) -> None:
    """Draw loss and error rates over steps from all `metrics.csv` below `logs` (one a start of the run)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    curves = read_curves(logs)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        left.plot(*np.array(curves[name]).reshape(-1, 2).T, label=label)
    left.set(xlabel="step", ylabel="CTC loss, nats a token", ylim=(0, None))
    for name, label in RATES.items():
        if name not in curves:
            continue
        steps, rates = np.array(curves[name]).reshape(-1, 2).T
        right.plot(steps, 100 * rates, label=label)
    right.set(xlabel="step", ylabel="validation errors, %", ylim=(0, 105))
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(png, dpi=120)
    pyplot.close(figure)


def read_curves(logs: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each metric, in order of steps; a resumed run's values replace those it repeats."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for path in sorted(logs.glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1])):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name != "step":
                        values[name][int(row["step"])] = float(value)
    return defaultdict(list, {name: sorted(curve.items()) for name, curve in values.items()})
