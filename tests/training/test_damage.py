"""Failures in the middle of training: unreadable shards, numbers that are not finite."""

import os
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins.precision import MixedPrecision
from torch import Tensor

from asr.errors import StoreError
from asr.model.acoustic import Architecture
from asr.training.data import SpeechData
from asr.training.module import CTCModule, OptimizerConfig
from tests.training.corpus import make_corpus
from tests.training.runs import start, write_recipe
from tests.training.test_run import break_steps


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus", count=6)


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda shard: os.truncate(shard, 1000), "mmap length is greater than file size"),
        (Path.unlink, "No such file or directory"),
        (lambda shard: shard.write_bytes(b"noise"), "read the shard"),
    ],
    ids=["cut", "missing", "no array"],
)
def test_a_damaged_shard_names_itself_in_one_line(
    tmp_path: Path, damage: Callable[[Path], object], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path / "corpus", count=4)
    shard = corpus / "features-00000.npy"
    on_start = CTCModule.on_train_start

    def break_after_start(self: CTCModule) -> None:
        damage(shard)
        on_start(self)

    monkeypatch.setattr(CTCModule, "on_train_start", break_after_start)
    with pytest.raises(StoreError, match=f"^{shard}: .*{reason}.*; prepare it again$"):
        start(write_recipe(tmp_path, corpus))


class Keep(pl.Callback):
    """Weights after each step, and the norm of the gradients that it took."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.norms: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: object) -> None:
        """Called by the trainer."""
        parameters = list(pl_module.parameters())
        self.weights.append(torch.cat([p.detach().flatten() for p in parameters]))
        self.norms.append(float(torch.nn.utils.get_total_norm([p.grad for p in parameters])))

    def still(self) -> list[bool]:
        """Tell if each step but the first changed nothing."""
        return [torch.equal(a, b) for a, b in pairwise(self.weights)]


def train_in_float16(corpus: Path, scale: float) -> Keep:
    """A few steps with a gradient scaler, as on a GPU that lacks bfloat16."""
    keep = Keep()
    scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    trainer = pl.Trainer(
        accelerator="cpu",
        plugins=[MixedPrecision("16-mixed", "cpu", scaler)],
        max_epochs=2,
        limit_val_batches=0,
        use_distributed_sampler=False,
        gradient_clip_val=0.1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[keep],
    )
    torch.manual_seed(0)
    trainer.fit(
        CTCModule(Architecture(29, layers=1, hidden=8), OptimizerConfig(warmup_steps=1)),
        SpeechData([corpus], [corpus], 1.5),
    )
    return keep


def test_a_loss_that_is_no_number_is_skipped_in_float16_too(
    corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_steps(monkeypatch, {1, 2})
    with pytest.warns(UserWarning, match=r"step \d skipped: the loss of corpus-\d\d is not finite"):
        keep = train_in_float16(corpus, scale=256.0)
    assert keep.still()[:3] == [True, True, False]
    assert keep.weights[-1].isfinite().all()


def test_gradients_that_overflow_float16_only_lower_the_scale(
    corpus: Path, recwarn: pytest.WarningsRecorder
) -> None:
    keep = train_in_float16(corpus, scale=2.0**30)
    assert all(keep.still()[:4])  # more than may be skipped in a row for other reasons
    assert not [w for w in recwarn if "skipped" in str(w.message)]


def test_gradients_are_clipped_without_their_scale(corpus: Path) -> None:
    assert train_in_float16(corpus, scale=256.0).norms[0] == pytest.approx(0.1, rel=0.01)
