"""One pool of threads for all requests.

A job is read, computed and decoded window by window, and jobs take turns by window, so that a short clip
never waits for a long recording. Windows of several jobs share batches. Live work comes first; while a live
session is open, a share of the threads does nothing else.
"""

import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Condition, Thread
from typing import Any, TypeVar

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.decoding.types import Word
from asr.inference.engine import BATCH_SECONDS, Engine, Window
from asr.inference.transcript import Transcript
from asr.inference.transcription import Transcription

AHEAD = 2  # windows of a job that are read before one of them is computed
SLICE = 125  # frames (5 s) that are decoded at a time: nobody can go first meanwhile
LIVE_SECONDS = 12.0  # in a batch of live windows: more would be computed sooner, but each later
UNEQUAL = 2  # lengths that share a batch: a clip would wait for a window of 20 s

Result = TypeVar("Result")
Event = list[Word] | Transcript | Exception
"""Report of a job: words that are final now; at last the transcript, or an error."""

_log = logging.getLogger(__name__)


class LeftError(Exception):
    """The client of a job has left."""


@dataclass(eq=False)
class _Piece:
    """A window of a job, and its posteriors once they are computed."""

    channel: int
    window: Window
    log_probs: np.ndarray | None = None


class Job:
    """A transcription, and `report`, called from any thread; the rest belongs to the scheduler."""

    def __init__(self, transcription: Transcription, report: Callable[[Event], None]) -> None:
        self.transcription, self.report = transcription, report
        self.outcome: Transcript | Exception | None = None
        self.tag = 0.0  # seconds decoded, on the scheduler's clock
        self.windows = transcription.windows()
        self.unread = True
        self.reading = self.decoding = False
        self.ready: deque[_Piece] = deque()  # read, not yet being computed
        self.pieces: deque[_Piece] = deque()  # read, not yet decoded; in order
        self.reported = 0  # words


class Scheduler:
    """Runs jobs, and live work before them, on `threads` threads."""

    def __init__(self, engine: Engine, threads: int) -> None:
        self._engine, self._threads = engine, threads
        self._budget = int(BATCH_SECONDS * SAMPLE_RATE)
        self._wake = Condition()  # guards all that follows
        self._jobs: list[Job] = []
        self._live: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._live_windows: deque[tuple[Window, Future[np.ndarray]]] = deque()
        self._sessions = 0  # live ones
        self._busy = 0  # threads that work for jobs
        self._clock = 0.0  # virtual time: seconds that each job would have decoded if served equally
        self._progress = time.monotonic()
        self._closed = False
        self._pool = [Thread(target=self._work, name=f"asr-{i}", daemon=True) for i in range(threads)]
        for thread in self._pool:
            thread.start()

    # ------------------------------------------------------------------------------------ for requests

    def submit(self, job: Job) -> None:
        """Start a job. Its last report is a transcript or an error; nothing is read after that."""
        with self._wake:
            if not self._jobs:
                self._progress = time.monotonic()
            job.tag = self._clock
            self._jobs.insert(0, job)
            self._wake.notify_all()

    def cancel(self, job: Job) -> None:
        """Drop a job before its next window."""
        with self._wake:
            self._settle(job, LeftError())
            self._wake.notify_all()

    def live(self, work: Callable[[], Result]) -> "Future[Result]":
        """Run a piece of a live session before all jobs; pieces run in any order."""
        future: Future[Result] = Future()
        self._enqueue(self._live, (work, future))
        return future

    def live_window(self, window: Window) -> "Future[np.ndarray]":
        """Compute the posteriors of a window of a live session, as `live`; sessions share batches."""
        future: Future[np.ndarray] = Future()
        self._enqueue(self._live_windows, (window, future))
        return future

    def _enqueue(self, lane: "deque[tuple[Any, Future[Any]]]", entry: "tuple[Any, Future[Any]]") -> None:
        with self._wake:
            lane.append(entry)
            if self._closed:
                entry[1].cancel()
            self._wake.notify_all()

    @contextmanager
    def session(self) -> Iterator[None]:
        """Reserve the live share of the threads."""
        with self._wake:
            self._sessions += 1
        try:
            yield
        finally:
            with self._wake:
                self._sessions -= 1
                self._wake.notify_all()

    def stalled(self) -> float:
        """Seconds for which there were jobs and none of them moved."""
        with self._wake:
            return time.monotonic() - self._progress if self._jobs else 0.0

    def close(self) -> None:
        """Stop once running pieces are done; jobs that are left report LeftError."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        for thread in self._pool:
            thread.join()
        for job in self._jobs:
            job.windows.close()
            job.report(LeftError())
        for _, future in (*self._live, *self._live_windows):
            future.cancel()
        self._jobs = []

    # ----------------------------------------------------------------------------------- in the threads

    def _work(self) -> None:
        while True:
            with self._wake:
                found = None
                while not (self._closed or (found := self._next())):
                    self._wake.wait()
                if self._closed or not found:
                    return
                for_job, piece = found
                self._busy += for_job
            try:
                piece()
            except Exception:  # a bug; the thread must go on
                _log.exception("a piece of work failed")
            with self._wake:
                self._busy -= for_job
                self._progress = time.monotonic()
                self._wake.notify_all()

    def _next(self) -> tuple[bool, Callable[[], None]] | None:
        """Choose what a free thread does, and whether for a job: live work, else the job whose turn it is."""
        if self._live:
            return False, partial(_run, *self._live.popleft())
        if self._live_windows:
            return False, partial(self._compute_live, self._live_batch())
        reserved = min(max(1, self._threads // 2), self._threads - 1) if self._sessions else 0
        if self._busy >= self._threads - reserved:
            return None
        self._jobs.sort(key=lambda job: job.tag)  # the latest comes first among equals
        for job in self._jobs:
            if step := self._step(job):
                return True, step
        return None

    def _step(self, job: Job) -> Callable[[], None] | None:
        """Choose the next step of a job, the nearest to its end that is possible now."""
        if job.outcome:
            if job.reading or job.decoding:
                return None
            self._jobs.remove(job)
            return partial(self._end, job)
        last = not (job.unread or job.pieces)
        if not job.decoding and (last or (job.pieces and job.pieces[0].log_probs is not None)):
            job.decoding = True
            return partial(self._finish if last else self._decode, job)
        if self._may_read(job):
            return self._start_reading(job)
        if not job.ready:
            return None
        for other in self._jobs:  # new ones may share the batch
            if not other.pieces and self._may_read(other):
                return self._start_reading(other)
        return partial(self._compute, self._batch(job))

    def _may_read(self, job: Job) -> bool:
        room = len(job.ready) < AHEAD and len(job.pieces) < AHEAD * (self._threads + 1)
        return job.unread and room and not (job.reading or job.outcome)

    def _start_reading(self, job: Job) -> Callable[[], None]:
        job.reading = True
        return partial(self._read, job)

    def _batch(self, first: Job) -> list[tuple[Job, _Piece]]:
        """Windows about as long as the first one of a job, of each job in turn."""
        batch: list[tuple[Job, _Piece]] = []
        shortest, longest = math.inf, 0
        for job in (first, *self._jobs * AHEAD):
            if job.ready:
                size = len(job.ready[0].window.samples)
                low, high = min(shortest, size), max(longest, size)
                if not batch or (high <= UNEQUAL * low and (len(batch) + 1) * high <= self._budget):
                    batch.append((job, job.ready.popleft()))
                    shortest, longest = low, high
        return batch

    def _live_batch(self) -> "list[tuple[Window, Future[np.ndarray]]]":
        """The oldest window, and those after it that are about as long."""
        batch = [self._live_windows.popleft()]
        size, rest = len(batch[0][0].samples), deque[tuple[Window, Future[np.ndarray]]]()
        for entry in self._live_windows:
            alike = size / UNEQUAL <= len(entry[0].samples) <= size
            fits = alike and (len(batch) + 1) * size <= LIVE_SECONDS * SAMPLE_RATE
            (batch if fits else rest).append(entry)
        self._live_windows = rest
        return batch

    def _compute_live(self, batch: "list[tuple[Window, Future[np.ndarray]]]") -> None:
        batch = [entry for entry in batch if entry[1].set_running_or_notify_cancel()]
        try:
            outputs = self._engine.run([window for window, _ in batch]) if batch else []
        except Exception as error:
            for _, future in batch:
                future.set_exception(error)
            return
        for (_, future), log_probs in zip(batch, outputs, strict=True):
            future.set_result(log_probs)

    def _read(self, job: Job) -> None:
        """Read the next window of a job."""
        found = error = None
        try:
            found = next(job.windows, None)
        except Exception as raised:
            error = raised
        with self._wake:
            job.reading = False
            if error:
                self._settle(job, error)
            elif found is None:
                job.unread = False
            elif not job.outcome:
                piece = _Piece(*found)
                job.ready.append(piece)
                job.pieces.append(piece)

    def _compute(self, batch: list[tuple[Job, _Piece]]) -> None:
        """Compute the posteriors of a batch."""
        try:
            outputs = self._engine.run([piece.window for _, piece in batch])
        except Exception as error:
            with self._wake:
                for job, _ in batch:
                    self._settle(job, error)
            return
        with self._wake:
            for (_, piece), log_probs in zip(batch, outputs, strict=True):
                piece.log_probs = log_probs

    def _decode(self, job: Job) -> None:
        """Decode the next few seconds of posteriors, and report the words that became final."""
        piece, error = job.pieces[0], None
        assert piece.log_probs is not None
        part, rest = piece.log_probs[:SLICE], piece.log_probs[SLICE:]
        try:
            job.transcription.feed(piece.channel, part)
            if words := job.transcription.committed()[job.reported :]:
                job.reported += len(words)
                job.report(words)
        except Exception as raised:
            error = raised
        seconds = len(part) * self._engine.frame_seconds
        with self._wake:
            job.decoding = False
            job.tag += seconds
            self._clock += seconds / max(1, len(self._jobs))
            if error:
                self._settle(job, error)
            elif len(rest):
                piece.log_probs = rest
            elif job.pieces:
                job.pieces.popleft()

    def _finish(self, job: Job) -> None:
        try:
            outcome: Transcript | Exception = job.transcription.finish()
        except Exception as error:
            outcome = error
        with self._wake:
            job.decoding = False
            self._settle(job, outcome)

    def _settle(self, job: Job, outcome: Transcript | Exception) -> None:
        """Set how a job ends, unless that is known; nothing more is computed for it."""
        job.outcome = job.outcome or outcome
        job.ready.clear()
        job.pieces.clear()

    def _end(self, job: Job) -> None:
        """Make a job's last report."""
        job.windows.close()
        assert job.outcome
        job.report(job.outcome)


def _run(work: Callable[[], Result], future: "Future[Result]") -> None:
    """Run work for a future, unless that was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = work()
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)
