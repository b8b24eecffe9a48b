"""Augmentation of training features."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchaudio.functional import mask_along_axis_iid

from asr.model.subsampling import Subsampling, padding_mask


@dataclass(frozen=True)
class SpecAugmentConfig:
    """SpecAugment (Park et al., 2019) without time warping.

    Args:
        time_masks: Number of stretches of time masked in each utterance; 0 turns them off.
        time_frames: A stretch is shorter than this many frames of 10 ms.
        time_share: And shorter than this share of the batch's longest utterance.
        frequency_masks: Number of bands masked in each utterance; 0 turns them off.
        frequency_bins: A band is narrower than this many mel bins.
    """

    time_masks: int = 2
    time_frames: int = 40
    time_share: float = 0.05
    frequency_masks: int = 2
    frequency_bins: int = 15


class SpecAugment(nn.Module):
    """Masks bands and stretches of features `[B, T, F]` by their `mean`, differently in each utterance."""

    def __init__(self, config: SpecAugmentConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, features: Tensor, mean: Tensor) -> Tensor:
        c = self.config
        x = (features - mean)[:, None]  # [B, 1, T, F]
        for _ in range(c.time_masks):
            x = mask_along_axis_iid(x, c.time_frames, 0.0, axis=2, p=c.time_share)
        for _ in range(c.frequency_masks):
            x = mask_along_axis_iid(x, c.frequency_bins, 0.0, axis=3)
        return x[:, 0] + mean


def change_tempo(features: Tensor, lengths: Tensor, factors: Tensor, slowest: float) -> tuple[Tensor, Tensor]:
    """Play features `[B, T, F]` at `factors` `[B]` times their tempo, none below `slowest`; pitch stays.

    Linear interpolation between frames -> `float32[B, ceil(T / slowest), F]`, 0 beyond the new lengths.
    """
    frames = math.ceil(features.shape[1] / slowest)
    new_lengths = ((lengths - 1) / factors).long() + 1
    place = torch.arange(frames, device=features.device) * factors[:, None]
    left = place.long().clamp(max=lengths[:, None] - 1)
    right = (left + 1).clamp(max=lengths[:, None] - 1)
    weight = (place - left).clamp(0, 1)[:, :, None]
    a, b = (features.gather(1, i[:, :, None].expand(-1, -1, features.shape[2])) for i in (left, right))
    return torch.lerp(a.float(), b.float(), weight) * padding_mask(new_lengths, frames)[
        :, :, None
    ], new_lengths


def tempo_factors(spread: float, lengths: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """`float[B]` between 1 - spread and 1 + spread; 1 where that left fewer frames than CTC needs."""
    factors = 1 + spread * (2 * torch.rand(len(lengths), device=lengths.device) - 1)
    repeats = (targets[:, 1:] == targets[:, :-1]) & padding_mask(target_lengths - 1, targets.shape[1] - 1)
    frames = Subsampling.output_lengths(((lengths - 1) / factors).long() + 1)
    return torch.where(frames < target_lengths + repeats.sum(1), 1.0, factors)
