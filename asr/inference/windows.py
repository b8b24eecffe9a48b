"""Cutting recordings into windows that a model can take, and windows into batches. Whole numbers only."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asr.frames import FrameGrid


@dataclass(frozen=True)
class Window:
    """Samples `float32[n]` of a recording; of their output frames `keep_from:keep_to` are kept."""

    samples: np.ndarray
    keep_from: int
    keep_to: int


class Chunker:
    """Cuts a recording that comes in blocks into windows of at most `longest` frames.

    Their kept frames, end to end, are those of the whole recording; `context` frames to either side of them
    are computed and thrown away, except at its own ends. A recording that fits in one window is not cut.
    """

    def __init__(self, grid: FrameGrid, longest: int, context: int) -> None:
        self._grid, self._longest, self._context = grid, longest, context
        self._blocks: list[np.ndarray] = [np.zeros(0, dtype=np.float32)]
        self._count = 0
        self._keep_from = 0

    def push(self, block: np.ndarray) -> Iterator[Window]:
        """Take in the next samples `float32[n]`; yields the windows that are full."""
        self._blocks.append(block)
        self._count += len(block)
        if self._grid.frames(self._count) <= self._longest:
            return
        samples = np.concatenate(self._blocks)
        # Windows start on the grid, so that their frames see the same samples as in a single pass.
        step = self._longest - 2 * self._context
        while self._grid.frames(len(samples)) > self._longest:
            full = samples[: self._longest * self._grid.stride].copy()  # frees the rest for others
            yield Window(full, self._keep_from, self._longest - self._context)
            samples = samples[step * self._grid.stride :]
            self._keep_from = self._context
        self._blocks, self._count = [samples.copy()], len(samples)

    def end(self) -> Iterator[Window]:
        """Yields the last window, unless there is no frame at all."""
        if frames := self._grid.frames(self._count):
            yield Window(np.concatenate(self._blocks), self._keep_from, frames)


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
