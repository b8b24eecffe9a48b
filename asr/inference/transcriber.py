"""Recordings -> transcripts. Nothing here needs torch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from asr import audio
from asr.decoding.greedy import greedy
from asr.decoding.hypothesis import Word
from asr.errors import AsrError, AudioError
from asr.inference.engine import Engine
from asr.model.bundle import BundleConfig, read_config

GROUP_SECONDS = 600.0
"""Audio that `transcribe_files` holds at a time, so that short files share batches."""

Audio = str | Path | np.ndarray
"""A file, or float samples in [-1, 1]: `[samples]` or `[samples, channels]`."""


@dataclass(frozen=True)
class Transcript:
    """What was said in a recording of `duration` seconds."""

    text: str
    words: tuple[Word, ...]
    duration: float


class Transcriber:
    """A model that is ready to transcribe; made by `load_model`."""

    def __init__(self, engine: Engine, config: BundleConfig) -> None:
        self.config = config
        self._engine = engine
        self._tokenizer = config.tokenizer

    def transcribe(self, recording: Audio, sample_rate: float = audio.SAMPLE_RATE) -> Transcript:
        """Transcribe a file, or samples at `sample_rate` Hz. Raises AudioError, DecodingError."""
        return self.transcribe_batch([recording], sample_rate)[0]

    def transcribe_batch(
        self, recordings: Sequence[Audio], sample_rate: float = audio.SAMPLE_RATE
    ) -> list[Transcript]:
        """Transcribe several at once, which is faster than one by one where they are short."""
        waveforms = [_waveform(recording, sample_rate) for recording in recordings]
        return [
            self._decode(w, p) for w, p in zip(waveforms, self._engine.posteriors(waveforms), strict=True)
        ]

    def posteriors(self, recording: Audio, sample_rate: float = audio.SAMPLE_RATE) -> np.ndarray:
        """Log-probabilities `float32[T', V]`, one frame every 40 ms; token 0 is the CTC blank."""
        return self._engine.posteriors([_waveform(recording, sample_rate)])[0]

    def transcribe_files(self, paths: Iterable[Path]) -> Iterator[tuple[Path, Transcript | AsrError]]:
        """Transcribe many files in their order; a file that cannot be read yields its error instead.

        Holds GROUP_SECONDS of audio at a time, or one recording where it is longer.
        """
        group: list[tuple[Path, np.ndarray | AsrError]] = []
        samples = 0
        for path in paths:
            try:
                waveform = audio.read(path)
            except AsrError as error:
                group.append((path, error))
                continue
            if samples and samples + len(waveform) > GROUP_SECONDS * audio.SAMPLE_RATE:
                yield from self._transcribe_group(group)
                group, samples = [], 0
            group.append((path, waveform))
            samples += len(waveform)
        yield from self._transcribe_group(group)

    def _transcribe_group(
        self, group: Sequence[tuple[Path, np.ndarray | AsrError]]
    ) -> Iterator[tuple[Path, Transcript | AsrError]]:
        posteriors = iter(self._engine.posteriors([w for _, w in group if isinstance(w, np.ndarray)]))
        for path, waveform in group:
            if isinstance(waveform, AsrError):
                yield path, waveform
                continue
            try:
                yield path, self._decode(waveform, next(posteriors))
            except AsrError as error:
                yield path, type(error)(f"{path}: {error}")

    def _decode(self, waveform: np.ndarray, log_probs: np.ndarray) -> Transcript:
        duration = len(waveform) / audio.SAMPLE_RATE
        hypothesis = greedy(log_probs, self._tokenizer, self._engine.frame_seconds)
        # The last frame may reach a few milliseconds beyond the recording.
        words = tuple(replace(word, end=min(word.end, duration)) for word in hypothesis.words)
        return Transcript(hypothesis.text, words, duration)


def load_model(bundle: str | Path, threads: int | None = None) -> Transcriber:
    """Open a model bundle (a folder). Raises BundleError where it is missing, damaged or too new."""
    folder = Path(bundle)
    config = read_config(folder)
    return Transcriber(Engine(folder, config, threads), config)


def transcribe(recording: Audio, model: str | Path, sample_rate: float = audio.SAMPLE_RATE) -> Transcript:
    """Transcribe one recording with the bundle `model`; for several, `load_model` once."""
    return load_model(model).transcribe(recording, sample_rate)


def _waveform(recording: Audio, sample_rate: float) -> np.ndarray:
    """`float32[samples]` at 16 kHz."""
    if not isinstance(recording, np.ndarray):
        return audio.read(Path(recording))
    if not np.issubdtype(recording.dtype, np.floating):
        raise AudioError(f"audio: samples are {recording.dtype}; give floats in [-1, 1]")
    if recording.ndim not in (1, 2):
        raise AudioError(
            f"audio: samples have shape {recording.shape}; give [samples] or [samples, channels]"
        )
    mono = recording if recording.ndim == 1 else recording.mean(axis=1)
    return audio.resample(mono, sample_rate)
