"""Augmentation of training features."""

from dataclasses import dataclass

from torch import Tensor, nn
from torchaudio.transforms import SpecAugment as TorchaudioSpecAugment


@dataclass(frozen=True)
class SpecAugmentConfig:
    """SpecAugment (Park et al., 2019) without time warping.

    Args:
        time_masks: Number of stretches of time masked in each utterance; 0 turns them off.
        time_frames: Longest stretch in frames of 10 ms.
        time_share: Longest stretch as a share of the utterance.
        frequency_masks: Number of bands masked in each utterance; 0 turns them off.
        frequency_bins: Widest band in mel bins.
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
        self.mask = TorchaudioSpecAugment(
            n_time_masks=config.time_masks,
            time_mask_param=config.time_frames,
            n_freq_masks=config.frequency_masks,
            freq_mask_param=config.frequency_bins,
            iid_masks=True,
            p=config.time_share,
            zero_masking=True,
        )

    def forward(self, features: Tensor, mean: Tensor) -> Tensor:
        centred = (features - mean).transpose(1, 2)[:, None]  # [B, 1, F, T]
        masked: Tensor = self.mask(centred)
        return masked[:, 0].transpose(1, 2) + mean
