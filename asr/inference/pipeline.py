"""Recordings -> transcripts, in order, on several cores and in bounded memory.

The calling thread reads recordings and cuts them into windows. A pool computes posteriors batch by batch and
feeds those of each recording to its decoder in order. The next group of windows is read meanwhile.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.containers import Notes
from asr.decoding.stream import Stream
from asr.errors import AsrError, DecodingError
from asr.inference.engine import BATCH_SECONDS, Chunker, Engine, Window, batches
from asr.inference.transcript import Transcript, assemble

GROUP_SECONDS = 40.0  # audio per thread in a group: enough for short recordings to share batches
MOST_SECONDS = 320.0  # audio in a group at most, whatever the threads; running batches hold half of it


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


@dataclass
class _Recording:
    """A source in progress; `places` are channel and index of its windows in the next group."""

    source: Source
    streams: list[Stream] = field(default_factory=list)
    chunkers: list[Chunker] = field(default_factory=list)
    places: list[tuple[int, int]] = field(default_factory=list)
    samples: int = 0
    read: bool = False
    step: Future[None] | None = None  # the last decoding step so far
    result: Transcript | AsrError | None = None
    finished: bool = False


OnAudio = Callable[[float], None]
"""Called, from any thread, with the seconds of audio just transcribed."""

_Part = tuple[int, Future[list[np.ndarray]], int]
"""Posteriors of a window: its channel, the batch being computed, and the place in it."""


class Pipeline:
    """Transcribes sources; `begin` makes the decoder of one channel of one recording."""

    def __init__(
        self, engine: Engine, begin: Callable[[], Stream], threads: int, on_audio: OnAudio | None = None
    ) -> None:
        self._engine, self._begin, self._threads = engine, begin, threads
        self._on_audio = on_audio or (lambda seconds: None)
        self._waiting: deque[_Recording] = deque()  # not yielded yet
        self._fresh: list[_Recording] = []  # read from since the last group
        self._windows: list[Window] = []  # the next group
        self._held = 0  # samples in the next group
        self._groups: deque[list[Future[None]]] = deque()  # decoding steps in progress
        self._room = int(min(GROUP_SECONDS * threads, MOST_SECONDS) * SAMPLE_RATE)
        self._batch = int(min(BATCH_SECONDS, MOST_SECONDS / 2 / threads) * SAMPLE_RATE)

    def run(self, sources: Iterable[Source]) -> Iterator[Transcript | AsrError]:
        """One result per source, in order. Raises errors that concern no single recording: BundleError."""
        self._pool = ThreadPoolExecutor(self._threads)
        try:
            for source in sources:
                recording = _Recording(source)
                self._waiting.append(recording)
                self._fresh.append(recording)
                for channel, window in self._cut(recording):
                    yield from self._flush(self._room)
                    recording.places.append((channel, len(self._windows)))
                    self._windows.append(window)
                    self._held += len(window.samples)
                recording.read = True
                yield from self._flush(self._room)
            yield from self._flush(0, most=0)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _cut(self, recording: _Recording) -> Iterator[tuple[int, Window]]:
        """Read a recording and yield its windows with their channels."""
        try:
            for block in recording.source.blocks:
                if not recording.streams:
                    recording.streams = [self._begin() for _ in block.T]
                    recording.chunkers = [self._engine.chunker() for _ in block.T]
                recording.samples += len(block)
                for channel, chunker in enumerate(recording.chunkers):
                    windows = chunker.push(np.ascontiguousarray(block[:, channel]))
                    yield from ((channel, window) for window in windows)
            for channel, chunker in enumerate(recording.chunkers):
                yield from ((channel, window) for window in chunker.end())
        except AsrError as error:
            recording.result = error
            if recording.step is None and not recording.places:
                recording.finished = True  # reported at once, as nothing of it is being computed
                self._fresh.pop()

    def _flush(self, room: int, most: int = 1) -> Iterator[Transcript | AsrError]:
        """Start a group if it holds `room` samples, wait until at most `most` run, yield finished results."""
        if self._held >= room:
            self._submit()
        while len(self._groups) > most:
            for step in self._groups.popleft():
                step.result()
        while self._waiting and self._waiting[0].finished:
            result = self._waiting.popleft().result
            assert result is not None
            yield result

    def _submit(self) -> None:
        """Start a group. The pool starts tasks in order, so none waits for one that starts after it."""
        budget = min(self._batch, -(-self._held // self._threads))
        computed: dict[int, tuple[Future[list[np.ndarray]], int]] = {}  # batch and place in it
        for batch in batches([len(window.samples) for window in self._windows], budget):
            future = self._pool.submit(self._engine.run, [self._windows[i] for i in batch])
            computed |= {index: (future, place) for place, index in enumerate(batch)}
        steps = []
        for recording in self._fresh:
            parts = [(channel, *computed[index]) for channel, index in recording.places]
            recording.step = self._pool.submit(self._decode, recording, recording.step, parts, recording.read)
            recording.places = []
            steps.append(recording.step)
        self._groups.append(steps)
        self._fresh = [recording for recording in self._fresh if not recording.read]
        self._windows, self._held = [], 0

    def _decode(
        self, recording: _Recording, before: Future[None] | None, parts: Sequence[_Part], last: bool
    ) -> None:
        """Feed a recording's next posteriors to its decoders, once step `before` is done."""
        if before is not None:
            before.result()
        try:
            for channel, future, place in parts:
                log_probs = future.result()[place]
                if recording.result is None:
                    recording.streams[channel].feed(log_probs)
                self._on_audio(len(log_probs) * self._engine.frame_seconds / len(recording.streams))
            if last and recording.result is None:
                hypotheses = [stream.finish() for stream in recording.streams]
                seconds = recording.samples / SAMPLE_RATE
                source = recording.source
                transcript = assemble(hypotheses, seconds, source.split, source.start)
                recording.result = replace(
                    transcript, incomplete=source.notes.incomplete, warnings=tuple(source.notes.warnings)
                )
        except DecodingError as error:
            recording.result = DecodingError(f"{recording.source.name}: {error}")
        recording.finished = last
