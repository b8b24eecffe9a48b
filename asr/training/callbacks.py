"""Callbacks of a training run: weight average, epoch lines, checkpoints; and its curves."""

import csv
import signal
import threading
import time
from collections import defaultdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint, WeightAveraging
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities import rank_zero_only
from pytorch_lightning.utilities.exceptions import SIGTERMException
from torch import Tensor

from asr.console import print_error
from asr.errors import TrainingError
from asr.files import atomic_write

RATES = {"val_wer": "WER", "val_cer": "CER", "val_per": "PER"}
"""Error rates of validation; a run logs the first two, or the last one for phones."""


class WeightAverage(WeightAveraging):
    """Exponential moving average of the weights, which is what is validated and exported.

    Args:
        decay: Share of the average kept in each step; 0 turns averaging off.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(use_buffers=False, multi_avg_fn=partial(_update_average, decay=decay))


def _update_average(averages: list[Tensor], weights: list[Tensor], _: Tensor, decay: float) -> None:
    # As torch's get_ema_multi_avg_fn, whose closure cannot be sent to a spawned process.
    torch._foreach_lerp_(averages, weights, 1 - decay)


class EpochLine(Callback):
    """Prints one line after each validation, with the best epoch so far by the metric `monitored`."""

    def __init__(self, monitored: str) -> None:
        self.monitored = monitored
        self.best = (float("inf"), 0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._last = time.monotonic()

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print the metrics and the seconds since the last line."""
        m = {name: float(value) for name, value in trainer.callback_metrics.items()}
        self.best = min(self.best, (m[self.monitored], trainer.current_epoch))
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        rates = (f"{name} {m[metric]:.2%}  " for metric, name in RATES.items() if metric in m)
        print(
            f"epoch {trainer.current_epoch:3d}  step {trainer.global_step:6d}  loss {m.get('loss', 0):.3f}  "
            f"val_loss {m['val_loss']:.3f}  {''.join(rates)}best epoch {self.best[1]}  {seconds:.0f} s",
            flush=True,
        )

    def state_dict(self) -> dict[str, Any]:
        """Keep the best epoch over a resume."""
        return {"best": list(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best epoch."""
        value, epoch = state_dict["best"]
        self.best = (value, epoch)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints completely or not at all.

    On a full disk the previous checkpoint stays and the run continues: there may be room for the next one.
    """

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        """Called by the trainer."""
        try:
            with atomic_write(Path(path), "wb") as file:
                torch.save(checkpoint, file)
        except (OSError, RuntimeError) as error:
            cause = error if isinstance(error, OSError) else error.__context__
            if not isinstance(cause, OSError):
                raise
            reason = (cause.strerror or str(cause)).lower()
            before = "; the previous one is kept" if Path(path).exists() else ""
            print_error(f"{path}: checkpoint not written ({reason}){before}")


class RecentCheckpoint(ModelCheckpoint):
    """Saves in mid-epoch only: resuming after an epoch's last batch would skip its validation.

    Also saves on SIGTERM, except during validation.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Called by the trainer."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            super().on_train_batch_end(trainer, *args)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Called by the trainer after a complete step."""
        # During validation, the weights and their average are swapped.
        in_epoch = trainer.training and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if in_epoch and isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(Path(self.dirpath or ".") / f"{self.filename}.ckpt")


class StopTogether(Callback):
    """Stops all processes after the same step when any of them receives SIGTERM.

    The trainer's own handler communicates from within whatever collective is under way, which deadlocks.
    """

    _asked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Replace the trainer's handler; the trainer restores the original one at its end."""
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self._asked = True

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Called by the trainer."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            trainer._signal_connector.received_sigterm = True


def newest_checkpoint(root: Path) -> Path | None:
    """Newest intact checkpoint of a run, or None; damaged ones are reported and passed over.

    Raises TrainingError if all are damaged.
    """
    found = [path for name in ("last.ckpt", "recent.ckpt") if (path := root / name).exists()]
    damaged = None
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            damaged = path
            print_error(f"{path}: damaged checkpoint ({str(error).splitlines()[0][:80]}); passed over")
        else:
            return path
    if damaged:
        raise TrainingError(f"{root}: all checkpoints are damaged; start again in another default_root_dir")
    return None


def plot_curves(logs: Path, png: Path) -> None:
    """Plot losses and error rates over steps from all `metrics.csv` below `logs`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    curves = read_curves(logs)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for name, label in (("loss", "training"), ("val_loss", "validation")):
        left.plot(*np.array(curves[name]).reshape(-1, 2).T, label=label)
    left.set(xlabel="step", ylabel="loss, nats per token", ylim=(0, None))
    for name, label in RATES.items():
        if name in curves:
            steps, rates = np.array(curves[name]).reshape(-1, 2).T
            right.plot(steps, 100 * rates, label=label)
    right.set(xlabel="step", ylabel="validation error rate, %", ylim=(0, 105))
    for axes in (left, right):
        axes.legend()
        axes.grid(alpha=0.3)
    figure.savefig(png, dpi=120)
    pyplot.close(figure)


def read_curves(logs: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) pairs of each metric in order of steps; a resumed run overrides the steps it repeats."""
    values: dict[str, dict[int, float]] = defaultdict(dict)
    for path in sorted(logs.glob("version_*/metrics.csv"), key=lambda p: int(p.parent.name.split("_")[1])):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for name, value in row.items():
                    if value and name != "step":
                        values[name][int(row["step"])] = float(value)
    return defaultdict(list, {name: sorted(curve.items()) for name, curve in values.items()})
