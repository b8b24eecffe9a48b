"""The public API: load a model, transcribe recordings. Imports no torch."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import tee
from pathlib import Path
from typing import Literal

import numpy as np

from asr import audio
from asr.audio import SAMPLE_RATE, Channel
from asr.decoding.hotwords import Hotword
from asr.decoding.types import Hypothesis
from asr.errors import AsrError, AudioError
from asr.frames import FrameGrid
from asr.inference.decoder import Decoder, LoadOptions
from asr.inference.engine import Engine, usable_cores
from asr.inference.pipeline import OnAudio, Pipeline, Source
from asr.inference.transcript import Transcript, assemble
from asr.model.bundle import BOX, BundleConfig, read_config, resolve_bundle
from asr.options import option

Audio = str | Path | np.ndarray
"""A file, or float samples in [-1, 1]: `[samples]` or `[samples, channels]`."""

OneChannel = int | Literal["mix"]


@dataclass(frozen=True)
class TranscribeOptions:
    """Options of a transcription. Shared by the API, the command line and servers."""

    channel: Channel = option("mix, split or a channel's number from 0", "mix", least=0, metavar="CHANNEL")
    hotwords: tuple[str, ...] = option(
        "word or phrase to favour; may be repeated", (), flag="--hotword", repeat=True, metavar="PHRASE"
    )
    hotword_boost: float = option("score per character of a hotword, natural log", 1.0)
    n_best: int = option("number of hypotheses listed in JSON", 1, least=1)


DEFAULT = TranscribeOptions()


@dataclass(frozen=True, eq=False)
class Transcriber:
    """A loaded model, made by `load_model`; thread-safe. `sample_rate` in Hz applies to arrays only."""

    engine: Engine
    decoder: Decoder
    config: BundleConfig
    threads: int = 1

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
        sources = (_source(recording, sample_rate, options.channel) for recording in recordings)
        for transcript in self.transcribe_sources(sources, options):
            if isinstance(transcript, AsrError):
                raise transcript
            transcripts.append(transcript)
        return transcripts

    def transcribe_files(
        self, paths: Iterable[Path], options: TranscribeOptions = DEFAULT, on_audio: OnAudio | None = None
    ) -> Iterator[tuple[Path, Transcript | AsrError]]:
        """Transcribe files in order, opened when needed; one that cannot be transcribed yields its error.

        Raises DecodingError for hotwords that cannot be spelt.
        """
        given, named = tee(paths)
        sources = (file_source(path, options.channel) for path in given)
        for result, path in zip(self.transcribe_sources(sources, options, on_audio), named, strict=True):
            yield path, result

    def transcribe_sources(
        self, sources: Iterable[Source], options: TranscribeOptions = DEFAULT, on_audio: OnAudio | None = None
    ) -> Iterator[Transcript | AsrError]:
        """Transcribe sources, whose channels are selected already; otherwise as `transcribe_files`."""
        hotwords = tuple(Hotword(phrase, options.hotword_boost) for phrase in options.hotwords)
        begin = partial(self.decoder.stream, hotwords, options.n_best)
        begin()  # raises before anything is read if the hotwords do not fit
        return Pipeline(self.engine, begin, self.threads, on_audio).run(sources)

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


def file_source(path: Path, channel: Channel = "mix") -> Source:
    """A file, opened when its blocks are read, which raises AudioError as `audio.stream` does."""
    return Source(_file_blocks(path, channel), str(path), channel == "split")


def _source(recording: Audio, sample_rate: float, channel: Channel) -> Source:
    if isinstance(recording, np.ndarray):
        return Source(_array_blocks(recording, sample_rate, channel), split=channel == "split")
    return file_source(Path(recording), channel)


def _file_blocks(path: Path, channel: Channel) -> Iterator[np.ndarray]:
    """Blocks of a file. One shorter than a frame was cut by mistake; an array may be that short."""
    samples, least = 0, FrameGrid().window
    for block in audio.stream(path, channel):
        samples += len(block)
        yield block
    if samples < least:
        seconds = f"{samples / SAMPLE_RATE:.3f} s; it takes {least / SAMPLE_RATE:.3f} s"
        raise AudioError(f"{path}: too short to transcribe ({seconds})")


def _array_blocks(samples: np.ndarray, sample_rate: float, channel: Channel) -> Iterator[np.ndarray]:
    """An array as one block `float32[n, C]` at 16 kHz. Raises AudioError."""
    if samples.dtype.kind != "f" or samples.ndim not in (1, 2) or samples.shape[1:] == (0,):
        kind = f"{samples.dtype} of shape {samples.shape}"
        raise AudioError(f"audio: {kind}; give floats in [-1, 1] as [samples] or [samples, channels]")
    table = samples.astype(np.float32, copy=False).reshape(len(samples), *samples.shape[1:] or (1,))
    yield np.stack([audio.resample(c, sample_rate) for c in audio.pick(table, channel).T], axis=1)


def _waveform(recording: Audio, sample_rate: float, channel: Channel) -> np.ndarray:
    """All samples `float32[samples]` of one channel at 16 kHz."""
    if channel == "split":
        raise AudioError("audio: one channel at a time is wanted here; give its number, or 'mix'")
    return np.concatenate([block[:, 0] for block in _source(recording, sample_rate, channel).blocks])
