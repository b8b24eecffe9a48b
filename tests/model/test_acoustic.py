"""Exact lengths, and a batch that equals its members one by one."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from asr.model.acoustic import (
    CMN_FRAMES,
    AcousticModel,
    Architecture,
    Cell,
    Dropout,
    Normalization,
    Subsampling,
    padding_mask,
)


def small_model(
    cell: Cell = "gru", bidirectional: bool = True, normalization: Normalization = "corpus"
) -> AcousticModel:
    torch.manual_seed(0)
    model = AcousticModel(Architecture(29, cell, 2, 24, bidirectional, normalization=normalization)).eval()
    model.mean.fill_(-4.0)
    model.std.fill_(2.5)
    return model


def features(lengths: list[int], seed: int = 0) -> Tensor:
    """Log-mel-like noise with garbage in the padding."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(len(lengths), max(lengths), 80, generator=generator) * 2 - 4
    mask = padding_mask(torch.tensor(lengths), max(lengths))[:, :, None]
    return torch.where(mask, x, torch.full_like(x, 1e4))


@pytest.mark.parametrize("normalization", ["corpus", "utterance", "speech"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_a_batch_equals_its_members_one_by_one(
    cell: Cell, bidirectional: bool, normalization: Normalization
) -> None:
    model = small_model(cell, bidirectional, normalization)
    lengths = [1, 2, 3, 4, 5, 37, 64, 101]
    x = features(lengths)
    with torch.inference_mode():
        together, frames = model(x, torch.tensor(lengths))
        for row, output, length, count in zip(x, together, lengths, frames.tolist(), strict=True):
            alone, alone_frames = model(row[None, :length], torch.tensor([length]))
            assert alone_frames.tolist() == [count] and alone.shape[1] == count
            torch.testing.assert_close(output[:count], alone[0], atol=1e-4, rtol=0)


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_gradients_of_a_batch_are_the_sum_of_its_members(cell: Cell) -> None:
    model = small_model(cell)
    lengths = [9, 40, 26]
    x = features(lengths)

    def gradients(rows: Tensor, counts: list[int]) -> list[Tensor]:
        model.zero_grad()
        y, frames = model(rows, torch.tensor(counts))
        loss = sum(-output[:n, 3].sum() for output, n in zip(y, frames.tolist(), strict=True))
        assert isinstance(loss, Tensor)
        loss.backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    together = gradients(x, lengths)
    alone = [gradients(row[None, :n], [n]) for row, n in zip(x, lengths, strict=True)]
    for batched, *parts in zip(together, *alone, strict=True):
        torch.testing.assert_close(batched, sum(parts), atol=2e-4, rtol=1e-4)


@given(st.integers(1, 4000))
def test_output_length_is_what_the_convolutions_give(frames: int) -> None:
    expected = math.ceil(math.ceil(frames / 2) / 2)
    assert Subsampling.output_lengths(torch.tensor([frames])).tolist() == [expected]
    if frames < 400:
        y, lengths = Subsampling(80, 4)(torch.zeros(1, frames, 80), torch.tensor([frames]))
        assert y.shape == (1, expected, 4) and lengths.tolist() == [expected]


def test_outputs_are_log_probabilities_in_float32_under_autocast() -> None:
    model = small_model()
    with torch.autocast("cpu", torch.bfloat16), torch.inference_mode():
        y, _ = model(features([50]), torch.tensor([50]))
    assert y.dtype == torch.float32
    torch.testing.assert_close(y.exp().sum(-1), torch.ones(1, 13), atol=1e-5, rtol=0)


def test_corpus_normalisation_is_by_the_training_set_not_by_the_utterance() -> None:
    model = small_model()
    x = features([40])
    with torch.inference_mode():
        quiet, _ = model(x, torch.tensor([40]))
        loud, _ = model(x + 1.0, torch.tensor([40]))
        model.mean += 1.0
        shifted, _ = model(x + 1.0, torch.tensor([40]))
    assert (quiet - loud).abs().max() > 1e-3
    torch.testing.assert_close(quiet, shifted, atol=1e-4, rtol=0)


def test_utterance_normalisation_removes_a_constant_the_more_the_longer_the_utterance() -> None:
    model = small_model(normalization="utterance")
    lengths = torch.tensor([CMN_FRAMES, 3 * CMN_FRAMES])
    x = features(lengths.tolist())
    colour = torch.linspace(-3, 3, 80)  # of a microphone, say
    shift = model.normalize(x + colour, lengths) - model.normalize(x, lengths)
    for row, length, share in zip(shift, lengths.tolist(), (1 / 2, 1 / 4), strict=True):
        expected = (colour / model.std * share).expand(length, -1)
        torch.testing.assert_close(row[:length], expected, atol=1e-4, rtol=0)
        assert not row[length:].any()


def test_speech_normalisation_ignores_gain_and_nearly_ignores_added_silence() -> None:
    model = small_model(normalization="speech")
    x = features([400])
    lengths = torch.tensor([400])
    expected = model.normalize(x, lengths)
    for gain in (-8.0, 20.0):
        torch.testing.assert_close(model.normalize(x + gain, lengths), expected, atol=1e-3, rtol=0)
    silence = torch.full((1, 1_500, 80), -23.0)
    padded = model.normalize(torch.cat([silence, x, silence], dim=1), lengths + 3_000)[:, 1_500:1_900]
    assert (padded - expected).abs().mean() < 0.2


def test_frames_not_seen_do_not_enter_the_mean() -> None:
    model = small_model(normalization="speech")
    x, lengths = features([300]), torch.tensor([300])
    seen = (torch.arange(300) >= 100)[None]
    expected = model.normalize(x[:, 100:], lengths - 100)
    torch.testing.assert_close(model.normalize(x, lengths, seen)[:, 100:], expected)


@pytest.mark.parametrize("p", [0.1, 0.5])
def test_dropout_on_a_cpu_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    dropout, x = Dropout(p), torch.ones(401, 1001, requires_grad=True)
    y = dropout(x)
    assert (y == 0).float().mean().item() == pytest.approx(round(256 * p) / 256, abs=0.005)
    assert y.mean().item() == pytest.approx(1, abs=0.005) and len(y.unique()) == 2
    y.sum().backward()
    assert x.grad is not None and torch.equal(x.grad, y.detach())
    assert torch.equal(dropout.eval()(x), x)
