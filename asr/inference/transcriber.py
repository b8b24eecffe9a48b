"""The public API: load a model, transcribe recordings. Imports no torch."""

import io
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from asr import audio
from asr.audio import SAMPLE_RATE, Channel, ReadOptions
from asr.containers import Notes
from asr.decoding.hotwords import Hotword
from asr.decoding.types import Hypothesis
from asr.errors import AsrError, AudioError
from asr.frames import FrameGrid
from asr.inference.decoder import Decoder, LoadOptions
from asr.inference.engine import Engine, usable_cores
from asr.inference.pipeline import Pipeline, Source
from asr.inference.transcript import Transcript, assemble
from asr.model.bundle import BOX, BundleConfig, read_config, resolve_bundle
from asr.options import option

Audio = str | Path | bytes | BinaryIO | np.ndarray
"""A path, a file's content, a file opened in binary mode, or samples.

Samples are `[samples]`, `[samples, channels]` or `[channels, samples]` (whichever is more is samples), floats
in [-1, 1] or integers of 8 (unsigned), 16 or 32 bits. What has `__array__`, such as a tensor, is an array.
"""

_LOUDEST = 256.0
"""Floats beyond this are integers that were converted without scaling."""

LEAST_SAMPLES = FrameGrid().window
"""Samples of one log-mel window; less gives no frame."""


@dataclass(frozen=True)
class TranscribeOptions(ReadOptions):
    """Options of a transcription. Shared by the API, the command line and servers.

    Decoder options that are fixed when a model is loaded are in LoadOptions.
    """

    channel: Channel = option("mix, split or a channel's number from 0", "mix", least=0, metavar="CHANNEL")
    hotwords: tuple[str, ...] = option(
        "word or phrase to favour; may be repeated", (), flag="--hotword", repeat=True, metavar="PHRASE"
    )
    hotword_boost: float = option("score per character of a hotword, natural log", 1.0)
    n_best: int = option("number of hypotheses listed in JSON", 1, least=1)


class Transcriber:
    """A loaded model, made by `load_model`; thread-safe. `sample_rate` in Hz applies to arrays only."""

    def __init__(self, engine: Engine, decoder: Decoder, config: BundleConfig, threads: int = 1) -> None:
        self.config = config
        self.decoder = decoder
        self._engine = engine
        self._threads = threads

    def transcribe(
        self,
        recording: Audio,
        sample_rate: float = SAMPLE_RATE,
        options: TranscribeOptions = TranscribeOptions(),
    ) -> Transcript:
        """Transcribe a file or samples, of any length. Raises AudioError, DecodingError."""
        return self.transcribe_batch([recording], sample_rate, options)[0]

    def transcribe_batch(
        self,
        recordings: Sequence[Audio],
        sample_rate: float = SAMPLE_RATE,
        options: TranscribeOptions = TranscribeOptions(),
    ) -> list[Transcript]:
        """Transcribe several recordings, which share batches if short. Raises the first error."""
        transcripts = []
        sources = (_source(recording, sample_rate, options.channel, options) for recording in recordings)
        for transcript in self.transcribe_sources(sources, options):
            if isinstance(transcript, AsrError):
                raise transcript
            transcripts.append(transcript)
        return transcripts

    def transcribe_files(
        self,
        paths: Iterable[Path],
        options: TranscribeOptions = TranscribeOptions(),
        on_audio: Callable[[float], None] | None = None,
    ) -> Iterator[tuple[Path, Transcript | AsrError]]:
        """Transcribe files in order; a file that cannot be transcribed yields its error.

        Paths are consumed and files opened when needed. `on_audio` is called, from any thread, with the
        seconds of audio just transcribed. Raises DecodingError for hotwords that cannot be spelt.
        """
        taken: deque[Path] = deque()

        def sources() -> Iterator[Source]:
            for path in paths:
                taken.append(path)
                yield file_source(path, options.channel, options)

        for result in self.transcribe_sources(sources(), options, on_audio):
            yield taken.popleft(), result

    def transcribe_sources(
        self,
        sources: Iterable[Source],
        options: TranscribeOptions = TranscribeOptions(),
        on_audio: Callable[[float], None] | None = None,
    ) -> Iterator[Transcript | AsrError]:
        """Transcribe sources, whose channels are selected already; otherwise as `transcribe_files`."""
        hotwords = tuple(Hotword(phrase, options.hotword_boost) for phrase in options.hotwords)
        begin = partial(self.decoder.stream, hotwords, options.n_best)
        begin()  # raises before anything is read if the hotwords do not fit
        return Pipeline(self._engine, begin, self._threads, on_audio).run(sources)

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
        """Time the words of a known text. Raises AudioError, DecodingError, TextError."""
        waveform = _waveform(recording, sample_rate, channel)
        spelt = self.decoder.spell(text)
        words = self.decoder.time(self._engine.posteriors(waveform, self._threads), spelt)
        return assemble([Hypothesis(words, 0.0)], len(waveform) / SAMPLE_RATE, split=False)


def load_model(
    bundle: str | Path = BOX, threads: int | None = None, decoding: LoadOptions = LoadOptions()
) -> Transcriber:
    """Load a model bundle: a folder, or "box" for the built-in English model. `threads`: default all cores.

    Raises BundleError if it is missing, damaged or too new, DecodingError or LanguageModelError if language
    model, lexicon and model do not fit together.
    """
    folder = resolve_bundle(bundle)
    config = read_config(folder)
    engine = Engine(folder, config)
    decoder = Decoder(folder, config, engine.frame_seconds, decoding)
    return Transcriber(engine, decoder, config, threads or usable_cores())


def transcribe(
    recording: Audio,
    model: str | Path = BOX,
    sample_rate: float = SAMPLE_RATE,
    options: TranscribeOptions = TranscribeOptions(),
) -> Transcript:
    """Transcribe one recording with a bundle; for several, use `load_model` once."""
    return load_model(model).transcribe(recording, sample_rate, options)


STRICT = ReadOptions(strict=True)


def file_source(path: audio.File, channel: Channel = "mix", options: ReadOptions = STRICT) -> Source:
    """A file, opened when its blocks are read, which raises AudioError as `audio.stream` does."""
    notes = Notes()
    blocks = _file_blocks(path, channel, options, notes)
    return Source(blocks, audio.file_name(path), channel == "split", options.start, notes)


def _source(recording: Audio, sample_rate: float, channel: Channel, options: ReadOptions) -> Source:
    """A recording in any of the accepted forms. Raises AudioError."""
    if isinstance(recording, str | Path):
        return file_source(Path(recording), channel, options)
    if isinstance(recording, bytes | bytearray):
        return file_source(io.BytesIO(recording), channel, options)
    if hasattr(recording, "__array__"):
        notes = Notes()
        blocks = _array_blocks(np.asarray(recording), sample_rate, channel, options, notes)
        return Source(blocks, split=channel == "split", start=options.start, notes=notes)
    if hasattr(recording, "read"):
        return file_source(recording, channel, options)
    kind = type(recording).__name__
    raise AudioError(f"audio: a {kind} is no recording; give a path, bytes, an open file or a NumPy array")


def _file_blocks(
    path: audio.File, channel: Channel, options: ReadOptions, notes: Notes
) -> Iterator[np.ndarray]:
    """Blocks of a file. One shorter than a frame was cut by mistake; an array may be that short."""
    samples = 0
    for block in audio.stream(path, channel, notes, options):
        samples += len(block)
        yield block
    if samples < LEAST_SAMPLES:
        name, seconds, least = audio.file_name(path), samples / SAMPLE_RATE, LEAST_SAMPLES / SAMPLE_RATE
        raise AudioError(f"{name}: too short to transcribe ({seconds:.3f} s; it takes {least:.3f} s)")


def _array_blocks(
    samples: np.ndarray, sample_rate: float, channel: Channel, options: ReadOptions, notes: Notes
) -> Iterator[np.ndarray]:
    """An array as one block `float32[n, C]` at 16 kHz. Raises AudioError."""
    if not np.issubdtype(samples.dtype, np.floating) and samples.dtype not in (np.uint8, np.int16, np.int32):
        raise AudioError(f"audio: samples are {samples.dtype}; give floats in [-1, 1], or int16")
    if samples.ndim not in (1, 2) or samples.shape[1:] == (0,):
        raise AudioError(f"audio: samples have shape {samples.shape}; give [samples] or [samples, channels]")
    table = samples.reshape(-1, 1) if samples.ndim == 1 else samples
    if 0 < len(table) < table.shape[1]:
        table = table.T  # [channels, samples], as torchaudio loads them
    ends = [None if at is None else round(at * sample_rate) for at in (options.start, options.end)]
    table = audio.scaled(table[slice(*ends)])
    if table.size and (peak := np.abs(table).max()) > _LOUDEST:
        raise AudioError(f"audio: samples reach {peak:.0f}; give floats in [-1, 1], or integers as int16")
    picked = audio.pick(table, channel, notes=notes)
    yield np.stack([audio.resample(c, sample_rate) for c in picked.T], axis=1)


def _waveform(recording: Audio, sample_rate: float, channel: Channel) -> np.ndarray:
    """All samples `float32[samples]` of one channel at 16 kHz."""
    if channel == "split":
        raise AudioError("audio: one channel at a time is wanted here; give its number, or 'mix'")
    blocks = list(_source(recording, sample_rate, channel, STRICT).blocks)
    return np.concatenate([block[:, 0] for block in blocks])
