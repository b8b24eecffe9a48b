"""Waveforms -> CTC posteriors by ONNX Runtime, in bounded memory."""

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnxruntime

from asr.audio import SAMPLE_RATE
from asr.errors import BundleError
from asr.frames import FrameGrid
from asr.inference.windows import Chunker, Window, batches
from asr.model.bundle import ONNX, BundleConfig, read_model_file

WINDOW_SECONDS = 20.0
CONTEXT_SECONDS = 2.0
BATCH_SECONDS = 40.0


class Engine:
    """The ONNX graph of a bundle on the CPU, a core a call; calls may come from several threads at a time.

    Recordings beyond WINDOW_SECONDS go through in overlapping windows, of which CONTEXT_SECONDS on both
    sides are thrown away. Raises BundleError.
    """

    def __init__(self, bundle: Path, config: BundleConfig) -> None:
        self.path = bundle / ONNX
        self.grid = FrameGrid(int(config.log_mel["window"]), int(config.log_mel["hop"]))
        self.vocabulary = config.tokenizer.size
        self._session = _session(self.path, read_model_file(bundle, config, ONNX))

    @property
    def frame_seconds(self) -> float:
        """Distance of output frames."""
        return self.grid.frame_seconds

    def chunker(self) -> Chunker:
        """Cuts one recording into windows for `run`."""
        return Chunker(self.grid, self.grid.frames_in(WINDOW_SECONDS), self.grid.frames_in(CONTEXT_SECONDS))

    def run(self, windows: Sequence[Window]) -> list[np.ndarray]:
        """Log-probabilities `float32[T', V]` of the kept frames of each window of a batch."""
        lengths = np.array([len(window.samples) for window in windows], dtype=np.int64)
        padded = np.zeros((len(windows), int(lengths.max())), dtype=np.float32)
        for row, window in zip(padded, windows, strict=True):
            row[: len(window.samples)] = window.samples
        inputs = {"waveforms": padded, "lengths": lengths}
        try:
            log_probs, frames = self._session.run(["log_probs", "frames"], inputs)
        except Exception as error:  # ONNX Runtime's exceptions share no other base
            raise BundleError(f"{self.path}: ONNX Runtime failed ({str(error).splitlines()[0]})") from None
        expected = [self.grid.frames(int(length)) for length in lengths]
        if frames.tolist() != expected or log_probs.shape[2] != self.vocabulary:
            raise BundleError(f"{self.path}: its outputs do not fit config.json; export the bundle again")
        return [row[w.keep_from : w.keep_to] for row, w in zip(log_probs, windows, strict=True)]

    def posteriors(self, waveform: np.ndarray, threads: int = 1) -> np.ndarray:
        """`float32[samples]` at 16 kHz, of any length -> log-probabilities `float32[T', V]`.

        T' is what one pass over the whole recording gives: 0 below 25 ms, else one frame every 40 ms.
        """
        chunker = self.chunker()
        windows = [*chunker.push(waveform), *chunker.end()]
        groups = batches([len(window.samples) for window in windows], int(BATCH_SECONDS * SAMPLE_RATE))
        results = [np.empty((0, self.vocabulary), dtype=np.float32)] * len(windows)
        with ThreadPoolExecutor(threads) as pool:
            for group, log_probs in zip(
                groups, pool.map(self.run, [[windows[i] for i in group] for group in groups]), strict=True
            ):
                for index, rows in zip(group, log_probs, strict=True):
                    results[index] = rows
        return np.concatenate([np.empty((0, self.vocabulary), dtype=np.float32), *results])


def _session(path: Path, model: bytes) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # Batches side by side use several cores better than recurrent layers, which must go step by step.
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.enable_mem_pattern = False  # every batch has another shape
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's exceptions share no other base
        reason = str(error).splitlines()[0]
        raise BundleError(
            f"{path}: ONNX Runtime cannot load it ({reason}); export the bundle again"
        ) from None
    names = {node.name for node in (*session.get_inputs(), *session.get_outputs())}
    if not {"waveforms", "lengths", "log_probs", "frames"} <= names:
        raise BundleError(
            f"{path}: not a graph written by asr (it has {sorted(names)}); export the bundle again"
        )
    return session


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
