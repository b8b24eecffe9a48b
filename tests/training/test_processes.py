"""Two processes train as one would, and end together."""

import subprocess
import sys
from pathlib import Path

import jiwer
import pytest
import torch
import yaml

from asr.decoding.greedy import greedy
from asr.model.acoustic import Architecture
from asr.text import Tokenizer
from asr.training.callbacks import read_curves
from asr.training.data import BucketSampler, SpeechDataset
from asr.training.module import CTCModule
from tests.training.corpus import make_corpus
from tests.training.runs import steps, write_recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus", count=12)


DUMPER = """
import os, sys, torch
from asr.cli import main
from asr.training import run
from asr.training.module import CTCModule

os.sched_getaffinity = lambda pid: {0, 1}
run.LEAST_SECONDS = 1

losses = CTCModule.losses
def keep_ids(self, batch, features):
    if self.training and self.global_step == 0:
        torch.save(batch.ids, f"{sys.argv[2]}/ids{self.global_rank}")
    return losses(self, batch, features)
def dump(self, optimizer):
    if self.global_step == 0 and self.global_rank == 0:
        torch.save(self.model.state_dict(), f"{sys.argv[2]}/weights")
        torch.save({n: p.grad for n, p in self.model.named_parameters()}, f"{sys.argv[2]}/gradients")
CTCModule.losses, CTCModule.on_before_optimizer_step = keep_ids, dump
sys.exit(main(["train", "--config", sys.argv[1]]))
"""


def test_by_default_a_process_per_core_trains_as_one_would(tmp_path: Path, corpus: Path) -> None:
    recipe = write_recipe(tmp_path, corpus, devices="auto", max_epochs=1)
    settings = yaml.safe_load(recipe.read_text())
    still = {"time_masks": 0, "time_frames": 1, "time_share": 1.0, "frequency_masks": 0, "frequency_bins": 1}
    settings["model"]["architecture"]["dropout"] = 0.0
    settings["model"]["augmentation"] = {"spec_augment": still}
    settings["data"]["batch_seconds"] = 5.0  # of both processes
    recipe.write_text(yaml.safe_dump(settings))
    (tmp_path / "dump.py").write_text(DUMPER)
    command = [sys.executable, str(tmp_path / "dump.py"), str(recipe), str(tmp_path)]
    process = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr[-2000:]
    epoch, bundle = process.stdout.splitlines()
    assert epoch.startswith("epoch   0 ") and "best epoch 0" in epoch and bundle.startswith("model bundle: ")
    (told,) = [line for line in process.stderr.splitlines() if "corpus: 12 utterances" not in line]
    assert "only blanks" in told, process.stderr  # once, though there are two processes

    data = SpeechDataset([corpus], Tokenizer())
    root = tmp_path / "exp"
    alone = BucketSampler(data.lengths, 250)
    assert steps(root) == -(-len(alone) // 2)

    # Gradients of the first step: those of one process with both batches.
    ids = [id for rank in range(2) for id in torch.load(tmp_path / f"ids{rank}")]
    assert len(set(ids)) == len(ids) > 2
    module = CTCModule(Architecture(29, layers=1, hidden=16, dropout=0.0))
    module.model.load_state_dict(torch.load(tmp_path / "weights"))
    both = data[[next(i for i, item in enumerate(data.items) if item.entry.id == id) for id in ids]]
    losses, _, _ = module.losses(both, module.model.normalize(both.features, both.lengths))
    (losses.sum() / both.target_lengths.sum()).backward()
    for name, gradient in torch.load(tmp_path / "gradients").items():
        expected = dict(module.model.named_parameters())[name].grad
        torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)

    # Errors of the last validation: those that one process counts.
    state = torch.load(root / "best.ckpt", weights_only=True)["state_dict"]
    module.load_state_dict(state)
    module.eval()
    every = data[list(range(len(data)))]
    with torch.inference_mode():
        _, log_probs, lengths = module.losses(every, module.model.normalize(every.features, every.lengths))
    texts = [
        greedy(row[:n], Tokenizer(), 1.0).text for row, n in zip(log_probs.numpy(), lengths, strict=True)
    ]
    logged = read_curves(root / "logs")["val_wer"]
    assert len(logged) == 1 and logged[0][1] == pytest.approx(jiwer.wer(every.texts, texts))
    assert (root / "bundle" / "config.json").exists()


ENDED = """
import os, signal, sys
from asr.cli import main
from asr.training.module import CTCModule

step = CTCModule.training_step
def training_step(self, batch, batch_idx):
    if self.global_step == 2 and str(self.global_rank) in sys.argv[2]:
        os.kill(os.getpid(), signal.SIGTERM)
    return step(self, batch, batch_idx)
CTCModule.training_step = training_step
sys.exit(main(["train", "--config", sys.argv[1], "--checkpoint_minutes=99"]))
"""


@pytest.mark.parametrize("asked", ["01", "1"])
def test_two_processes_end_together_whichever_is_asked(tmp_path: Path, corpus: Path, asked: str) -> None:
    recipe = write_recipe(tmp_path, corpus, devices=2, strategy="ddp", max_epochs=1)
    (tmp_path / "ended.py").write_text(ENDED)
    command = [sys.executable, str(tmp_path / "ended.py"), str(recipe), asked]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 75, process.stderr[-2000:]
    assert "exp: stopped by SIGTERM; continue with --resume\n" in process.stderr
    assert steps(tmp_path / "exp", "recent") == 3


def test_an_error_in_the_data_is_reported_once(tmp_path: Path, corpus: Path) -> None:
    recipe = write_recipe(tmp_path, corpus, devices=2, strategy="ddp")
    command = [sys.executable, "-m", "asr.cli", "train", str(recipe), f"--data.train=[{tmp_path / 'none'}]"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert process.returncode == 1
    (line,) = process.stderr.splitlines()
    assert line.startswith(f"asr: {tmp_path / 'none'}: ")
