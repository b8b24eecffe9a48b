"""`asr serve`: checks of its options, the socket, and uvicorn around the application."""

import asyncio
import logging
import os
import shutil
import socket
import tempfile
from pathlib import Path

import uvicorn

from asr.console import print_error
from asr.errors import AsrError, UsageError
from asr.inference.transcriber import Transcriber
from asr.serve.app import create_app
from asr.serve.limits import DeadlineProtocol, WebSocketProtocol, is_local
from asr.serve.options import ServeOptions

KEY = "ASR_API_KEY"
MESSAGE_BYTES = 256 << 10
"""Largest websocket message."""
PONG = 60.0
"""Seconds for a pong, which may wait behind audio that is sent faster than it is recognised."""


def serve(model: Transcriber, options: ServeOptions, key: str | None) -> int:
    """Serve until a signal comes. Returns an exit code; raises AsrError if the server cannot start."""
    check_folder(options)
    logging.getLogger("python_multipart").setLevel(logging.ERROR)  # warns of every damaged form
    listener = listen(options.host, options.port)
    extra = None if options.wyoming is None else listen(options.host, options.wyoming)
    server = make_server(model, options, key, wyoming=extra)
    scheme = "https" if options.cert else "http"
    host, port = listener.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    print_error(f"serving {options.model} at {scheme}://{name}:{port} on {model.threads} threads")
    if extra:
        print_error(f"Wyoming at tcp://{name}:{extra.getsockname()[1]}")
    server.run(sockets=[listener])
    return 0


class Server(uvicorn.Server):
    """Refuses new work as soon as it is told to stop."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Drain: live sessions have `options.drain` seconds, then uploads, then uvicorn cancels them."""
        service = self.config.app.state.service  # type: ignore[union-attr]
        service.state = "stopping"
        await service.live.stop()
        await super().shutdown(sockets)
        await asyncio.sleep(0)  # cancelled requests say so


def make_server(
    model: Transcriber,
    options: ServeOptions,
    key: str | None = None,
    protocol: type[DeadlineProtocol] = DeadlineProtocol,
    wyoming: socket.socket | None = None,
) -> Server:
    """Configure uvicorn. Raises AsrError for a certificate that cannot be used."""
    config = uvicorn.Config(
        create_app(model, options, key, wyoming),
        http=protocol,
        ws=WebSocketProtocol,
        lifespan="on",
        log_level="error",  # warnings are about what clients send
        access_log=False,  # it would hold what clients put into addresses
        proxy_headers=False,
        server_header=False,
        ws_max_size=MESSAGE_BYTES,
        ws_ping_timeout=PONG,
        ws_per_message_deflate=False,  # sound does not shrink, bombs grow
        timeout_graceful_shutdown=options.drain,
        ssl_certfile=options.cert,
        ssl_keyfile=options.cert_key,
    )
    try:
        config.load()
    except OSError as error:
        raise AsrError(f"{options.cert}: cannot be used as a certificate ({error.strerror})") from None
    return Server(config)


def listen(host: str, port: int) -> socket.socket:
    """Open the socket. Raises AsrError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
        family, kind, protocol, _, address = min(found, key=lambda info: info[0])  # IPv4 first
        # socket.create_server leaves the protocol out, and asyncio then does not turn Nagle's algorithm off:
        # answers would be 40 ms late.
        listener = socket.socket(family, kind, protocol)
        try:
            if os.name == "posix":
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
        return listener
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise AsrError(f"{host}:{port}: {reason}; give another --host or --port") from None


def read_key(options: ServeOptions) -> str | None:
    """The key of the server, from a file or the environment. Raises UsageError if one is needed."""
    key = os.environ.get(KEY, "").strip()
    if options.key_file:
        key = options.key_file.read_text(encoding="utf-8").strip()
        if not key:
            raise AsrError(f"{options.key_file}: holds no key; write one into it")
    if not (key or options.allow_anonymous or is_local(options.host)):
        raise UsageError(
            f"--host {options.host} lets other machines in; "
            f"give a key (--key-file or ${KEY}), or --allow-anonymous"
        )
    if options.wyoming is not None and not (options.allow_anonymous or is_local(options.host)):
        raise UsageError("--wyoming knows no keys; with this --host give --allow-anonymous, too")
    if (options.cert is None) != (options.cert_key is None):
        raise UsageError("--cert and --cert-key belong together; give both")
    return key or None


def check_folder(options: ServeOptions) -> None:
    """Raise AsrError if uploads cannot be stored, and warn if the largest would not fit."""
    try:
        folder = options.temp or Path(tempfile.gettempdir())
        tempfile.TemporaryFile(dir=folder).close()
        free = shutil.disk_usage(folder).free
    except OSError as error:
        where = options.temp or "the temporary folder"
        raise AsrError(f"{where}: uploads cannot be stored ({error.strerror}); give --temp FOLDER") from None
    if free < options.max_bytes:
        print_error(f"{folder}: {free >> 20} MiB free, but an upload may have {options.max_bytes >> 20}")
