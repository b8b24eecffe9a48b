"""SpecAugment masks what its settings say, with the mean, each utterance its own way."""

import torch

from asr.model.subsampling import Subsampling
from asr.text import ctc_frames_needed
from asr.training.augment import SpecAugment, SpecAugmentConfig, change_tempo, tempo_factors

MEAN = torch.linspace(-5, -3, 80)


def masked(config: SpecAugmentConfig) -> torch.Tensor:
    """`bool[B, T, F]`: what became the mean."""
    torch.manual_seed(0)
    features = torch.randn(64, 200, 80).abs() + 1 + MEAN
    return (SpecAugment(config)(features, MEAN) - MEAN).abs() < 1e-4


def test_bands_are_as_wide_as_the_settings_allow() -> None:
    bands = masked(SpecAugmentConfig(time_masks=0, frequency_masks=1, frequency_bins=15))
    assert torch.equal(bands.any(dim=1), bands.all(dim=1))  # a band spans all of the time
    widths = bands[:, 0].sum(dim=1)
    assert 12 <= widths.max() <= 14 and len(set(widths.tolist())) > 8
    starts = {int(row.nonzero()[0]) for row in bands[:, 0] if row.any()}
    assert len(starts) > 20


def test_stretches_keep_to_frames_and_to_the_share() -> None:
    stretches = masked(SpecAugmentConfig(time_masks=1, time_frames=30, time_share=1.0, frequency_masks=0))
    assert torch.equal(stretches.any(dim=2), stretches.all(dim=2))
    assert 25 <= stretches[:, :, 0].sum(dim=1).max() <= 29
    short = masked(SpecAugmentConfig(time_masks=1, time_frames=30, time_share=0.05, frequency_masks=0))
    assert 7 <= short[:, :, 0].sum(dim=1).max() <= 9


def test_no_masks_change_nothing() -> None:
    assert not masked(SpecAugmentConfig(time_masks=0, frequency_masks=0)).any()


def test_tempo_moves_frames_and_nothing_else() -> None:
    ramp = torch.arange(1.0, 41.0)[None, :, None].expand(3, 40, 2) * torch.tensor([1.0, -2.0])
    lengths = torch.tensor([40, 21, 1])
    ramp = ramp * (torch.arange(40) < lengths[:, None])[:, :, None]
    same, unchanged = change_tempo(ramp.half(), lengths, torch.ones(3), slowest=1.0)
    assert torch.equal(same, ramp) and torch.equal(unchanged, lengths)

    features, new = change_tempo(ramp.half(), lengths, torch.tensor([1.3, 0.8, 0.8]), slowest=0.8)
    assert new.tolist() == [31, 26, 1] and features.shape == (3, 50, 2)
    for row, count, factor in zip(features, new.tolist(), (1.3, 0.8, 0.8), strict=True):
        expected = 1 + factor * torch.arange(count)
        torch.testing.assert_close(row[:count, 0], expected, rtol=0, atol=1e-3)
        torch.testing.assert_close(row[:count, 1], -2 * expected, rtol=0, atol=2e-3)
        assert not row[count:].any()


def test_tempo_leaves_frames_enough_for_the_text() -> None:
    torch.manual_seed(0)
    lengths = torch.full((400,), 40)  # 10 frames of output
    texts = [[1, 2, 3] * 3 if i % 2 else [5, 5, 5, 5, 5] for i in range(400)]  # 9 frames needed, both
    targets = torch.zeros(400, 9, dtype=torch.long)
    for row, text in zip(targets, texts, strict=True):
        row[: len(text)] = torch.tensor(text)
    factors = tempo_factors(0.3, lengths, targets, torch.tensor([len(text) for text in texts]))
    _, new = change_tempo(torch.zeros(400, 40, 1), lengths, factors, slowest=0.7)
    frames = Subsampling.output_lengths(new)
    assert all(n >= ctc_frames_needed(text) for n, text in zip(frames.tolist(), texts, strict=True))
    assert factors.min() < 0.75 and 1.05 < factors.max() < 1.25 and len(set(factors.tolist())) > 200
