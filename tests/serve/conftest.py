"""A real server in a thread, and ways to talk to it."""

import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
import soundfile

from asr.inference.transcriber import Transcriber, load_model
from asr.serve.limits import DeadlineProtocol
from asr.serve.options import ServeOptions
from asr.serve.server import Server, listen, make_server
from tests.standin import speak

TEXT = "IT'S A TEST"
ROUTE = "/v1/audio/transcriptions"


def recording(text: str = TEXT, kind: str = "WAV", seconds: float = 0.0) -> bytes:
    """A file that the stand-in reads as `text`, followed by silence up to `seconds`."""
    samples = speak(text)
    rest = max(0, int(seconds * 16_000) - len(samples))
    content = io.BytesIO()
    soundfile.write(content, np.concatenate([samples, np.zeros(rest)]), 16_000, format=kind)
    return content.getvalue()


def is_error(content: bytes, code: str | None = None) -> bool:
    """Return True for an error in OpenAI's shape, with all four keys."""
    error = json.loads(content)["error"]
    keys = {"message", "type", "param", "code"}
    return set(error) == keys and "Traceback" not in error["message"] and code in (None, error["code"])


@dataclass
class Running:
    """A server that runs."""

    server: Server
    port: int
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def service(self) -> Any:
        return self.server.config.app.state.service

    def post(self, file: bytes | None = None, name: str = "a.wav", **fields: Any) -> httpx2.Response:
        """Send a form; `fields` may be lists, and `__` in their names is `[]`."""
        files = None if file is None else {"file": (name, file)}
        form = {key.replace("__", "[]"): value for key, value in fields.items()}
        return httpx2.post(self.url + ROUTE, files=files, data=form, headers=self.headers, timeout=30)

    def get(self, path: str, **headers: str) -> httpx2.Response:
        sent = {key.replace("_", "-"): value for key, value in headers.items()}
        return httpx2.get(self.url + path, headers={**self.headers, **sent}, timeout=30)

    def connect(self, data: bytes = b"", timeout: float = 10.0) -> socket.socket:
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=timeout)
        connection.sendall(data)
        return connection

    def wait_until(self, true: Callable[[], bool], seconds: float = 10.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, "it never came true"
            time.sleep(0.01)


@contextmanager
def running(
    model: Transcriber,
    key: str | None = None,
    protocol: type[DeadlineProtocol] = DeadlineProtocol,
    ready: bool = True,
    wyoming: socket.socket | None = None,
    **options: Any,
) -> Iterator[Running]:
    """Start a server on a free port, by default with raw texts, and stop it at the end."""
    listener = listen("127.0.0.1", 0)
    asked = ServeOptions(**{"model": "some/tester", "raw": True, **options})
    server = make_server(model, asked, key, protocol, wyoming)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    found = Running(server, listener.getsockname()[1], {"authorization": f"Bearer {key}"} if key else {})
    try:
        if ready:
            found.wait_until(lambda: server.started and found.service.state == "ok", 120)  # it may compile
        yield found
    finally:
        server.should_exit = True
        thread.join(30)
    assert not thread.is_alive()


Start = Callable[..., AbstractContextManager[Running]]


@pytest.fixture(scope="session")
def model(standin_bundle: Path) -> Transcriber:
    return load_model(standin_bundle, threads=2)


@pytest.fixture(scope="session")
def start(model: Transcriber) -> Start:
    """Start a server with other options."""
    return lambda **options: running(options.pop("model_", model), **options)


@pytest.fixture(scope="session")
def server(start: Start) -> Iterator[Running]:
    """The server that most tests share."""
    with start() as found:
        yield found
