"""The ASGI application: routes, the order of checks, loading and stopping."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from threading import Thread
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Receive, Scope, Send

from asr.errors import AsrError
from asr.inference.transcriber import Transcriber
from asr.inference.transcript import Transcript
from asr.serve import openai, pages, sockets, wyoming
from asr.serve.limits import BodyCap, Guard, KeyCheck, Refused, SameSite
from asr.serve.openai import ApiError, Task, as_api_error
from asr.serve.options import ServeOptions
from asr.serve.scheduler import Event, LeftError
from asr.serve.service import Events, Service, not_ready
from asr.serve.upload import read_form

OPEN_PATHS = frozenset({"/health", *pages.FILES})
FIRST_EVENT, KEEP_ALIVE = 5.0, 10.0  # seconds
STALLED = 120.0  # seconds without progress after which /health reports it

EVENT_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}

_log = logging.getLogger(__name__)


# ---------------------------------------------------------------------------------------------- routes


async def transcribe(request: Request) -> Response:
    """POST /v1/audio/transcriptions."""
    service: Service = request.app.state.service
    with ExitStack() as held:
        held.enter_context(service.slot(request.client.host if request.client else ""))
        try:
            upload, fields = await read_form(request, service.options.temp)
        except asyncio.CancelledError:
            raise not_ready("stopping") from None
        events = Events(request.receive)
        held.callback(events.close)
        try:
            model = service.name if service.options.strict_model else None
            task = openai.read_task(fields, service.options.language, model, upload.name)
            job = await asyncio.to_thread(service.start, upload, task, events.report)
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
        content, media_type = await asyncio.to_thread(openai.render, first, task)
        return Response(content, headers=headers, media_type=media_type)


class _Stream(Response):
    """Server-sent events: words once they are final, then the text, or an error."""

    def __init__(
        self, first: Event | None, events: Events, task: Task, headers: dict[str, str], held: ExitStack
    ) -> None:
        super().__init__(headers={**headers, **EVENT_HEADERS}, media_type="text/event-stream")
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
    status = "stalled" if service.scheduler.stalled() > STALLED else service.state
    found = {"status": status, "model": service.name, "max_bytes": service.options.max_bytes}
    return JSONResponse(found, 200 if status == "ok" else 503)


# ------------------------------------------------------------------------------------------ application


def _explain(error: Exception) -> ApiError:
    """Convert an error to what the client is told; the log has the rest."""
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


def create_app(
    model: Transcriber, options: ServeOptions, key: str | None = None, port: socket.socket | None = None
) -> Starlette:
    """Build the application around a loaded model; it warms up when it starts. `port` is for Wyoming."""
    service = Service(model, options)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        Thread(
            target=service.warm_up, daemon=True
        ).start()  # it may compile for a minute, and still be stopped
        async with AsyncExitStack() as stack:
            if port:
                await stack.enter_async_context(await wyoming.listen(service, port))
            yield
        service.state = "stopping"
        await asyncio.to_thread(service.scheduler.close)

    checks = [Middleware(Guard, check=SameSite(options.host, options.allow_host, options.allow_origin))]
    if options.allow_origin:
        checks.append(Middleware(CORSMiddleware, options.allow_origin, ("GET", "POST"), ("*",)))
    if key:
        checks.append(Middleware(Guard, check=KeyCheck(key, OPEN_PATHS)))
    routes = [
        *pages.routes(),
        Route("/health", health),
        Route("/v1/models", list_models),
        Route("/v1/models/{id:path}", show_model),
        Route("/v1/audio/transcriptions", transcribe, methods=["POST"]),
        WebSocketRoute("/v1/realtime", sockets.realtime),
        *([WebSocketRoute("/", sockets.vosk)] if options.vosk else []),
    ]
    handlers: dict[Any, Any] = {HTTPException: _answer_http, Exception: _answer}
    handlers |= dict.fromkeys((ApiError, AsrError, ClientDisconnect, LeftError), _answer)
    checks.append(Middleware(BodyCap, most=options.max_bytes))
    app = Starlette(routes=routes, middleware=checks, exception_handlers=handlers, lifespan=lifespan)
    app.state.service = service
    return app
