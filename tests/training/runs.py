"""Small runs of `asr train`."""

from pathlib import Path

import torch
import yaml

from asr.training import run


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
            "optimizer": {"warmup_steps": 2},
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


def weights(root: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(root / "last.ckpt", weights_only=True)
    return {
        **checkpoint["state_dict"],
        **{f"now.{k}": v for k, v in checkpoint["current_model_state"].items()},
    }
