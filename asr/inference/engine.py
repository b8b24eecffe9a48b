"""Waveforms -> CTC posteriors by ONNX Runtime, in bounded memory."""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnxruntime

from asr.audio import SAMPLE_RATE
from asr.errors import BundleError
from asr.inference.windows import FrameGrid, batches, cut
from asr.model.bundle import ONNX, BundleConfig, read_model_file

SUBSAMPLING = 4
"""Log-mel frames an output frame, in every architecture."""

WINDOW_SECONDS = 30.0
CONTEXT_SECONDS = 3.0
BATCH_SECONDS = 240.0


class Engine:
    """The ONNX graph of a bundle on the CPU; `threads` defaults to the cores that this process may use.

    Recordings beyond WINDOW_SECONDS go through in overlapping windows, of which CONTEXT_SECONDS on both
    sides are thrown away; a batch holds at most BATCH_SECONDS, padding included. Raises BundleError.
    """

    def __init__(self, bundle: Path, config: BundleConfig, threads: int | None = None) -> None:
        self.path = bundle / ONNX
        hop = SUBSAMPLING * int(config.log_mel["hop"])
        self.grid = FrameGrid(window=int(config.log_mel["window"]), stride=hop)
        self.vocabulary = config.tokenizer.size
        self._session = _session(self.path, read_model_file(bundle, config, ONNX), threads)

    @property
    def frame_seconds(self) -> float:
        """Distance of output frames."""
        return self.grid.stride / SAMPLE_RATE

    def posteriors(self, waveforms: Sequence[np.ndarray]) -> list[np.ndarray]:
        """`float32[samples]` at 16 kHz, any number of any length -> log-probabilities `float32[T', V]` each.

        T' is what one pass over the whole recording gives: 0 below 25 ms, else one frame every 40 ms.
        """
        longest, context = (
            int(s * SAMPLE_RATE) // self.grid.stride for s in (WINDOW_SECONDS, CONTEXT_SECONDS)
        )
        results: list[np.ndarray] = []
        pieces: list[np.ndarray] = []
        places: list[tuple[np.ndarray, slice]] = []
        for waveform in waveforms:
            result = np.empty((self.grid.frames(len(waveform)), self.vocabulary), dtype=np.float32)
            results.append(result)
            done = 0
            for window in cut(len(waveform), self.grid, longest, context):
                kept = window.keep_to - window.keep_from
                pieces.append(waveform[window.start : window.end])
                places.append((result[done : done + kept], slice(window.keep_from, window.keep_to)))
                done += kept
        for group in batches([len(piece) for piece in pieces], int(BATCH_SECONDS * SAMPLE_RATE)):
            for index, log_probs in zip(group, self._run([pieces[i] for i in group]), strict=True):
                target, kept_frames = places[index]
                target[:] = log_probs[kept_frames]
        return results

    def _run(self, waveforms: Sequence[np.ndarray]) -> np.ndarray:
        """One batch, zero padded to its longest -> `float32[B, T', V]`, undefined beyond each length."""
        lengths = np.array([len(waveform) for waveform in waveforms], dtype=np.int64)
        padded = np.zeros((len(waveforms), int(lengths.max())), dtype=np.float32)
        for row, waveform in zip(padded, waveforms, strict=True):
            row[: len(waveform)] = waveform
        inputs = {"waveforms": padded, "lengths": lengths}
        log_probs: np.ndarray
        log_probs, frames = self._session.run(["log_probs", "frames"], inputs)
        expected = [self.grid.frames(int(length)) for length in lengths]
        if frames.tolist() != expected or log_probs.shape[2] != self.vocabulary:
            raise BundleError(f"{self.path}: its outputs do not fit config.json; export the bundle again")
        return log_probs


def _session(path: Path, model: bytes, threads: int | None) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    # An explicit number also keeps ONNX Runtime from pinning threads to cores that a container forbids.
    options.intra_op_num_threads = threads or usable_cores()
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
