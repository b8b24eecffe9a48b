"""The public API: load a model, transcribe recordings. Imports no torch."""

import io
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np

from asr import audio
from asr.audio import SAMPLE_RATE, Channel, ReadOptions
from asr.console import option
from asr.containers import Notes
from asr.decoding.hotwords import Hotword
from asr.decoding.types import Hypothesis
from asr.errors import AsrError, AudioError, UsageError
from asr.formatting import numbers, tagger
from asr.frames import FrameGrid
from asr.inference.decoder import Decoder, LoadOptions
from asr.inference.engine import Engine, usable_cores
from asr.inference.pipeline import OnAudio, Pipeline
from asr.inference.transcript import Transcript, assemble, format_transcript
from asr.inference.transcription import Source
from asr.model.bundle import BOX, BundleConfig, read_config, resolve_bundle

Audio = str | Path | bytes | BinaryIO | np.ndarray
"""A path, a file's content, a file opened in binary mode, or samples.

Samples are `[samples]`, `[samples, channels]` or `[channels, samples]` (whichever is more is samples), floats
in [-1, 1] or integers of 8 (unsigned), 16 or 32 bits. What has `__array__`, such as a tensor, is an array.
"""

_LOUDEST = 256.0
"""Floats beyond this are integers that were converted without scaling."""

OneChannel = int | Literal["mix"]


@dataclass(frozen=True)
class TranscribeOptions(ReadOptions):
    """Options of a transcription. Shared by the API, the command line and servers.

    Raises UsageError if `raw` and `numbers` are given together, AsrError if text2num is not installed.
    """

    channel: Channel = option("mix, split or a channel's number from 0", "mix", least=0, metavar="CHANNEL")
    hotwords: tuple[str, ...] = option(
        "word or phrase to favour; may be repeated", (), flag="--hotword", repeat=True, metavar="PHRASE"
    )
    hotword_boost: float = option("score per character of a hotword, natural log", 1.0)
    n_best: int = option("number of hypotheses listed in JSON", 1, least=1)
    raw: bool = option("plain words, without punctuation and capitals", False)
    numbers: bool = option("write numbers in digits", False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.numbers and self.raw:
            raise UsageError("--numbers belongs to readable text; leave out --raw")
        if self.numbers:
            numbers.require()


DEFAULT = TranscribeOptions()


@dataclass(frozen=True, eq=False)
class Transcriber:
    """A loaded model, made by `load_model`; thread-safe. `sample_rate` in Hz applies to arrays only.

    A copy in another process (a pickle) loads the bundle anew.
    """

    engine: Engine
    decoder: Decoder
    config: BundleConfig
    threads: int = 1

    def __reduce__(self) -> tuple[Any, ...]:
        return load_model, (self.engine.path.parent.absolute(), self.threads, self.decoder.loaded_with)

    def transcribe(
        self, recording: Audio, sample_rate: float = SAMPLE_RATE, options: TranscribeOptions = DEFAULT
    ) -> Transcript:
        """Transcribe a file or samples, of any length. Raises AudioError, DecodingError."""
        return self.transcribe_batch([recording], sample_rate, options)[0]

    def transcribe_batch(
        self,
        recordings: Sequence[Audio],
        sample_rate: float = SAMPLE_RATE,
        options: TranscribeOptions = DEFAULT,
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
        self, paths: Iterable[Path], options: TranscribeOptions = DEFAULT, on_audio: OnAudio | None = None
    ) -> Iterator[tuple[Path, Transcript | AsrError]]:
        """Transcribe files in order, opened when needed; one that cannot be transcribed yields its error.

        Hotwords that cannot be spelt are left out, with a warning in each transcript.
        """
        given, named = tee(paths)
        sources = (file_source(path, options.channel, options) for path in given)
        for result, path in zip(self.transcribe_sources(sources, options, on_audio), named, strict=True):
            yield path, result

    def transcribe_sources(
        self, sources: Iterable[Source], options: TranscribeOptions = DEFAULT, on_audio: OnAudio | None = None
    ) -> Iterator[Transcript | AsrError]:
        """Transcribe sources, whose channels are selected already; otherwise as `transcribe_files`."""
        asked = (Hotword(phrase, options.hotword_boost) for phrase in options.hotwords)
        hotwords, warnings = self.decoder.fit_hotwords(asked)
        begin = partial(self.decoder.stream, hotwords, options.n_best)
        begin()  # raises before anything is read if the options do not fit
        pipeline = Pipeline(self.engine, begin, self.threads, on_audio)
        results = pipeline.run(_warned(sources, warnings))
        if not self.writes_readable(options):
            return results
        tagger.load()  # likewise
        return (r if isinstance(r, AsrError) else format_transcript(r, options.numbers) for r in results)

    def writes_readable(self, options: TranscribeOptions) -> bool:
        """Return True if transcripts get punctuation and capitals: for English models, unless `raw`."""
        return self.config.tokenizer.is_english and not options.raw

    def posteriors(
        self, recording: Audio, sample_rate: float = SAMPLE_RATE, channel: OneChannel = "mix"
    ) -> np.ndarray:
        """Log-probabilities `float32[T', V]`, one frame every 40 ms; token 0 is the CTC blank."""
        return self.engine.posteriors(_waveform(recording, sample_rate, channel), self.threads)

    def align(
        self, recording: Audio, text: str, sample_rate: float = SAMPLE_RATE, channel: OneChannel = "mix"
    ) -> Transcript:
        """Time the words of a known text. Raises AudioError, DecodingError, TextError."""
        waveform, spelt = _waveform(recording, sample_rate, channel), self.decoder.spell(text)
        words = self.decoder.time(self.engine.posteriors(waveform, self.threads), spelt)
        return assemble([Hypothesis(words, 0.0)], len(waveform) / SAMPLE_RATE, split=False)


def load_model(
    bundle: str | Path = BOX, threads: int | None = None, decoding: LoadOptions = LoadOptions()
) -> Transcriber:
    """Load a model bundle: a folder, or "box" for the built-in English model. `threads`: default all cores.

    Raises BundleError, or DecodingError or LanguageModelError if its parts do not fit together.
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
    options: TranscribeOptions = DEFAULT,
) -> Transcript:
    """Transcribe one recording with a bundle; for several, use `load_model` once."""
    return load_model(model).transcribe(recording, sample_rate, options)


def _warned(sources: Iterable[Source], warnings: Sequence[str]) -> Iterator[Source]:
    for source in sources:
        for warning in warnings:
            source.notes.warn(warning)
        yield source


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
    samples, least = 0, FrameGrid().window
    for block in audio.stream(path, channel, notes, options):
        samples += len(block)
        yield block
    if samples < least:
        seconds = f"{samples / SAMPLE_RATE:.3f} s; it takes {least / SAMPLE_RATE:.3f} s"
        raise AudioError(f"{audio.file_name(path)}: too short to transcribe ({seconds})")


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
    blocks = _source(recording, sample_rate, channel, STRICT).blocks
    return np.concatenate([block[:, 0] for block in blocks])
