"""Log-mel filter-bank energies."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchaudio.functional import melscale_fbanks


@dataclass(frozen=True)
class LogMelConfig:
    """Settings of the front end; window, hop and n_fft in samples, frequencies in Hz."""

    sample_rate: int = 16_000
    window: int = 400
    hop: int = 160
    n_fft: int = 512
    mels: int = 80
    f_min: float = 20.0
    f_max: float = 8_000.0
    floor: float = 1e-10

    def frames(self, samples: int) -> int:
        """Frames that lie wholly inside `samples`: floor((samples - window) / hop) + 1, or 0."""
        return max(0, (samples - self.window) // self.hop + 1)


class LogMel(nn.Module):
    """Waveforms `[B, N]` in [-1, 1] and `int64[B]` lengths -> natural-log mel energies `[B, T, mels]`.

    Each frame loses its mean, is weighted by a Hann window and goes through the power spectrum and
    triangular HTK-mel filters; `floor` is added before the logarithm. A frame never reaches beyond its
    utterance's samples, so padding cannot leak in; padded frames are 0. Returns `int64[B]` frame counts.
    """

    window: Tensor
    filters: Tensor

    def __init__(self, config: LogMelConfig | None = None) -> None:
        super().__init__()
        self.config = c = config or LogMelConfig()
        self.register_buffer("window", torch.hann_window(c.window, periodic=False), persistent=False)
        filters = melscale_fbanks(c.n_fft // 2 + 1, c.f_min, c.f_max, c.mels, c.sample_rate, None, "htk")
        self.register_buffer("filters", filters, persistent=False)

    def forward(self, waveforms: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        c = self.config
        frames = (torch.div(lengths - c.window, c.hop, rounding_mode="floor") + 1).clamp(min=0)
        if waveforms.shape[1] < c.window:
            return waveforms.new_zeros(len(waveforms), 0, c.mels), frames
        windows = waveforms.unfold(1, c.window, c.hop)
        windows = (windows - windows.mean(dim=-1, keepdim=True)) * self.window
        spectrum = torch.fft.rfft(windows, n=c.n_fft)
        power = spectrum.real.square() + spectrum.imag.square()
        features = torch.log(power @ self.filters + c.floor)
        valid = torch.arange(features.shape[1], device=frames.device) < frames[:, None]
        return features * valid[:, :, None], frames
