"""The ASGI application: routes, the order of checks, loading and stopping."""

import asyncio
import errno
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

import numpy as np
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from asr.audio import SAMPLE_RATE, ReadOptions
from asr.decoding.hotwords import Hotword
from asr.errors import AsrError, DecodingError
from asr.inference.transcriber import Transcriber, file_source
from asr.inference.transcript import Transcript
from asr.inference.transcription import Transcription
from asr.serve import openai
from asr.serve.limits import BodyCap, Guard, KeyCheck, Refused, SameSite, is_local
from asr.serve.openai import ApiError, Task, as_api_error
from asr.serve.options import ServeOptions
from asr.serve.scheduler import Event, Job, LeftError, Scheduler

OPEN_PATHS = frozenset({"/health"})
RETRY = 5  # seconds
SOON = (250, 62)  # look-back 10 s and settle 2.5 s, in frames: words of a stream are final sooner
MOST_FIELDS, LONGEST_FIELD = 256, 32 << 10
FIRST_EVENT, KEEP_ALIVE = 5.0, 10.0  # seconds
STALLED = 120.0  # seconds without progress after which /health reports it

_log = logging.getLogger(__name__)


class Service:
    """A loaded model with its scheduler, and what is known of the requests in progress."""

    def __init__(self, model: Transcriber, options: ServeOptions) -> None:
        self.model, self.options = model, options
        self.name = Path(options.model).resolve().name
        self.created = int(model.engine.path.stat().st_mtime)
        self.scheduler = Scheduler(model.engine, model.threads)
        self.ready = self.stopping = False
        self._clients: list[str] = []  # addresses, one for each upload in progress

    def warm_up(self) -> None:
        """Compile what decoding needs, with hotwords or not, by decoding noise."""
        self.model.transcribe(np.zeros(SAMPLE_RATE, np.float32))
        decoder = self.model.decoder
        noise = np.random.default_rng(0).dirichlet(np.ones(decoder.tokenizer.size), 100)
        for n_best in (1, 2):
            stream = decoder.stream(n_best=n_best)
            stream.feed(np.log(noise + 1e-9).astype(np.float32))
            stream.finish()
        self.ready = True

    def check_ready(self) -> None:
        """Raise ApiError while the server starts or stops."""
        if self.stopping:
            raise stopping()
        if not self.ready:
            raise ApiError(503, "loading", "the server is loading its model", retry=RETRY)

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
        """Transcribe an upload, which is closed when the job is over. Raises ApiError."""
        hotwords = tuple(Hotword(word) for word in task.keywords)
        begin = partial(self.model.decoder.stream, hotwords, pace=SOON if task.stream else None)
        try:
            begin()
        except DecodingError as error:
            raise openai.invalid("keywords", str(error)) from None
        source = file_source(upload, "mix", ReadOptions(longest=self.options.max_seconds))

        def close_and_report(event: Event) -> None:
            if not isinstance(event, list):
                upload.close()
            if task.stream or not isinstance(event, list):
                report(event)

        job = Job(Transcription(source, self.model.engine, begin), close_and_report)
        self.scheduler.submit(job)
        return job


# ---------------------------------------------------------------------------------------------- routes


async def transcribe(request: Request) -> Response:
    """POST /v1/audio/transcriptions."""
    service: Service = request.app.state.service
    with ExitStack() as held:
        held.enter_context(service.slot(request.client.host if request.client else ""))
        try:
            upload, fields = await _read_form(request, service.options.temp)
        except asyncio.CancelledError:
            raise stopping() from None
        events = _Events(request)
        held.callback(events.close)
        try:
            model = service.name if service.options.strict_model else None
            task = openai.read_task(fields, service.options.language, model)
            job = service.start(upload, task, events.report)
        except BaseException:
            upload.close()
            raise
        held.callback(service.scheduler.cancel, job)
        first = await events.next(FIRST_EVENT if task.stream else None)
        if isinstance(first, Exception):
            raise first
        headers = {"x-asr-model": service.name}
        if task.stream:
            return _Stream(first, events, task, headers, held.pop_all())
        assert isinstance(first, Transcript)
        content, media_type = openai.render(first, task)
        return Response(content, headers=headers, media_type=media_type)


def stopping() -> ApiError:
    """The answer while the server stops: uvicorn cancels what is still running after the drain."""
    return ApiError(503, "stopping", "the server is stopping", retry=RETRY)


class _Parser(MultiPartParser):
    """Writes a file to disk, where it has no name: whatever happens to the server, nothing stays behind."""

    def __init__(self, request: Request, folder: Path | None) -> None:
        limits: dict[str, Any] = {"max_files": 1, "max_fields": MOST_FIELDS, "max_part_size": LONGEST_FIELD}
        super().__init__(request.headers, request.stream(), **limits)
        self._folder = folder

    def on_headers_finished(self) -> None:
        """Replace Starlette's file, which would be kept in memory first."""
        super().on_headers_finished()
        if upload := self._current_part.file:
            upload.file.close()
            upload.file = cast("BinaryIO", TemporaryFile(dir=self._folder))  # noqa: SIM115
            self._files_to_close_on_error.append(cast("Any", upload.file))


async def _read_form(request: Request, folder: Path | None) -> tuple[BinaryIO, list[tuple[str, str]]]:
    """Read a form to the file in it, on disk, and the other fields. Raises ApiError."""
    missing = "send the recording as multipart/form-data, in a field named file"
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise ApiError(400, "missing_file", missing, "file")
    try:
        form = await _Parser(request, folder).parse()
    except (MultiPartException, UnicodeError, LookupError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "Invalid multipart data."
        raise ApiError(400, "invalid_form", f"the form cannot be read: {reason}") from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        _log.error("an upload cannot be stored: %s", error)
        reason = "its disk is full" if full else "its disk failed"
        raise ApiError(503, "disk_full" if full else "disk_failed", f"cannot store it: {reason}") from None
    uploads = [(name, item) for name, item in form.multi_items() if isinstance(item, UploadFile)]
    if not any(name == "file" for name, _ in uploads):
        for _, upload in uploads:
            upload.file.close()
        raise ApiError(400, "missing_file", missing, "file")
    upload = uploads[0][1]
    upload.file.raw.name = _file_name(upload.filename or "")  # type: ignore[attr-defined]  # for messages
    return upload.file, [(name, item) for name, item in form.multi_items() if isinstance(item, str)]


def _file_name(given: str) -> str:
    """A client's file name as messages show it; it is never used as a path."""
    return "".join(char for char in given if char.isprintable())[:100] or "audio"


class _Events:
    """What a job reports, brought to the event loop; the client's leaving is one more event."""

    def __init__(self, request: Request) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Event] = asyncio.Queue()
        self._watch = self._loop.create_task(self._wait_for_leaving(request.receive))

    def report(self, event: Event) -> None:
        """Add an event, from any thread."""
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def next(self, timeout: float | None = None) -> Event | None:
        """The next event; None after `timeout` seconds. Only a server that stops cancels this."""
        try:
            return await asyncio.wait_for(self._queue.get(), timeout)
        except asyncio.TimeoutError:
            return None
        except asyncio.CancelledError:
            return stopping()

    def close(self) -> None:
        """Stop watching the client."""
        self._watch.cancel()

    async def _wait_for_leaving(self, receive: Receive) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        self._queue.put_nowait(LeftError())


class _Stream(Response):
    """Server-sent events: words once they are final, then the text, or an error."""

    def __init__(
        self, first: Event | None, events: _Events, task: Task, headers: dict[str, str], held: ExitStack
    ) -> None:
        self.background = None
        self.status_code = 200
        self.media_type = "text/event-stream"
        self.init_headers({**headers, "cache-control": "no-cache", "x-accel-buffering": "no"})
        self._first, self._events, self._task, self._held = first, events, task, held

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the last one; then let go of what the request held."""
        with self._held:
            headers = [header for header in self.raw_headers if header[0] != b"content-length"]
            await send({"type": "http.response.start", "status": 200, "headers": headers})
            with suppress(LeftError):
                async for chunk in self._chunks():
                    await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _chunks(self) -> AsyncIterator[bytes]:
        event, sent = self._first, 0
        while True:
            if isinstance(event, list):
                yield openai.event(openai.delta(event, not sent, self._task))
                sent += len(event)
            elif isinstance(event, Transcript):
                if rest := event.words[sent:]:
                    yield openai.event(openai.delta(rest, not sent, self._task))
                yield openai.event(openai.done(event, self._task))
                return
            elif isinstance(event, LeftError):
                raise event
            elif isinstance(event, Exception):
                yield openai.event(_explain(event).body())
                return
            else:
                yield openai.KEEP_ALIVE
            event = await self._events.next(KEEP_ALIVE)


async def list_models(request: Request) -> Response:
    """GET /v1/models."""
    service: Service = request.app.state.service
    entry = openai.model_entry(service.name, service.created)
    return JSONResponse({"object": "list", "data": [entry]})


async def show_model(request: Request) -> Response:
    """GET /v1/models/{id}."""
    service: Service = request.app.state.service
    if (asked := request.path_params["id"]) != service.name:
        raise ApiError(404, "model_not_found", f"no model {asked[:100]!r}; this server has {service.name}")
    return JSONResponse(openai.model_entry(service.name, service.created))


async def health(request: Request) -> Response:
    """GET /health: 200 if uploads would be taken."""
    service: Service = request.app.state.service
    status = "stopping" if service.stopping else "ok" if service.ready else "loading"
    if service.scheduler.stalled() > STALLED:
        status = "stalled"
    return JSONResponse({"status": status, "model": service.name}, 200 if status == "ok" else 503)


# ------------------------------------------------------------------------------------------ application


def _explain(error: Exception) -> ApiError:
    """What a client is told; the log has the rest."""
    answer = as_api_error(error)
    if answer.status == 500:
        _log.error("a transcription failed", exc_info=None if isinstance(error, AsrError) else error)
    return answer


async def _answer(request: Request, error: Exception) -> Response:
    if isinstance(error, (ClientDisconnect, LeftError)):
        return Response(status_code=499)  # nobody reads it
    return Refused(_explain(error))


async def _answer_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    status, path = error.status_code, request.url.path[:100]
    headers = dict(error.headers or {})
    if status == 405:
        message = f"{request.method} {path}: this route takes {headers.get('Allow', 'another method')}"
        return Refused(ApiError(405, "method_not_allowed", message), headers)
    return Refused(ApiError(status, "not_found", f"no route {path!r}; see /v1/audio/transcriptions"), headers)


def create_app(model: Transcriber, options: ServeOptions, key: str | None = None) -> Starlette:
    """Build the application around a loaded model; it warms up when it starts."""
    service = Service(model, options)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        loading = asyncio.create_task(asyncio.to_thread(service.warm_up))
        yield
        service.stopping = True
        await asyncio.to_thread(service.scheduler.close)
        await loading

    checks = [Middleware(Guard, check=SameSite(options.host, options.allow_host, options.allow_origin))]
    if options.allow_origin:
        checks.append(Middleware(CORSMiddleware, options.allow_origin, ("GET", "POST"), ("*",)))
    if key:
        checks.append(Middleware(Guard, check=KeyCheck(key, OPEN_PATHS)))
    routes = [
        Route("/health", health),
        Route("/v1/models", list_models),
        Route("/v1/models/{id:path}", show_model),
        Route("/v1/audio/transcriptions", transcribe, methods=["POST"]),
    ]
    handlers: dict[Any, Any] = {HTTPException: _answer_http, Exception: _answer}
    handlers |= dict.fromkeys((ApiError, AsrError, ClientDisconnect, LeftError), _answer)
    checks.append(Middleware(BodyCap, most=options.max_bytes))
    app = Starlette(routes=routes, middleware=checks, exception_handlers=handlers, lifespan=lifespan)
    app.state.service = service
    return app
