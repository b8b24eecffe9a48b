"""Callbacks of a training run: weight average, epoch lines, checkpoints; and its curves."""

import csv
import io
import math
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
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
NAMES = {**RATES, "val_loss": "loss"}


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


class Checkpoint(ModelCheckpoint):
    """Writes `root/name.ckpt`; takes no paths from a checkpoint, as the folder may have been moved."""

    def __init__(self, root: Path, name: str, **options: Any) -> None:
        super().__init__(root, name, enable_version_counter=False, **options)
        self.path = Path(str(self.dirpath)) / f"{name}.ckpt"

    def load_state_dict(self, state_dict: dict[str, Any]) -> None: ...


class BestCheckpoint(Checkpoint):
    """Saves the best epoch and prints a line after each validation.

    Epochs are compared by the first of `metrics` that differs. The scores to beat are those in best.ckpt.
    """

    def __init__(self, root: Path, metrics: Sequence[str]) -> None:
        super().__init__(root, "best", monitor=metrics[0], save_on_train_epoch_end=False)
        self.metrics = metrics
        self.scores: dict[str, float] = {}  # of all metrics, and "epoch"
        self._better = False

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        best = load_checkpoint(self.path) if trainer.is_global_zero else None
        self.scores = trainer.strategy.broadcast(read_scores(best) if best else {})
        if self.metrics[0] in self.scores:
            self.best_model_score = torch.tensor(self.scores[self.metrics[0]])

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        super().on_train_start(trainer, pl_module)
        self._last = time.monotonic()

    def check_monitor_top_k(self, trainer: pl.Trainer, current: Tensor | None = None) -> bool:
        return self._better

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking:
            return
        new = {name: float(value) for name, value in trainer.callback_metrics.items() if name in NAMES}
        new["epoch"] = trainer.current_epoch
        now, best = ([m.get(name, math.inf) for name in self.metrics] for m in (new, self.scores))
        self._better = now < best
        if self._better:
            self.scores = new
        super().on_validation_end(trainer, pl_module)
        self._print(trainer, new)

    @rank_zero_only
    def _print(self, trainer: pl.Trainer, new: dict[str, float]) -> None:
        now = time.monotonic()
        seconds, self._last = now - self._last, now
        rates = (f"{name} {new[metric]:.2%}  " for metric, name in RATES.items() if metric in new)
        loss, rate = trainer.callback_metrics.get("loss", 0), trainer.optimizers[0].param_groups[0]["lr"]
        print(
            f"epoch {trainer.current_epoch:3d}  step {trainer.global_step:6d}  loss {loss:.3f}  "
            f"val_loss {new['val_loss']:.3f}  {''.join(rates)}best epoch {self.scores['epoch']} "
            f"by {', '.join(NAMES[name] for name in self.metrics)}  rate {rate:.1e}  {seconds:.0f} s",
            flush=True,
        )

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "scores": self.scores}


def read_scores(best: dict[str, Any]) -> dict[str, float]:
    """Metrics and epoch in best.ckpt; in an older one, only the metric that selected it."""
    states = best["callbacks"].values()
    state = next((s for s in states if "scores" in s), None) or next(s for s in states if s.get("monitor"))
    older = {state["monitor"]: float(state["best_model_score"]), "epoch": best["epoch"]}
    return dict(state.get("scores", older))


class RecentCheckpoint(Checkpoint):
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
            trainer.save_checkpoint(self.path)

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Continue in mid-epoch, also after max_steps; start the epoch again if its batches have changed."""
        loop, data = checkpoint["loops"]["fit_loop"], trainer.datamodule  # type: ignore[attr-defined]
        progress, epochs = loop["epoch_loop.batch_progress"], loop["epoch_progress"]
        if progress["is_last_batch"]:
            return
        if epochs["total"]["processed"] == epochs["total"]["started"]:  # stopped early
            for counter in epochs.values():
                counter["processed"] -= 1
        saved = checkpoint.get(type(data).__qualname__, {}).get("batches")
        if saved not in (None, data.batches):
            progress["current"] = dict.fromkeys(progress["current"], 0)
            progress["total"]["completed"] = progress["total"]["processed"]
            if trainer.is_global_zero:
                epoch = checkpoint["epoch"]
                print_error(f"{trainer.ckpt_path}: the batches are others now; epoch {epoch} starts again")


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


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Checkpoint in CPU memory; None if it is missing, or damaged, which is reported."""
    try:
        return dict(torch.load(path, map_location="cpu", weights_only=True, mmap=True))
    except FileNotFoundError:
        return None
    except (OSError, RuntimeError, EOFError, ValueError) as error:
        print_error(f"{path}: damaged checkpoint ({str(error).splitlines()[0][:80]}); passed over")
        return None


def newest_checkpoint(root: Path) -> tuple[Path, dict[str, Any]] | None:
    """Newest intact checkpoint to resume from, or None; raises TrainingError if all are damaged."""
    found = [path for name in ("last.ckpt", "recent.ckpt") if (path := root / name).exists()]
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        if checkpoint := load_checkpoint(path):
            return path, checkpoint
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
        if axes.has_data():  # not without validation
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
