"""`asr train`: LightningCLI around CTCModule and SpeechData."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import SIGTERMException

from asr.errors import TrainingError, TrainingStoppedError
from asr.model.export import save_bundle
from asr.text import Tokenizer
from asr.training.callbacks import (
    AtomicCheckpointIO,
    EpochLine,
    RecentCheckpoint,
    StopTogether,
    WeightAverage,
    newest_checkpoint,
    plot_curves,
)
from asr.training.data import SpeechData
from asr.training.module import CTCModule

LEAST_SECONDS = 10  # of audio per process and step; for less, fewer processes than cores are started


class TrainCLI(LightningCLI):
    """Lightning's command line with weight average, loggers and checkpoints."""

    def __init__(self, *args: Any, use_all_cores: bool, **kwargs: Any) -> None:
        self._use_all_cores = use_all_cores
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.epilog = (
            "--resume continues the run in trainer.default_root_dir from its newest checkpoint; "
            "--resume=auto does so if there is one. On a CPU, devices=auto starts one process per core."
        )
        parser.add_lightning_class_args(WeightAverage, "ema")
        at_risk = "Minutes of training at risk if killed."
        parser.add_argument("--checkpoint_minutes", type=float, default=5.0, help=at_risk)
        parser.link_arguments("data.units", "model.units")
        parser.link_arguments("data.units", "model.architecture.vocabulary", compute_fn=_vocabulary)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    @property
    def monitored(self) -> str:
        """Metric that selects the best checkpoint."""
        if self.model.crf:  # trained for whole sequences; greedy decoding uses single frames
            return "val_loss"
        return "val_wer" if isinstance(self.datamodule.tokenizer.units, str) else "val_per"

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add callbacks, loggers and the CPU's settings; all output is below `trainer.default_root_dir`."""
        settings = self.config_init["trainer"]
        root = Path(settings["default_root_dir"])
        interval = timedelta(minutes=self.config_init["checkpoint_minutes"])
        self.trainer_defaults["callbacks"] = [
            EpochLine(self.monitored),
            StopTogether(),
            RecentCheckpoint(root, "recent", train_time_interval=interval, enable_version_counter=False),
            # In this order: the last checkpoint records which one is the best.
            ModelCheckpoint(root, "best", self.monitored, enable_version_counter=False),
            ModelCheckpoint(root, "last", enable_version_counter=False),
        ]
        kind = settings["accelerator"]
        if kind == "cpu" or (kind == "auto" and not torch.accelerator.is_available()):
            kwargs |= self._cpu_settings(settings)
        csv = CSVLogger(root, "logs", flush_logs_every_n_steps=1)
        loggers = [csv, TensorBoardLogger(root, "tensorboard")]
        plugins = [*(settings["plugins"] or []), AtomicCheckpointIO()]
        return super().instantiate_trainer(logger=loggers, plugins=plugins, **kwargs)

    def _cpu_settings(self, settings: Any) -> dict[str, Any]:
        """Replace settings that do not suit a CPU: a recurrent layer gains nothing from a second thread."""
        changes: dict[str, Any] = {}
        if "bf16" in str(settings["precision"]) and not cpu_has_bfloat16():
            rank_zero_warn("this CPU has no bfloat16 arithmetic; training in float32")
            changes["precision"] = "32-true"
        if self._use_all_cores and settings["devices"] == settings["strategy"] == "auto":
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
            # With less than an utterance per process and step, the batch would grow beyond the recipe's.
            changes["devices"] = min(cores, max(1, int(self.datamodule.batch_seconds // LEAST_SECONDS)))
            if changes["devices"] > 1:
                changes["strategy"] = "ddp"
        return changes


def _vocabulary(units: str | list[str]) -> int:
    return Tokenizer(units if isinstance(units, str) else tuple(units)).size


def cpu_has_bfloat16() -> bool:
    """Return False if bfloat16 would be emulated, much slower than float32."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def train(arguments: Sequence[str], resume: bool | None = False, use_all_cores: bool = False) -> Path | None:
    """Train and export a model bundle; returns its folder, or None on processes other than the first.

    Args:
        arguments: LightningCLI's arguments (`--config RECIPE --model.architecture.layers=4`).
        resume: True to continue an earlier run, False to start a new one, None for whichever applies.
        use_all_cores: On a CPU, train with one process per core unless devices or strategy are set. Lightning
            starts the processes with this process's own command line.

    Raises TrainingError if `resume` does not fit what is in the run's folder, and TrainingStoppedError on
    SIGTERM.
    """
    cli = TrainCLI(
        CTCModule,
        SpeechData,
        run=False,
        args=list(arguments),
        seed_everything_default=0,
        use_all_cores=use_all_cores,
        trainer_defaults={
            "default_root_dir": "exp/run",
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "enable_progress_bar": sys.stdout.isatty(),
            "enable_model_summary": False,
        },
    )
    root = Path(cli.trainer.default_root_dir)
    checkpoint = _checkpoint_to_resume(root, resume)
    cli.datamodule.setup("fit")  # before other processes start, which would repeat its errors
    with _readable_errors(cli.trainer, root):
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    if not cli.trainer.is_global_zero:
        return None
    plot_curves(root / "logs", root / "curves.png")
    _write_bundle(cli, root)
    return root / "bundle"


@contextmanager
def _readable_errors(trainer: pl.Trainer, root: Path) -> Iterator[None]:
    """Turn what a user can fix into a one-line error."""
    try:
        yield
    except SIGTERMException:
        raise TrainingStoppedError(f"{root}: stopped by SIGTERM; continue with --resume") from None
    except SystemExit:  # the trainer's reaction to Ctrl-C
        if trainer.interrupted:
            raise TrainingError(f"{root}: interrupted; continue with --resume") from None
        raise
    except torch.OutOfMemoryError:
        raise TrainingError("out of memory on the device; lower data.batch_seconds") from None
    except RuntimeError as error:
        if "loading state_dict" not in str(error):
            raise
        message = "the checkpoint has another architecture; set another --trainer.default_root_dir"
        raise TrainingError(f"{root}: {message}") from None


def _checkpoint_to_resume(root: Path, resume: bool | None) -> Path | None:
    """Newest checkpoint, if `resume` allows it."""
    found = newest_checkpoint(root)
    if resume and not found:
        raise TrainingError(f"{root}: no checkpoint to resume from; start without --resume")
    if found and resume is False:
        raise TrainingError(f"{root}: holds an earlier run; use --resume or another trainer.default_root_dir")
    return found


def _write_bundle(cli: TrainCLI, root: Path) -> None:
    """Export the best checkpoint."""
    if not (root / "best.ckpt").exists():
        raise TrainingError(f"{root}: no checkpoint could be written, so there is no model to export")
    checkpoint = torch.load(root / "best.ckpt", map_location="cpu", weights_only=True)
    cli.model.load_state_dict(checkpoint["state_dict"])
    data: SpeechData = cli.datamodule
    kind = {"val_wer": "greedy", "val_per": "units, greedy"}.get(cli.monitored)
    callbacks = checkpoint["callbacks"].items()
    (rate,) = (float(s["best_model_score"]) for name, s in callbacks if f"'{cli.monitored}'" in name)
    save_bundle(
        root / "bundle",
        cli.model.model,
        data.log_mel,
        characters=data.tokenizer.units,
        lexicon=data.lexicon,
        training_data=", ".join(folder.name for folder in data.train_folders),
        licence=data.licence,
        wer={f"validation, {kind}, while training": round(rate, 4)} if kind else {},
    )
