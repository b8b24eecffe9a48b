"""Small runs of `asr train`."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import yaml

from asr.training import run
from asr.training.data import Batch
from asr.training.module import CTCModule


def write_recipe(folder: Path, corpus: Path, **trainer: object) -> Path:
    recipe = {
        "seed_everything": 3,
        "checkpoint_minutes": 0,
        "trainer": {
            "default_root_dir": str(folder / "exp"),
            "max_epochs": 2,
            "accelerator": "cpu",
            "devices": 1,
            "enable_progress_bar": False,
            "log_every_n_steps": 1,
            **trainer,
        },
        "model": {
            "architecture": {"layers": 1, "hidden": 16, "dropout": 0.2},
            "optimizer": {"warmup_steps": 1},
        },
        "ema": {"decay": 0.5},
        "data": {"train": [str(corpus)], "validation": [str(corpus)], "batch_seconds": 2.5},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def start(recipe: Path, *overrides: str, resume: bool = False) -> Path:
    bundle = run.train(["--config", str(recipe), *overrides], resume)
    assert bundle is not None
    return bundle


def run_program(program: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def steps(root: Path, name: str = "last") -> int:
    """Steps of a checkpoint."""
    return int(torch.load(root / f"{name}.ckpt", weights_only=True)["global_step"])


def assert_same_weights(one: Path, other: Path) -> None:
    """Compare weights and averages at the end of two runs, bit by bit."""
    first, second = (torch.load(root / "last.ckpt", weights_only=True) for root in (one, other))
    for key in ("state_dict", "current_model_state"):
        torch.testing.assert_close(first[key], second[key], rtol=0, atol=0)


def script_validation(monkeypatch: pytest.MonkeyPatch, scores: Sequence[tuple[float, float, float]]) -> None:
    """Let the validations give these WERs and CERs in %, and losses."""
    each = iter(scores)

    def on_validation_epoch_end(self: CTCModule) -> None:
        wer, cer, loss = next(each)
        self.log_dict({"val_wer": wer / 100, "val_cer": cer / 100, "val_loss": float(loss)})

    monkeypatch.setattr(CTCModule, "on_validation_epoch_end", on_validation_epoch_end)


def watch_batches(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int, list[str]]]:
    """Epoch, number and utterances of each training batch from now on."""
    seen: list[tuple[int, int, list[str]]] = []
    step = CTCModule.training_step

    def training_step(self: CTCModule, batch: Batch, batch_idx: int) -> torch.Tensor:
        seen.append((self.current_epoch, batch_idx, batch.ids))
        return step(self, batch, batch_idx)

    monkeypatch.setattr(CTCModule, "training_step", training_step)
    return seen
