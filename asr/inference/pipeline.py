"""Recordings -> transcripts, in order, on several cores and in bounded memory.

The calling thread reads recordings and cuts them into windows. A pool computes posteriors batch by batch and
feeds those of each recording to its decoder in order. The next group of windows is read meanwhile.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.decoding.stream import Stream
from asr.errors import AsrError, DecodingError
from asr.inference.engine import BATCH_SECONDS, Engine, Window, batches
from asr.inference.transcript import Transcript
from asr.inference.transcription import Source, Transcription

GROUP_SECONDS = 40.0  # audio per thread in a group: enough for short recordings to share batches
MOST_SECONDS = 320.0  # audio in a group at most, whatever the threads; running batches hold half of it


@dataclass
class _Item:
    """A recording in progress; `places` are channel and index of its windows in the next group."""

    transcription: Transcription
    places: list[tuple[int, int]] = field(default_factory=list)
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
        self._waiting: deque[_Item] = deque()  # not yielded yet
        self._fresh: list[_Item] = []  # read from since the last group
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
                item = _Item(Transcription(source, self._engine, self._begin))
                self._waiting.append(item)
                self._fresh.append(item)
                for channel, window in self._windows_of(item):
                    yield from self._flush(self._room)
                    item.places.append((channel, len(self._windows)))
                    self._windows.append(window)
                    self._held += len(window.samples)
                item.read = True
                yield from self._flush(self._room)
            yield from self._flush(0, most=0)
        finally:
            self._pool.shutdown(cancel_futures=True)

    def _windows_of(self, item: _Item) -> Iterator[tuple[int, Window]]:
        """Windows of a recording with their channels, as far as it can be read."""
        try:
            yield from item.transcription.windows()
        except AsrError as error:
            item.result = error
            if item.step is None and not item.places:
                item.finished = True  # reported at once, as nothing of it is being computed
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
        for item in self._fresh:
            parts = [(channel, *computed[index]) for channel, index in item.places]
            item.step = self._pool.submit(self._decode, item, item.step, parts, item.read)
            item.places = []
            steps.append(item.step)
        self._groups.append(steps)
        self._fresh = [item for item in self._fresh if not item.read]
        self._windows, self._held = [], 0

    def _decode(self, item: _Item, before: Future[None] | None, parts: Sequence[_Part], last: bool) -> None:
        """Feed a recording's next posteriors to its decoders, once step `before` is done."""
        if before is not None:
            before.result()
        transcription = item.transcription
        try:
            for channel, future, place in parts:
                log_probs = future.result()[place]
                if item.result is None:
                    transcription.feed(channel, log_probs)
                self._on_audio(transcription.seconds(log_probs))
            if last and item.result is None:
                item.result = transcription.finish()
        except DecodingError as error:
            item.result = error
        item.finished = last
