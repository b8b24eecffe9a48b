"""SpecAugment masks what its settings say, with the mean, each utterance its own way."""

import torch

from asr.training.augment import SpecAugment, SpecAugmentConfig

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
