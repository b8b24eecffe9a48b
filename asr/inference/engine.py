"""Waveforms -> CTC posteriors by ONNX Runtime, in overlapping windows and thus in bounded memory."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import onnxruntime

from asr.audio import SAMPLE_RATE
from asr.errors import BundleError
from asr.frames import FrameGrid
from asr.model.bundle import ONNX, BundleConfig, read_model_file

WINDOW_SECONDS, CONTEXT_SECONDS, BATCH_SECONDS = 20.0, 2.0, 40.0


@dataclass(frozen=True)
class Window:
    """Samples `float32[n]` of a recording; its output frames `keep_from:keep_to` are used."""

    samples: np.ndarray
    keep_from: int
    keep_to: int


class Chunker:
    """Cuts a recording that arrives in blocks into windows of at most `longest` output frames.

    The used frames of successive windows are adjacent. `context` frames on both sides of them are computed
    and dropped, except at the ends of the recording.
    """

    def __init__(self, grid: FrameGrid, longest: int, context: int) -> None:
        self._grid, self._longest, self._context = grid, longest, context
        self._blocks: list[np.ndarray] = [np.zeros(0, dtype=np.float32)]
        self._count = self._keep_from = 0

    def push(self, block: np.ndarray) -> Iterator[Window]:
        """Append samples `float32[n]`; yields the windows that are full."""
        self._blocks.append(block)
        self._count += len(block)
        if self._grid.frames(self._count) <= self._longest:
            return
        samples = np.concatenate(self._blocks)
        # Windows start on the frame grid, so that their frames see the same samples as in a single pass.
        step = self._longest - 2 * self._context
        while self._grid.frames(len(samples)) > self._longest:
            full = samples[: self._longest * self._grid.stride].copy()  # does not keep the rest alive
            yield Window(full, self._keep_from, self._longest - self._context)
            samples = samples[step * self._grid.stride :]
            self._keep_from = self._context
        self._blocks, self._count = [samples.copy()], len(samples)

    def end(self) -> Iterator[Window]:
        """Yields the last window, if it has a frame."""
        if frames := self._grid.frames(self._count):
            yield Window(np.concatenate(self._blocks), self._keep_from, frames)


def batches(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Group the indices of `lengths`, longest first, into batches whose padded size is within `budget`, if
    they have more than one index."""
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


class Engine:
    """The ONNX graph of a bundle on the CPU, one core per call; thread-safe. Raises BundleError."""

    def __init__(self, bundle: Path, config: BundleConfig) -> None:
        self.path = bundle / ONNX
        self.grid = FrameGrid(int(config.log_mel["window"]), int(config.log_mel["hop"]))
        self.vocabulary = config.tokenizer.size
        options = onnxruntime.SessionOptions()
        # Recurrent layers are sequential: parallel batches use several cores better than threads in one.
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.enable_mem_pattern = False  # the shape differs from batch to batch
        options.log_severity_level = 3
        model = read_model_file(bundle, config, ONNX)
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions have no other common base
            raise self._error(error) from None

    @property
    def frame_seconds(self) -> float:
        """Seconds per output frame."""
        return self.grid.frame_seconds

    def chunker(self) -> Chunker:
        """A new Chunker, for one channel of one recording."""
        return Chunker(self.grid, self.grid.frames_in(WINDOW_SECONDS), self.grid.frames_in(CONTEXT_SECONDS))

    def run(self, windows: Sequence[Window]) -> list[np.ndarray]:
        """Log-probabilities `float32[T', V]` of the used frames of each window, computed as one batch."""
        lengths = np.array([len(window.samples) for window in windows], dtype=np.int64)
        padded = np.zeros((len(windows), int(lengths.max())), dtype=np.float32)
        for row, window in zip(padded, windows, strict=True):
            row[: len(window.samples)] = window.samples
        inputs = {"waveforms": padded, "lengths": lengths}
        try:
            log_probs, frames = self._session.run(["log_probs", "frames"], inputs)
        except Exception as error:
            raise self._error(error) from None
        expected = [self.grid.frames(int(length)) for length in lengths]
        if frames.tolist() != expected or log_probs.shape[2] != self.vocabulary:
            raise BundleError(f"{self.path}: its outputs do not fit config.json; export the bundle again")
        return [row[w.keep_from : w.keep_to] for row, w in zip(log_probs, windows, strict=True)]

    def _error(self, error: Exception) -> BundleError:
        return BundleError(
            f"{self.path}: ONNX Runtime failed ({str(error).splitlines()[0]}); export it again"
        )

    def posteriors(self, waveform: np.ndarray, threads: int = 1) -> np.ndarray:
        """`float32[samples]` at 16 kHz, of any length -> log-probabilities `float32[T', V]`.

        T' equals that of a single pass over the recording: 0 below 25 ms, else one frame every 40 ms.
        """
        chunker = self.chunker()
        windows = [*chunker.push(waveform), *chunker.end()]
        groups = batches([len(window.samples) for window in windows], int(BATCH_SECONDS * SAMPLE_RATE))
        with ThreadPoolExecutor(threads) as pool:
            outputs = list(pool.map(lambda group: self.run([windows[i] for i in group]), groups))
        rows = dict(zip(chain(*groups), chain(*outputs), strict=True))
        nothing = np.empty((0, self.vocabulary), dtype=np.float32)
        return np.concatenate([nothing, *(rows[i] for i in range(len(windows)))])


def usable_cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
