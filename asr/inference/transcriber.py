"""Recordings -> transcripts. Nothing here needs torch."""

from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import repeat
from pathlib import Path

import numpy as np

from asr import audio
from asr.decoding.hotwords import Hotword
from asr.decoding.hypothesis import Word
from asr.errors import AsrError, AudioError
from asr.inference.decoder import Decoder, DecodingOptions
from asr.inference.engine import Engine, usable_cores
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

    def __init__(self, engine: Engine, decoder: Decoder, config: BundleConfig, threads: int = 1) -> None:
        self.config = config
        self.decoder = decoder
        self._engine = engine
        self._threads = threads

    def transcribe(
        self,
        recording: Audio,
        sample_rate: float = audio.SAMPLE_RATE,
        hotwords: Sequence[str] = (),
        hotword_boost: float = 1.0,
    ) -> Transcript:
        """Transcribe a file, or samples at `sample_rate` Hz.

        `hotwords` are words and phrases to listen for, of which each character adds `hotword_boost` to the
        score of a text (natural log). Raises AudioError, DecodingError.
        """
        return self.transcribe_batch([recording], sample_rate, hotwords, hotword_boost)[0]

    def transcribe_batch(
        self,
        recordings: Sequence[Audio],
        sample_rate: float = audio.SAMPLE_RATE,
        hotwords: Sequence[str] = (),
        hotword_boost: float = 1.0,
    ) -> list[Transcript]:
        """Transcribe several at once, which is faster than one by one where they are short."""
        waveforms = [_waveform(recording, sample_rate) for recording in recordings]
        phrases = tuple(Hotword(phrase, hotword_boost) for phrase in hotwords)
        transcripts = list(self._decode_all(waveforms, phrases))
        for transcript in transcripts:
            if isinstance(transcript, AsrError):
                raise transcript
        return [transcript for transcript in transcripts if isinstance(transcript, Transcript)]

    def posteriors(self, recording: Audio, sample_rate: float = audio.SAMPLE_RATE) -> np.ndarray:
        """Log-probabilities `float32[T', V]`, one frame every 40 ms; token 0 is the CTC blank."""
        return self._engine.posteriors([_waveform(recording, sample_rate)])[0]

    def align(self, recording: Audio, text: str, sample_rate: float = audio.SAMPLE_RATE) -> Transcript:
        """Find when the words of a known text are said. Raises AudioError, DecodingError, TextError."""
        waveform = _waveform(recording, sample_rate)
        spelt = self.decoder.spell(text)
        words = self.decoder.time(self._engine.posteriors([waveform])[0], spelt)
        return _transcript(" ".join(word.text for word in words), words, waveform)

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
        decoded = self._decode_all([w for _, w in group if isinstance(w, np.ndarray)])
        for path, waveform in group:
            result = waveform if isinstance(waveform, AsrError) else next(decoded)
            if isinstance(result, AsrError) and result is not waveform:
                result = type(result)(f"{path}: {result}")
            yield path, result

    def _decode_all(
        self, waveforms: Sequence[np.ndarray], hotwords: tuple[Hotword, ...] = ()
    ) -> Iterator[Transcript | AsrError]:
        """Transcripts in order; one that fails is an error in its place."""
        posteriors = self._engine.posteriors(waveforms)
        if self._threads == 1 or len(waveforms) == 1:
            yield from map(self._decode, waveforms, posteriors, repeat(hotwords))
            return
        with ThreadPoolExecutor(self._threads) as pool:
            yield from pool.map(self._decode, waveforms, posteriors, repeat(hotwords))

    def _decode(
        self, waveform: np.ndarray, log_probs: np.ndarray, hotwords: tuple[Hotword, ...]
    ) -> Transcript | AsrError:
        try:
            hypothesis = self.decoder.decode(log_probs, hotwords)
        except AsrError as error:
            return error
        return _transcript(hypothesis.text, hypothesis.words, waveform)


def _transcript(text: str, words: Sequence[Word], waveform: np.ndarray) -> Transcript:
    duration = len(waveform) / audio.SAMPLE_RATE
    # The last frame may reach a few milliseconds beyond the recording.
    return Transcript(text, tuple(replace(word, end=min(word.end, duration)) for word in words), duration)


def load_model(
    bundle: str | Path, threads: int | None = None, decoding: DecodingOptions | None = None
) -> Transcriber:
    """Open a model bundle (a folder); `decoding` defaults to what the bundle holds.

    Raises BundleError where it is missing, damaged or too new, and DecodingError or LanguageModelError where
    language model, lexicon and model do not fit together.
    """
    folder = Path(bundle)
    config = read_config(folder)
    engine = Engine(folder, config, threads)
    decoder = Decoder(folder, config, engine.frame_seconds, decoding or DecodingOptions())
    return Transcriber(engine, decoder, config, threads or usable_cores())


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
