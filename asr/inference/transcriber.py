"""Recordings -> transcripts. Nothing here needs torch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from asr import audio
from asr.audio import SAMPLE_RATE, Channel
from asr.decoding.hotwords import Hotword
from asr.decoding.types import Hypothesis
from asr.errors import AsrError, AudioError
from asr.frames import FrameGrid
from asr.inference.decoder import Decoder, DecodingOptions
from asr.inference.engine import Engine, usable_cores
from asr.inference.pipeline import Pipeline, Source
from asr.inference.transcript import Transcript, assemble
from asr.model.bundle import BOX, BundleConfig, read_config, resolve_bundle

Audio = str | Path | np.ndarray
"""A file, or float samples in [-1, 1]: `[samples]` or `[samples, channels]`."""

LEAST_SAMPLES = FrameGrid().window
"""A window of the log-mel features; less gives no frame."""


class Transcriber:
    """A model that is ready to transcribe, made by `load_model`; threads may share one.

    In all that follows `sample_rate` is that of arrays in Hz; `channel` is "mix" for the average of the
    channels, a number from 0 for one of them, or "split" to transcribe each by itself; `hotwords` are words
    and phrases to listen for, of which each character adds `hotword_boost` to the score of a text (natural
    log); `n_best` is how many hypotheses the transcript lists.
    """

    def __init__(self, engine: Engine, decoder: Decoder, config: BundleConfig, threads: int = 1) -> None:
        self.config = config
        self.decoder = decoder
        self._engine = engine
        self._threads = threads

    def transcribe(
        self,
        recording: Audio,
        sample_rate: float = SAMPLE_RATE,
        *,
        channel: Channel = "mix",
        hotwords: Sequence[str] = (),
        hotword_boost: float = 1.0,
        n_best: int = 1,
    ) -> Transcript:
        """Transcribe a file or samples, of any length. Raises AudioError, DecodingError."""
        return self.transcribe_batch(
            [recording],
            sample_rate,
            channel=channel,
            hotwords=hotwords,
            hotword_boost=hotword_boost,
            n_best=n_best,
        )[0]

    def transcribe_batch(
        self,
        recordings: Sequence[Audio],
        sample_rate: float = SAMPLE_RATE,
        *,
        channel: Channel = "mix",
        hotwords: Sequence[str] = (),
        hotword_boost: float = 1.0,
        n_best: int = 1,
    ) -> list[Transcript]:
        """Transcribe several, which is faster than one by one where they are short.

        Raises the error of the first that fails.
        """
        sources = (_source(recording, sample_rate, channel) for recording in recordings)
        transcripts = []
        for transcript in self.transcribe_sources(
            sources, hotwords=hotwords, hotword_boost=hotword_boost, n_best=n_best
        ):
            if isinstance(transcript, AsrError):
                raise transcript
            transcripts.append(transcript)
        return transcripts

    def transcribe_files(
        self,
        paths: Iterable[Path],
        *,
        channel: Channel = "mix",
        hotwords: Sequence[str] = (),
        hotword_boost: float = 1.0,
        n_best: int = 1,
        on_audio: Callable[[float], None] | None = None,
    ) -> Iterator[tuple[Path, Transcript | AsrError]]:
        """Transcribe many files in their order; a file that cannot be transcribed yields its error instead.

        Paths are taken as they are needed. `on_audio` is called, from any thread, with seconds of audio done.
        """
        taken: deque[Path] = deque()

        def sources() -> Iterator[Source]:
            for path in paths:
                taken.append(path)
                yield file_source(path, channel)

        results = self.transcribe_sources(
            sources(), hotwords=hotwords, hotword_boost=hotword_boost, n_best=n_best, on_audio=on_audio
        )
        for result in results:
            yield taken.popleft(), result

    def transcribe_sources(
        self,
        sources: Iterable[Source],
        *,
        hotwords: Sequence[str] = (),
        hotword_boost: float = 1.0,
        n_best: int = 1,
        on_audio: Callable[[float], None] | None = None,
    ) -> Iterator[Transcript | AsrError]:
        """Transcribe what comes from elsewhere than a file, as altered waveforms; else as `transcribe_files`.

        Sources are taken, and the blocks of each are read, as they are needed, so that few lie in memory.
        """
        phrases = tuple(Hotword(phrase, hotword_boost) for phrase in hotwords)
        pipeline = Pipeline(
            self._engine, lambda: self.decoder.stream(phrases, n_best), self._threads, on_audio
        )
        return pipeline.run(sources)

    def posteriors(
        self, recording: Audio, sample_rate: float = SAMPLE_RATE, channel: int | Literal["mix"] = "mix"
    ) -> np.ndarray:
        """Log-probabilities `float32[T', V]`, one frame every 40 ms; token 0 is the CTC blank."""
        return self._engine.posteriors(_waveform(recording, sample_rate, channel), self._threads)

    def align(
        self,
        recording: Audio,
        text: str,
        sample_rate: float = SAMPLE_RATE,
        channel: int | Literal["mix"] = "mix",
    ) -> Transcript:
        """Find when the words of a known text are said. Raises AudioError, DecodingError, TextError."""
        waveform = _waveform(recording, sample_rate, channel)
        spelt = self.decoder.spell(text)
        words = self.decoder.time(self._engine.posteriors(waveform, self._threads), spelt)
        return assemble([Hypothesis(words, 0.0)], len(waveform) / SAMPLE_RATE, split=False)


def load_model(
    bundle: str | Path = BOX, threads: int | None = None, decoding: DecodingOptions | None = None
) -> Transcriber:
    """Open a model bundle, a folder or "box", the English model that ships; `decoding` defaults to what the
    bundle holds.

    Raises BundleError where it is missing, damaged or too new, and DecodingError or LanguageModelError where
    language model, lexicon and model do not fit together.
    """
    folder = resolve_bundle(bundle)
    config = read_config(folder)
    engine = Engine(folder, config)
    decoder = Decoder(folder, config, engine.frame_seconds, decoding or DecodingOptions())
    return Transcriber(engine, decoder, config, threads or usable_cores())


def transcribe(
    recording: Audio, model: str | Path = BOX, sample_rate: float = audio.SAMPLE_RATE
) -> Transcript:
    """Transcribe one recording with the bundle `model` ("box" ships); for several, `load_model` once."""
    return load_model(model).transcribe(recording, sample_rate)


def _source(recording: Audio, sample_rate: float, channel: Channel) -> Source:
    if isinstance(recording, np.ndarray):
        return Source(_blocks(recording, sample_rate, channel), "audio", channel == "split")
    return file_source(Path(recording), channel)


def file_source(path: Path, channel: Channel = "mix") -> Source:
    """A file that is opened when its blocks are read; they raise AudioError as `audio.stream` does."""
    return Source(_long_enough(path, channel), str(path), channel == "split")


def _long_enough(path: Path, channel: Channel) -> Iterator[np.ndarray]:
    """The blocks of a file. One that is shorter than a frame was cut by mistake; an array may well be."""
    samples = 0
    for block in audio.stream(path, channel):
        samples += len(block)
        yield block
    if samples < LEAST_SAMPLES:
        raise AudioError(
            f"{path}: too short to transcribe ({samples / SAMPLE_RATE:.3f} s; it takes "
            f"{LEAST_SAMPLES / SAMPLE_RATE:.3f} s)"
        )


def _blocks(samples: np.ndarray, sample_rate: float, channel: Channel) -> Iterator[np.ndarray]:
    """An array as one block `float32[n, C]` at 16 kHz. Raises AudioError."""
    if not np.issubdtype(samples.dtype, np.floating):
        raise AudioError(f"audio: samples are {samples.dtype}; give floats in [-1, 1]")
    if samples.ndim not in (1, 2) or samples.shape[1:] == (0,):
        raise AudioError(f"audio: samples have shape {samples.shape}; give [samples] or [samples, channels]")
    table = samples.astype(np.float32, copy=False).reshape(len(samples), *samples.shape[1:] or (1,))
    yield np.stack([audio.resample(c, sample_rate) for c in audio.pick(table, channel).T], axis=1)


def _waveform(recording: Audio, sample_rate: float, channel: Channel) -> np.ndarray:
    """All samples `float32[samples]` of one channel at 16 kHz."""
    if channel == "split":
        raise AudioError("audio: one channel at a time is wanted here; give its number, or 'mix'")
    blocks = list(_source(recording, sample_rate, channel).blocks)
    return np.concatenate([block[:, 0] for block in blocks])
