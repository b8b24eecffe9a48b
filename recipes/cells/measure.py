"""One run of the study: train, then measure what the best epoch's model does; one JSON file."""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from torch import nn

from asr.errors import TrainingError
from asr.files import atomic_write
from asr.model.acoustic import AcousticModel
from asr.model.export import load_acoustic_model
from asr.model.recurrent import Cell
from asr.training import run
from asr.training.callbacks import read_curves
from recipes.cells.conditions import CONDITIONS, error_rate, features, read_speech
from recipes.cells.reach import model_reach

LAGS = 40
"""Gradients are followed back over 40 frames of 40 ms; shorter utterances do not count there."""


@dataclass(frozen=True)
class Run:
    """What tells one run from another."""

    cell: Cell
    hidden: int
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Of its folder and its file."""
        return f"{self.cell}-{self.hidden}-{self.rate:g}-seed{self.seed}"


@dataclass(frozen=True)
class Result:
    """What a run gave: curves by epoch, WER by part and condition, shares of the gradient by lag."""

    run: Run
    recipe: dict[str, Any]
    parameters: int
    recurrent_parameters: int
    seconds: float
    """Of the processor, one thread, for an epoch of training alone; the median over epochs."""
    losses: list[float]
    """Validation loss after each epoch, in nats a token."""
    wer: dict[str, dict[str, float]]
    reach: list[float]
    reach_untrained: list[float]


class Clock(pl.Callback):
    """Logs the processor's seconds that each epoch spends on training; with one thread these are the seconds
    that it takes where nothing else runs."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start; a run that goes on in mid-epoch is not told of the epoch's start."""
        self._begin = time.process_time()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self._begin = time.process_time()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self._seconds = time.process_time() - self._begin

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Into the log."""
        pl_module.log("epoch_seconds", self._seconds)


def measured(work: Run, recipe: Path, test: Path, out: Path) -> Result:
    """The result of `work`, from its file if that is there; else train below `out` (going on with what there
    is) and measure. Raises TrainingError where the file was made by another recipe."""
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    path = out / f"{work.name}.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["recipe"] != settings:
            raise TrainingError(f"{path}: made by another recipe; set another --out")
        return Result(**{**found, "run": Run(**found["run"])})
    torch.set_num_threads(1)  # runs go side by side, a core each
    train(work, recipe, out / work.name)
    result = measure(work, settings, test, out / work.name)
    with atomic_write(path) as file:
        json.dump(asdict(result), file, indent=1)
    return result


def train(work: Run, recipe: Path, folder: Path) -> None:
    """`asr train` on the CPU, going on with what there is."""
    arguments = {
        "config": recipe,
        "seed_everything": work.seed,
        "model.cell": work.cell,
        "model.hidden": work.hidden,
        "model.learning_rate": work.rate,
        "trainer.default_root_dir": folder,
        "trainer.accelerator": "cpu",
        "trainer.enable_model_summary": "false",
        "trainer.enable_progress_bar": "false",
        "trainer.callbacks+": "recipes.cells.measure.Clock",
    }
    run.train([f"--{key}={value}" for key, value in arguments.items()], resume=None)


def measure(work: Run, recipe: dict[str, Any], test: Path, folder: Path) -> Result:
    """Measure the bundle in `folder` on the validation part and on `test`."""
    model = load_acoustic_model(folder / "bundle")
    curves = read_curves(folder / "logs")
    (validation,) = (Path(name) for name in recipe["data"]["validation"])
    parts = {"dev": read_speech(validation), "test": read_speech(test)}
    rates = {
        part: {name: error_rate(model, speech, condition) for name, condition in CONDITIONS.items()}
        for part, speech in parts.items()
    }
    heard = [features(u.id, samples, CONDITIONS["clean"])[0][0] for u, samples in parts["dev"]]
    return Result(
        run=work,
        recipe=recipe,
        parameters=count(model),
        recurrent_parameters=count(model.recurrent),
        seconds=float(np.median([value for _, value in curves["epoch_seconds"]])),
        losses=[value for _, value in curves["val_loss"]],
        wer=rates,
        reach=model_reach(model, heard, LAGS),
        reach_untrained=model_reach(untrained(model, work.seed), heard, LAGS),
    )


def untrained(model: AcousticModel, seed: int) -> AcousticModel:
    """A model of the same shape and normalisation with fresh weights."""
    torch.manual_seed(seed)
    fresh = AcousticModel(model.architecture)
    fresh.mean.copy_(model.mean)
    fresh.std.copy_(model.std)
    return fresh


def count(module: nn.Module) -> int:
    """Trainable numbers."""
    return sum(parameter.numel() for parameter in module.parameters())
