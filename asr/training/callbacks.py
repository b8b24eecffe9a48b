"""Callbacks of a training run: weight average, epoch lines, checkpoints; and its curves."""

import csv
import io
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

RATES = {"val_wer": "WER", "val_cer": "CER", "val_per": "PER"}  # the last one for phones


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
        self.best: tuple[float, int] = (float("inf"), 0)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._last = time.monotonic()

    @rank_zero_only
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
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
        return {"best": list(self.best)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = tuple(state_dict["best"])


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints completely or not at all; on a full disk the run continues without."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        buffer = io.BytesIO()  # torch.save would turn an OSError into a RuntimeError
        torch.save(checkpoint, buffer)
        try:
            with atomic_write(Path(path), "wb") as file:
                file.write(buffer.getbuffer())
        except OSError as error:
            before = "; the previous one is kept" if Path(path).exists() else ""
            print_error(f"{path}: checkpoint not written ({(error.strerror or str(error)).lower()}){before}")


class RecentCheckpoint(ModelCheckpoint):
    """Saves in mid-epoch only: resuming after an epoch's last batch would skip its validation.

    Also saves on SIGTERM, except during validation.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            super().on_train_batch_end(trainer, *args)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        # After a complete step. During validation, the weights and their average are swapped.
        in_epoch = trainer.training and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if in_epoch and isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(Path(self.dirpath or ".") / f"{self.filename}.ckpt")


class StopTogether(Callback):
    """Stops all processes after the same step when any of them receives SIGTERM.

    The trainer's own handler communicates from within whatever collective is under way, which deadlocks.
    """

    _asked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        # The trainer restores the original handler at its end.
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, lambda *_: setattr(self, "_asked", True))

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            trainer._signal_connector.received_sigterm = True


def newest_checkpoint(root: Path) -> Path | None:
    """Newest intact checkpoint, or None; reports damaged ones, raises TrainingError if all are damaged."""
    found = [path for name in ("last.ckpt", "recent.ckpt") if (path := root / name).exists()]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            print_error(f"{path}: damaged checkpoint ({str(error).splitlines()[0][:80]}); passed over")
        else:
            return path
    if found:
        raise TrainingError(f"{root}: all checkpoints are damaged; start again in another default_root_dir")
    return None


def plot_curves(logs: Path, png: Path) -> None:
    """Plot losses and error rates over steps from all `metrics.csv` below `logs`."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    curves = read_curves(logs)
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(11, 4), layout="constrained")
    labels = {"loss": "training", "val_loss": "validation", **RATES}
    for name, label in labels.items():
        if name in curves:
            axes, factor = (right, 100) if name in RATES else (left, 1)
            steps, values = np.array(curves[name]).T
            axes.plot(steps, factor * values, label=label)
    left.set(xlabel="step", ylabel="loss, nats per token", ylim=(0, None))
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
