"""Cutting recordings into windows that a model can take, and windows into batches. Whole numbers only."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class FrameGrid:
    """Where output frames lie: frame t starts at sample `t * stride` and needs `window` samples from there.

    With 25 ms windows every 10 ms and subsampling by 4, ceil(ceil(T / 2) / 2) frames of the
    T = (n - 400) // 160 + 1 mel frames are the same number as (n - 400) // 640 + 1.
    """

    window: int = 400
    stride: int = 640

    def frames(self, samples: int) -> int:
        """Output frames of a signal of so many samples."""
        return max(0, (samples - self.window) // self.stride + 1)


@dataclass(frozen=True)
class Window:
    """Samples `start:end` of a recording, and which of its output frames, `keep_from:keep_to`, are kept."""

    start: int
    end: int
    keep_from: int
    keep_to: int


def cut(samples: int, grid: FrameGrid, longest: int, context: int) -> list[Window]:
    """Windows of at most `longest` frames whose kept frames, end to end, are those of the whole recording.

    Each keeps about as many frames as the others; `context` frames to either side of them are computed
    and thrown away, except at the recording's own ends. A recording that fits in one window is not cut.
    """
    frames = grid.frames(samples)
    if frames == 0:
        return []
    count = 1 if frames <= longest else -(-frames // (longest - 2 * context))
    edges = [i * frames // count for i in range(count + 1)]
    windows = []
    for first, last in pairwise(edges):
        start, end = max(0, first - context), last + context
        # Windows start on the grid, so that their frames see the same samples as in a single pass.
        stop = samples if end >= frames else end * grid.stride
        windows.append(Window(start * grid.stride, stop, first - start, last - start))
    return windows


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices of `lengths` in groups, longest first; a group's padded size stays within `budget`.

    Sorting keeps padding small; a length beyond the budget is a group of its own.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups
