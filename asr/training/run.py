"""`asr train`: LightningCLI around CTCModule and SpeechData."""

import logging
import os
import sys
import warnings
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
from asr.training.averaging import WeightAverage
from asr.training.callbacks import EpochLine, plot_curves
from asr.training.checkpoints import EndTogether, RecentCheckpoint, WholeCheckpoints, newest_checkpoint
from asr.training.data import SpeechData
from asr.training.module import CTCModule


class TrainCLI(LightningCLI):
    """Adds the weight average, the logs and the checkpoints to Lightning's command line."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Called by LightningCLI."""
        parser.epilog = (
            "--resume goes on with the run in trainer.default_root_dir from its newest checkpoint; "
            "--resume=auto does so if there is one, and else starts."
        )
        parser.add_lightning_class_args(WeightAverage, "ema")
        parser.add_argument(
            "--checkpoint_minutes", type=float, default=5.0, help="Minutes of training that a kill may cost."
        )
        parser.link_arguments("data.units", "model.units")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    @property
    def monitored(self) -> str:
        """What tells the best checkpoint."""
        if self.model.crf:  # greedy decoding does without the sequences that it is trained for
            return "val_loss"
        return "val_wer" if isinstance(self.datamodule.tokenizer.units, str) else "val_per"

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        """Called by LightningCLI. Everything a run writes goes below `trainer.default_root_dir`."""
        root = Path(self.config_init["trainer"]["default_root_dir"])
        interval = timedelta(minutes=self.config_init["checkpoint_minutes"])
        self.trainer_defaults["callbacks"] = [
            EpochLine(),
            EndTogether(),
            RecentCheckpoint(root, "recent", train_time_interval=interval, enable_version_counter=False),
            # In this order, so that the last checkpoint knows which one is the best.
            ModelCheckpoint(root, "best", self.monitored, enable_version_counter=False),
            ModelCheckpoint(root, "last", enable_version_counter=False),
        ]
        loggers = [
            CSVLogger(root, "logs", flush_logs_every_n_steps=1),
            TensorBoardLogger(root, "tensorboard"),
        ]
        settings = self.config_init["trainer"]
        plugins = [*_as_list(settings["plugins"]), WholeCheckpoints()]
        if (
            on_cpu(settings["accelerator"])
            and "bf16" in str(settings["precision"])
            and not cpu_has_bfloat16()
        ):
            rank_zero_warn("this CPU has no bfloat16 arithmetic, so that training is in float32")
            kwargs["precision"] = "32-true"
        return super().instantiate_trainer(logger=loggers, plugins=plugins, **kwargs)


def on_cpu(accelerator: str) -> bool:
    """Whether the trainer's setting leads to the CPU."""
    return accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())


def cpu_has_bfloat16() -> bool:
    """Else it is emulated, at a small part of float32's speed."""
    available = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return bool(available and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def train(arguments: Sequence[str], resume: bool | None = False) -> Path | None:
    """Train and write the model bundle; returns its folder (None on the processes that do not write).

    `arguments` are LightningCLI's own (`--config RECIPE --model.layers=4`). Raises TrainingError where the
    run's folder holds an earlier run and `resume` is not set, or none and `resume` is; with None it goes on
    with what there is. Raises TrainingStoppedError when it was asked to end.
    """
    _quieten()
    cli = TrainCLI(
        CTCModule,
        SpeechData,
        run=False,
        args=list(arguments),
        seed_everything_default=0,
        trainer_defaults={
            "default_root_dir": "exp/run",
            "num_sanity_val_steps": 0,
            "use_distributed_sampler": False,
            "enable_progress_bar": sys.stdout.isatty(),
        },
    )
    root = Path(cli.trainer.default_root_dir)
    checkpoint = _checkpoint_to_resume(root, resume)
    with _clear_errors(cli.trainer, root):
        cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=checkpoint, weights_only=True)
    if not cli.trainer.is_global_zero:
        return None
    plot_curves(root / "logs", root / "curves.png")
    _write_bundle(cli, root)
    return root / "bundle"


@contextmanager
def _clear_errors(trainer: pl.Trainer, root: Path) -> Iterator[None]:
    """One line for what a user can mend."""
    try:
        yield
    except SIGTERMException:
        raise TrainingStoppedError(f"{root}: asked to end; go on with --resume") from None
    except SystemExit:  # how the trainer ends on Ctrl-C
        if trainer.interrupted:
            raise TrainingError(f"{root}: interrupted; go on with --resume") from None
        raise
    except torch.OutOfMemoryError:
        raise TrainingError("out of memory on the device; lower data.batch_seconds") from None
    except RuntimeError as error:
        if "loading state_dict" in str(error):
            raise TrainingError(
                f"{root}: the checkpoint is of another architecture; set another --trainer.default_root_dir"
            ) from None
        raise


def _checkpoint_to_resume(root: Path, resume: bool | None) -> Path | None:
    """The newest checkpoint, if it is wanted."""
    found = newest_checkpoint(root)
    if resume is None:
        return found
    if resume and not found:
        raise TrainingError(f"{root}: no checkpoint to resume from; start without --resume")
    if found and not resume:
        raise TrainingError(
            f"{root}: holds an earlier run; go on with --resume, or set another --trainer.default_root_dir"
        )
    return found


def _write_bundle(cli: TrainCLI, root: Path) -> None:
    """Export the checkpoint with the best validation WER."""
    from asr.model.export import save_bundle

    if not (root / "best.ckpt").exists():
        raise TrainingError(f"{root}: no checkpoint could be written, so there is no model to export")
    checkpoint = torch.load(root / "best.ckpt", map_location="cpu", weights_only=True)
    cli.model.load_state_dict(checkpoint["state_dict"])
    data: SpeechData = cli.datamodule
    save_bundle(
        root / "bundle",
        cli.model.model,
        data.log_mel,
        characters=data.tokenizer.units,
        lexicon=data.lexicon,
        training_data=", ".join(folder.name for folder in data.train_folders),
        licence=data.licence,
        wer=_best_rate(cli.monitored, checkpoint),
    )


def _best_rate(monitored: str, checkpoint: dict[str, Any]) -> dict[str, float]:
    """For config.json, where it is a rate that the best checkpoint was chosen by."""
    if monitored == "val_loss":
        return {}
    callbacks = checkpoint["callbacks"].items()
    best = next(state for name, state in callbacks if f"'{monitored}'" in name)["best_model_score"]
    of_units = "units, " if monitored == "val_per" else ""  # phones, or pieces of words
    return {f"validation, {of_units}greedy, while training": round(float(best), 4)}


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _quieten() -> None:
    """Hide messages that ask for nothing, and warnings that have been dealt with."""
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")  # Lightning's to mend
    for message in (
        ".*isinstance.treespec, LeafSpec. is deprecated.*",  # Lightning's to mend
        ".*is not supported by the model summary.*",  # it counts half precision as 32 bits
        ".*args parameter is intended to run from within Python.*",  # it is
        ".*Checkpoint directory .* exists.*",
        ".*recommended to use .self.log.*sync_dist=True.*",  # reduced already
        ".*does not have many workers.*",  # a batch is one gather; see SpeechData._loader
        ".*your dataloader is not resumable.*",  # it is: BucketSampler.skip
        ".*Experiment logs directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", message)
