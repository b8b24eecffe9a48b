"""Live protocols over real connections: the openai and wyoming packages, Vosk's clients, strangers."""

import asyncio
import base64
import json
import logging
import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import openai
import pytest
import websockets
from websockets.sync.client import ClientConnection, connect
from wyoming.asr import Transcribe, Transcript, TranscriptChunk
from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.client import AsyncTcpClient
from wyoming.error import Error
from wyoming.info import Describe, Info
from wyoming.ping import Ping, Pong

from asr.errors import UsageError
from asr.serve import live, sockets
from asr.serve.options import ServeOptions
from asr.serve.server import listen, read_key
from tests.serve.conftest import Running, Start, is_error
from tests.serve.test_realtime import COMMIT, FUZZ, append, hostile, pcm, silence, update
from tests.standin import speak

TEXT = "IT IS A TEST"
PATH = "/v1/realtime?intent=transcription"

# The openai package connects in a way that the websockets package is about to drop.
pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context:DeprecationWarning")


@pytest.fixture(scope="module")
def rt(start: Start) -> Iterator[Running]:
    with start(vosk=True, live=3) as found:
        yield found


def ws(server: Running, path: str = PATH, **options: Any) -> ClientConnection:
    return connect(f"ws://127.0.0.1:{server.port}{path}", **options)


def talk(socket: ClientConnection, *messages: Any) -> None:
    for message in messages:
        socket.send(json.dumps(message) if isinstance(message, dict) else message)


def until(socket: ClientConnection, kind: str) -> dict[str, Any]:
    """The next event of a kind."""
    while True:
        event: dict[str, Any] = json.loads(socket.recv(timeout=20))
        if event["type"].endswith(kind):
            return event


def packets(data: bytes, size: int = 4000) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


# ------------------------------------------------------------------------------------- openai's client


def session(turns: Any) -> Any:
    return update(turn_detection=turns)["session"]


@pytest.mark.parametrize("turns", [None, {"type": "server_vad"}])
def test_openai_client(rt: Running, turns: Any) -> None:
    client = openai.OpenAI(base_url=f"{rt.url}/v1", api_key="none")
    with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
        assert connection.recv().type == "session.created"
        connection.session.update(session=session(turns))
        for packet in packets(pcm(speak(TEXT), silence(0.5))):
            connection.input_audio_buffer.append(audio=base64.b64encode(packet).decode())
        connection.input_audio_buffer.commit()
        deltas: list[str] = []
        for event in connection:
            if event.type == "conversation.item.input_audio_transcription.delta":
                deltas.append(event.delta or "")
            elif event.type == "conversation.item.input_audio_transcription.completed":
                assert event.transcript == TEXT == "".join(deltas) and event.usage.type == "duration"
                break
        connection.input_audio_buffer.commit()
        error = connection.recv()
        assert error.type == "error" and error.error.code == "input_audio_buffer_commit_empty"


def test_async_openai_clients_at_once(rt: Running) -> None:
    async def work(text: str) -> str:
        client = openai.AsyncOpenAI(base_url=f"{rt.url}/v1", api_key="none")
        async with client.realtime.connect(extra_query={"intent": "transcription"}) as connection:
            await connection.session.update(session=session(None))
            for packet in packets(pcm(speak(text))):
                await connection.input_audio_buffer.append(audio=base64.b64encode(packet).decode())
                await asyncio.sleep(0.005)
            await connection.input_audio_buffer.commit()
            async for event in connection:
                if event.type == "conversation.item.input_audio_transcription.completed":
                    return event.transcript
        return ""

    async def both() -> list[str]:
        return await asyncio.gather(work("ONE AND TWO"), work("THREE AND FOUR"))

    assert asyncio.run(both()) == ["ONE AND TWO", "THREE AND FOUR"]


# ---------------------------------------------------------------------------------- who may, and how long


def refused(server: Running, status: int, code: str, path: str = PATH, **options: Any) -> None:
    with pytest.raises(websockets.InvalidStatus) as caught:
        ws(server, path, **options)
    assert caught.value.response.status_code == status and is_error(caught.value.response.body, code)


def test_slots(rt: Running) -> None:
    """Clients that leave in the middle, politely or not, free their slots; all protocols share them."""
    with ws(rt) as first, ws(rt, "/") as second, ws(rt):
        talk(first, update(), pcm(speak(TEXT)))
        refused(rt, 503, "busy")
        refused(rt, 503, "busy", "/")
        first.socket.shutdown(2)
        second.close()
        rt.wait_until(lambda: len(rt.service.live._tasks) == 1)
        with ws(rt) as socket:
            talk(socket, update(), pcm(speak(TEXT)), COMMIT)
            assert until(socket, ".completed")["transcript"] == TEXT
    rt.wait_until(lambda: not rt.service.live._tasks and not rt.service.scheduler._sessions)


def test_strangers_are_refused(start: Start) -> None:
    with start(key="secret", vosk=True) as server:
        for path in (PATH, "/"):
            refused(server, 401, "invalid_api_key", path)
            refused(server, 403, "origin_not_allowed", path, origin="https://example.org")
            with server.connect() as socket, pytest.raises(websockets.InvalidStatus, match="403"):
                connect(f"ws://example.org{path}", sock=socket).__enter__()
        refused(server, 400, "invalid_value", "/v1/realtime?intent=conversation", **key("secret"))
        refused(server, 401, "invalid_api_key", **key("wrong"))
        with ws(server, **key("secret")) as socket:
            assert until(socket, "session.created")
        browser: Any = ["realtime", "openai-insecure-api-key.secret"]
        with ws(server, subprotocols=browser, origin=server.url) as socket:
            assert until(socket, "session.created") and socket.subprotocol == "realtime"


def key(value: str) -> dict[str, Any]:
    return {"additional_headers": {"Authorization": f"Bearer {value}"}}


def test_live_sessions_can_be_forbidden(start: Start) -> None:
    with start(live=0) as server:
        refused(server, 503, "busy")


def closed(socket: ClientConnection) -> tuple[int, list[dict[str, Any]]]:
    """The close code, and the events before it."""
    events = []
    try:
        while True:
            events.append(json.loads(socket.recv(timeout=20)))
    except websockets.ConnectionClosed:
        assert socket.close_code
        return socket.close_code, events


def test_idle_and_long_sessions_end(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    with start(max_live_seconds=1) as server, ws(server) as socket:
        talk(socket, update(), pcm(speak(TEXT)))
        code, events = closed(socket)
        assert code == 1008 and "session_expired" in [event.get("error", {}).get("code") for event in events]
        assert events[-1]["transcript"] == TEXT
    monkeypatch.setattr(live, "IDLE", 0.2)
    with start() as server, ws(server) as socket:
        code, events = closed(socket)
        assert code == 1008 and events[-1]["error"]["code"] == "idle_timeout"


@pytest.mark.parametrize("path", [PATH, "/"])
def test_a_server_that_stops_completes_speech_first(start: Start, path: str) -> None:
    with start(vosk=True) as server, ws(server, path) as socket:
        begin = update() if path == PATH else {"config": {"sample_rate": 16_000}}
        talk(socket, begin, pcm(speak(TEXT)))
        json.loads(socket.recv(timeout=20))
        server.server.should_exit = True
        code, events = closed(socket)
        assert code == 1001 and TEXT in (events[-1].get("transcript"), events[-1].get("text"))


def test_an_overloaded_server_says_so(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without progress it reads no more than its queue, then closes; no audio is dropped silently."""
    monkeypatch.setattr(sockets, "QUEUE", 1.0)
    monkeypatch.setattr(sockets, "STALLED", 0.3)
    gate = threading.Event()
    with start() as server, ws(server) as socket:
        run = server.service.model.engine.run
        monkeypatch.setattr(type(server.service.model.engine), "run", lambda _, w: gate.wait(20) and run(w))
        try:
            talk(socket, update(), *packets(pcm(silence(3)), 3200))
            code, events = closed(socket)
            assert code == 1013 and events[-1]["error"]["code"] == "overloaded"
        finally:
            gate.set()


@pytest.mark.parametrize("final", [False, True])
def test_failures_of_the_engine(start: Start, monkeypatch: pytest.MonkeyPatch, final: bool) -> None:
    """A second pass that fails is the end of its item, a chunk that of the session; the server goes on."""
    with start(live=1) as server:
        kind = type(server.service.model.engine)
        run = kind.run

        def broken(self: Any, windows: Any) -> Any:
            if any(bool(window.final) == final for window in windows):
                raise RuntimeError("broken")
            return run(self, windows)

        with ws(server) as socket, monkeypatch.context() as patch:
            patch.setattr(kind, "run", broken)
            talk(socket, update(), pcm(speak(TEXT)), COMMIT)
            if final:
                assert until(socket, ".failed")["error"]["code"] == "server_error"
            else:
                code, events = closed(socket)
                assert code == 1011 and events[-1]["error"]["code"] == "server_error"
        server.wait_until(lambda: not server.service.live._tasks)
        with ws(server) as socket:
            talk(socket, update(), pcm(speak(TEXT)), COMMIT)
            assert until(socket, ".completed")["transcript"] == TEXT


def test_a_fast_client_is_slowed_down_not_cut(rt: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "QUEUE", 1.0)
    with ws(rt) as socket:
        talk(socket, update(turn_detection=None), *packets(pcm(speak(f"{TEXT} " * 8)), 32_000), COMMIT)
        assert until(socket, ".completed")["transcript"] == (f"{TEXT} " * 8).strip()


# ------------------------------------------------------------------------------------------------- vosk


@pytest.mark.parametrize("rate", [8000, 16_000])
def test_vosk_client_in_lockstep(rt: Running, rate: int) -> None:
    """As Vosk's own test client: one answer for each packet, and one for eof."""
    with ws(rt, "/") as socket:
        talk(socket, {"config": {"sample_rate": rate}})
        answers = []
        for packet in packets(pcm(speak("ONE TWO"), silence(2), speak("THREE"))):
            socket.send(packet)
            answers.append(json.loads(socket.recv(timeout=20)))
        socket.send('{"eof" : 1}')
        answers.append(json.loads(socket.recv(timeout=20)))
        assert closed(socket) == (1000, [])
    assert all(set(answer) in ({"partial"}, {"result", "text"}, {"text"}) for answer in answers)
    if rate == 16_000:
        found = [answer for answer in answers if "text" in answer]
        assert [answer["text"] for answer in found] == ["ONE TWO", "THREE"]
        assert [word["word"] for word in found[0]["result"]] == ["ONE", "TWO"]
        assert set(found[0]["result"][0]) == {"conf", "end", "start", "word"}
        assert {"partial": "ONE TWO"} in answers and answers[-2:][0].keys() == {"partial"}


def test_vosk_options(rt: Running) -> None:
    with ws(rt, "/") as socket:
        config = {
            "sample_rate": 16_000,
            "words": False,
            "phrase_list": ["TEST", "[unk]"],
            "model": "/etc/passwd",
        }
        talk(socket, {"config": config}, pcm(speak(TEXT)), '{"reset" : 1}')
        assert "partial" in json.loads(socket.recv(timeout=20))
        assert socket.recv(timeout=20) == '{\n  "text" : "IT IS A TEST"\n}'
        talk(socket, {"config": {"max_alternatives": 2}}, pcm(speak(TEXT)), '{"eof" : 1}')
        socket.recv(timeout=20)
        assert json.loads(socket.recv(timeout=20))["alternatives"][0]["text"] == TEXT


@pytest.mark.parametrize(
    "message", ["", "[]", "{}", '{"config": {"sample_rate": "x"}}', '{"config": {"phrase_list": ["7"]}}']
)
def test_vosk_refuses(rt: Running, message: str) -> None:
    with ws(rt, "/") as socket:
        socket.send(message)
        assert closed(socket)[0] == 1008 and socket.close_reason


# ------------------------------------------------------------------------------------------------ wyoming


@pytest.fixture(scope="module")
def port(start: Start) -> Iterator[int]:
    listener = listen("127.0.0.1", 0)
    with start(wyoming=listener, live=1):
        yield listener.getsockname()[1]


async def dictate(client: AsyncTcpClient, *parts: Any, rate: int = 16_000, channels: int = 1) -> list[Any]:
    """As Home Assistant; returns what came."""
    form = {"rate": rate, "width": 2, "channels": channels}
    await client.write_event(Transcribe(language="en").event())
    await client.write_event(AudioStart(**form).event())
    samples = np.repeat(np.frombuffer(pcm(*parts), "<i2"), channels)
    for packet in packets(samples.tobytes(), 2048):
        await client.write_event(AudioChunk(audio=packet, **form).event())
    await client.write_event(AudioStop().event())
    events: list[Any] = []
    while not events or events[-1].type not in ("transcript-stop", "error"):
        events.append(await client.read_event())
    return events


@pytest.mark.parametrize("channels", [1, 2])
def test_wyoming_client(port: int, channels: int) -> None:
    async def work() -> list[Any]:
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=20) as client:
            await client.write_event(Describe().event())
            info = await client.read_event()
            await client.write_event(Ping("a").event())
            assert info and Pong.from_event(await client.read_event()).text == "a"  # type: ignore[arg-type]
            [program] = Info.from_event(info).asr
            assert program.supports_transcript_streaming and program.models[0].languages == ["en"]
            parts = speak("ONE"), silence(2), speak("TWO")
            return [await dictate(client, *parts, channels=channels) for _ in range(2)]

    for events in asyncio.run(work()):
        kinds = [event.type for event in events]
        assert kinds == ["transcript-start", *["transcript-chunk"] * 2, "transcript", "transcript-stop"]
        assert Transcript.from_event(events[-2]).text == "ONE TWO"
        assert "".join(TranscriptChunk.from_event(event).text for event in events[1:3]) == "ONE TWO"


def test_wyoming_has_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ASR_API_KEY", "secret")
    with pytest.raises(UsageError, match="wyoming"):
        read_key(ServeOptions(host="0.0.0.0", wyoming=10_300))
    assert read_key(ServeOptions(host="0.0.0.0", wyoming=10_300, allow_anonymous=True)) == "secret"
    assert read_key(ServeOptions(wyoming=10_300)) == "secret"


def test_wyoming_errors(port: int) -> None:
    async def refused(*events: Any) -> str | None:
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=20) as client:
            for event in events:
                await client.write_event(event)
            answer = await client.read_event()
            assert answer and await client.read_event() is None
            return Error.from_event(answer).code

    async def work() -> None:
        start = AudioStart(rate=16_000, width=2, channels=1).event()
        assert await refused(Transcribe(language="fr").event(), start) == "unsupported_language"
        assert await refused(AudioStart(rate=16_000, width=4, channels=1).event()) == "invalid_value"
        assert await refused(AudioStart(rate=1, width=2, channels=1).event()) == "invalid_value"
        assert await refused(Transcribe(transcript_terms=["7"]).event(), start) == "invalid_value"
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=20) as client:
            await client.write_event(start)
            assert (await client.read_event()).type == "transcript-start"  # type: ignore[union-attr]
            assert await refused(start) == "busy"
        await asyncio.sleep(0.2)
        async with AsyncTcpClient("127.0.0.1", port, read_timeout=20) as client:
            assert Transcript.from_event((await dictate(client, speak("FINE")))[-2]).text == "FINE"

    asyncio.run(work())


# ---------------------------------------------------------------------------------------- hostile frames


def damaged(rng: random.Random) -> bytes:
    """Wyoming's bytes, cut, damaged, or with lengths that lie."""
    lengths = [0, 5, -1, 10**9, "x", None, True, 1.5]
    head: Any = {
        "type": rng.choice(["describe", "audio-start", "audio-chunk", "audio-stop", "transcribe", 7])
    }
    head["data"] = rng.choice([{}, {"rate": 16_000, "width": 2, "channels": 1}, [], "x", {"language": []}])
    head |= {name: rng.choice(lengths) for name in ("data_length", "payload_length") if rng.random() < 0.5}
    data = bytearray(json.dumps(head).encode() + b"\n" + rng.choice([b"", b"{}", b"[1]  ", bytes(6)]))
    if rng.random() < 0.3:
        data[rng.randrange(len(data))] = rng.randrange(256)
    return bytes(data[: rng.randrange(len(data) + 20)])


def frames(rng: random.Random) -> bytes:
    """Websocket frames, valid or not, after the handshake."""
    mask, kind = rng.choice([0, 0x80, 0x80, 0x80]), rng.choice([0, 1, 1, 2, 2, 3, 8, 9, 10, 15])
    payload = rng.randbytes(rng.randrange(100))
    length = len(payload) if rng.random() < 0.8 else rng.randrange(126)
    head = bytes([rng.choice([0x80, 0, 0xF0]) | kind, mask | length])
    return head + (bytes(4) if mask else b"") + payload


def test_hostile_frames(rt: Running, port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing is logged with a traceback, and others are served afterwards."""
    rng = random.Random(0)
    handshake = "GET {} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    handshake += "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    caplog.set_level(logging.WARNING)
    for number in range(FUZZ // 4):
        rt.wait_until(lambda: not rt.service.live._tasks)
        with suppress(OSError), rt.connect(handshake.format(rng.choice([PATH, "/"])).encode()) as socket:
            socket.recv(10_000)
            for _ in range(rng.randrange(1, 4)):
                socket.sendall(frames(rng))
        with suppress(websockets.ConnectionClosed, UnicodeError), ws(rt, rng.choice([PATH, "/"])) as client:
            talk(client, *hostile(number))
        rt.connect().close()
    with_tracebacks = [record for record in caplog.records if record.exc_info]
    assert not with_tracebacks, [record.getMessage() for record in with_tracebacks]
    rt.wait_until(lambda: not rt.service.live._tasks)
    with ws(rt) as client:
        talk(client, update(), append(pcm(speak(TEXT))), COMMIT)
        assert until(client, ".completed")["transcript"] == TEXT


def test_hostile_wyoming(port: int, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(1)
    for _ in range(FUZZ // 2):
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(b"".join(damaged(rng) for _ in range(rng.randrange(1, 4))))
    time.sleep(0.2)
    assert not [record for record in caplog.records if record.exc_info]


def test_large_frames_are_refused(rt: Running) -> None:
    with ws(rt) as socket:
        socket.send(bytes((256 << 10) + 1))
        assert closed(socket)[0] == 1009
    with ws(rt) as socket:
        talk(socket, update(turn_detection=None), bytes(256 << 10), COMMIT)
        assert until(socket, ".completed")["transcript"] == ""
