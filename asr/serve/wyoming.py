"""Wyoming, the protocol of Home Assistant: one JSON line, then data and payload; no keys.

https://github.com/OHF-Voice/wyoming; a client finds the end of speech itself. Lengths are limited here: its
own reader takes any.
"""

import asyncio
import json
import socket
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from typing import Any, NamedTuple

import numpy as np

from asr.inference.live import Event, Final, LiveOptions, LiveSession
from asr.inference.transcriber import Transcriber
from asr.serve.live import End, Inbox, PcmReader, failed, open_session
from asr.serve.openai import check_keywords, check_language, invalid

LINE, DATA, PAYLOAD = 64 << 10, 64 << 10, 256 << 10
"""Most bytes of each part of a message."""
CHANNELS = 8
CONNECTIONS = 64


class Message(NamedTuple):
    """A message in either direction."""

    type: str
    data: dict[str, Any]
    payload: bytes = b""

    def encode(self) -> bytes:
        """The bytes to send."""
        data = json.dumps(self.data).encode()
        head = {"type": self.type, "data_length": len(data)}
        return json.dumps(head).encode() + b"\n" + data


async def read_message(reader: asyncio.StreamReader) -> Message | None:
    """The next message, or None at the end. Raises ApiError."""
    try:
        line = await reader.readline()
        if not line.endswith(b"\n"):
            return None
        head = json.loads(line)
        data = head.get("data") or {}
        if length := _length(head, "data_length", DATA):
            data = {**data, **json.loads(await reader.readexactly(length))}
        payload = await reader.readexactly(_length(head, "payload_length", PAYLOAD))
        return Message(str(head["type"]), dict(data), payload)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise invalid("message", "the message is not one of Wyoming's, or too long") from None


def _length(head: dict[str, Any], name: str, most: int) -> int:
    length = head.get(name) or 0
    if not isinstance(length, int) or not 0 <= length <= most:
        raise ValueError
    return length


class Wyoming:
    """A connection: `receive` a message, run `live` if there is one, then send what `answer` returns."""

    def __init__(self, model: Transcriber, name: str, language: str, raw: bool = False) -> None:
        self._model, self._name, self._language, self._raw = model, name, language, raw
        self.live: LiveSession | None
        self._answers: list[Message] = []
        self._begin({})

    def _begin(self, asked: dict[str, Any]) -> None:
        """Forget an utterance, and note what is asked for the next one."""
        self._asked, self.live = asked, None
        self._ending = False
        self._texts: list[str] = []

    def receive(self, message: Message) -> None:
        """Process a message; those of other kinds are ignored. Raises ApiError."""
        if message.type == "describe":
            self._answers.append(Message("info", self._info()))
        elif message.type == "ping":
            self._answers.append(Message("pong", {"text": message.data.get("text")}))
        elif message.type == "transcribe":
            self._begin(message.data)
        elif message.type == "audio-start":
            self._start(message.data)
            self._answers.append(Message("transcript-start", {"language": self._language}))
        elif message.type == "audio-chunk":
            self._append(message.payload)
        elif message.type == "audio-stop" and self.live:
            self.live.receive(self._reader.end())
            self.live.close()
            self._ending = True

    def _start(self, data: dict[str, Any]) -> None:
        asked = self._asked
        self._begin({})
        check_language([str(asked.get("language") or self._language)], self._language)
        words = [*(asked.get("transcript_names") or ()), *(asked.get("transcript_terms") or ())]
        keywords = check_keywords([str(word) for word in words])
        rate, width, channels = (data.get(name) for name in ("rate", "width", "channels"))
        if width != 2 or channels not in range(1, CHANNELS + 1) or not isinstance(rate, int):
            raise invalid("audio-start", f"audio is 16 bits wide (width 2), of 1 to {CHANNELS} channels")
        self._channels, self._reader = int(channels or 1), PcmReader(rate=rate)
        self.live = open_session(self._model, LiveOptions(), keywords, raw=self._raw)

    def _append(self, payload: bytes) -> None:
        if self.live and not self._ending:
            if len(payload) % (2 * self._channels):
                raise invalid("audio-chunk", "its payload ends within a sample")
            samples = np.frombuffer(payload, "<i2").reshape(-1, self._channels)
            mono = samples if self._channels == 1 else samples.mean(axis=1).astype("<i2")
            self.live.receive(self._reader.push(mono.tobytes()))

    def answer(self, events: Iterable[Event]) -> list[Message]:
        """Messages to send, given the events of `live` since the last call."""
        answers, self._answers = self._answers, []
        for event in events:
            if isinstance(event, Final):
                self._texts.append(event.text)
                text = event.text if len(self._texts) == 1 else f" {event.text}"
                answers.append(Message("transcript-chunk", {"text": text}))
        if self._ending:
            transcript = {"text": " ".join(self._texts), "language": self._language}
            answers += [Message("transcript", transcript), Message("transcript-stop", {})]
            self._begin({})
        return answers

    def _info(self) -> dict[str, Any]:
        about = {"attribution": {"name": "asr", "url": ""}, "installed": True, "version": None}
        model = {**about, "name": self._name, "description": self._name, "languages": [self._language]}
        program = {**about, "name": "asr", "description": "speech recognition", "models": [model]}
        return {"asr": [{**program, "supports_transcript_streaming": True, "requires_external_vad": True}]}


async def listen(service: Any, port: socket.socket) -> asyncio.Server:
    """Serve on a socket."""
    return await asyncio.start_server(Server(service).serve, sock=port, limit=LINE)


class Server:
    """Connections, each an utterance or more; a slot is held while there is audio."""

    def __init__(self, service: Any) -> None:
        self._service, self._open = service, 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Talk to a client, until it leaves or makes a mistake."""
        self._open += 1
        try:
            if self._open <= CONNECTIONS:
                await self._talk(reader, writer)
        except ConnectionError:
            pass
        except Exception as error:
            if found := failed(error).error:
                await _send(writer, [Message("error", {"text": str(found), "code": found.code})])
        finally:
            self._open -= 1
            writer.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        service = self._service
        machine = Wyoming(service.model, service.name, service.options.language, service.options.raw)
        inbox = Inbox(service.live)
        with ExitStack() as slot:
            while message := await inbox.next(read_message(reader)):
                if isinstance(message, End):
                    if not machine.live:
                        return
                    message = Message("audio-stop", {})
                if message.type == "audio-start":
                    service.check_ready()
                    slot.close()
                    slot.enter_context(service.live.slot())
                    await asyncio.to_thread(machine.receive, message)  # terms take time to spell
                else:
                    machine.receive(message)
                events = await service.live.run(machine.live) if machine.live else []
                await _send(writer, machine.answer(events))
                if not machine.live:
                    slot.close()


async def _send(writer: asyncio.StreamWriter, messages: Iterable[Message]) -> None:
    with suppress(ConnectionError):
        for message in messages:
            writer.write(message.encode())
        await writer.drain()
