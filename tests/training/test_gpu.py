"""Tests that need a GPU; skipped without one."""

import warnings
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import LambdaCallback

from asr.model.acoustic import Architecture, Cell, RecurrentLayer
from asr.text import Tokenizer
from asr.training.augment import AugmentationConfig, NoiseConfig, SilenceConfig
from asr.training.callbacks import WeightAverage
from asr.training.data import SpeechData, SpeechDataset
from asr.training.losses import ctc_losses
from asr.training.module import CTCModule
from tests.training.corpus import make_corpus

pytestmark = pytest.mark.gpu

DEVICE = torch.device("cuda")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus", count=12)


def test_the_model_gives_on_the_gpu_what_it_gives_on_the_cpu() -> None:
    torch.manual_seed(0)
    module = CTCModule(Architecture(29, layers=2, hidden=64))
    module.eval()
    features, lengths = torch.randn(3, 200, 80), torch.tensor([200, 77, 131])
    with torch.inference_mode():
        expected, frames = module.model(features, lengths)
        actual, _ = module.to(DEVICE).model(features.to(DEVICE), lengths.to(DEVICE))
    for a, b, n in zip(actual.cpu(), expected, frames.tolist(), strict=True):
        torch.testing.assert_close(a[:n], b[:n], atol=1e-3, rtol=0)


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_the_rnn_runs_in_bfloat16_and_copies_no_weights(cell: Cell) -> None:
    torch.manual_seed(0)
    layer = RecurrentLayer(cell, 128, 128, bidirectional=True).to(DEVICE)
    x = torch.randn(50, 4, 128, device=DEVICE)
    lengths = torch.tensor([50, 20, 50, 1], device=DEVICE)
    with warnings.catch_warnings(), torch.autocast(DEVICE.type, torch.bfloat16):
        warnings.filterwarnings("error", ".*not part of single contiguous chunk of memory.*")
        y = layer(x, lengths)
    y.float().square().sum().backward()
    assert y.dtype == torch.bfloat16
    gradients = [p.grad for p in layer.parameters()]
    assert all(g is not None and g.dtype == torch.float32 and g.any() for g in gradients)
    # What only bfloat16 can hold tells it from float16.
    layer.zero_grad()
    with torch.autocast(DEVICE.type, torch.bfloat16):
        assert layer(1e6 * x, lengths).isfinite().all()


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_batch_gives_what_its_utterances_give_alone(
    cell: Cell, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    # TensorFloat-32 may pick other products for other shapes; without it, float32 is exact.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    model = CTCModule(Architecture(29, cell, layers=2, hidden=128)).model.eval().to(DEVICE)
    lengths = torch.tensor([300, 41, 1, 222], device=DEVICE)
    features = torch.randn(4, 300, 80, device=DEVICE)
    enabled = dtype != torch.float32
    with torch.inference_mode(), torch.autocast(DEVICE.type, torch.bfloat16, enabled=enabled):
        together, frames = model(features, lengths)
        for row, length, many, n in zip(features, lengths, together, frames.tolist(), strict=True):
            alone, _ = model(row[None, :length], length[None])
            torch.testing.assert_close(many[:n], alone[0, :n], atol=0.1 if enabled else 1e-4, rtol=0)


def test_the_loss_and_its_gradient_are_the_cpus(corpus: Path) -> None:
    data = SpeechDataset([corpus], Tokenizer())
    batch = data[list(range(8))]
    frames = (batch.lengths + 3) // 4
    torch.manual_seed(0)
    logits = torch.randn(8, int(frames.max()), Tokenizer().size)
    results = []
    for device in (torch.device("cpu"), DEVICE):
        moved = [v.to(device) for v in (batch.targets, batch.target_lengths)]
        there = batch._replace(targets=moved[0], target_lengths=moved[1])
        x = logits.to(device).requires_grad_()
        losses = ctc_losses(there, x.log_softmax(-1), frames.to(device))
        losses.sum().backward()
        assert x.grad is not None
        results.append((losses.detach().cpu(), x.grad.cpu()))
    torch.testing.assert_close(*results, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("all_options", [False, True])
def test_a_run_on_the_gpu_learns(corpus: Path, all_options: bool) -> None:
    shape = Architecture(29, layers=2, hidden=64, normalization="speech" if all_options else "corpus")
    augmentation = AugmentationConfig(
        noise=NoiseConfig(0.5), silence=SilenceConfig(0.5, only=0.1, chunks=0.5)
    )
    options = {"augmentation": augmentation, "consistency": 0.2, "crf": 0.5} if all_options else {}
    losses: list[float] = []
    trainer = pl.Trainer(
        accelerator="gpu",
        devices=1,
        precision="bf16-mixed",
        max_epochs=12,
        limit_val_batches=0,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[
            WeightAverage(),
            LambdaCallback(on_train_epoch_end=lambda t, _: losses.append(float(t.callback_metrics["loss"]))),
        ],
    )
    trainer.fit(CTCModule(shape, **options), SpeechData([corpus], [corpus], 2.5))  # type: ignore[arg-type]
    assert losses[-1] < 0.5 * losses[0]
