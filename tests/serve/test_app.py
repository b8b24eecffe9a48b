"""The server as its clients see it: the openai package, browsers, errors."""

import asyncio
import json
import re
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import openai
import pytest

from asr.errors import AsrError, BundleError, UsageError
from asr.inference import writers
from asr.inference.engine import Window
from asr.inference.transcriber import TranscribeOptions, Transcriber
from asr.serve import service
from asr.serve.limits import Guard, KeyCheck, SameSite
from asr.serve.options import ServeOptions, Size
from asr.serve.server import listen, make_server, read_key
from tests.serve.conftest import ROUTE, TEXT, Running, Start, is_error, recording

FORMATS: tuple[Any, ...] = ("json", "text", "srt", "verbose_json", "vtt")
LONG = "SO IT IS " * 120
ROOT = Path(__file__).parents[2]


@pytest.fixture
def client(server: Running) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none") as made:
        yield made


def expected(model: Transcriber, form: str, content: bytes) -> str:
    write = writers.FORMATS[{"text": "txt"}.get(form, form)]
    return write(model.transcribe(content, options=TranscribeOptions(raw=True)), Path("audio"))


@pytest.mark.parametrize("form", FORMATS)
def test_openai_client(client: openai.OpenAI, model: Transcriber, form: Any) -> None:
    content = recording(kind="FLAC")
    asked: list[Any] = ["word", "segment"]
    extra = {"timestamp_granularities": asked} if form == "verbose_json" else {}
    answer: Any = client.audio.transcriptions.create(
        model="whisper-1", file=("talk.flac", content), response_format=form, language="en", **extra
    )
    if isinstance(answer, str):
        assert answer == expected(model, form, content)
        return
    assert answer.text == TEXT and answer.usage.seconds == 2
    if form == "verbose_json":
        assert [word.word for word in answer.words] == TEXT.split()
        assert answer.segments[0].text == TEXT and answer.segments[0].compression_ratio > 0


def test_openai_client_with_logprobs_and_keywords(client: openai.OpenAI) -> None:
    answer = client.audio.transcriptions.create(
        model="any", file=("a.wav", recording()), include=["logprobs"], extra_body={"keywords": ["TEST"]}
    )
    assert answer.logprobs and "".join(str(entry.token) for entry in answer.logprobs) == TEXT


def test_openai_client_streams(client: openai.OpenAI) -> None:
    events = list(client.audio.transcriptions.create(model="a", file=("a.wav", recording(LONG)), stream=True))
    deltas = [event.delta for event in events if event.type == "transcript.text.delta"]
    assert events[-1].type == "transcript.text.done" and events[-1].text == LONG.strip()
    assert "".join(deltas) == LONG.strip() and len(deltas) > 3


def test_async_openai_client(server: Running) -> None:
    async def work() -> tuple[list[str], str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            create = client.audio.transcriptions.create
            many = [create(model="a", file=("a.wav", recording(text))) for text in ("ONE", "TWO", "SIX")]
            texts = [answer.text for answer in await asyncio.gather(*many)]
            stream = await create(model="a", file=("a.wav", recording(LONG)), stream=True)
            return texts, "".join([event.delta async for event in stream if "delta" in event.type])

    assert asyncio.run(work()) == (["ONE", "TWO", "SIX"], LONG.strip())


def test_openai_client_reads_models_and_errors(client: openai.OpenAI) -> None:
    assert [entry.id for entry in client.models.list()] == ["tester"]
    assert client.models.retrieve("tester").owned_by == "asr"
    with pytest.raises(openai.NotFoundError, match="tester"):
        client.models.retrieve("whisper-1")
    with pytest.raises(openai.BadRequestError, match=r"talk\.wav") as caught:
        client.audio.transcriptions.create(model="a", file=("talk.wav", b"no sound" * 99))
    assert caught.value.code == "invalid_audio" and caught.value.param == "file"
    with pytest.raises(openai.BadRequestError, match="no samples"):
        client.audio.transcriptions.create(model="a", file=("a.wav", recording("")), stream=True)


def test_node_client(server: Running, tmp_path: Path) -> None:
    """The openai package of Node, wherever NODE_PATH or a folder node_modules has it."""
    if not shutil.which("node"):
        pytest.skip("no node")
    script = (Path(__file__).parent / "client.mjs").read_text()
    (tmp_path / "client.mjs").write_text(script)
    (tmp_path / "a.wav").write_bytes(recording())
    if (ROOT / "node_modules").is_dir():
        (tmp_path / "node_modules").symlink_to(ROOT / "node_modules")
    command = ["node", "client.mjs", f"{server.url}/v1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    if done.returncode and "ERR_MODULE_NOT_FOUND" in done.stderr:
        pytest.skip("no package openai for node (npm install openai)")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        "text": TEXT,
        "words": TEXT.split(),
        "streamed": TEXT,
        "code": "invalid_audio",
    }


# ----------------------------------------------------------------------------------------- errors


def test_requests_without_a_recording(server: Running) -> None:
    answers = [
        server.post(model="a"),
        httpx2.post(server.url + ROUTE, json={"model": "a"}),
        httpx2.post(server.url + ROUTE, content=b"", headers={"content-type": "multipart/form-data"}),
        httpx2.post(server.url + ROUTE, files={"audio": ("a.wav", recording())}),
        httpx2.post(
            server.url + ROUTE,
            content=b"nonsense",
            headers={"content-type": "multipart/form-data; boundary=x"},
        ),
        httpx2.post(server.url + ROUTE, files=[("file", ("a", b"a")), ("file", ("b", b"b"))]),
        server.post(recording(), keywords__=["A"] * 300),
        server.post(recording(), prompt="long" * 10_000),
    ]
    for answer in answers:
        assert answer.status_code == 400 and is_error(answer.content)
        assert answer.headers["x-should-retry"] == "false"
    assert {answer.json()["error"]["code"] for answer in answers} == {"missing_file", "invalid_form"}


@pytest.mark.parametrize(
    ("fields", "code", "param"),
    [
        ({"response_format": "yaml"}, "invalid_value", "response_format"),
        ({"language": "fr"}, "unsupported_language", "language"),
        ({"known_speaker_names__": ["Ann"]}, "invalid_value", "known_speaker_names[]"),
    ],
)
def test_fields_that_cannot_be_used(server: Running, fields: dict[str, Any], code: str, param: str) -> None:
    answer = server.post(recording(), **fields)
    assert answer.status_code == 400 and is_error(answer.content, code)
    assert answer.json()["error"]["param"] == param


def test_keywords_that_cannot_be_spelt_are_named(server: Running) -> None:
    answer = server.post(recording(), keywords__=["TEST", "ÆØÅ"])
    assert answer.json()["text"] == TEXT
    (warning,) = answer.json()["warnings"]
    assert "ÆØÅ" in warning


def test_routes_and_methods(server: Running) -> None:
    for path, status in (("/v1/nothing", 404), ("/v1/models/x", 404), (ROUTE, 405)):
        answer = server.get(path)
        assert answer.status_code == status and is_error(answer.content)
    assert "POST" in server.get(ROUTE).json()["error"]["message"]
    assert server.get("/v1/models").json()["data"][0]["object"] == "model"
    assert server.get("/health").json()["status"] == "ok"


def test_the_file_name_is_a_label(server: Running) -> None:
    name = "../../etc/passwd\x1b[31m" + "x" * 500 + ".wav"
    message = server.post(b"junk" * 200, name=name).json()["error"]["message"]
    assert message.startswith("../../etc/passwd") and "\x1b" not in message and len(message) < 200
    assert "/tmp" not in message and server.post(recording(), name="../x").json()["text"] == TEXT


def test_long_recordings_are_measured_not_believed(start: Start) -> None:
    with start(max_seconds=20) as server:
        assert server.post(recording(seconds=19), "a.flac").status_code == 200
        for seconds, kind in ((21, "WAV"), (200, "FLAC")):
            answer = server.post(recording(seconds=seconds, kind=kind))
            assert answer.status_code == 413 and is_error(answer.content, "audio_too_long")
            assert "20 s" in answer.json()["error"]["message"]


def test_large_uploads_are_refused_before_they_arrive(start: Start) -> None:
    with start(max_bytes=Size("1M")) as server:
        answer = server.post(bytes(2 << 20))
        assert answer.status_code == 413 and is_error(answer.content, "file_too_large")
        assert "1 MiB" in answer.json()["error"]["message"] and answer.headers["x-should-retry"] == "false"
        head = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
        chunks = iter([head, *[bytes(1 << 16)] * 40])  # without Content-Length
        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = httpx2.post(server.url + ROUTE, content=chunks, headers=headers, timeout=30)
        assert answer.status_code == 413 and is_error(answer.content, "file_too_large")
        assert server.post(recording()).json()["text"] == TEXT


@dataclass
class SlowEngine:
    """The stand-in's engine behind a gate."""

    engine: Any
    gate: threading.Event
    waiting: int = 0
    error: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.engine, name)

    def run(self, windows: list[Window]) -> list[np.ndarray]:
        self.waiting += 1
        self.gate.wait(20)
        if self.error:
            raise self.error
        result: list[np.ndarray] = self.engine.run(windows)
        return result


@pytest.fixture
def slow(model: Transcriber) -> Iterator[Transcriber]:
    gate = threading.Event()
    gate.set()
    yield replace(model, engine=SlowEngine(model.engine, gate))
    gate.set()


def in_threads(
    server: Running, count: int, **fields: Any
) -> tuple[list[threading.Thread], list[httpx2.Response]]:
    answers: list[httpx2.Response] = []
    send = lambda: answers.append(server.post(recording(), **fields))  # noqa: E731
    threads = [threading.Thread(target=send) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, answers


def test_busy_is_said_before_the_body_is_read(
    start: Start, slow: Transcriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "RETRY", 1)
    with start(model_=slow, queue=2) as server:
        slow.engine.gate.clear()
        threads, answers = in_threads(server, 2)
        server.wait_until(lambda: len(server.service._clients) == 2)
        start_ = f"POST {ROUTE} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999\r\n"
        with server.connect(
            f"{start_}Content-Type: multipart/form-data; boundary=x\r\n\r\n".encode()
        ) as connection:
            head = b""
            while b"}}" not in head:  # nothing of the body was sent
                head += connection.recv(4096)
        assert b" 503 " in head and b"retry-after" in head and b'"busy"' in head
        assert server.get("/health").status_code == 200
        with openai.OpenAI(base_url=f"{server.url}/v1", api_key="x", max_retries=2) as client:
            threading.Timer(0.3, slow.engine.gate.set).start()
            answer = client.audio.transcriptions.create(model="a", file=("a.wav", recording()))  # retried
            assert answer.text == TEXT
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200, 200]


def test_one_client_of_another_machine_has_half_of_the_queue(start: Start) -> None:
    with start(queue=4) as server:
        with server.service.slot("10.0.0.1"), server.service.slot("10.0.0.1"):
            with pytest.raises(Exception, match="in progress") as caught, server.service.slot("10.0.0.1"):
                pass
            assert (caught.value.status, caught.value.retry) == (429, 5)
            with server.service.slot("10.0.0.2"), server.service.slot("127.0.0.1"):
                assert is_error(server.post(recording()).content, "busy")
        assert server.service._clients == []


def test_loading_is_said(start: Start, slow: Transcriber) -> None:
    slow.engine.gate.clear()
    with start(model_=slow, ready=False) as server:
        server.wait_until(lambda: server.server.started)
        health, upload = server.get("/health"), server.post(recording())
        assert (health.status_code, health.json()["status"]) == (503, "loading")
        assert (
            upload.status_code == 503
            and is_error(upload.content, "loading")
            and "retry-after" in upload.headers
        )
        slow.engine.gate.set()
        server.wait_until(lambda: server.get("/health").status_code == 200)


def test_a_model_that_cannot_be_used_is_no_healthy_server(start: Start, slow: Transcriber) -> None:
    slow.engine.error = BundleError("model.onnx: broken")
    with start(model_=slow, ready=False) as server:
        server.wait_until(lambda: server.server.started and server.service.state == "failed")
        assert server.get("/health").status_code == 503
        assert is_error(server.post(recording()).content, "failed")


def test_an_engine_that_fails_is_tried_once(start: Start, slow: Transcriber) -> None:
    with start(model_=slow) as server:
        slow.engine.error = BundleError("model.onnx: broken")
        client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=2)
        before = slow.engine.waiting
        with pytest.raises(openai.InternalServerError, match="broken"):
            client.audio.transcriptions.create(model="a", file=("a.wav", recording()))
        assert slow.engine.waiting == before + 1, "x-should-retry: false"
        stream = server.post(recording(LONG), stream="true")
        assert stream.status_code == 500 and is_error(stream.content, "server_error")


# ------------------------------------------------------------------------------ strangers and browsers


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:80", "127.0.0.1:9", "[::1]:8000", "LOCALHOST.", "asr.lan"]
)
def test_hosts_of_this_server(start: Start, host: str) -> None:
    with start(allow_host=("asr.lan",)) as server:
        assert server.get("/v1/models", host=host).status_code == 200


@pytest.mark.parametrize(
    "host", ["evil.com", "localhost.evil.com", "192.168.0.9", "127.0.0.1.evil.com", "[::2]", "a@b:x"]
)
def test_other_hosts(server: Running, host: str) -> None:
    for path in ("/v1/models", "/health"):
        answer = server.get(path, host=host)
        assert answer.status_code == 403 and is_error(answer.content, "host_not_allowed")


BAD_ORIGINS = [
    "null",
    "http://evil.com",
    "http://localhost.evil.com",
    "http://127.0.0.1:1",
    "https://127.0.0.1",
    "x",
    "",
]


@pytest.mark.parametrize("origin", BAD_ORIGINS)
def test_foreign_pages(server: Running, origin: str) -> None:
    headers = {"origin": origin}
    for answer in (
        httpx2.get(f"{server.url}/v1/models", headers=headers),
        httpx2.post(server.url + ROUTE, files={"file": ("a.wav", recording())}, headers=headers),
        httpx2.options(server.url + ROUTE, headers={**headers, "access-control-request-method": "POST"}),
    ):
        assert answer.status_code == 403 and is_error(answer.content, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.headers


def test_pages_of_its_own_and_those_allowed(start: Start) -> None:
    with start(allow_origin=("https://app.example.org", "null"), key="k") as server:
        own = server.get("/v1/models", origin=server.url)
        assert own.status_code == 200
        for origin in ("https://app.example.org", "null"):
            answer = server.get("/v1/models", origin=origin)
            assert answer.status_code == 200 and answer.headers["access-control-allow-origin"] == origin
            asked = {"origin": origin, "access-control-request-method": "POST"}
            asked["access-control-request-headers"] = "authorization"
            preflight = httpx2.options(server.url + ROUTE, headers=asked)  # without the key, as browsers do
            assert preflight.status_code == 200
            assert preflight.headers["access-control-allow-origin"] == origin
        assert server.get("/v1/models", origin="https://app.example.org.evil.com").status_code == 403


def test_keys(start: Start) -> None:
    with start(key="secret") as server:
        for sent in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic secret"},
            {"authorization": "Bearer ä"},
        ):
            encoded = {key: value.encode("latin-1") for key, value in sent.items()}
            for answer in (
                httpx2.get(f"{server.url}/v1/models", headers=encoded),
                httpx2.post(server.url + ROUTE, files={"file": ("a.wav", recording())}, headers=encoded),
            ):
                assert answer.status_code == 401 and is_error(answer.content, "invalid_api_key")
        assert httpx2.get(f"{server.url}/health").status_code == 200
        assert server.post(recording()).json()["text"] == TEXT
        with (
            openai.OpenAI(base_url=f"{server.url}/v1", api_key="wrong") as client,
            pytest.raises(openai.AuthenticationError),
        ):
            client.models.list()


@pytest.mark.parametrize("answers_http", [True, False])
def test_websockets_are_checked_like_requests(answers_http: bool) -> None:
    """The guards around an application, without a server: a browser's key is a subprotocol."""
    app: Any = Guard(Guard(_accept, KeyCheck("k", frozenset())), SameSite("127.0.0.1"))

    def result(**headers: str) -> list[Any]:
        given = [(key.replace("_", "-").encode(), value.encode()) for key, value in headers.items()]
        extensions = {"websocket.http.response": {}} if answers_http else {}
        scope = {
            "type": "websocket",
            "scheme": "ws",
            "path": "/v1/realtime",
            "headers": given,
            "extensions": extensions,
        }
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        asyncio.run(app(scope, None, send))
        return sent

    key = "realtime, openai-insecure-api-key.k"
    assert result(host="localhost", sec_websocket_protocol=key) == [{"type": "websocket.accept"}]
    assert (
        result(host="localhost", authorization="Bearer k", origin="http://localhost")[0]["type"]
        == "websocket.accept"
    )
    for refused in (
        result(host="localhost"),
        result(host="localhost", sec_websocket_protocol="openai-insecure-api-key.x"),
        result(host="evil.com", sec_websocket_protocol=key),
        result(host="localhost", origin="http://evil.com", sec_websocket_protocol=key),
    ):
        assert refused[0]["type"] == ("websocket.http.response.start" if answers_http else "websocket.close")


async def _accept(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "websocket.accept"})


# -------------------------------------------------------------------------------------------- options


def test_other_machines_need_a_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ASR_API_KEY", raising=False)
    assert read_key(ServeOptions()) is None
    with pytest.raises(UsageError, match="--allow-anonymous"):
        read_key(ServeOptions(host="0.0.0.0"))
    assert read_key(ServeOptions(host="0.0.0.0", allow_anonymous=True)) is None
    file = tmp_path / "key"
    file.write_text("secret\n")
    assert read_key(ServeOptions(host="0.0.0.0", key_file=file)) == "secret"
    file.write_text(" \n")
    with pytest.raises(AsrError, match="no key"):
        read_key(ServeOptions(key_file=file))
    monkeypatch.setenv("ASR_API_KEY", "other")
    assert read_key(ServeOptions(host="::")) == "other"
    with pytest.raises(UsageError, match="--cert-key"):
        read_key(ServeOptions(cert=tmp_path))


def test_without_the_extra() -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from asr.cli import main; sys.exit(main(['serve']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "uvicorn is not installed" in done.stderr and "asr[serve]" in done.stderr


def test_asyncio_turns_nagle_off() -> None:
    """It does so for sockets whose protocol is known; else answers are 40 ms late."""
    with listen("127.0.0.1", 0) as listener:
        assert listener.proto == socket.IPPROTO_TCP


def test_tls(start: Start, tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("no openssl")
    key, cert = tmp_path / "key", tmp_path / "cert"
    command = ["openssl", "req", "-x509", "-nodes", "-newkey", "rsa:2048", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, capture_output=True, check=True)
    with start(cert=cert, cert_key=key) as server:
        url, verify = f"https://127.0.0.1:{server.port}", ssl.create_default_context(cafile=str(cert))
        for origin, status in ((url, 200), (url.replace("https", "http"), 403)):
            answer = httpx2.get(f"{url}/v1/models", verify=verify, headers={"origin": origin})
            assert answer.status_code == status


def test_addresses_and_certificates_that_cannot_be_used(model: Transcriber, tmp_path: Path) -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(AsrError, match=r"127\.0\.0\.1:.*--port"):
        listen("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(AsrError, match=r"no-such-host\.invalid"):
        listen("no-such-host.invalid", 0)
    (tmp_path / "cert").write_text("none")
    for path in (tmp_path / "cert", tmp_path / "missing"):
        with pytest.raises(AsrError, match=path.name):
            make_server(model, ServeOptions(cert=path, cert_key=path))


def test_readable_text_is_the_default(start: Start, model: Transcriber) -> None:
    text = "IT IS A TEST " * 12 + "IS IT A TEST"
    file = recording(text)
    with start(raw=False) as server:
        whole = server.post(file).json()["text"]
        assert whole == model.transcribe(file).text != text and whole.upper().replace(".", "") != whole
        lines = server.post(file, stream="true").text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert "".join(event["delta"] for event in events[:-1]) == events[-1]["text"]
    for found in (whole, events[-1]["text"]):
        assert found.endswith((".", "?", "!")) and re.sub(r"[^A-Z ]", "", found.upper()) == text
