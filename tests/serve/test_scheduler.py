"""The scheduler with an engine that is a stub: what runs when, and beside what."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from asr.audio import SAMPLE_RATE
from asr.decoding.types import Word
from asr.inference.engine import BATCH_SECONDS, Window
from asr.inference.transcriber import TranscribeOptions, Transcriber
from asr.inference.transcript import Transcript
from asr.inference.transcription import Source, Transcription
from asr.serve.scheduler import AHEAD, Event, Job, LeftError, Scheduler
from tests.standin import speak


@dataclass
class StubEngine:
    """Notes the seconds of the windows of each batch; waits while `gate` is closed."""

    batches: list[list[float]] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    error: Exception | None = None
    frame_seconds = 0.04

    def run(self, windows: Sequence[Window]) -> list[np.ndarray]:
        self.batches.append([len(window.samples) / SAMPLE_RATE for window in windows])
        self.gate.wait(10)
        if self.error:
            raise self.error
        return [np.zeros(len(window.samples) // 640) for window in windows]


@dataclass
class StubTranscription:
    """Windows of given seconds; notes what it is fed."""

    seconds: Sequence[float]
    fails_at: int | None = None
    read: int = 0
    fed: int = 0
    closed: bool = False
    words: list[Word] = field(default_factory=list)

    def windows(self) -> Iterator[tuple[int, Window]]:
        try:
            for number, seconds in enumerate(self.seconds):
                if number == self.fails_at:
                    raise ValueError("damaged")
                self.read += 1
                yield 0, Window(np.zeros(int(seconds * SAMPLE_RATE), np.float32), 0, 1)
        finally:
            self.closed = True

    def feed(self, channel: int, log_probs: np.ndarray) -> None:
        self.fed += len(log_probs)
        self.words.append(Word(str(self.fed), 0, 0, 1))

    def committed(self) -> list[Word]:
        return self.words

    def finish(self) -> Transcript:
        return Transcript((), float(self.fed))


class Client:
    """A job, and what it reported."""

    def __init__(self, scheduler: Scheduler, transcription: Any, submit: bool = True) -> None:
        self.events: list[Event] = []
        self.over = threading.Event()
        self.transcription = transcription
        self.job = Job(transcription, self.report)
        if submit:
            scheduler.submit(self.job)

    def report(self, event: Event) -> None:
        assert not self.over.is_set(), "reported after the end"
        self.events.append(event)
        if not isinstance(event, list):
            self.over.set()

    def result(self) -> Event:
        assert self.over.wait(20)
        return self.events[-1]


@contextmanager
def scheduling(engine: Any, threads: int = 1) -> Iterator[Scheduler]:
    scheduler = Scheduler(engine, threads)
    try:
        yield scheduler
    finally:
        if isinstance(engine, StubEngine):
            engine.gate.set()
        scheduler.close()


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not true():
        assert time.monotonic() < end
        time.sleep(0.002)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_results_are_those_of_the_offline_pipeline(model: Transcriber, threads: int) -> None:
    random = np.random.default_rng(threads)
    texts = [
        " ".join("ABCDEFG"[: random.integers(1, 8)] for _ in range(n)) for n in (1, 300, 2, 40, 0, 120, 3)
    ]
    with scheduling(model.engine, threads) as scheduler:
        blocks = [np.array_split(speak(text)[:, None], random.integers(1, 9)) for text in texts]
        begin = model.decoder.stream
        jobs = [Transcription(Source(part), model.engine, begin) for part in blocks]
        results = [Client(scheduler, job) for job in jobs]
        offline = model.transcribe_batch([speak(text) for text in texts], options=TranscribeOptions(raw=True))
        assert [client.result() for client in results] == offline
    for client, text in zip(results, texts, strict=True):
        spoken = [word.text for event in client.events[:-1] for word in event]
        assert text.split()[: len(spoken)] == spoken, "reported words are a prefix of the text"


def test_a_clip_overtakes_a_long_recording() -> None:
    engine = StubEngine()
    with scheduling(engine) as scheduler:
        long = Client(scheduler, StubTranscription([20.0] * 100))
        until(lambda: len(engine.batches) == 1)
        clips = [Client(scheduler, StubTranscription([3.0])) for _ in range(3)]
        engine.gate.set()
        assert all(isinstance(client.result(), Transcript) for client in (*clips, long))
    assert engine.batches[1] == [3.0] * 3, "the clips share the next batch, without long windows"


def test_a_long_recording_is_not_starved_by_clips() -> None:
    engine = StubEngine()
    engine.gate.set()
    with scheduling(engine) as scheduler:
        long = Client(scheduler, StubTranscription([20.0] * 10))
        clips = 0
        while not long.over.is_set():
            assert clips < 400
            Client(scheduler, StubTranscription([3.0])).result()
            clips += 1
    assert sum(len(batch) for batch in engine.batches if batch[0] == 20.0) == 10


def test_batches_hold_windows_of_several_jobs_within_the_budget() -> None:
    engine = StubEngine()
    with scheduling(engine) as scheduler:
        first = Client(scheduler, StubTranscription([1.0]))
        until(lambda: len(engine.batches) == 1)
        clients = [Client(scheduler, StubTranscription([s, s])) for s in (4.0, 5.0, 6.0, 18.0, 20.0)]
        engine.gate.set()
        assert all(isinstance(client.result(), Transcript) for client in (first, *clients))
    assert max(map(len, engine.batches)) >= 3
    for batch in engine.batches:
        assert max(batch) <= 2 * min(batch) and len(batch) * max(batch) <= BATCH_SECONDS


def test_little_is_read_ahead() -> None:
    engine = StubEngine()
    with scheduling(engine, threads=2) as scheduler:
        client = Client(scheduler, StubTranscription([20.0] * 100))
        until(lambda: len(engine.batches) == 2)
        time.sleep(0.05)
        assert client.transcription.read <= 3 * AHEAD
        engine.gate.set()
        assert client.result() == Transcript((), 100 * 500)


@pytest.mark.parametrize("threads", [2, 4])
def test_live_work_comes_first_and_has_threads_of_its_own(threads: int) -> None:
    engine = StubEngine()
    with scheduling(engine, threads) as scheduler, scheduler.session():
        Client(scheduler, StubTranscription([20.0] * 40))
        until(lambda: len(engine.batches) == threads - threads // 2)
        assert scheduler.live(lambda: "a chunk").result(5) == "a chunk"
        assert len(engine.batches) == threads - threads // 2
        failed = scheduler.live(lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            failed.result(5)


def test_live_windows_share_batches_and_go_first() -> None:
    engine = StubEngine()
    with scheduling(engine) as scheduler, scheduler.session():
        Client(scheduler, StubTranscription([20.0] * 3))
        until(lambda: len(engine.batches) == 1)
        windows = [Window(np.zeros(s * SAMPLE_RATE, np.float32), 0, 1) for s in (3, 20, 3, 2, 3, 3)]
        results = [scheduler.live_window(window) for window in windows]
        engine.gate.set()
        assert [len(result.result(5)) for result in results] == [25 * s for s in (3, 20, 3, 2, 3, 3)]
    assert engine.batches[1:4] == [[3, 3, 2, 3], [20], [3]]


def test_live_work_goes_first_on_one_thread_too() -> None:
    engine = StubEngine()
    with scheduling(engine) as scheduler, scheduler.session():
        client = Client(scheduler, StubTranscription([20.0] * 3))
        until(lambda: len(engine.batches) == 1)
        chunk = scheduler.live(lambda: client.transcription.fed)
        engine.gate.set()
        assert chunk.result(5) == 0 and isinstance(client.result(), Transcript)


def test_a_client_that_leaves_is_dropped_before_its_next_window() -> None:
    engine = StubEngine()
    with scheduling(engine) as scheduler:
        client = Client(scheduler, StubTranscription([20.0] * 100))
        until(lambda: len(engine.batches) == 1)
        scheduler.cancel(client.job)
        engine.gate.set()
        assert isinstance(client.result(), LeftError)
        assert client.transcription.closed and len(engine.batches) == 1
        scheduler.cancel(client.job)  # twice, and late: nothing happens
        assert isinstance(Client(scheduler, StubTranscription([1.0])).result(), Transcript)


def test_errors_end_the_job_that_they_concern() -> None:
    engine = StubEngine()
    engine.gate.set()
    with scheduling(engine) as scheduler:
        broken = Client(scheduler, StubTranscription([1.0] * 9, fails_at=4))
        good = Client(scheduler, StubTranscription([1.0] * 9))
        assert isinstance(broken.result(), ValueError) and isinstance(good.result(), Transcript)
        engine.error = RuntimeError("engine")
        assert Client(scheduler, StubTranscription([1.0])).result() is engine.error
        engine.error = None
        assert isinstance(Client(scheduler, StubTranscription([1.0])).result(), Transcript)
        assert scheduler.stalled() == 0


def test_closing_ends_all_jobs_and_threads() -> None:
    engine = StubEngine()
    with scheduling(engine, threads=2) as scheduler:
        clients = [Client(scheduler, StubTranscription([20.0] * 100)) for _ in range(3)]
        until(lambda: len(engine.batches) == 2)
        assert 0 < scheduler.stalled() < 10
        chunk = scheduler.live_window(Window(np.zeros(16_000, np.float32), 0, 1))
    assert all(isinstance(client.result(), LeftError) for client in clients)
    assert chunk.done() and scheduler.live(lambda: 1).cancelled()
    assert all(client.transcription.closed for client in clients)
    assert not any(
        thread.name.startswith("asr-") and thread in scheduler._pool for thread in threading.enumerate()
    )
