"""Checkpoints that are whole, and which of them to go on from."""

import signal
import threading
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, ModelCheckpoint
from pytorch_lightning.plugins.io import TorchCheckpointIO
from pytorch_lightning.utilities.exceptions import SIGTERMException

from asr.console import print_error
from asr.errors import TrainingError
from asr.files import atomic_write


class WholeCheckpoints(TorchCheckpointIO):
    """Writes checkpoints whole or not at all. Where there is no room, the one before stays, and the run goes
    on: the disk may have room again when the next one is due."""

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
            before = "; the one before is kept" if Path(path).exists() else ""
            print_error(f"{path}: checkpoint not written ({reason}){before}")


class RecentCheckpoint(ModelCheckpoint):
    """Saves in mid-epoch only: resumed from after an epoch's last batch, its validation would be skipped.

    It also saves when the run is asked to end (SIGTERM), unless a validation is under way.
    """

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Called by the trainer."""
        if not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch:
            super().on_train_batch_end(trainer, *args)

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        """Called by the trainer, after a step that is whole."""
        # While it validates, weights and their averages have changed places.
        in_epoch = trainer.training and not trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if in_epoch and isinstance(exception, SIGTERMException):
            trainer.save_checkpoint(Path(self.dirpath or ".") / f"{self.filename}.ckpt")


class EndTogether(Callback):
    """Asked to end (SIGTERM), all processes of a run stop after the same step, whichever of them was asked.

    The trainer's own handler talks to the other processes from within whatever they are exchanging at that
    moment, and they then wait for each other for ever.
    """

    _asked = False

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Called by the trainer, which puts back at its end the handler that there was before its own."""
        if trainer.world_size > 1 and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._note)

    def _note(self, *_: object) -> None:
        self._asked = True

    def on_train_batch_end(self, trainer: pl.Trainer, *args: Any) -> None:
        """Called by the trainer."""
        if trainer.world_size > 1 and trainer.strategy.reduce_boolean_decision(self._asked, all=False):
            trainer._signal_connector.received_sigterm = True


def newest_checkpoint(root: Path) -> Path | None:
    """The newest whole checkpoint of a run; None if it has none.

    A damaged one is said and passed over. Raises TrainingError where all are damaged.
    """
    found = [path for name in ("last.ckpt", "recent.ckpt") if (path := root / name).exists()]
    damaged = None
    for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except (OSError, RuntimeError, EOFError, ValueError) as error:
            damaged = path
            print_error(f"{path}: the checkpoint is damaged ({str(error).splitlines()[0][:80]}); passed over")
        else:
            return path
    if damaged:
        raise TrainingError(f"{root}: no checkpoint is whole; start anew with another default_root_dir")
    return None
