"""Recordings -> transcripts, in order, on several cores and in bounded memory.

One thread reads and cuts recordings into windows; a pool of them makes posteriors, batch by batch, and feeds
each recording's to its decoder in their order. While a group of windows is worked on the next one is read.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.decoding.stream import Stream
from asr.errors import AsrError, DecodingError
from asr.inference.engine import BATCH_SECONDS, Engine
from asr.inference.transcript import Transcript, assemble
from asr.inference.windows import Chunker, Window, batches

GROUP_SECONDS = 40.0
"""Audio a thread in a group, so that short recordings of about the same length can share batches."""

MOST_SECONDS = 320.0
"""Audio in a group, and half of it in all batches at work, however many threads there are."""


@dataclass(frozen=True)
class Source:
    """A recording to come: blocks of samples `float32[n, C]` at 16 kHz, each channel to be transcribed.

    `name` goes before errors. Reading `blocks` may raise AsrError.
    """

    blocks: Iterable[np.ndarray]
    name: str = "audio"
    split: bool = False


@dataclass
class _Recording:
    """A source under way."""

    source: Source
    streams: list[Stream] = field(default_factory=list)
    chunkers: list[Chunker] = field(default_factory=list)
    samples: int = 0
    read: bool = False
    step: "Future[None] | None" = None  # of its decoding, the last so far
    result: Transcript | AsrError | None = None
    finished: bool = False


@dataclass(frozen=True)
class _Part:
    """A window that waits for its posteriors."""

    recording: _Recording
    channel: int
    window: Window


_Posteriors = tuple[int, "Future[list[np.ndarray]]", int]
"""Channel, the batch under way, and the place in it."""


class Pipeline:
    """Transcribes with `begin`, which makes a decoder for one channel of one recording.

    `on_audio` is called, from any thread, with the seconds that were transcribed.
    """

    def __init__(
        self,
        engine: Engine,
        begin: Callable[[], Stream],
        threads: int,
        on_audio: Callable[[float], None] | None = None,
    ) -> None:
        self._engine, self._begin, self._threads = engine, begin, threads
        self._on_audio = on_audio or (lambda seconds: None)
        self._waiting: deque[_Recording] = deque()  # what has not been yielded
        self._fresh: list[_Recording] = []  # what has been read on since the last group
        self._parts: list[_Part] = []
        self._groups: deque[list[Future[None]]] = deque()
        self._held = 0  # samples in parts
        self._room = int(min(GROUP_SECONDS * threads, MOST_SECONDS) * SAMPLE_RATE)
        self._batch = int(min(BATCH_SECONDS, MOST_SECONDS / 2 / threads) * SAMPLE_RATE)

    def run(self, sources: Iterable[Source]) -> Iterator[Transcript | AsrError]:
        """One result a source, in their order. Raises what is no fault of a recording, as BundleError."""
        self._pool = ThreadPoolExecutor(self._threads)
        try:
            for source in sources:
                recording = _Recording(source)
                self._waiting.append(recording)
                for _ in self._read(recording):
                    if self._held >= self._room:
                        self._submit()
                        self._wait(most=1)
                yield from self._finished()
            self._submit()
            self._wait(most=0)
            yield from self._finished()
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _read(self, recording: _Recording) -> Iterator[None]:
        """Cut a recording into windows, block by block."""
        self._fresh.append(recording)
        try:
            for block in recording.source.blocks:
                if not recording.streams:
                    recording.streams = [self._begin() for _ in block.T]
                    recording.chunkers = [self._engine.chunker() for _ in block.T]
                recording.samples += len(block)
                for channel, chunker in enumerate(recording.chunkers):
                    self._hold(recording, channel, chunker.push(np.ascontiguousarray(block[:, channel])))
                yield
            for channel, chunker in enumerate(recording.chunkers):
                self._hold(recording, channel, chunker.end())
        except AsrError as error:
            recording.result = error
            if recording.step is None and not any(part.recording is recording for part in self._parts):
                recording.finished = True  # said at once, as nothing of it is under way
                self._fresh.pop()
        recording.read = True
        yield

    def _hold(self, recording: _Recording, channel: int, windows: Iterable[Window]) -> None:
        for window in windows:
            self._parts.append(_Part(recording, channel, window))
            self._held += len(window.samples)

    def _submit(self) -> None:
        """Send a group on its way. The pool starts tasks in their order, so that those which a task waits for
        are never behind it."""
        lengths = [len(part.window.samples) for part in self._parts]
        budget = min(self._batch, -(-self._held // self._threads))
        posteriors: list[_Posteriors] = [None] * len(lengths)  # type: ignore[list-item]
        for batch in batches(lengths, budget):
            future = self._pool.submit(self._engine.run, [self._parts[i].window for i in batch])
            for place, index in enumerate(batch):
                posteriors[index] = (self._parts[index].channel, future, place)
        of_recording: dict[int, list[_Posteriors]] = {}
        for part, found in zip(self._parts, posteriors, strict=True):
            of_recording.setdefault(id(part.recording), []).append(found)
        for recording in self._fresh:
            parts = of_recording.get(id(recording), [])
            recording.step = self._pool.submit(self._decode, recording, recording.step, parts, recording.read)
        self._groups.append([recording.step for recording in self._fresh if recording.step])
        self._fresh = [recording for recording in self._fresh if not recording.read]
        self._parts, self._held = [], 0

    def _decode(
        self,
        recording: _Recording,
        before: "Future[None] | None",
        parts: "Sequence[_Posteriors]",
        last: bool,
    ) -> None:
        """Feed a recording's next posteriors to its decoders, after what came `before`."""
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
                recording.result = assemble(
                    hypotheses, recording.samples / SAMPLE_RATE, recording.source.split
                )
        except DecodingError as error:
            recording.result = DecodingError(f"{recording.source.name}: {error}")
        recording.finished = last

    def _wait(self, most: int) -> None:
        """Wait until at most so many groups are under way."""
        while len(self._groups) > most:
            for step in self._groups.popleft():
                step.result()

    def _finished(self) -> Iterator[Transcript | AsrError]:
        """What is ready, in order."""
        while self._waiting and self._waiting[0].finished:
            result = self._waiting.popleft().result
            assert result is not None
            yield result
