"""Augmentation: SpecAugment, silence, chunks, and noise that equals noise added to waveforms."""

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

from asr.errors import TrainingError
from asr.features.logmel import LogMel, LogMelConfig
from asr.training.augment import (
    COLOURS,
    AdditiveNoise,
    NoiseConfig,
    SilenceConfig,
    SpecAugmentConfig,
    chunk_mask,
    level,
    noise_bank,
    recorded_noise,
    spec_augment,
)
from asr.training.data import Batch

LOG_MEL = LogMelConfig()
LENGTHS = torch.tensor([300, 180, 40])


# ------------------------------------------------------------------------------------------------ SpecAugment


def masked(config: SpecAugmentConfig, seed: int = 0) -> Tensor:
    """`bool[64, 200, 80]`, true where features became zero."""
    torch.manual_seed(seed)
    return spec_augment(config, torch.ones(64, 200, 80), torch.full((64,), 200)) == 0


def test_bands_are_as_wide_as_configured() -> None:
    bands = masked(SpecAugmentConfig(time_masks=0, frequency_masks=1, frequency_bins=15))
    assert torch.equal(bands.any(dim=1), bands.all(dim=1))  # a band spans all of the time
    widths = bands[:, 0].sum(dim=1)
    assert 12 <= widths.max() <= 15 and len(set(widths.tolist())) > 8
    starts = {int(row.nonzero()[0]) for row in bands[:, 0] if row.any()}
    assert len(starts) > 20


@pytest.mark.parametrize(("frames", "share", "widest"), [(30, 1.0, 30), (30, 0.05, 10)])
def test_time_masks_respect_frames_and_share(frames: int, share: float, widest: int) -> None:
    masks = masked(SpecAugmentConfig(1, frames, share, frequency_masks=0))
    assert torch.equal(masks.any(dim=2), masks.all(dim=2))
    assert 0.75 * widest <= masks[:, :, 0].sum(dim=1).max() <= widest


def test_time_masks_lie_within_each_utterance() -> None:
    torch.manual_seed(0)
    lengths = torch.tensor([20, 200] * 100)
    kept = spec_augment(SpecAugmentConfig(5, 40, 0.5, 0), torch.ones(200, 200, 8), lengths)
    assert (kept[::2, 20:] == 1).all() and (kept[::2, :20] == 0).any() and (kept[1::2, 20:] == 0).any()


def test_masks_depend_on_the_seed_alone_and_can_be_turned_off() -> None:
    config = SpecAugmentConfig()
    assert torch.equal(masked(config), masked(config)) and not torch.equal(masked(config), masked(config, 1))
    assert not masked(SpecAugmentConfig(time_masks=0, frequency_masks=0)).any()


# ----------------------------------------------------------------------------------------- chunks and silence


def test_chunks_are_contiguous_and_within_their_limits() -> None:
    torch.manual_seed(0)
    lengths = torch.full((300,), 1000)
    mask = chunk_mask(SilenceConfig(chunks=0.5, shortest=100, longest=200), lengths, 1000)
    whole = mask.all(dim=1)
    assert 0.4 < whole.float().mean() < 0.6
    chunks = mask[~whole]
    widths = chunks.sum(dim=1)
    assert 99 <= widths.min() < 120 and 180 < widths.max() <= 201
    edges = (chunks[:, 1:] != chunks[:, :-1]).sum(dim=1) + chunks[:, 0] + chunks[:, -1]
    assert (edges == 2).all()
    assert chunk_mask(SilenceConfig(), lengths, 1000).all()


def test_a_chunk_longer_than_the_utterance_is_all_of_it() -> None:
    mask = chunk_mask(SilenceConfig(chunks=1.0), torch.tensor([80, 600]), 600)
    assert mask[0, :80].all() and 149 <= mask[1].sum() <= 600


def batch() -> Batch:
    return Batch(
        ids=["a", "b", "c"],
        texts=["A", "B", "C"],
        features=speech().half(),
        lengths=LENGTHS,
        targets=torch.tensor([[1, 2], [3, 0], [4, 0]]),
        target_lengths=torch.tensor([2, 1, 1]),
    )


def test_padding_with_silence_keeps_the_speech_bit_exact() -> None:
    before, noise = batch(), AdditiveNoise(NoiseConfig(), LOG_MEL)
    for seed in range(5):
        torch.manual_seed(seed)
        after = noise.add_silence(before, SilenceConfig(padded=1.0, frames=50))
        assert torch.equal(after.target_lengths, before.target_lengths) and after.ids == before.ids
        added = after.lengths - before.lengths
        assert (added >= 0).all() and (added < 100).all() and added.any()
        assert after.features.shape[1] == after.lengths.max()
        for i, (old, new) in enumerate(zip(LENGTHS.tolist(), after.lengths.tolist(), strict=True)):
            row, clean = after.features[i], before.features[i, :old].float()
            assert not row[new:].any()
            (start,) = [t for t in range(new - old + 1) if torch.equal(row[t : t + old], clean)]
            silence = torch.cat([row[:start], row[start + old : new]])[None]
            if silence.shape[1]:
                quieter = level(clean[None], LENGTHS[i : i + 1]) - level(silence, torch.tensor([new - old]))
                assert 3 < float(quieter) < 17  # 4 to 15 nats, and noise that varies


def test_noise_alone_has_an_empty_transcript() -> None:
    torch.manual_seed(0)
    before = batch()
    after = AdditiveNoise(NoiseConfig(), LOG_MEL).add_silence(before, SilenceConfig(only=1.0))
    assert not after.target_lengths.any() and torch.equal(after.lengths, before.lengths)
    loudness = level(before.features, LENGTHS) - level(after.features, LENGTHS)
    assert (loudness > -1e-3).all() and (loudness < 4.001).all()
    assert not torch.equal(after.features, before.features) and not after.features[2, 40:].any()
    assert AdditiveNoise(NoiseConfig(), LOG_MEL).add_silence(before, SilenceConfig()) is before


# ------------------------------------------------------------------------------------------------------ noise


def speech(seed: int = 0) -> Tensor:
    """Features `[3, 300, 80]` with loud and quiet frames, 0 beyond the lengths."""
    generator = torch.Generator().manual_seed(seed)
    features = 2 * torch.randn(3, 300, 80, generator=generator) - 3
    features += 3 * torch.sin(torch.arange(300) / 9)[None, :, None]
    return features * (torch.arange(300) < LENGTHS[:, None])[:, :, None]


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tones, one of them with an offset, and digital silence."""
    folder = tmp_path_factory.mktemp("noise")
    time = np.arange(16_000) / 16_000
    for name, samples in (
        ("low", 0.1 * np.sin(2 * np.pi * 300 * time)),
        ("inner/high", 0.1 * np.sin(2 * np.pi * 5000 * time) + 0.3),
        ("silence", 0 * time),
    ):
        path = folder / f"{name}.wav"
        path.parent.mkdir(exist_ok=True)
        soundfile.write(path, samples, 16_000)
    (folder / "readme.txt").write_text("no noise")
    return folder


def noisy(config: NoiseConfig, features: Tensor, seed: int = 0) -> Tensor:
    torch.manual_seed(seed)
    result: Tensor = AdditiveNoise(config, LOG_MEL)(features, LENGTHS)
    return result


@pytest.mark.parametrize("kind", ["stationary", "babble", "recorded"])
@pytest.mark.parametrize("snr", [-5.0, 10.0])
def test_the_signal_to_noise_ratio_is_as_requested(kind: str, snr: float, recordings: Path) -> None:
    folder = recordings if kind == "recorded" else None
    config = NoiseConfig(1.0, snr, snr, float(kind == "babble"), float(kind == "recorded"), folder)
    before = speech()
    after = noisy(config, before)
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
    changed = AdditiveNoise(NoiseConfig(0.3), LOG_MEL)(many, LENGTHS[:1].expand(400)) != many
    assert 0.22 < changed.any(dim=2).any(dim=1).float().mean() < 0.38


def test_it_is_near_to_noise_added_to_the_waveform() -> None:
    generator = torch.Generator().manual_seed(3)
    time = torch.arange(48_000) / 16_000
    wave = 0.1 * torch.sin(2 * math.pi * 700 * time) * torch.sin(2 * math.pi * 3 * time)
    noise = 0.1 * torch.randn(48_000, generator=generator)
    log_mel, n = LogMel(LOG_MEL), torch.tensor([48_000])
    clean, _ = log_mel(wave[None], n)
    both, frames = log_mel((wave + noise)[None], n)
    snr = 10 * math.log10(float(wave.square().mean() / noise.square().mean()))
    torch.manual_seed(0)
    module = AdditiveNoise(NoiseConfig(1.0, snr, snr, babble=0.0), LOG_MEL)
    module.bank = module.bank[:1]  # white
    guess = module(clean, frames)
    difference = (guess.exp().mean(1) / both.exp().mean(1)).log()
    assert difference[0, 5:].abs().max() < 0.3 and difference.mean().abs() < 0.1


def test_the_bank_has_its_colours() -> None:
    power = noise_bank(LOG_MEL).double().exp().mean(1).log()
    centres = torch.linspace(0, 2595 * math.log10(1 + 8000 / 700), 82)[1:-1]
    hertz = 700 * (10 ** (centres / 2595) - 1)
    # Filters widen with frequency as mel does, so white noise rises by that.
    flat = power - power[0]
    for colour, row in zip(COLOURS, flat, strict=True):
        slope = (row[60] - row[20]) / (hertz[60] / hertz[20]).log()
        assert float(slope) == pytest.approx(-colour, abs=0.15)


def test_recordings_are_found_without_the_silent_ones(recordings: Path, tmp_path: Path) -> None:
    high, low = recorded_noise(recordings, LOG_MEL)
    assert high.shape == low.shape == (98, 80)
    assert high.mean(0).argmax() > 60 and low.mean(0).argmax() < 20  # the offset is gone
    with pytest.raises(TrainingError, match=f"^{tmp_path}: no noise recording found"):
        recorded_noise(tmp_path, LOG_MEL)


@pytest.mark.parametrize("babble", [0.0, 0.5, 1.0])
def test_the_kinds_of_noise_have_their_shares(babble: float, recordings: Path) -> None:
    """A share `recorded` of the noisy utterances has a recording: a tone far above its neighbours."""
    config = NoiseConfig(1.0, 0.0, 0.0, babble, (1 - babble) / 2, recordings)
    module = AdditiveNoise(config, LOG_MEL)
    torch.manual_seed(0)
    drawn = module._draw(400, 30).mean(1)
    tones = (drawn.amax(1) - drawn.median(1).values > 8).float().mean()
    assert float(tones) == pytest.approx(0.5 if babble < 1 else 0.0, abs=0.1)


def test_no_view_babbles_with_another_of_its_utterance() -> None:
    # Each utterance has all of its energy in a band of its own.
    features = torch.full((6, 50, 80), -11.0)
    for i in range(6):
        features[i, :, i % 3] = 5.0
    lengths = torch.full((6,), 50)
    torch.manual_seed(0)
    noisy = AdditiveNoise(NoiseConfig(1.0, 0.0, 0.0, babble=1.0), LOG_MEL)(features, lengths, views=2)
    for i in range(6):
        assert noisy[i, :, i % 3].max() < 5.01  # nothing was added there
    alone = AdditiveNoise(NoiseConfig(1.0, babble=1.0), LOG_MEL)(features[:1], lengths[:1])
    assert torch.isfinite(alone).all()


@pytest.mark.parametrize("setting", [{"share": 25.0}, {"babble": -1.0}, {"lowest_snr": 40.0}])
def test_impossible_settings_are_named(setting: dict[str, float]) -> None:
    with pytest.raises(TrainingError, match=rf"^model\.augmentation\.noise.*{next(iter(setting))}"):
        NoiseConfig(**setting)  # type: ignore[arg-type]
    with pytest.raises(TrainingError, match=r"^model\.augmentation\.silence\.only"):
        SilenceConfig(only=2.0)


def test_level_is_of_valid_frames() -> None:
    features = torch.zeros(1, 6, 80)
    features[0, 4:] = 50.0
    assert float(level(features, torch.tensor([4]))) == pytest.approx(math.log(80))
