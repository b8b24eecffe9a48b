"""Each LibriSpeech recipe can be built in full, and takes two steps on utterances of its corpus's lengths.

The steps have the recipe's batches but 16 units per layer: at full size they take minutes on a CPU.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml

from asr import manifest
from asr.model.acoustic import AcousticModel, Architecture
from asr.text import Tokenizer
from asr.training import run
from asr.training.callbacks import read_curves
from benchmarks.training import write_corpus

FOLDER = Path(__file__).parents[2] / "recipes" / "librispeech"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of LibriSpeech's utterance lengths, more than two of the largest batches, and its lexicon."""
    folder = tmp_path_factory.mktemp("data") / "corpus"
    write_corpus(folder, 0.72)
    write_corpus(folder.with_name("validation"), 0.01, seed=1)
    units = yaml.safe_load((FOLDER / "box.yaml").read_text())["data"]["units"]
    words = {
        word
        for part in (folder, folder.with_name("validation"))
        for u in manifest.read(part / "manifest.jsonl")
        for word in u.text.split()
    }
    rows = (f"{word}\t{' '.join(units[ord(c) % len(units)] for c in word[:4])}\n" for word in sorted(words))
    folder.with_name("lexicon.txt").write_text("".join(rows))
    return folder


def two_steps(corpus: Path, root: Path, *recipes: str, init: str = "null") -> Path:
    """Train by recipes stacked on each other; returns the bundle."""
    settings = {
        "trainer.default_root_dir": root,
        "trainer.accelerator": "cpu",
        "trainer.devices": 1,
        "trainer.max_epochs": -1,
        "trainer.max_steps": 2,
        "trainer.limit_train_batches": 2,
        "trainer.log_every_n_steps": 1,
        "trainer.enable_progress_bar": "false",
        "model.architecture.hidden": 16,
        "model.init": init,
        "data.train": [str(corpus)],
        "data.validation": [str(corpus.with_name("validation"))],
        "data.speeds": [1.0],
    }
    if "units" in yaml.safe_load((FOLDER / recipes[0]).read_text())["data"]:
        settings["data.lexicon"] = corpus.with_name("lexicon.txt")
    configs = [f"--config={FOLDER / recipe}" for recipe in recipes]
    bundle = run.train([*configs, *(f"--{key}={value}" for key, value in settings.items())])
    assert bundle is not None
    losses = read_curves(root / "logs")["loss"]
    assert len(losses) == 2 and all(0 < loss < 100 for _, loss in losses)
    return bundle


@pytest.mark.parametrize("recipe", ["mini.yaml", "characters.yaml", "100h.yaml", "960h.yaml"])
def test_two_steps(recipe: str, corpus: Path, tmp_path: Path) -> None:
    config = json.loads((two_steps(corpus, tmp_path / "exp", recipe) / "config.json").read_text())
    assert config["architecture"]["cell"] == "gru"


def test_the_stages_of_box_stack_and_follow_each_other(corpus: Path, tmp_path: Path) -> None:
    first = two_steps(corpus, tmp_path / "ctc", "box.yaml", "box-ctc.yaml")
    second = two_steps(corpus, tmp_path / "crf", "box.yaml", "box-crf.yaml", init=str(first))
    architectures = [json.loads((b / "config.json").read_text())["architecture"] for b in (first, second)]
    assert architectures[0] == architectures[1] and architectures[0]["normalization"] == "speech"


@pytest.mark.parametrize("recipe", ["mini.yaml", "characters.yaml", "100h.yaml", "960h.yaml", "box.yaml"])
def test_the_full_size_can_be_built(recipe: str) -> None:
    settings = yaml.safe_load((FOLDER / recipe).read_text())
    units = settings["data"].get("units")
    tokenizer = Tokenizer(tuple(units)) if units else Tokenizer()
    with torch.device("meta"):
        model = AcousticModel(Architecture(tokenizer.size, **settings["model"]["architecture"]))
    assert 2e6 < sum(p.numel() for p in model.parameters()) < 60e6
