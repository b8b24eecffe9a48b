"""The loaded model as requests see it: admission, and jobs with their events."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
from starlette.types import Receive

from asr.audio import SAMPLE_RATE, ReadOptions
from asr.decoding.hotwords import Hotword
from asr.decoding.types import Word
from asr.formatting.readable import LiveFormatter
from asr.inference.live import LiveSession
from asr.inference.transcriber import TranscribeOptions, Transcriber, file_source
from asr.inference.transcript import Transcript, format_transcript, segments
from asr.inference.transcription import Transcription
from asr.serve.limits import is_local
from asr.serve.live import Slots
from asr.serve.openai import ApiError, Task
from asr.serve.options import ServeOptions
from asr.serve.scheduler import Event, Job, LeftError, Scheduler
from asr.serve.session import Server

RETRY = 5  # seconds
SOON = (250, 62)  # look-back 10 s and settle 2.5 s, in frames: words of a stream are final sooner

_log = logging.getLogger(__name__)


STATES = {
    "loading": "the server is loading its model",
    "failed": "the server's model cannot be used; its log says why",
    "stopping": "the server is stopping",
}


def not_ready(state: str) -> ApiError:
    """The answer in a state other than ok."""
    return ApiError(503, state, STATES[state], retry=RETRY)


class Service:
    """A loaded model with its scheduler, and what is known of the requests in progress."""

    def __init__(self, model: Transcriber, options: ServeOptions) -> None:
        self.model, self.options = model, options
        self.name = Path(options.model).resolve().name
        self.created = int(model.engine.path.stat().st_mtime)
        self.scheduler = Scheduler(model.engine, model.threads)
        self.live = Slots(self.scheduler, options.live, options.max_live_seconds, options.drain)
        name = self.name if options.strict_model else None
        self.sessions = Server(model, options.language, name, options.raw)
        self.state = "loading"  # then ok, or another of STATES
        self._clients: list[str] = []  # addresses, one for each upload in progress

    def warm_up(self) -> None:
        """Compile what decoding needs, with hotwords or not, by decoding noise; then the state is ok."""
        decoder = self.model.decoder
        noise = np.random.default_rng(0).dirichlet(np.ones(decoder.tokenizer.size), 100)
        try:
            self.model.transcribe(np.zeros(SAMPLE_RATE, np.float32))
            for n_best in (1, 2):
                stream = decoder.stream(n_best=n_best)
                stream.feed(np.log(noise + 1e-9).astype(np.float32))
                stream.finish()
            LiveSession(self.model).push(np.zeros(2 * SAMPLE_RATE, np.float32))
        except Exception:
            _log.exception("the model cannot be used")
            self.state = "failed"
            return
        if self.state == "loading":
            self.state = "ok"

    def check_ready(self) -> None:
        """Raise ApiError while the server starts or stops."""
        if self.state != "ok":
            raise not_ready(self.state)

    @contextmanager
    def slot(self, client: str) -> Iterator[None]:
        """Take a place in the queue. Raises ApiError if all are taken, or too many by this client."""
        self.check_ready()
        if len(self._clients) >= self.options.queue:
            raise ApiError(503, "busy", "the server is busy; try again later", retry=RETRY)
        share = max(1, self.options.queue // 2)
        if not is_local(client) and self._clients.count(client) >= share:
            message = f"{share} uploads of this client are in progress; wait for one of them"
            raise ApiError(429, "rate_limit_exceeded", message, retry=RETRY)
        self._clients.append(client)
        try:
            yield
        finally:
            self._clients.remove(client)

    def start(self, upload: BinaryIO, task: Task, report: Callable[[Event], None]) -> Job:
        """Transcribe an upload, which is closed when the job is over."""
        decoder = self.model.decoder
        hotwords, warnings = decoder.fit_hotwords(map(Hotword, task.keywords))
        begin = partial(decoder.stream, hotwords, pace=SOON if task.stream else None)
        source = file_source(upload, "mix", ReadOptions(longest=self.options.max_seconds))
        for warning in warnings:
            source.notes.warn(warning)

        asked = TranscribeOptions(raw=self.options.raw)
        readable = _Readable(task.stream) if self.model.writes_readable(asked) else None

        def close_and_report(event: Event) -> None:
            if not isinstance(event, list):
                upload.close()
            elif not task.stream:
                return
            if readable:
                event = readable.format(event)
            if event != []:
                report(event)

        job = Job(Transcription(source, self.model.engine, begin), close_and_report)
        self.scheduler.submit(job)
        return job


class _Readable:
    """Adds punctuation and capitals to what a job reports.

    The words of a stream wait for those that follow them, and are the ones of its transcript.
    """

    def __init__(self, stream: bool) -> None:
        self._formatter = LiveFormatter() if stream else None
        self._seen = 0
        self._words: list[Word] = []

    def format(self, event: Event) -> Event:
        """Format the words of a report; may return no words yet."""
        if isinstance(event, Exception):
            return event
        if self._formatter is None:
            return format_transcript(event) if isinstance(event, Transcript) else event
        if isinstance(event, list):
            self._seen += len(event)
            words = self._formatter.push(event)
            self._words += words
            return words
        self._words += self._formatter.push(event.words[self._seen :])
        self._words += self._formatter.finish()
        return replace(event, segments=tuple(segments(self._words, sentences=True)), formatted=True)


class Events:
    """Queue of a job's reports in the event loop, and of the client's leaving."""

    def __init__(self, receive: Receive) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._watch = self._loop.create_task(self._wait_for_leaving(receive))

    def report(self, event: Event) -> None:
        """Add an event, from any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None after `timeout` seconds. Only uvicorn cancels this, after the drain."""
        try:
            return await asyncio.wait_for(self._queue.get(), timeout)
        except asyncio.TimeoutError:
            return None
        except asyncio.CancelledError:
            return not_ready("stopping")

    def close(self) -> None:
        """Stop watching the client."""
        self._watch.cancel()

    async def _wait_for_leaving(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._queue.put_nowait(LeftError())
