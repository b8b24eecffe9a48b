"""Noise added to features is what noise added to waveforms would be."""

import math

import pytest
import torch

from asr.errors import TrainingError
from asr.features.logmel import LogMel, LogMelConfig
from asr.training.noise import COLOURS, AdditiveNoise, NoiseConfig, level, noise_bank

CONFIG = LogMelConfig()
LENGTHS = torch.tensor([300, 180, 40])


def speech(seed: int = 0) -> torch.Tensor:
    """Features `[3, 300, 80]` with loud and quiet frames, 0 beyond the lengths."""
    generator = torch.Generator().manual_seed(seed)
    features = 2 * torch.randn(3, 300, 80, generator=generator) - 3
    features += 3 * torch.sin(torch.arange(300) / 9)[None, :, None]
    return features * (torch.arange(300) < LENGTHS[:, None])[:, :, None]


def noisy(config: NoiseConfig, features: torch.Tensor, seed: int = 0) -> torch.Tensor:
    torch.manual_seed(seed)
    result: torch.Tensor = AdditiveNoise(config, CONFIG)(features, LENGTHS)
    return result


@pytest.mark.parametrize("babble", [0.0, 1.0])
@pytest.mark.parametrize("snr", [-5.0, 10.0])
def test_the_ratio_is_what_was_asked_for(babble: float, snr: float) -> None:
    before = speech()
    after = noisy(NoiseConfig(1.0, snr, snr, babble), before)
    for i, n in enumerate(LENGTHS.tolist()):
        clean, both = (x[i, :n].double().exp().sum(1).mean() for x in (before, after))
        assert 10 * math.log10(clean / (both - clean)) == pytest.approx(snr, abs=0.05)


def test_padding_stays_zero_and_the_share_is_kept() -> None:
    before = speech()
    after = noisy(NoiseConfig(1.0, 0.0, 10.0, 0.5), before)
    assert not after[1, 180:].any() and torch.isfinite(after).all()
    assert torch.equal(noisy(NoiseConfig(0.0), before), before)
    many = before[:1].expand(400, -1, -1)
    torch.manual_seed(1)
    changed = AdditiveNoise(NoiseConfig(0.3), CONFIG)(many, LENGTHS[:1].expand(400)) != many
    assert 0.22 < changed.any(dim=2).any(dim=1).float().mean() < 0.38


def test_it_is_near_to_noise_added_to_the_waveform() -> None:
    generator = torch.Generator().manual_seed(3)
    time = torch.arange(48_000) / 16_000
    wave = 0.1 * torch.sin(2 * math.pi * 700 * time) * torch.sin(2 * math.pi * 3 * time)
    noise = 0.1 * torch.randn(48_000, generator=generator)
    log_mel, n = LogMel(CONFIG), torch.tensor([48_000])
    clean, _ = log_mel(wave[None], n)
    both, frames = log_mel((wave + noise)[None], n)
    snr = 10 * math.log10(float(wave.square().mean() / noise.square().mean()))
    torch.manual_seed(0)
    module = AdditiveNoise(NoiseConfig(1.0, snr, snr, babble=0.0), CONFIG)
    module.bank = module.bank[:1]  # white
    guess = module(clean, frames)
    difference = (guess.exp().mean(1) / both.exp().mean(1)).log()
    assert difference[0, 5:].abs().max() < 0.3 and difference.mean().abs() < 0.1


def test_the_bank_has_its_colours() -> None:
    power = noise_bank(CONFIG).double().exp().mean(1).log()
    centres = torch.linspace(0, 2595 * math.log10(1 + 8000 / 700), 82)[1:-1]
    hertz = 700 * (10 ** (centres / 2595) - 1)
    # Filters widen with frequency as mel does, so white noise rises by that.
    flat = power - power[0]
    for colour, row in zip(COLOURS, flat, strict=True):
        slope = (row[60] - row[20]) / (hertz[60] / hertz[20]).log()
        assert float(slope) == pytest.approx(-colour, abs=0.15)


def test_no_view_babbles_with_another_of_its_utterance() -> None:
    # Each utterance has all of its energy in a band of its own.
    features = torch.full((6, 50, 80), -11.0)
    for i in range(6):
        features[i, :, i % 3] = 5.0
    lengths = torch.full((6,), 50)
    torch.manual_seed(0)
    noisy = AdditiveNoise(NoiseConfig(1.0, 0.0, 0.0, babble=1.0), CONFIG)(features, lengths, views=2)
    for i in range(6):
        assert noisy[i, :, i % 3].max() < 5.01  # nothing was added there


@pytest.mark.parametrize("setting", [{"share": 25.0}, {"babble": -1.0}, {"lowest_snr": 40.0}])
def test_impossible_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match=r"^model\.noise"):
        NoiseConfig(**setting)


def test_an_utterance_alone_babbles_with_itself() -> None:
    one = speech()[:1]
    torch.manual_seed(0)
    assert torch.isfinite(AdditiveNoise(NoiseConfig(1.0, babble=1.0), CONFIG)(one, LENGTHS[:1])).all()


def test_level_is_of_valid_frames() -> None:
    features = torch.zeros(1, 6, 80)
    features[0, 4:] = 50.0
    assert float(level(features, torch.tensor([4]))) == pytest.approx(math.log(80))
