"""OpenAI's realtime transcription as a state machine: messages in, windows to compute, events out.

An item is what gets a `completed`: a stretch of speech with turn detection, all audio up to a commit without.
Its deltas are committed words, joined by spaces, and never change. Its `completed` is from the second pass
and may differ. `asr.partial` and `words` are our own; other clients ignore them.
"""

import base64
import binascii
import json
from collections import deque
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, ClassVar
from uuid import uuid4

import numpy as np

from asr.decoding.types import Word
from asr.inference.live import Committed, Endpoint, Event, Final, LiveSession, LiveWindow, Partial
from asr.serve import openai
from asr.serve.openai import ApiError, invalid
from asr.serve.session import DEFAULTS, Server, open_live, read_object, read_session

TRANSCRIPTION = "conversation.item.input_audio_transcription"
LEAST_COMMIT, WORD = 0.1, 0.5
"""Seconds."""


@dataclass(eq=False)
class _Item:
    """A stretch of speech that gets one `completed`."""

    id: str = field(default_factory=lambda: f"item_{uuid4().hex[:20]}")
    text: str = ""  # the deltas, joined
    finals: list[Final] = field(default_factory=list)
    pending: int = 0  # second passes
    seconds: float = 0.0
    started: bool = False
    committed: bool = False
    failed: bool = False


@dataclass(eq=False)
class _Buffer:
    """Audio up to a commit; `start`, `received` and `computed` are in seconds."""

    live: LiveSession
    turns: dict[str, Any] | None  # turn detection
    start: float
    item: _Item = field(default_factory=_Item)
    ended: dict[int, _Item] = field(default_factory=dict)  # items by stretch, until its second pass
    received: float = 0.0
    computed: float = 0.0
    closed: bool = False
    owes: bool = False  # a commit that no stretch has answered yet


@dataclass(frozen=True)
class Work:
    """A window to compute."""

    buffer: _Buffer
    window: LiveWindow

    def feed(self, log_probs: np.ndarray) -> list[Event]:
        """Decode what the engine returned, in any thread."""
        return self.buffer.live.feed(self.window, log_probs)


class Realtime:
    """A session: `receive` messages, compute each `next_work`, and pass its events to `done`.

    `events` are to be sent and removed. After `finish` there is no more audio, and once `over`, no more work.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._frame = server.model.engine.grid.frame_seconds
        self._session = {"id": f"sess_{uuid4().hex[:20]}", **deepcopy(DEFAULTS)}
        self._numbers = count(1)
        self._previous: str | None = None  # item
        self._finals: deque[Work] = deque()  # second passes to compute
        self._waiting: list[Endpoint] = []  # stretches without a second pass
        self._finished = False
        self.events: deque[dict[str, Any]] = deque()
        self._buffers: deque[_Buffer] = deque()
        self._begin(self._session, 0.0)
        self._send("session.created", session=deepcopy(self._session))

    # ----------------------------------------------------------------------------------------- messages

    def receive(self, message: str | bytes) -> None:
        """Process a message, or a binary one that is audio; errors become events."""
        if self._finished:
            return
        asked: dict[str, Any] = {}
        try:
            if isinstance(message, bytes):
                self._append(message)
                return
            asked = _parse(message)
            kind = asked.get("type")
            if not isinstance(kind, str) or kind not in self._handlers:
                raise invalid("type", f"type {kind!r:.100} is not known here")
            self._handlers[kind](self, asked)
        except ApiError as error:
            self.refuse(error, asked.get("event_id"))

    def refuse(self, error: ApiError, event_id: Any = None) -> None:
        """Report an error; the session goes on."""
        shown = event_id if isinstance(event_id, str) and len(event_id) <= 512 else None
        self._send("error", error={**error.body()["error"], "event_id": shown})

    def _append_base64(self, asked: dict[str, Any]) -> None:
        try:
            data = base64.b64decode(asked["audio"], validate=True)
        except (binascii.Error, KeyError, ValueError, TypeError):
            raise invalid("audio", "audio is not base64") from None
        self._append(data)

    def _append(self, data: bytes) -> None:
        self._buffers[-1].received += len(data) / self._reader.second
        self._buffers[-1].live.receive(self._reader.push(data))

    def _commit(self, asked: dict[str, Any]) -> None:
        last = self._buffers[-1]
        if last.received < LEAST_COMMIT:
            message = f"the buffer holds less than {LEAST_COMMIT:g} s of audio; append more before a commit"
            raise ApiError(400, "input_audio_buffer_commit_empty", message)
        last.owes = True
        self._close()
        self._begin(self._session, last.start + last.received)

    def _clear(self, asked: dict[str, Any]) -> None:
        dropped = self._buffers.pop()
        self._begin(self._session, dropped.start + dropped.received)
        self._send("input_audio_buffer.cleared")

    def _update(self, asked: dict[str, Any]) -> None:
        session = read_session(asked.get("session"), self._session, self._server)
        if session != self._session:
            last = self._buffers[-1]
            if last.received:
                message = "change the session before audio, or after a commit or clear"
                raise ApiError(400, "buffer_not_empty", message, "session")
            self._begin(session, last.start)
            self._buffers.remove(last)
            self._session = session
        self._send("session.updated", session=deepcopy(session))

    _handlers: ClassVar[dict[str, Callable[["Realtime", dict[str, Any]], None]]] = {
        "session.update": _update,
        "input_audio_buffer.append": _append_base64,
        "input_audio_buffer.commit": _commit,
        "input_audio_buffer.clear": _clear,
    }

    def _begin(self, session: dict[str, Any], start: float) -> None:
        """Begin a buffer."""
        self._reader, live = open_live(session, self._server)
        self._buffers.append(_Buffer(live, session["audio"]["input"]["turn_detection"], start))

    def _close(self) -> None:
        last = self._buffers[-1]
        last.live.receive(self._reader.end())
        last.live.close()
        last.closed = True

    # --------------------------------------------------------------------------------------------- work

    @property
    def backlog(self) -> float:
        """Seconds of audio that are not computed yet."""
        buffered = sum(buffer.received - buffer.computed for buffer in self._buffers)
        return buffered + sum(stretch.end - stretch.start for stretch in self._waiting)

    @property
    def over(self) -> bool:
        """True once everything is computed after `finish`."""
        return self._finished and not self._buffers and not self._waiting

    def finish(self) -> None:
        """End the audio; speech in progress is completed."""
        if not self._finished:
            self._finished = True
            self._close()

    def next_work(self) -> Work | None:
        """The next window, if there is one now.

        Second passes (`window.final`) are computed beside the others, which are done one by one.
        """
        if self._finals:
            return self._finals.popleft()
        while self._buffers:
            buffer = self._buffers[0]
            if window := buffer.live.next_window():
                return Work(buffer, window)
            if not buffer.closed:
                return None
            self._buffers.popleft()
            if buffer.owes or buffer.item.started:
                self._commit_item(buffer, buffer.received)
        return None

    def done(self, work: Work, events: Sequence[Event]) -> None:
        """Process the events of a window."""
        buffer, window = work.buffer, work.window
        if window.final:
            self._complete_stretch(work, [event for event in events if isinstance(event, Final)])
            return
        if buffer not in self._buffers:
            return  # cleared
        begin = buffer.computed
        buffer.computed += (window.keep_to - window.keep_from - window.ahead) * self._frame
        for event in events:
            if isinstance(event, Committed):
                self._start(buffer, event.words[0].start)
                self._send_delta(buffer, event.words)
            elif isinstance(event, Partial):
                self._send_partial(buffer, event, begin, window.ahead * self._frame)
            elif isinstance(event, Endpoint):
                buffer.owes &= not (window.last and buffer.turns)
                self._end_stretch(buffer, event)

    def fail(self, work: Work, error: ApiError) -> None:
        """Report that the second pass of a stretch failed."""
        self._complete_stretch(work, [], error)

    def _start(self, buffer: _Buffer, seconds: float) -> None:
        if buffer.turns and not buffer.item.started:
            begin = max(0.0, seconds - buffer.turns["prefix_padding_ms"] / 1000)
            ms = _ms(buffer.start + begin)
            self._send("input_audio_buffer.speech_started", audio_start_ms=ms, item_id=buffer.item.id)
        buffer.item.started = True

    def _send_delta(self, buffer: _Buffer, words: Sequence[Word]) -> None:
        item, text = buffer.item, " ".join(word.text for word in words)
        first, delta = not item.text, f" {text}" if item.text else text
        item.text += delta
        extra = {"logprobs": openai.logprobs(words, first)} if self._session["include"] else {}
        self._send(f"{TRANSCRIPTION}.delta", item_id=item.id, content_index=0, delta=delta, **extra)

    def _send_partial(self, buffer: _Buffer, partial: Partial, begin: float, ahead: float) -> None:
        """Send `asr.partial`; a word that is new began about WORD before what was computed until `begin`."""
        start = max(partial.start, begin + ahead - WORD)
        if partial.unstable:
            self._start(buffer, start)
        self._send(
            "asr.partial",
            item_id=buffer.item.id,
            stable=buffer.item.text,
            unstable=partial.unstable,
            start_ms=_ms(buffer.start + start),
            lag_ms=max(0, _ms(buffer.received - buffer.computed - ahead)),
        )

    def _end_stretch(self, buffer: _Buffer, endpoint: Endpoint) -> None:
        """End a stretch, which is an item if turns are detected."""
        window = buffer.live.next_window()
        assert window and window.final == endpoint
        self._finals.append(Work(buffer, window))
        self._waiting.append(endpoint)
        buffer.item.pending += 1
        buffer.ended[endpoint.stretch] = item = buffer.item
        if buffer.turns:
            ms = _ms(buffer.start + endpoint.end)
            self._send("input_audio_buffer.speech_stopped", audio_end_ms=ms, item_id=item.id)
            self._commit_item(buffer, endpoint.end - endpoint.start)

    def _commit_item(self, buffer: _Buffer, seconds: float) -> None:
        item, buffer.item = buffer.item, _Item()
        item.seconds, item.committed = seconds, True
        self._send("input_audio_buffer.committed", item_id=item.id, previous_item_id=self._previous)
        self._previous = item.id
        self._complete(item, buffer.start)

    def _complete_stretch(self, work: Work, finals: list[Final], error: ApiError | None = None) -> None:
        assert work.window.final
        item = work.buffer.ended.pop(work.window.final.stretch)
        self._waiting.remove(work.window.final)
        item.pending -= 1
        item.finals += finals
        if error and not item.failed:
            item.failed = True
            content = error.body()["error"]
            self._send(f"{TRANSCRIPTION}.failed", item_id=item.id, content_index=0, error=content)
        self._complete(item, work.buffer.start)

    def _complete(self, item: _Item, start: float) -> None:
        """Send `completed`, if nothing is missing."""
        if item.pending or item.failed or not item.committed:
            return
        finals = sorted(item.finals, key=lambda final: final.stretch)
        words = [replace(w, start=w.start + start, end=w.end + start) for f in finals for w in f.words]
        extra = {"logprobs": openai.logprobs(words)} if self._session["include"] else {}
        self._send(
            f"{TRANSCRIPTION}.completed",
            item_id=item.id,
            content_index=0,
            transcript=" ".join(word.text for word in words),
            usage={"type": "duration", "seconds": round(item.seconds, 3)},
            words=[openai.word_entry(word) for word in words],
            **extra,
        )

    def _send(self, kind: str, **content: Any) -> None:
        self.events.append({"type": kind, "event_id": f"event_{next(self._numbers)}", **content})


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _parse(message: str) -> dict[str, Any]:
    try:
        found = json.loads(message)
    except (ValueError, RecursionError):
        raise invalid("type", "the message is not JSON") from None
    return read_object(found, "message")
