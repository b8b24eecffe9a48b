"""Augmentation of training features: additive noise, silence, short normalisation memory, SpecAugment."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from asr import audio
from asr.errors import TrainingError
from asr.features.logmel import LogMel, LogMelConfig
from asr.model.acoustic import padding_mask
from asr.training.data import Batch

NOISE_SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3"))
COLOURS = (0.0, 0.0, 1.0, 2.0)  # exponents b of power spectra 1 / f**b: white twice, pink, brown
BANK_SECONDS = 20
BABBLE_VOICES = 4


def _check_shares(config: object, key: str, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not 0 <= value <= 1:
            raise TrainingError(f"model.augmentation.{key}.{name}: must be in 0 to 1, not {value}")


@dataclass(frozen=True)
class SpecAugmentConfig:
    """SpecAugment (Park et al., 2019) without time warping.

    Args:
        time_masks: Number of time masks per utterance; 0 turns them off.
        time_frames: Maximum width of a time mask, in frames of 10 ms.
        time_share: Maximum width of a time mask as a share of the utterance.
        frequency_masks: Number of frequency masks per utterance; 0 turns them off.
        frequency_bins: Maximum width of a frequency mask, in mel bins.
    """

    time_masks: int = 2
    time_frames: int = 40
    time_share: float = 0.05
    frequency_masks: int = 2
    frequency_bins: int = 15


@dataclass(frozen=True)
class NoiseConfig:
    """Additive noise.

    Args:
        share: Share of the utterances with noise; 0 turns it off.
        lowest_snr: Lowest signal-to-noise ratio, dB.
        highest_snr: Highest signal-to-noise ratio; uniform between the two for each utterance.
        babble: Share of the noisy utterances whose noise is other utterances of the batch.
        recorded: Share of the noisy utterances whose noise is a recording from `folder`.
        folder: Noise recordings, searched recursively.
    """

    share: float = 0.0
    lowest_snr: float = 0.0
    highest_snr: float = 30.0
    babble: float = 0.25
    recorded: float = 0.5
    folder: Path | None = None

    def __post_init__(self) -> None:
        _check_shares(self, "noise", "share", "babble", "recorded")
        if not -100 <= self.lowest_snr <= self.highest_snr <= 100:
            raise TrainingError("model.augmentation.noise: lowest_snr must be in -100 dB to highest_snr")


@dataclass(frozen=True)
class SilenceConfig:
    """Silence around and instead of speech, and short memory of the normalisation.

    Args:
        padded: Share of the batches with silence before and after each utterance.
        frames: Maximum silence on each side, in frames of 10 ms.
        only: Share of the utterances replaced by noise alone, with an empty transcript.
        chunks: Share of the utterances normalised by the mean of a random chunk, as in a stream.
        shortest: Shortest chunk, in frames of 10 ms.
        longest: Longest chunk.
    """

    padded: float = 0.0
    frames: int = 150
    only: float = 0.0
    chunks: float = 0.0
    shortest: int = 150
    longest: int = 600

    def __post_init__(self) -> None:
        _check_shares(self, "silence", "padded", "only", "chunks")


@dataclass(frozen=True)
class AugmentationConfig:
    """Augmentation of training features.

    Args:
        spec_augment: Masks in time and frequency.
        noise: Additive noise.
        silence: Silence, and short memory of the normalisation.
    """

    spec_augment: SpecAugmentConfig = SpecAugmentConfig()
    noise: NoiseConfig = NoiseConfig()
    silence: SilenceConfig = SilenceConfig()


def spec_augment(config: SpecAugmentConfig, features: Tensor, lengths: Tensor) -> Tensor:
    """Zero random time and frequency ranges of normalised features `[B, T, F]`, drawn per utterance."""
    _, frames, bins = features.shape
    widest = torch.minimum(lengths * config.time_share, lengths.new_tensor(config.time_frames))
    kept = _unmasked(config.time_masks, widest, lengths, frames)[:, :, None]
    bands = lengths.new_full(lengths.shape, bins)
    widest = bands.clamp(max=config.frequency_bins)
    return features * (kept & _unmasked(config.frequency_masks, widest, bands, bins)[:, None])


def _unmasked(count: int, widest: Tensor, sizes: Tensor, length: int) -> Tensor:
    """`bool[B, length]`, false in `count` ranges of uniform width below `widest`, within `sizes`."""
    draw = torch.rand(2, len(sizes), count, device=sizes.device)
    width = draw[0] * widest[:, None]
    start = draw[1] * (sizes[:, None] - width)
    position = torch.arange(length, device=sizes.device)[:, None]
    inside = (position >= start[:, None].floor()) & (position < (start + width)[:, None].floor())
    return ~inside.any(dim=2)


def chunk_mask(config: SilenceConfig, lengths: Tensor, frames: int) -> Tensor:
    """`bool[B, frames]`, true everywhere, or only in a random chunk for a share of the utterances."""
    draw = torch.rand(3, len(lengths), 1, device=lengths.device)
    width = config.shortest + draw[0] * (config.longest - config.shortest)
    start = (draw[1] * (lengths[:, None] - width)).clamp(min=0)
    position = torch.arange(frames, device=lengths.device)
    chunk = (position >= start) & (position < start + width)
    return chunk | (draw[2] >= config.chunks)


class AdditiveNoise(nn.Module):
    """Adds noise to raw log-mel features `[B, T, F]` with lengths `int64[B]`; no waveforms needed.

    Energies add, as they do on average over phases: ln(exp x + exp n) (Moreno et al., 1996). The
    signal-to-noise ratio compares mean energies over all bins.
    """

    bank: Tensor
    clips: Tensor
    clip_frames: Tensor

    def __init__(self, config: NoiseConfig, log_mel: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("bank", noise_bank(log_mel), persistent=False)
        clips = recorded_noise(config.folder, log_mel) if config.folder else [self.bank[0]]
        self.register_buffer("clips", torch.cat(clips), persistent=False)
        counts = torch.tensor([len(clip) for clip in clips])
        self.register_buffer("clip_frames", counts, persistent=False)

    def forward(self, features: Tensor, lengths: Tensor, views: int = 1) -> Tensor:
        """Add noise; the batch holds `views` copies of each utterance, all first copies first."""
        c, (count, frames, _) = self.config, features.shape
        draw = torch.rand(3, count, device=features.device)
        noise = self._draw(count, frames)
        noise = torch.where(draw[0, :, None, None] < c.babble, _babble(features, lengths, views), noise)
        snr = c.lowest_snr + (c.highest_snr - c.lowest_snr) * draw[1]
        gain = level(features, lengths) - level(noise, lengths) - snr * math.log(10) / 10
        mixed = torch.logaddexp(features.float(), noise + gain[:, None, None])
        mixed = mixed * padding_mask(lengths, frames)[:, :, None]
        return torch.where(draw[2, :, None, None] < c.share, mixed, features.float())

    def add_silence(self, batch: Batch, config: SilenceConfig) -> Batch:
        """Replace some utterances by noise with an empty transcript; pad all utterances of some batches.

        The padding is noise 17 to 65 dB below the speech; each utterance has the same noise on both sides.
        """
        if not config.only and not config.padded:
            return batch
        features, lengths = batch.features.float(), batch.lengths
        count, frames, _ = features.shape
        noise = self._draw(count, frames + 2 * config.frames)
        valid = padding_mask(lengths, frames)
        noise = noise - level(noise[:, :frames], lengths)[:, None, None]
        loudness = level(features, lengths)[:, None, None]
        draw = torch.rand(4, count, device=features.device)
        alone = draw[0] < config.only
        replaced = (noise[:, :frames] + loudness - 4 * draw[1, :, None, None]) * valid[:, :, None]
        features = torch.where(alone[:, None, None], replaced, features)
        batch = batch._replace(features=features, target_lengths=batch.target_lengths.masked_fill(alone, 0))
        if float(torch.rand(())) >= config.padded:
            return batch
        before = (draw[2] * config.frames).long()
        after = (torch.rand(count, device=features.device) * config.frames).long()
        total = before + lengths + after
        padded = noise[:, : int(total.max())] + loudness - 4 - 11 * draw[3, :, None, None]
        position = torch.arange(padded.shape[1], device=features.device) - before[:, None]
        inside = ((position >= 0) & (position < lengths[:, None]))[:, :, None]
        index = position.clamp(0, frames - 1)[:, :, None].expand(-1, -1, features.shape[2])
        padded = torch.where(inside, features.gather(1, index), padded)
        padded = padded * padding_mask(total, padded.shape[1])[:, :, None]
        return batch._replace(features=padded, lengths=total)

    def _draw(self, count: int, frames: int) -> Tensor:
        """Recorded noise for a share of the rows, stationary noise for the others: `[count, frames, F]`."""
        noise = self._stationary(count, frames)
        if self.config.folder is None:
            return noise
        draw = torch.rand(count, 1, 1, device=noise.device) * (1 - self.config.babble)
        return torch.where(draw < self.config.recorded, self._recorded(count, frames), noise)

    def _recorded(self, count: int, frames: int) -> Tensor:
        """Recordings from a random frame on, repeated up to `frames`."""
        device = self.clips.device
        chosen = torch.randint(len(self.clip_frames), (count,), device=device)
        lengths = self.clip_frames[chosen, None]
        starts = self.clip_frames.cumsum(0)[chosen, None] - lengths
        first = (torch.rand(count, 1, device=device) * lengths).long()
        return self.clips[starts + (first + torch.arange(frames, device=device)) % lengths]

    def _stationary(self, count: int, frames: int) -> Tensor:
        """Ranges of the bank from a random frame on, repeated up to `frames`."""
        (colours, length, _), device = self.bank.shape, self.bank.device
        position = torch.randint(length, (count, 1), device=device) + torch.arange(frames, device=device)
        return self.bank[torch.randint(colours, (count, 1), device=device), position % length]


def level(features: Tensor, lengths: Tensor) -> Tensor:
    """Log of the total energy over mel bins, averaged over frames: `[B, T, F]` -> `float32[B]`."""
    energy = torch.logsumexp(features.float(), dim=2)
    energy = energy.masked_fill(~padding_mask(lengths, features.shape[1]), -math.inf)
    return torch.logsumexp(energy, dim=1) - lengths.log()


def _babble(features: Tensor, lengths: Tensor, views: int) -> Tensor:
    """Sum of BABBLE_VOICES other utterances of the batch, each repeated up to the longest."""
    (count, frames, _), device = features.shape, features.device
    utterances = count // views
    others = 1 + torch.randint(max(1, utterances - 1), (BABBLE_VOICES, count), device=device)
    voices = (torch.arange(count, device=device) + others) % utterances
    total = torch.full_like(features, -math.inf, dtype=torch.float32)
    for voice in voices:
        position = torch.arange(frames, device=device) % lengths[voice, None]
        total = torch.logaddexp(total, features[voice[:, None], position].float())
    return total


def recorded_noise(folder: Path, log_mel: LogMelConfig) -> list[Tensor]:
    """Features `float32[T, F]` of each recording below `folder`. Raises TrainingError if there is none."""
    extract, clips = LogMel(log_mel), []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in NOISE_SUFFIXES):
        wave = torch.from_numpy(audio.read(path))[None]
        features = extract(wave, torch.tensor([wave.shape[1]]))[0][0]
        if len(features) and float(wave.abs().max()) > 0:  # digital silence has no level to scale
            clips.append(features)
    if not clips:
        raise TrainingError(f"{folder}: no noise recording found; set model.augmentation.noise.folder")
    return clips


def noise_bank(log_mel: LogMelConfig) -> Tensor:
    """Features of Gaussian noise of unit power in each of COLOURS: `float32[colours, T, F]`."""
    generator = torch.Generator().manual_seed(0)
    samples = BANK_SECONDS * log_mel.sample_rate
    spectrum = torch.fft.rfft(torch.randn(len(COLOURS), samples, generator=generator))
    frequencies = torch.fft.rfftfreq(samples, 1 / log_mel.sample_rate).clamp(min=log_mel.f_min)
    waves = torch.fft.irfft(spectrum * frequencies ** -(torch.tensor(COLOURS)[:, None] / 2), n=samples)
    waves = waves / waves.std(dim=1, keepdim=True)
    features: Tensor = LogMel(log_mel)(waves, torch.full((len(COLOURS),), samples))[0]
    return features
