"""Convolutional subsampling in time by 4."""

import torch
from torch import Tensor, nn

CHANNELS = 32


def padding_mask(lengths: Tensor, frames: int) -> Tensor:
    """`bool[B, frames]`, true where a frame lies within its utterance."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


class Subsampling(nn.Module):
    """Two 3x3 convolutions of stride 2 over time and frequency, then a projection.

    Features `[B, T, F]` and `int64[B]` lengths -> `[B, T', output_size]`, T' = ceil(ceil(T / 2) / 2).
    What lies beyond a length is set to zero before each convolution, since its kernel reaches one frame on.
    """

    def __init__(self, mels: int, output_size: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, CHANNELS, kernel_size=3, stride=2, padding=1)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, kernel_size=3, stride=2, padding=1)
        bands = -(-mels // 4)
        self.projection = nn.Linear(CHANNELS * bands, output_size)
        # On a CPU the convolutions run four times as fast with the channels innermost.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @staticmethod
    def output_lengths(lengths: Tensor) -> Tensor:
        """Exact number of output frames for each number of input frames."""
        return halve(halve(lengths))

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = features[:, None].contiguous(memory_format=torch.channels_last)
        for convolution in (self.first, self.second):
            x = x * padding_mask(lengths, x.shape[2])[:, None, :, None]
            x = torch.relu(convolution(x))
            lengths = halve(lengths)
        x = x.transpose(1, 2).flatten(2)  # [B, T', C * F']
        return self.projection(x), lengths


def halve(lengths: Tensor) -> Tensor:
    """Output length of a convolution with kernel 3, stride 2, padding 1: ceil(lengths / 2)."""
    return torch.div(lengths + 1, 2, rounding_mode="floor")
