"""Websockets: `/v1/realtime`, and Vosk's at `/`."""

import asyncio
import json
import logging
from contextlib import suppress

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected

from asr.serve.limits import Refused
from asr.serve.live import DONE, LEFT, TRY_LATER, End, Inbox, Slots, failed
from asr.serve.openai import ApiError, as_api_error, invalid
from asr.serve.realtime import Realtime, Work
from asr.serve.vosk import EOF, Vosk

SUBPROTOCOL = "realtime"
QUEUE = 30.0  # seconds of audio that wait before a client is not read from
STALLED = 30.0  # seconds without progress after which it is disconnected

GONE = (WebSocketDisconnect, WebSocketDisconnected)
"""Raised where something is sent to a client that has left."""

_log = logging.getLogger(__name__)


async def realtime(websocket: WebSocket) -> None:
    """WS /v1/realtime?intent=transcription."""
    service = websocket.app.state.service
    try:
        service.check_ready()
        with service.live.slot():
            if websocket.query_params.get("intent", "transcription") != "transcription":
                raise invalid("intent", "only sessions with intent=transcription are served")
            machine = Realtime(service.sessions)
            offered = SUBPROTOCOL in websocket.scope["subprotocols"]
            await websocket.accept(SUBPROTOCOL if offered else None)
            await Connection(websocket, machine, service.live).run()
    except ApiError as error:
        await websocket.send_denial_response(Refused(error))


class Connection:
    """Runs a realtime session: one task reads, one computes chunks, one computes second passes."""

    def __init__(self, websocket: WebSocket, machine: Realtime, slots: Slots) -> None:
        self._websocket, self._machine, self._slots = websocket, machine, slots
        self._due, self._moved = asyncio.Event(), asyncio.Event()
        self._finals: asyncio.Queue[Work] = asyncio.Queue()
        self._using, self._sending = asyncio.Lock(), asyncio.Lock()

    async def run(self) -> None:
        """Run until it ends, by either side."""
        reader = asyncio.create_task(self._read())
        working = asyncio.create_task(self._work())
        tasks = {reader, working, asyncio.create_task(self._work_finals())}
        try:
            await self._flush()
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            error = next((found for task in done if (found := task.exception())), None)
            end = failed(error) if isinstance(error, Exception) else reader.result()
            reader.cancel()
            if end.error:
                self._machine.refuse(end.error)
            if end.finish:
                self._machine.finish()
                self._due.set()
                await asyncio.wait({working}, timeout=self._slots.drain)
            await self._flush()
            await _close(self._websocket, end)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self) -> End:
        inbox = Inbox(self._slots)
        while True:
            message = await inbox.next(_receive(self._websocket))
            if isinstance(message, End):
                return message
            async with self._using:
                await _apply(self._machine, message)
            self._due.set()
            await self._flush()
            while self._machine.backlog > QUEUE:
                self._moved.clear()
                try:
                    await asyncio.wait_for(self._moved.wait(), STALLED)
                except asyncio.TimeoutError:
                    return End(TRY_LATER, ApiError(503, "overloaded", "the server is too busy to keep up"))

    async def _work(self) -> None:
        while not self._machine.over:
            self._due.clear()
            async with self._using:
                work = self._machine.next_work()
            await self._flush()
            if work and work.window.final:
                self._finals.put_nowait(work)
            elif work:
                await self._compute(work)
            elif not self._machine.over:
                await self._due.wait()

    async def _work_finals(self) -> None:
        while True:
            await self._compute(await self._finals.get())

    async def _compute(self, work: Work) -> None:
        try:
            events = await self._slots.compute(work.window, work.feed)
        except Exception as error:
            if not work.window.final:
                raise
            _log.exception("a second pass failed")
            self._machine.fail(work, as_api_error(error))
        else:
            async with self._using:
                self._machine.done(work, events)
        self._moved.set()
        self._due.set()
        await self._flush()

    async def _flush(self) -> None:
        async with self._sending:
            with suppress(*GONE):
                while events := self._machine.events:
                    await self._websocket.send_text(json.dumps(events.popleft()))


async def vosk(websocket: WebSocket) -> None:
    """Vosk's protocol."""
    service = websocket.app.state.service
    try:
        service.check_ready()
        with service.live.slot():
            machine = Vosk(service.model)
            await websocket.accept()
            try:
                end = await _answer(websocket, machine, service.live)
            except GONE:
                end = LEFT
            except Exception as error:
                end = failed(error)
            await _close(websocket, end)
    except ApiError as error:
        await websocket.send_denial_response(Refused(error))


async def _answer(websocket: WebSocket, machine: Vosk, slots: Slots) -> End:
    inbox, end = Inbox(slots), End(DONE)
    while not machine.over:
        message = await inbox.next(_receive(websocket))
        if isinstance(message, End):
            end, message = message, EOF
            if not end.finish:
                return end
        await _apply(machine, message)
        events = await slots.run(machine.live)
        if machine.due:
            await websocket.send_text(machine.answer(events))
    return end


async def _apply(machine: Realtime | Vosk, message: str | bytes) -> None:
    """Pass on a message; to spell hotwords takes time, in which the event loop goes on."""
    if isinstance(message, str) and ("keywords" in message or "phrase_list" in message):
        await asyncio.to_thread(machine.receive, message)
    else:
        machine.receive(message)


async def _receive(websocket: WebSocket) -> str | bytes | End:
    message = await websocket.receive()
    if message["type"] != "websocket.receive":
        return LEFT
    text: str | None = message.get("text")
    return message["bytes"] if text is None else text


async def _close(websocket: WebSocket, end: End) -> None:
    """Close, unless the client has."""
    if end.code:
        reason = str(end.error or "")[:100]  # bytes are limited
        with suppress(*GONE):
            await websocket.close(end.code, reason.encode("ascii", "replace").decode())
