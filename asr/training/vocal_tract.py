"""Voices of other heights for training features, without going back to waveforms."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.errors import TrainingError
from asr.features.logmel import LogMelConfig

HIGHEST_FORMANT = 4800.0
"""Hz, below which frequencies are scaled in proportion."""


@dataclass(frozen=True)
class VocalTractConfig:
    """Vocal tract length perturbation in training.

    Args:
        share: Share of the utterances whose frequencies are scaled; 0 turns it off.
        lowest: Smallest factor, of a longer tract.
        highest: Largest factor; each utterance has its own, uniform between the two.
    """

    share: float = 0.0
    lowest: float = 0.9
    highest: float = 1.1

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise TrainingError(f"model.vocal_tract.share: must be from 0 to 1, not {self.share}")
        if not 0.5 <= self.lowest <= self.highest <= 2:
            raise TrainingError("model.vocal_tract: lowest must be no more than highest, both from 0.5 to 2")


class VocalTract(nn.Module):
    """Scales the frequencies of log-mel features `[B, T, F]`: vocal tract length perturbation (Jaitly and
    Hinton, 2013).

    The scale is linear up to the highest formant, and from there on such that the highest frequency stays.
    Between the filters' centres log energies are interpolated.
    """

    centres: Tensor

    def __init__(self, config: VocalTractConfig, log_mel: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        self.nyquist = log_mel.sample_rate / 2
        edges = torch.linspace(_mel(log_mel.f_min), _mel(log_mel.f_max), log_mel.mels + 2)
        self.register_buffer("centres", edges[1:-1], persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        c = self.config
        draw, factors = torch.rand(2, len(features), device=features.device)
        scaled = self.scale(features.float(), c.lowest + (c.highest - c.lowest) * factors)
        return torch.where((draw < c.share)[:, None, None], scaled, features.float())

    def scale(self, features: Tensor, factors: Tensor) -> Tensor:
        """What was heard at f is heard at factor * f afterwards."""
        low, high = self.centres[0], self.centres[-1]
        wanted = _mel(self.source(_hertz(self.centres), factors[:, None]))
        places = ((wanted - low) / (high - low) * (len(self.centres) - 1)).clamp(0, len(self.centres) - 1)
        below = places.long().clamp(max=len(self.centres) - 2)
        weight = (places - below)[:, None]
        below = below[:, None].expand_as(features)
        return torch.lerp(features.gather(2, below), features.gather(2, below + 1), weight)

    def source(self, frequencies: Tensor, factors: Tensor) -> Tensor:
        """Where what is to be heard at `frequencies` comes from, Hz."""
        top = HIGHEST_FORMANT * factors.clamp(max=1)  # and, in the source, top / factors
        beyond = (self.nyquist - top / factors) / (self.nyquist - top) * (self.nyquist - frequencies)
        return torch.where(frequencies <= top, frequencies / factors, self.nyquist - beyond)


def _mel(frequency: Tensor | float) -> Tensor:
    return 1127.01048 * torch.log1p(torch.as_tensor(frequency) / 700)


def _hertz(mel: Tensor) -> Tensor:
    return 700 * torch.expm1(mel / 1127.01048)
