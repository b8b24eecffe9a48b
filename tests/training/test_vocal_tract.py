"""Frequencies of features are scaled as those of the waveform would be."""

import pytest
import torch
from torch import Tensor

from asr.errors import TrainingError
from asr.features.logmel import LogMel, LogMelConfig
from asr.training.vocal_tract import VocalTract, VocalTractConfig

CONFIG = LogMelConfig()


def sounding(*frequencies: float) -> Tensor:
    """Log-mel features `[1, T, mels]` of a second of tones."""
    time = torch.arange(16_000) / 16_000
    wave = sum((torch.sin(2 * torch.pi * f * time) for f in frequencies), torch.zeros(16_000))
    return LogMel(CONFIG)(wave[None], torch.tensor([16_000]))[0]


@pytest.mark.parametrize("factor", [0.8, 0.9, 1.1, 1.25])
@pytest.mark.parametrize("frequency", [300.0, 1000.0, 3000.0])
def test_a_tone_is_heard_where_the_scaled_tone_is(factor: float, frequency: float) -> None:
    scaled = VocalTract(VocalTractConfig(), CONFIG).scale(sounding(frequency), torch.tensor([factor]))
    expected = sounding(factor * frequency)[0, 5].argmax()
    assert abs(int(scaled[0, 5].argmax() - expected)) <= 1
    assert scaled.shape == (1, 98, 80)


def test_frequencies_keep_their_order_and_the_highest_stays() -> None:
    voices = VocalTract(VocalTractConfig(), CONFIG)
    frequencies = torch.linspace(0, 8000, 500)
    for factor in (0.5, 0.8, 1.0, 1.25, 2.0):
        source = voices.source(frequencies, torch.tensor([factor]))
        assert (source.diff() > 0).all()
        torch.testing.assert_close(source[[0, -1]], frequencies[[0, -1]])
    torch.testing.assert_close(voices.source(frequencies, torch.tensor([1.0])), frequencies)


def test_the_share_is_kept_each_has_a_factor_of_its_own_and_padding_stays() -> None:
    torch.manual_seed(0)
    features = torch.randn(1, 50, 80).expand(400, -1, -1).clone()
    features[:, 40:] = 0.0
    assert torch.equal(VocalTract(VocalTractConfig(0.0), CONFIG)(features), features)
    after = VocalTract(VocalTractConfig(0.3), CONFIG)(features)
    changed = (after != features).any(2).any(1)
    assert 0.22 < changed.float().mean() < 0.38
    assert len(after[changed].unique(dim=0)) == changed.sum()
    assert not after[:, 40:].any()


@pytest.mark.parametrize("settings", [{"share": 1.5}, {"lowest": 1.2}, {"lowest": 0.0}, {"highest": 3.0}])
def test_settings_without_sense_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match=r"model\.vocal_tract"):
        VocalTractConfig(**settings)
