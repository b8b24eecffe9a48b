"""`asr train`: LightningCLI around CTCModule and SpeechData."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LearningRateMonitor
from pytorch_lightning.cli import LightningArgumentParser, LightningCLI
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_warn
from pytorch_lightning.utilities.exceptions import SIGTERMException
from safetensors.torch import save

from asr.console import print_error
from asr.errors import BundleError, TrainingError, TrainingStoppedError
from asr.model import bundle
from asr.model.export import save_bundle
from asr.text import Tokenizer
from asr.training.callbacks import (
    AtomicCheckpointIO,
    BestCheckpoint,
    Checkpoint,
    RecentCheckpoint,
    StopTogether,
    WeightAverage,
    load_checkpoint,
    newest_checkpoint,
    plot_curves,
    read_scores,
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
        source = "Checkpoint that becomes the model bundle."
        parser.add_argument(
            "--bundle_from", type=Literal["best", "last", "recent"], default="best", help=source
        )
        parser.link_arguments("data.units", "model.units")
        parser.link_arguments("data.units", "model.architecture.vocabulary", compute_fn=_vocabulary)
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Metrics that select the best checkpoint; each breaks the ties of those before it."""
        units = self.datamodule.tokenizer.units
        if self.model.crf:  # trained for whole sequences; greedy decoding uses single frames
            return ("val_loss",)
        if not isinstance(units, str):
            return ("val_per", "val_loss")
        return ("val_wer", "val_cer", "val_loss") if " " in units else ("val_cer", "val_loss")

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Add callbacks, loggers and the CPU's settings; all output is below `trainer.default_root_dir`."""
        settings = self.config_init["trainer"]
        root = Path(settings["default_root_dir"])
        interval = timedelta(minutes=self.config_init["checkpoint_minutes"])
        self.trainer_defaults["callbacks"] = [
            LearningRateMonitor("step"),
            StopTogether(),
            RecentCheckpoint(root, "recent", train_time_interval=interval),
            BestCheckpoint(root, self.metrics),
            Checkpoint(root, "last", save_on_train_epoch_end=True),
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
    cli.datamodule.setup("fit")  # before other processes start, which would repeat its errors
    dry = cli.config_init["trainer"]["fast_dev_run"]
    checkpoint = None if dry else _checkpoint_to_resume(root, resume, cli.datamodule)
    with _readable_errors(cli.trainer, root):
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    if not cli.trainer.is_global_zero:
        return None
    if dry:
        print_error("trainer.fast_dev_run: no checkpoint, log or bundle was written")
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


def _checkpoint_to_resume(root: Path, resume: bool | None, data: SpeechData) -> Path | None:
    """Newest checkpoint, if `resume` and its units allow it."""
    found = newest_checkpoint(root)
    if resume and not found:
        raise TrainingError(f"{root}: no checkpoint to resume from; start without --resume")
    if found and resume is False:
        raise TrainingError(f"{root}: holds an earlier run; use --resume or another trainer.default_root_dir")
    if not found:
        if (root / "best.ckpt").exists():
            raise TrainingError(f"{root}: holds best.ckpt of an earlier run; move it away to start again")
        return None
    path, checkpoint = found
    now = data.tokenizer.units
    if (units := checkpoint.get(type(data).__qualname__, {}).get("units", now)) != now:
        reason = f"is of the units {units!r}, not of data.units {now!r}"
        raise TrainingError(f"{path}: {reason}; set another --trainer.default_root_dir")
    return path


def _write_bundle(cli: TrainCLI, root: Path) -> None:
    """Export a checkpoint, by default the best or else the newest, unless the bundle is of it already."""
    name, scores = f"{cli.config_init['bundle_from']}.ckpt", {}
    checkpoint = load_checkpoint(root / name)
    if checkpoint and name == "best.ckpt":
        scores = read_scores(checkpoint)
    elif not checkpoint:
        if not (newest := newest_checkpoint(root)):
            raise TrainingError(f"{root}: no checkpoint could be written, so there is no model to export")
        path, checkpoint = newest
        step = checkpoint["global_step"]
        print_error(
            f"{root}: no {name}; the bundle is of {path.name}, step {step}, which may not be the best"
        )
    cli.model.load_state_dict(checkpoint["state_dict"])
    folder, data = root / "bundle", cli.datamodule
    if _is_current(folder, cli):
        print_error(f"{folder}: is of this model already, and left as it is")
        return
    kinds = {"val_wer": "greedy", "val_cer": "characters, greedy", "val_per": "units, greedy"}
    metric = cli.metrics[0]
    rated = metric in kinds and metric in scores
    save_bundle(
        folder,
        cli.model.model,
        data.log_mel,
        characters=data.tokenizer.units,
        lexicon=data.lexicon,
        training_data=", ".join(folder.name for folder in data.train_folders),
        licence=data.licence,
        wer={f"validation, {kinds[metric]}, while training": round(scores[metric], 4)} if rated else {},
    )


def _is_current(folder: Path, cli: TrainCLI) -> bool:
    """Return whether the bundle has the model's weights and units, undamaged."""
    try:
        config = bundle.read_config(folder)
        bundle.read_model_file(folder, config, bundle.ONNX)
        stored = bundle.read_model_file(folder, config, bundle.WEIGHTS)
    except BundleError:
        return False
    weights = {name: value.cpu().contiguous() for name, value in cli.model.model.state_dict().items()}
    return stored == save(weights) and config.characters == cli.datamodule.tokenizer.units
