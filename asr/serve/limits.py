"""Protection against strangers and slow clients: Host, Origin, key, size of a body, deadlines."""

import asyncio
import hmac
import ipaddress
import json
import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import h11
from starlette.datastructures import Headers
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.protocols.utils import ClientDisconnected
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from asr.serve.openai import ApiError

LOCAL = ("localhost", "127.0.0.1", "::1")
ANY_ADDRESS = ("0.0.0.0", "::")
SUBPROTOCOL = "openai-insecure-api-key."
"""Prefix of the websocket subprotocol that holds the key of a browser, which cannot set a header."""
MOST_CONNECTIONS = 1000


def is_local(host: str) -> bool:
    """Return True if only programs on this machine reach an address."""
    return host in LOCAL or (_is_address(host) and ipaddress.ip_address(host).is_loopback)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


class Refused(JSONResponse):
    """An error in OpenAI's shape."""

    def __init__(self, error: ApiError, headers: dict[str, str] | None = None) -> None:
        super().__init__(error.body(), error.status, {**error.headers(), **(headers or {})})


Check = Callable[[Scope, Headers], None]
"""Raises ApiError if a request must be refused."""


class Guard:
    """ASGI middleware that refuses requests and websockets which fail a check."""

    def __init__(self, app: ASGIApp, check: Check) -> None:
        self.app, self.check = app, check

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, then pass on."""
        if scope["type"] in ("http", "websocket"):
            try:
                self.check(scope, Headers(scope=scope))
            except ApiError as error:
                if scope["type"] == "http" or "websocket.http.response" in scope.get("extensions", {}):
                    await Refused(error)(scope, receive, send)
                else:
                    await send({"type": "websocket.close", "code": 1008, "reason": error.code})
                return
        await self.app(scope, receive, send)


@dataclass(frozen=True)
class SameSite:
    """Checks Host, against DNS rebinding, and Origin, against web pages that use a local server.

    `bound` is the address of the server. A server on all addresses takes any address as Host, but no name
    that it was not given: rebinding needs a name.
    """

    bound: str
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()

    def __call__(self, scope: Scope, headers: Headers) -> None:
        """Check a request. Raises ApiError."""
        given = headers.get("host", "")
        host = _host_of(given)
        if not self._is_ours(host):
            hint = "start the server with --allow-host if this is its name"
            raise ApiError(403, "host_not_allowed", f"Host {given[:100]!r} is not this server; {hint}")
        origin = headers.get("origin")
        if origin is None or origin in self.origins:
            return
        secure = scope["scheme"] in ("https", "wss")
        if _origin_of(origin) != _origin_of(f"http{'s' * secure}://{given}"):
            hint = "start the server with --allow-origin if its pages may use it"
            raise ApiError(403, "origin_not_allowed", f"Origin {origin[:100]!r} is not allowed; {hint}")

    def _is_ours(self, host: str) -> bool:
        anywhere = self.bound in ANY_ADDRESS and _is_address(host)
        return host in (*LOCAL, self.bound.lower(), *map(str.lower, self.hosts)) or anywhere


def _host_of(netloc: str) -> str:
    try:
        return (urlsplit(f"//{netloc}").hostname or "").rstrip(".")
    except ValueError:
        return ""


def _origin_of(url: str) -> tuple[str, str | None, int | None] | None:
    """Scheme, host and port; a comparison of prefixes would accept http://localhost.example.org."""
    try:
        parts = urlsplit(url)
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    except ValueError:
        return None
    return (parts.scheme, parts.hostname, port) if parts.hostname else None


@dataclass(frozen=True)
class KeyCheck:
    """Checks the key, except for paths that are open."""

    key: str
    open_paths: frozenset[str]

    def __call__(self, scope: Scope, headers: Headers) -> None:
        """Check a request. Raises ApiError."""
        if scope["type"] == "http" and scope["path"] in self.open_paths:
            return
        kind, _, given = headers.get("authorization", "").partition(" ")
        offered = [given.strip()] if kind.lower() == "bearer" else []
        if scope["type"] == "websocket":
            names = map(str.strip, headers.get("sec-websocket-protocol", "").split(","))
            offered += [name.removeprefix(SUBPROTOCOL) for name in names if name.startswith(SUBPROTOCOL)]
        if not any(hmac.compare_digest(value.encode(), self.key.encode()) for value in offered):
            wrong = "this key is not the server's" if any(offered) else "this server needs a key"
            raise ApiError(401, "invalid_api_key", f"{wrong}; send it as Authorization: Bearer KEY")


class BodyCap:
    """ASGI middleware that stops reading a body beyond `most` bytes, whatever its headers stated."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on, with a limited `receive`, which raises ApiError."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = Headers(scope=scope).get("content-length", "0")
        size = 0

        async def limited() -> Message:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > self.most:
                raise self.error()
            return message

        if stated.isdecimal() and int(stated) > self.most:
            await Refused(self.error())(scope, receive, send)
        else:
            await self.app(scope, limited, send)

    def error(self) -> ApiError:
        """The error, with the limit."""
        mib = f"{self.most / 2**20:g} MiB"
        return ApiError(413, "file_too_large", f"the upload is larger than {mib}, the limit here", "file")


class Deadlines(NamedTuple):
    """Seconds that a client has; uvicorn has no such limits (its issue 157)."""

    request: float = 10.0  # to send the headers, also between two requests
    body: float = 25.0  # between two pieces of a body; shrinks if it comes below `floor`
    floor: float = 10_000.0  # bytes per second
    rest: float = 5.0  # to send the rest of a body whose request was answered early
    answer: float = 30.0  # to take more of an answer
    tick: float = 1.0


class DeadlineProtocol(H11Protocol):
    """HTTP that closes connections of clients that are too slow, and says errors in OpenAI's shape."""

    deadlines = Deadlines()
    _phase: str | None = None
    _until = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            transport.abort()
        self._check()

    def data_received(self, data: bytes) -> None:
        """Each byte of a body buys time."""
        if self._phase == "body":
            bought = self._until + len(data) / self.deadlines.floor
            self._until = min(self.loop.time() + self.deadlines.body, bought)
        super().data_received(data)

    def on_response_complete(self) -> None:
        """Begin the next request."""
        self._phase = None
        super().on_response_complete()

    def _check(self) -> None:
        if self.transport.is_closing() or self.transport.get_protocol() is not self:  # now a websocket
            return
        now, phase = self.loop.time(), self._find_phase()
        if phase != self._phase:
            self._phase = phase
            self._until = now + getattr(self.deadlines, phase) if phase else 0.0
        elif phase and now > self._until:
            self.transport.abort()
            return
        self.loop.call_later(self.deadlines.tick, self._check)

    def _find_phase(self) -> str | None:
        """Name what the server waits for; None if the client waits for the server."""
        if self.flow.write_paused:
            return "answer"
        if self.conn.their_state is h11.IDLE:
            return "request"
        if self.conn.their_state is h11.SEND_BODY and not self.flow.read_paused:
            return "rest" if self.cycle and self.cycle.response_complete else "body"
        return None

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP, unless an answer has begun. To the application its client has left."""
        if self.cycle and not self.cycle.response_complete:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            content = json.dumps(ApiError(400, "invalid_request", msg).body()).encode()
            headers = [("content-type", "application/json"), ("connection", "close")]
            headers.append(("content-length", str(len(content))))
            events: Iterable[Any] = (
                h11.Response(status_code=400, headers=headers, reason=b"Bad Request"),
                h11.Data(data=content),
                h11.EndOfMessage(),
            )
            for event in events:
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class WebSocketProtocol(WebSocketsSansIOProtocol):
    """Websockets of uvicorn, without its log entries for text that is not UTF-8 and for refused sessions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.logger = _websocket_log

    async def send(self, message: Any) -> None:
        """Send, or raise the error of a client that has left: also when a damaged frame was the reason."""
        await self.writable.wait()
        if self.close_sent:
            raise ClientDisconnected
        await super().send(message)


_websocket_log = logging.getLogger("uvicorn.error.websocket")
_websocket_log.addFilter(
    lambda record: not record.getMessage().startswith(("Invalid UTF-8", "ASGI callable returned without"))
)
