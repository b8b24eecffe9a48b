"""The realtime state machine, without sockets: events, cuts, commits, errors; and samples of any packets."""

import base64
import json
import os
import random
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import av
import numpy as np
import pytest
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.inference.transcriber import Transcriber
from asr.serve.live import PcmReader
from asr.serve.openai import ApiError
from asr.serve.realtime import Realtime, Work
from asr.serve.session import LOGPROBS, Server
from tests.standin import speak

FUZZ = int(os.environ.get("ASR_FUZZ", "300"))
Event = dict[str, Any]


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * 16_000), np.float32)


def pcm(*parts: np.ndarray) -> bytes:
    return (np.concatenate(parts) * 2**15).astype("<i2").tobytes()


def update(**given: Any) -> Event:
    """A session.update with keys of audio.input; at 16 kHz, so that the stand-in reads it exactly."""
    given = {"format": {"type": "audio/pcm", "rate": 16_000}, **given}
    return {"type": "session.update", "session": {"type": "transcription", "audio": {"input": given}}}


def append(data: bytes) -> Event:
    return {"type": "input_audio_buffer.append", "audio": base64.b64encode(data).decode()}


COMMIT = {"type": "input_audio_buffer.commit"}
CLEAR = {"type": "input_audio_buffer.clear"}


class Client:
    """Sends messages, and computes what is due after each; second passes late if asked."""

    def __init__(self, model: Transcriber, late: bool = False, **server: Any) -> None:
        self.model, self.late = model, late
        self.machine = Realtime(Server(model, **{"raw": True, **server}))
        self.events: list[Event] = []
        self.finals: list[Work] = []

    def send(self, *messages: Event | bytes | str) -> "Client":
        for message in messages:
            self.machine.receive(json.dumps(message) if isinstance(message, dict) else message)
            self.work()
        return self

    def work(self) -> None:
        while work := self.machine.next_work():
            if work.window.final and self.late:
                self.finals.append(work)
            else:
                self.compute(work)
        self.events += self.machine.events
        self.machine.events.clear()

    def compute(self, work: Work) -> None:
        self.machine.done(work, work.feed(self.model.engine.run([work.window])[0]))

    def finish(self) -> "Client":
        self.machine.finish()
        self.work()
        assert self.machine.over and self.machine.backlog == pytest.approx(0, abs=1e-6)
        return self

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"].endswith(kind)]

    def texts(self) -> list[str]:
        return [event["transcript"] for event in self.of(".completed")]

    def errors(self) -> list[tuple[str, str | None]]:
        return [(event["error"]["code"], event["error"]["param"]) for event in self.of("error")]


@pytest.fixture
def client(model: Transcriber) -> Client:
    return Client(model)


def anonymous(events: Iterable[Event]) -> list[Event]:
    """Events without ids and lags, which differ from run to run, with items numbered."""
    names: dict[Any, Any] = {None: None}
    found = []
    for event in events:
        event = {key: value for key, value in event.items() if key not in ("event_id", "lag_ms", "session")}
        for key in ("item_id", "previous_item_id"):
            if key in event:
                event[key] = names.setdefault(event[key], len(names))
        found.append(event)
    return found


def test_events_of_two_turns(client: Client) -> None:
    audio = pcm(silence(1), speak("ONE TWO THREE"), silence(2), speak("FOUR FIVE"), silence(2))
    client.send(update(), *(audio[at : at + 3200] for at in range(0, len(audio), 3200)))
    assert client.texts() == ["ONE TWO THREE", "FOUR FIVE"]
    kinds = [event["type"].rpartition(".")[2] for event in client.events]
    assert kinds[:3] == ["created", "updated", "speech_started"]
    turn = [kind for kind in kinds[2:] if kind not in ("delta", "partial")]
    assert turn == ["speech_started", "speech_stopped", "committed", "completed"] * 2
    first, second = (event["item_id"] for event in client.of(".completed"))
    assert [event["previous_item_id"] for event in client.of(".committed")] == [None, first]
    deltas = dict.fromkeys((first, second), "")
    for event in client.of(".delta"):
        assert event["content_index"] == 0
        deltas[event["item_id"]] += event["delta"]
    assert list(deltas.values()) == client.texts()
    started, stopped = client.of("speech_started")[0], client.of("speech_stopped")[0]
    assert 100 <= started["audio_start_ms"] <= 1000  # speech begins at 1 s
    assert stopped["audio_end_ms"] == pytest.approx(1000 + 13 * 120 + 500, abs=100)
    done = client.of(".completed")[0]
    assert [word["word"] for word in done["words"]] == ["ONE", "TWO", "THREE"]
    assert done["words"][0]["start"] == pytest.approx(1.0, abs=0.05)
    assert done["usage"] == {"type": "duration", "seconds": pytest.approx(3, abs=0.3)}
    assert len({event["event_id"] for event in client.events}) == len(client.events)


def test_partials_show_what_deltas_will_be(client: Client) -> None:
    audio = pcm(speak("IT IS A TEST OF SPEECH"))
    client.send(update(), *(audio[at : at + 3200] for at in range(0, len(audio), 3200)))
    text, shown = "", []
    for event in client.events:
        if event["type"] == "asr.partial":
            assert event["stable"] == text and event["lag_ms"] <= 100 and event["start_ms"] >= 0
            shown.append(event["unstable"])
        text += event.get("delta", "")
    assert any(shown) and text and "IT IS A TEST OF SPEECH".startswith(text)
    client.send(COMMIT)
    assert client.texts() == ["IT IS A TEST OF SPEECH"]


SPEECH = pcm(speak("A TEST"), silence(1.2), speak("OF CUTS "), silence(0.3))


@given(st.lists(st.integers(0, len(SPEECH)), max_size=20), st.data())
@settings(max_examples=20, deadline=None)
def test_cuts_do_not_matter(model: Transcriber, cuts: list[int], data: st.DataObject) -> None:
    turns: Any = data.draw(st.sampled_from([None, {"type": "server_vad", "silence_duration_ms": 400}]))
    base64s = data.draw(st.lists(st.booleans(), min_size=len(cuts) + 1, max_size=len(cuts) + 1))
    edges = [0, *sorted(cuts), len(SPEECH)]
    parts: list[Event | bytes] = [SPEECH[a:b] for a, b in pairwise(edges)]
    mixed = [append(part) if as_text else part for part, as_text in zip(parts, base64s, strict=True)]  # type: ignore[arg-type]
    begin = update(turn_detection=turns)
    found = Client(model).send(begin, *mixed, COMMIT).finish()
    whole = Client(model).send(begin, SPEECH, COMMIT).finish()
    assert anonymous(found.events) == anonymous(whole.events)
    assert found.texts() == (["A TEST OF CUTS"] if turns is None else ["A TEST", "OF CUTS"])


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050, 24_000, 44_100, 48_000])
@given(st.lists(st.integers(0, 9000), max_size=9))
@settings(max_examples=10, deadline=None)
def test_samples_do_not_depend_on_packets(rate: int, cuts: list[int]) -> None:
    data = np.random.default_rng(rate).integers(-9000, 9000, 4500).astype("<i2").tobytes()
    reader, edges = PcmReader(rate=rate), [0, *sorted(cuts), 9000]
    found = [reader.push(data[a:b]) for a, b in pairwise(edges)]
    samples = np.frombuffer(data, "<i2").astype(np.float32) / 2**15
    whole = samples if rate == 16_000 else soxr.resample(samples, rate, 16_000)
    np.testing.assert_allclose(np.concatenate([*found, reader.end()]), whole, atol=1e-5)


@pytest.mark.parametrize(("kind", "codec"), [("audio/pcmu", "pcm_mulaw"), ("audio/pcma", "pcm_alaw")])
def test_g711_equals_ffmpeg(kind: str, codec: str) -> None:
    decoder: Any = av.CodecContext.create(codec, "r")
    decoder.sample_rate, decoder.layout = 8000, "mono"
    codes = bytes(range(256)) * 10
    frames = [frame.to_ndarray().ravel() for frame in decoder.decode(av.Packet(codes))]
    reader = PcmReader(kind, 16_000)
    expected = np.concatenate(frames) / 2**15
    np.testing.assert_array_equal(np.concatenate([reader.push(codes), reader.end()]), expected)


@pytest.mark.parametrize("kind", ["audio/pcmu", "audio/pcma"])
def test_telephone_speech(client: Client, kind: str) -> None:
    """Levels of the stand-in are sent through the codec; those of A are lost in it, others stay."""
    codes = PcmReader(kind, 16_000).push(bytes(range(256)) * 10)[:256]
    samples = soxr.resample(speak("IT IS SO"), 16_000, 8000)
    data = np.abs(codes[:, None] - samples).argmin(axis=0).astype(np.uint8).tobytes()
    client.send(update(format={"type": kind}), data, COMMIT).finish()
    assert client.of("updated")[0]["session"]["audio"]["input"]["format"] == {"type": kind}
    assert len(client.texts()) == 1 and len(client.of("delta")) > 0


def test_commits_are_items_without_turn_detection(client: Client) -> None:
    client.send(update(turn_detection=None))
    client.send(pcm(speak("ONE"), silence(2), speak("TWO")), COMMIT, pcm(silence(0.5)), COMMIT)
    client.send(pcm(speak("THREE")), COMMIT)
    assert client.texts() == ["ONE TWO", "", "THREE"]
    assert not client.of("speech_started") and len(client.of(".committed")) == 3
    assert client.of(".completed")[2]["words"][0]["start"] == pytest.approx(
        3 * 0.12 + 2 + 0.36 + 0.5, abs=0.1
    )
    assert [event["usage"]["seconds"] for event in client.of(".completed")][1] == 0.5


def test_each_commit_is_answered_once_with_turn_detection(client: Client) -> None:
    client.send(update(), pcm(speak("ONE"), silence(2)))
    assert client.texts() == ["ONE"]
    client.send(pcm(silence(0.5)), COMMIT, pcm(speak("TWO")), COMMIT)
    assert client.texts() == ["ONE", "", "TWO"]
    client.send(COMMIT, pcm(silence(0.04)), COMMIT)
    assert client.errors() == [("input_audio_buffer_commit_empty", None)] * 2
    assert client.send(pcm(speak("SIX")), COMMIT).texts()[-1] == "SIX", "errors keep the session open"


def test_clear_drops_the_buffer_but_not_what_was_committed(model: Transcriber) -> None:
    client = Client(model, late=True)
    client.send(update(), pcm(speak("ONE"), silence(2), speak("TWO THREE FOUR FIVE ")), CLEAR)
    client.send(pcm(speak("SIX")), COMMIT)
    for work in reversed(client.finals):
        client.compute(work)
    client.work()
    assert sorted(client.texts()) == ["ONE", "SIX"] and len(client.of(".cleared")) == 1
    assert client.machine.backlog == pytest.approx(0, abs=1e-6)


def test_finish_completes_speech_in_progress(model: Transcriber) -> None:
    for turns in (None, {"type": "server_vad"}):
        client = Client(model).send(update(turn_detection=turns), pcm(speak("THE END IS NEAR"))).finish()
        assert client.texts() == ["THE END IS NEAR"]
        client.send(COMMIT, pcm(speak("MORE")), CLEAR)
        assert client.machine.next_work() is None
    assert Client(model).send(pcm(silence(3))).finish().texts() == []


def test_a_failed_second_pass_fails_its_item_only(model: Transcriber) -> None:
    client = Client(model, late=True)
    client.send(update(), pcm(speak("ONE"), silence(2), speak("TWO"), silence(2)))
    first, second = client.finals
    client.machine.fail(first, ApiError(500, "server_error", "it broke"))
    client.compute(second)
    client.work()
    assert client.texts() == ["TWO"]
    [event] = client.of(".failed")
    assert (
        event["error"]["code"] == "server_error" and event["item_id"] == client.of("committed")[0]["item_id"]
    )


def test_session_update(model: Transcriber) -> None:
    client = Client(model, name="tester")
    given: dict[str, Any] = {
        "format": {"type": "audio/pcm", "rate": 16_000},
        "transcription": {"model": "tester", "language": "en-GB", "keywords": ["TEST"], "delay": "low"},
        "turn_detection": {"type": "server_vad", "silence_duration_ms": 300, "threshold": 0.2},
        "noise_reduction": {"type": "near_field"},
    }
    message = update(**given)
    message["session"]["include"] = [LOGPROBS]
    client.send(message, pcm(speak("A TEST"), silence(1)))
    session = client.of("session.updated")[0]["session"]
    assert session["audio"]["input"]["turn_detection"]["prefix_padding_ms"] == 300
    assert session["audio"]["input"]["transcription"]["keywords"] == ["TEST"]
    assert "".join(entry["token"] for entry in client.of(".completed")[0]["logprobs"]) == "A TEST"
    client.send(message)  # the same again
    assert len(client.of("session.updated")) == 2 and not client.errors()
    client.send(update(turn_detection=None), CLEAR, update(turn_detection=None))
    assert client.errors() == [("buffer_not_empty", "session")] and len(client.of("session.updated")) == 3


@pytest.mark.parametrize(
    ("given", "param"),
    [
        ({"format": {"rate": 7999}}, "rate"),
        ({"format": {"rate": 1e9}}, "rate"),
        ({"format": {"rate": "16000"}}, "rate"),
        ({"format": {"type": "audio/opus"}}, "format.type"),
        ({"format": 7}, "format"),
        ({"transcription": {"keywords": "x"}}, "keywords"),
        ({"transcription": {"keywords": ["7"]}}, "keywords"),
        ({"transcription": {"keywords": ["A"] * 101}}, "keywords"),
        ({"transcription": {"language": "fr"}}, "language"),
        ({"transcription": {"language": 3}}, "language"),
        ({"transcription": {"model": "whisper-1"}}, "model"),
        ({"transcription": {"delay": "none"}}, "delay"),
        ({"transcription": {"delay": []}}, "delay"),
        ({"turn_detection": {"type": "semantic_vad"}}, "turn_detection.type"),
        ({"turn_detection": {"silence_duration_ms": 1}}, "silence_duration_ms"),
        ({"turn_detection": {"threshold": float("nan")}}, "threshold"),
        ({"turn_detection": {"threshold": True}}, "threshold"),
        ({"turn_detection": [1]}, "turn_detection"),
    ],
)
def test_updates_that_are_refused(model: Transcriber, given: dict[str, Any], param: str) -> None:
    client = Client(model, name="tester").send({**update(**given), "event_id": "mine"})
    assert client.errors()[0][1] == param and client.of("error")[0]["error"]["event_id"] == "mine"
    assert client.send(update(), pcm(speak("FINE")), COMMIT).texts() == ["FINE"]


@pytest.mark.parametrize(
    "message",
    [
        "",
        "[]",
        "{",
        "null",
        "[" * 100_000,
        '{"type": []}',
        '{"type": "response.create"}',
        '{"type": "input_audio_buffer.append"}',
        '{"type": "input_audio_buffer.append", "audio": "###"}',
        '{"type": "input_audio_buffer.append", "audio": "é"}',
        '{"type": "input_audio_buffer.append", "audio": 1}',
        '{"type": "session.update", "session": 1}',
        '{"type": "session.update", "session": {"type": "realtime"}}',
        '{"type": "session.update", "session": {"include": ["all"]}}',
        '{"type": "input_audio_buffer.commit", "event_id": {"a": 1}}',
    ],
)
def test_messages_that_are_refused(client: Client, message: str) -> None:
    [event] = client.send(message).of("error")
    keys = {"type", "code", "message", "param", "event_id"}
    assert set(event["error"]) == keys and event["error"]["type"] == "invalid_request_error"
    assert client.send(update(), pcm(speak("FINE")), COMMIT).texts() == ["FINE"]


def hostile(seed: int) -> Sequence[Event | bytes | str]:
    """Messages that are valid, nearly valid, or noise."""
    rng = random.Random(seed)
    values: list[Any] = [
        None,
        True,
        -1,
        1e308,
        10**30,
        "",
        "x",
        "\ud800",
        [],
        {},
        [None],
        {"type": "audio/pcm"},
    ]
    valid = [update(), append(b"ab" * 300), COMMIT, CLEAR, update(turn_detection=None)]

    def damage(value: Any) -> Any:
        if rng.random() < 0.15:
            return rng.choice(values)
        return {key: damage(part) for key, part in value.items()} if isinstance(value, dict) else value

    def make() -> Event | bytes | str:
        kind = rng.random()
        if kind < 0.1:
            return rng.randbytes(rng.randrange(2000))
        text = json.dumps(damage(rng.choice(valid)))
        if kind < 0.2:
            at = rng.randrange(len(text))
            text = text[:at] + chr(rng.randrange(1, 0xD7FF)) + text[at + rng.randrange(3) :]
        return text

    return [make() for _ in range(rng.randrange(1, 6))]


def test_hostile_messages(model: Transcriber) -> None:
    """No exception, only events that are JSON; afterwards the session works, or another one does."""
    for seed in range(FUZZ):
        client = Client(model).send(*hostile(seed))
        json.dumps(client.finish().events)
    assert client.events


@given(st.integers(0, 10**6), st.booleans())
@settings(max_examples=15, deadline=None)
def test_no_delta_is_taken_back(model: Transcriber, seed: int, turns: bool) -> None:
    """Whatever the posteriors are: partials begin with the deltas, and nothing follows `completed`."""
    rng = np.random.default_rng(seed)
    machine = Realtime(Server(model, raw=True))
    detect = {"type": "server_vad", "silence_duration_ms": 300} if turns else None
    machine.receive(json.dumps(update(turn_detection=detect)))
    for _ in range(40):
        machine.receive(pcm(silence(0.3)))
        while work := machine.next_work():
            logits = 6 * rng.random((work.window.keep_to - work.window.keep_from, 29), np.float32) ** 8
            logits[rng.random(len(logits)) < 0.6, 0] += 6
            machine.done(work, work.feed(logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))))
        if rng.random() < 0.1:
            machine.receive(json.dumps(COMMIT))
    texts: dict[str, str] = {}
    completed, committed = set(), []
    for event in machine.events:
        item = event.get("item_id", "")
        if event["type"].endswith(".delta"):
            assert item not in completed
            texts[item] = texts.get(item, "") + event["delta"]
        elif event["type"] == "asr.partial":
            assert event["stable"] == texts.get(item, "") and item not in completed
        elif event["type"].endswith(".committed"):
            committed.append(item)
        elif event["type"].endswith(".completed"):
            assert item in committed and item not in completed
            completed.add(item)
    assert committed or not turns
