"""Augmentation of training features."""

from dataclasses import dataclass

from torch import Tensor, nn
from torchaudio.functional import mask_along_axis_iid


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
    """Masks bands and stretches of features `[B, T, F]` with `mean` `[F]`, for each utterance its own."""

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
