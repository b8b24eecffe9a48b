"""Conversions between samples, feature frames, output frames and seconds."""

from dataclasses import dataclass

from asr.audio import SAMPLE_RATE

SUBSAMPLING = 4
"""Feature frames per output frame, in every architecture."""


def subsample(frames: int) -> int:
    """Output frames for `frames` feature frames: ceil(frames / 4), as two convolutions of stride 2."""
    return -(-frames // SUBSAMPLING)


@dataclass(frozen=True)
class FrameGrid:
    """Frame positions for feature windows of `window` samples every `hop` samples at 16 kHz.

    Output frame t starts at sample `t * stride`.
    """

    window: int = 400
    hop: int = 160

    @property
    def stride(self) -> int:
        """Samples per output frame."""
        return SUBSAMPLING * self.hop

    @property
    def hop_seconds(self) -> float:
        """Seconds per feature frame."""
        return self.hop / SAMPLE_RATE

    @property
    def frame_seconds(self) -> float:
        """Seconds per output frame."""
        return self.stride / SAMPLE_RATE

    def frames(self, samples: int) -> int:
        """Output frames of a signal of `samples` samples."""
        return subsample(max(0, (samples - self.window) // self.hop + 1))

    def frames_in(self, seconds: float) -> int:
        """Whole strides in `seconds`."""
        return int(seconds * SAMPLE_RATE) // self.stride
