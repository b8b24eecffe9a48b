"""Noise that is added to training features, without going back to waveforms."""

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from asr.errors import TrainingError
from asr.features.logmel import LogMel, LogMelConfig
from asr.model.subsampling import padding_mask
from asr.training.augment import SilenceConfig
from asr.training.data import Batch

SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3"))

COLOURS = (0.0, 0.0, 1.0, 2.0)
"""Exponents b of power spectra 1 / f**b: white noise twice, pink, brown."""

_SECONDS = 20
_VOICES = 4
"""Utterances of a batch that make a babble."""


@dataclass(frozen=True)
class NoiseConfig:
    """Noise in training.

    Args:
        share: Share of the utterances that get noise; 0 turns it off.
        lowest_snr: Lowest ratio of speech to noise, dB.
        highest_snr: Highest ratio; each utterance has its own, uniform between the two.
        babble: Of the utterances with noise, the share with other utterances of its batch as noise.
        recorded: And the share with recordings from `folder`.
        folder: Noise recordings, searched recursively.
    """

    share: float = 0.0
    lowest_snr: float = 0.0
    highest_snr: float = 30.0
    babble: float = 0.25
    recorded: float = 0.5
    folder: Path | None = None

    def __post_init__(self) -> None:
        for name in ("share", "babble", "recorded"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"model.noise.{name}: must be from 0 to 1, not {getattr(self, name)}")
        if not -100 <= self.lowest_snr <= self.highest_snr <= 100:
            raise TrainingError("model.noise: lowest_snr must be no more than highest_snr, both in dB")


class AdditiveNoise(nn.Module):
    """Adds noise to raw log-mel features `[B, T, F]` of `int64[B]` lengths.

    Energies of speech and noise add up, as they do on average over their phases: ln(exp x + exp n) (Moreno et
    al., 1996). The ratio is that of the mean energies of all bands. Stationary noise is cut from LogMel
    features of Gaussian noise in several colours, so it flickers as theirs does.
    """

    bank: Tensor
    clips: Tensor
    clip_frames: Tensor
    clip_starts: Tensor

    def __init__(self, config: NoiseConfig, log_mel: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        self.register_buffer("bank", noise_bank(log_mel), persistent=False)
        clips = recorded_noise(config.folder, log_mel) if config.folder else [self.bank[0]]
        self.register_buffer("clips", torch.cat(clips), persistent=False)
        counts = torch.tensor([len(clip) for clip in clips])
        self.register_buffer("clip_frames", counts, persistent=False)
        self.register_buffer("clip_starts", counts.cumsum(0) - counts, persistent=False)

    def forward(self, features: Tensor, lengths: Tensor, views: int = 1) -> Tensor:
        """The batch holds `views` copies of each utterance, all first ones first."""
        c = self.config
        count, frames, _ = features.shape
        draw = torch.rand(3, count, device=features.device)
        noise = self._without_voices(count, frames)
        noise = torch.where(draw[0, :, None, None] < c.babble, _babble(features, lengths, views), noise)
        snr = c.lowest_snr + (c.highest_snr - c.lowest_snr) * draw[1]
        gain = level(features, lengths) - level(noise, lengths) - snr * math.log(10) / 10
        mixed = torch.logaddexp(features.float(), noise + gain[:, None, None])
        mixed = mixed * padding_mask(lengths, frames)[:, :, None]
        return torch.where(draw[2, :, None, None] < c.share, mixed, features.float())

    def add_silence(self, batch: Batch, config: SilenceConfig) -> Batch:
        """Replace a share of the utterances by noise with an empty transcript, and sometimes pad all of them.

        The padding is noise 17 to 65 dB below the speech, alike on both sides of an utterance.
        """
        features, lengths = batch.features.float(), batch.lengths
        count, frames, _ = features.shape
        noise = self._without_voices(count, frames + 2 * config.frames)
        valid = padding_mask(lengths, frames)
        noise = noise - level(noise[:, :frames], lengths)[:, None, None]
        loudness = level(features, lengths)[:, None, None]
        draw = torch.rand(4, count, device=features.device)
        alone = draw[0] < config.only
        replaced = (noise[:, :frames] + loudness - 4 * draw[1, :, None, None]) * valid[:, :, None]
        features = torch.where(alone[:, None, None], replaced, features)
        batch = batch._replace(
            features=features,
            target_lengths=batch.target_lengths.masked_fill(alone, 0),
        )
        if float(torch.rand(())) >= config.padded:
            return batch
        before = (draw[2] * config.frames).long()
        after = (torch.rand(count, device=features.device) * config.frames).long()
        total = before + lengths + after
        padded = noise[:, : int(total.max())] + loudness - 4 - 11 * draw[3, :, None, None]
        place = torch.arange(padded.shape[1], device=features.device) - before[:, None]
        inside = ((place >= 0) & (place < lengths[:, None]))[:, :, None]
        index = place.clamp(0, frames - 1)[:, :, None].expand(-1, -1, features.shape[2])
        padded = torch.where(inside, features.gather(1, index), padded)
        padded = padded * padding_mask(total, padded.shape[1])[:, :, None]
        return batch._replace(features=padded, lengths=total)

    def _without_voices(self, count: int, frames: int) -> Tensor:
        """Recorded noise in a share of the rows, stationary noise in the others: `[count, frames, F]`."""
        noise = self._stationary(count, frames)
        if self.config.folder is None:
            return noise
        recorded = torch.rand(count, 1, 1, device=noise.device) < self.config.recorded / (
            1 - self.config.babble
        )
        return torch.where(recorded, self._recorded(count, frames), noise)

    def _recorded(self, count: int, frames: int) -> Tensor:
        """Recordings from a random frame on, repeated to `frames`."""
        device = self.clips.device
        chosen = torch.randint(len(self.clip_frames), (count,), device=device)
        lengths, starts = self.clip_frames[chosen, None], self.clip_starts[chosen, None]
        first = (torch.rand(count, 1, device=device) * lengths).long()
        return self.clips[starts + (first + torch.arange(frames, device=device)) % lengths]

    def _stationary(self, count: int, frames: int) -> Tensor:
        """Stretches of the bank, each from a place of its own; what is longer than the bank goes round."""
        colours, length, _ = self.bank.shape
        device = self.bank.device
        places = torch.randint(length, (count, 1), device=device) + torch.arange(frames, device=device)
        return self.bank[torch.randint(colours, (count, 1), device=device), places % length]


def level(features: Tensor, lengths: Tensor) -> Tensor:
    """Logarithm of the mean over the frames of the energy in all bands: `[B, T, F]` -> `float32[B]`."""
    energy = torch.logsumexp(features.float(), dim=2)
    energy = energy.masked_fill(~padding_mask(lengths, features.shape[1]), -math.inf)
    return torch.logsumexp(energy, dim=1) - lengths.log()


def _babble(features: Tensor, lengths: Tensor, views: int) -> Tensor:
    """Other utterances of the batch, one on top of the other, each repeated to the batch's length."""
    count, frames, _ = features.shape
    utterances = count // views
    others = 1 + torch.randint(max(1, utterances - 1), (_VOICES, count), device=features.device)
    voices = (torch.arange(count, device=features.device) + others) % utterances
    total = torch.full_like(features, -math.inf, dtype=torch.float32)
    for voice in voices:
        places = torch.arange(frames, device=features.device) % lengths[voice, None]
        total = torch.logaddexp(total, features[voice[:, None], places].float())
    return total


def recorded_noise(folder: Path, log_mel: LogMelConfig) -> list[Tensor]:
    """Features `float32[T, F]` of each recording below `folder`. Raises TrainingError where there is none."""
    from asr import audio

    extract = LogMel(log_mel)
    clips = []
    for path in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES):
        wave = torch.from_numpy(audio.read(path))[None]
        features = extract(wave, torch.tensor([wave.shape[1]]))[0][0]
        # Digital silence would divide by nothing where levels are set.
        if len(features) and float(wave.abs().max()) > 0:
            clips.append(features)
    if not clips:
        raise TrainingError(
            f"{folder}: no noise recording was found; name a folder with some, or leave it out"
        )
    return clips


def noise_bank(log_mel: LogMelConfig) -> Tensor:
    """Features of Gaussian noise of unit power in each of COLOURS: `float32[colours, T, F]`."""
    generator = torch.Generator().manual_seed(0)
    samples = _SECONDS * log_mel.sample_rate
    spectrum = torch.fft.rfft(torch.randn(len(COLOURS), samples, generator=generator))
    frequencies = torch.fft.rfftfreq(samples, 1 / log_mel.sample_rate).clamp(min=log_mel.f_min)
    waves = torch.fft.irfft(spectrum * frequencies ** -(torch.tensor(COLOURS)[:, None] / 2), n=samples)
    waves = waves / waves.std(dim=1, keepdim=True)
    features: Tensor = LogMel(log_mel)(waves, torch.full((len(COLOURS),), samples))[0]
    return features
