"""Rooms that training features are heard in, without going back to waveforms."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from asr.errors import TrainingError
from asr.features.logmel import LogMelConfig
from asr.model.subsampling import padding_mask

MEMORY_SECONDS = 1.0
"""What is later than this is left out."""


@dataclass(frozen=True)
class ReverberationConfig:
    """Reverberation in training.

    Args:
        share: Share of the utterances that get it; 0 turns it off.
        lowest_t60: Shortest time in which the sound of a room decays by 60 dB, seconds.
        highest_t60: Longest; each utterance has its own, uniform between the two.
        lowest_drr: Lowest ratio of direct to reverberant energy, dB.
        highest_drr: Highest ratio.
    """

    share: float = 0.0
    lowest_t60: float = 0.2
    highest_t60: float = 0.8
    lowest_drr: float = 0.0
    highest_drr: float = 15.0

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise TrainingError(f"model.reverberation.share: must be from 0 to 1, not {self.share}")
        if not 0 < self.lowest_t60 <= self.highest_t60 <= 10:
            raise TrainingError(
                "model.reverberation: lowest_t60 must be above 0 s and no more than highest_t60"
            )
        if not -100 <= self.lowest_drr <= self.highest_drr <= 100:
            raise TrainingError(
                "model.reverberation: lowest_drr must be no more than highest_drr, both in dB"
            )


class Reverberation(nn.Module):
    """Adds late reverberation to raw log-mel features `[B, T, F]` of `int64[B]` lengths.

    A room's energy decays exponentially (Polack's model), so each band hears of each earlier frame its energy
    times a power of a constant; energies add up, as they do on average over their phases (Lebart et al.,
    2001). The direct sound is left as it is.
    """

    def __init__(self, config: ReverberationConfig, log_mel: LogMelConfig) -> None:
        super().__init__()
        self.config = config
        self.frames_per_second = log_mel.sample_rate / log_mel.hop

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        c = self.config
        t60, drr, draw = torch.rand(3, len(features), device=features.device)
        t60 = c.lowest_t60 + (c.highest_t60 - c.lowest_t60) * t60
        drr = c.lowest_drr + (c.highest_drr - c.lowest_drr) * drr
        mask = padding_mask(lengths, features.shape[1])[:, :, None]
        energy = features.float().exp() * mask
        late = convolve(energy, self.response(t60, drr)) * mask
        return torch.where(
            (draw < c.share)[:, None, None] & (late > 0), (energy + late).log(), features.float()
        )

    def response(self, t60: Tensor, drr: Tensor) -> Tensor:
        """Energy `[B, K]` that frames 1 to K after a frame of energy 1 hear of it."""
        delays = torch.arange(1, int(MEMORY_SECONDS * self.frames_per_second) + 1, device=t60.device)
        decay = (-6 * math.log(10) * delays / (t60[:, None] * self.frames_per_second)).exp()
        result: Tensor = decay / decay.sum(1, keepdim=True) * (10 ** (-drr / 10))[:, None]
        return result


def convolve(energy: Tensor, response: Tensor) -> Tensor:
    """Each band of `[B, T, F]` convolved with its utterance's `[B, K]`, which starts a frame later."""
    frames, delays = energy.shape[1], response.shape[1]
    x = F.pad(energy.permute(2, 0, 1), (delays, 0))[:, :, : frames + delays - 1]  # [F, B, K + T - 1]
    with torch.autocast(energy.device.type, enabled=False):
        return F.conv1d(x, response.flip(1)[:, None], groups=len(energy)).permute(1, 2, 0)
