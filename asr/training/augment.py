"""Augmentation of training features: masks, and silence around and instead of speech."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.errors import TrainingError


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
class SilenceConfig:
    """Silence around and instead of speech, and short memories of the normalisation.

    Args:
        padded: Share of the batches with silence before and after each utterance.
        frames: Maximum silence on each side, in frames of 10 ms.
        only: Share of the utterances replaced by noise alone, with an empty transcript.
        chunks: Share of the utterances normalised by the mean of a random chunk, as in a stream.
        shortest: Shortest such chunk, in frames of 10 ms.
        longest: Longest such chunk.
    """

    padded: float = 0.0
    frames: int = 150
    only: float = 0.0
    chunks: float = 0.0
    shortest: int = 150
    longest: int = 600

    def __post_init__(self) -> None:
        for name in ("padded", "only", "chunks"):
            if not 0 <= getattr(self, name) <= 1:
                raise TrainingError(f"model.silence.{name}: must be from 0 to 1, not {getattr(self, name)}")


class SpecAugment(nn.Module):
    """Zeroes bands and stretches of normalised features `[B, T, F]`, differently in each utterance."""

    def __init__(self, config: SpecAugmentConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, features: Tensor, lengths: Tensor) -> Tensor:
        c = self.config
        _, frames, bins = features.shape
        widest = torch.minimum(lengths * c.time_share, lengths.new_tensor(c.time_frames))
        kept = _unmasked(c.time_masks, widest, lengths, frames)[:, :, None]
        bands = lengths.new_full(lengths.shape, bins)
        kept = kept & _unmasked(c.frequency_masks, bands.clamp(max=c.frequency_bins), bands, bins)[:, None]
        return features * kept


def _unmasked(count: int, widest: Tensor, sizes: Tensor, length: int) -> Tensor:
    """`bool[B, length]`, false in `count` stretches of uniform width below `widest` within `sizes`."""
    draw = torch.rand(2, len(sizes), count, device=sizes.device)
    width = draw[0] * widest[:, None]
    start = draw[1] * (sizes[:, None] - width)
    place = torch.arange(length, device=sizes.device)[:, None]
    inside = (place >= start[:, None].floor()) & (place < (start + width)[:, None].floor())
    return ~inside.any(dim=2)


def chunk_mask(config: SilenceConfig, lengths: Tensor, frames: int) -> Tensor:
    """`bool[B, frames]`: all of each utterance, or in a share of them a random chunk."""
    draw = torch.rand(3, len(lengths), 1, device=lengths.device)
    width = config.shortest + draw[0] * (config.longest - config.shortest)
    start = (draw[1] * (lengths[:, None] - width)).clamp(min=0)
    place = torch.arange(frames, device=lengths.device)
    chunk = (place >= start) & (place < start + width)
    return chunk | (draw[2] >= config.chunks)
