"""A recording on its way to a transcript: read and cut into windows, whose posteriors come back in order."""

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field, replace

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.containers import Notes
from asr.decoding.stream import Stream
from asr.decoding.types import Word
from asr.errors import DecodingError
from asr.inference.engine import Chunker, Engine, Window
from asr.inference.transcript import Transcript, assemble


@dataclass(frozen=True)
class Source:
    """A recording to transcribe: blocks `float32[n, C]` at 16 kHz, each channel by itself.

    Blocks are read when they are needed, which may raise AsrError and add to `notes`. `name` prefixes error
    messages; `split` labels segments with their channel; `start` is the time of the first sample.
    """

    blocks: Iterable[np.ndarray]
    name: str = "audio"
    split: bool = False
    start: float = 0.0
    notes: Notes = field(default_factory=Notes)


class Transcription:
    """A source in progress; `begin` makes the decoder of one channel.

    One thread may read it while another feeds it. Both pipelines use it: they differ in who computes what,
    and when.
    """

    def __init__(self, source: Source, engine: Engine, begin: Callable[[], Stream]) -> None:
        self.source = source
        self._engine, self._begin = engine, begin
        self._streams: list[Stream] = []
        self._samples = 0

    def windows(self) -> Generator[tuple[int, Window], None, None]:
        """Read the recording and yield its windows with their channels. Raises AsrError."""
        chunkers: list[Chunker] = []
        for block in self.source.blocks:
            if not chunkers:
                chunkers = [self._engine.chunker() for _ in block.T]
                self._streams = [self._begin() for _ in block.T]
            self._samples += len(block)
            for channel, chunker in enumerate(chunkers):
                windows = chunker.push(np.ascontiguousarray(block[:, channel]))
                yield from ((channel, window) for window in windows)
        for channel, chunker in enumerate(chunkers):
            yield from ((channel, window) for window in chunker.end())

    def feed(self, channel: int, log_probs: np.ndarray) -> None:
        """Decode the next posteriors of a channel. Raises DecodingError."""
        try:
            self._streams[channel].feed(log_probs)
        except DecodingError as error:
            raise DecodingError(f"{self.source.name}: {error}") from None

    def seconds(self, log_probs: np.ndarray) -> float:
        """Share of the audio that posteriors of one channel stand for."""
        return len(log_probs) * self._engine.frame_seconds / len(self._streams)

    def committed(self) -> list[Word]:
        """Words of the first channel that are final."""
        return self._streams[0].committed() if self._streams else []

    def finish(self) -> Transcript:
        """The transcript, once all windows are fed. Raises DecodingError."""
        try:
            hypotheses = [stream.finish() for stream in self._streams]
        except DecodingError as error:
            raise DecodingError(f"{self.source.name}: {error}") from None
        source = self.source
        transcript = assemble(hypotheses, self._samples / SAMPLE_RATE, source.split, source.start)
        return replace(transcript, incomplete=source.notes.incomplete, warnings=tuple(source.notes.warnings))
