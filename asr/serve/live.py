"""Shared parts of the live protocols: slots, bytes -> samples, windows of a session through the scheduler."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, cached_property, partial
from typing import Any, NamedTuple, TypeVar

import numpy as np
import soxr

from asr.audio import SAMPLE_RATE
from asr.inference.live import Event, LiveOptions, LiveSession, LiveWindow
from asr.inference.transcriber import TranscribeOptions, Transcriber
from asr.serve.openai import ApiError, as_api_error, invalid
from asr.serve.scheduler import Scheduler

IDLE = 300.0
"""Seconds without a message after which a session ends."""
DONE, GOING_AWAY, REFUSED, FAILED, TRY_LATER = 1000, 1001, 1008, 1011, 1013
"""Close codes of websockets, RFC 6455."""
RATES = (8_000, 48_000)
BLOCK = 50  # blocks a second: the resampler gets the same ones however packets are cut

Message = TypeVar("Message")


class PcmReader:
    """Decodes mono "audio/pcm" (16 bits, little-endian), "audio/pcmu" or "audio/pcma" to float32 at 16 kHz.

    Packets may be cut anywhere, in the middle of a sample too. Raises ApiError.
    """

    def __init__(self, kind: str = "audio/pcm", rate: int = SAMPLE_RATE) -> None:
        if not RATES[0] <= rate <= RATES[1]:
            raise invalid("rate", f"a sample rate of {rate} Hz; send {RATES[0]} to {RATES[1]}")
        self.second = rate * (2 if kind == "audio/pcm" else 1)  # bytes
        self._table = None if kind == "audio/pcm" else _g711(kind)
        self._block = 2 * (self.second // BLOCK // 2)
        self._resampler = None if rate == SAMPLE_RATE else soxr.ResampleStream(rate, SAMPLE_RATE, 1)
        self._rest = b""

    def push(self, data: bytes) -> np.ndarray:
        """Samples of whole blocks; the rest waits for more."""
        data = self._rest + data
        whole = len(data) - len(data) % self._block
        self._rest = data[whole:]
        blocks = [self._decode(data[at : at + self._block]) for at in range(0, whole, self._block)]
        return np.concatenate([np.zeros(0, np.float32), *blocks])

    def end(self) -> np.ndarray:
        """The last samples. Half a sample is dropped."""
        whole = len(self._rest) if self._table is not None else len(self._rest) // 2 * 2
        return self._decode(self._rest[:whole], last=True)

    def _decode(self, data: bytes, last: bool = False) -> np.ndarray:
        if self._table is None:
            samples = np.frombuffer(data, "<i2").astype(np.float32) / 2**15
        else:
            samples = self._table[np.frombuffer(data, np.uint8)]
        return samples if self._resampler is None else self._resampler.resample_chunk(samples, last)


def open_session(
    model: Transcriber, options: LiveOptions, keywords: Sequence[str], n_best: int = 1, raw: bool = False
) -> LiveSession:
    """Begin to recognise. Raises ApiError for keywords that cannot be spelt."""
    asked = TranscribeOptions(hotwords=tuple(keywords), n_best=n_best, raw=raw)
    live = LiveSession(model, options, asked)
    if live.warnings:
        raise invalid("keywords", "; ".join(live.warnings))
    return live


@cache
def _g711(kind: str) -> np.ndarray:
    """The sample of each of the 256 codes of mu-law (audio/pcmu) or A-law (audio/pcma); ITU-T G.711."""
    codes = np.arange(256) ^ (0xFF if kind == "audio/pcmu" else 0x55)
    exponent, mantissa = codes >> 4 & 7, codes & 15
    if kind == "audio/pcmu":
        sizes, negative = ((2 * mantissa + 33 << exponent) - 33) * 4, codes & 0x80
    else:
        sizes = (2 * mantissa + 1 + 32 * (exponent > 0) << np.maximum(exponent - 1, 0)) * 8
        negative = ~codes & 0x80
    return (np.where(negative, -sizes, sizes) / 2**15).astype(np.float32)


class End(NamedTuple):
    """Why a session ends: close code, None if the client has left; `finish` what is in progress first."""

    code: int | None
    error: ApiError | None = None
    finish: bool = False


LEFT = End(None)


def failed(error: Exception) -> End:
    """End because of an error; those that no client caused are logged."""
    answer = as_api_error(error)
    if answer.status == 500:
        logging.getLogger(__name__).error("a live session failed", exc_info=error)
    return End(FAILED if answer.status == 500 else REFUSED, answer)


class Slots:
    """Live sessions in progress, at most `most`, each for at most `longest` seconds."""

    def __init__(self, scheduler: Scheduler, most: int, longest: float, drain: float) -> None:
        self.scheduler, self.longest, self.drain = scheduler, longest, drain
        self._most = most
        self._tasks: set[asyncio.Task[Any]] = set()

    @cached_property
    def stopping(self) -> asyncio.Future[None]:
        """Done once the server stops."""
        return asyncio.get_running_loop().create_future()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Take a place for the task that runs. Raises ApiError if all are taken."""
        if len(self._tasks) >= self._most:
            message = f"{self._most} live sessions are in progress, the most here; try again later"
            raise ApiError(503, "busy", message, retry=5)
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        try:
            with self.scheduler.session():
                yield
        finally:
            self._tasks.discard(task)

    async def stop(self) -> None:
        """Let sessions finish, for `drain` seconds."""
        if not self.stopping.done():
            self.stopping.set_result(None)
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self.drain)

    async def run(self, session: LiveSession) -> list[Event]:
        """Compute all windows that are due, in order."""
        events: list[Event] = []
        while window := session.next_window():
            events += await self.compute(window, partial(session.feed, window))
        return events

    async def compute(self, window: LiveWindow, feed: Callable[[np.ndarray], list[Event]]) -> list[Event]:
        """Compute a window and feed the result, both before all uploads."""
        log_probs = await asyncio.wrap_future(self.scheduler.live_window(window))
        return await asyncio.wrap_future(self.scheduler.live(partial(feed, log_probs)))


class Inbox:
    """Messages of a client, until it is idle or has had its time, or the server stops."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self._until = asyncio.get_running_loop().time() + slots.longest

    async def next(self, read: Coroutine[Any, Any, Message]) -> Message | End:
        """The message that `read` returns, or why there is none."""
        reading = asyncio.create_task(read)
        left = self._until - asyncio.get_running_loop().time()
        try:
            waited: set[asyncio.Future[Any]] = {reading, self._slots.stopping}
            done, _ = await asyncio.wait(waited, timeout=min(IDLE, left), return_when=asyncio.FIRST_COMPLETED)
            if reading in done:
                return reading.result()
        finally:
            reading.cancel()
        if done:
            return End(GOING_AWAY, finish=True)
        if left < IDLE:
            message = f"the session lasted {self._slots.longest:g} s, the longest here"
            return End(REFUSED, ApiError(408, "session_expired", message), finish=True)
        return End(REFUSED, ApiError(408, "idle_timeout", f"nothing came for {IDLE:g} s"), finish=True)
