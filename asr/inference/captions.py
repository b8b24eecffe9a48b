"""Live captions in a terminal or a pipe, and subtitles that grow while someone speaks."""

import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO

import numpy as np
from rich.console import Console, ConsoleOptions, RenderResult
from rich.live import Live
from rich.text import Text

from asr.decoding.types import Word
from asr.inference.live import Committed, Endpoint, Event, Final, LiveSession, Partial
from asr.inference.subtitles import cues
from asr.inference.transcript import Transcript, segments
from asr.inference.writers import srt_cue

Show = Callable[[Event], None]


class Interrupt:
    """Turns SIGINT and SIGTERM into KeyboardInterrupt, but only between two steps of work."""

    def __init__(self) -> None:
        self._working = self._pending = False

    def __enter__(self) -> "Interrupt":
        self._before = {s: signal.signal(s, self._handle) for s in (signal.SIGINT, signal.SIGTERM)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._working:
            raise KeyboardInterrupt
        self._pending = True

    @contextmanager
    def step(self, last: bool = False) -> Iterator[None]:
        """A step that is not interrupted; unless it is the last, KeyboardInterrupt follows it."""
        self._working = True
        try:
            yield
        finally:
            self._working = last
        if self._pending and not last:
            raise KeyboardInterrupt


def listen(session: LiveSession, packets: Iterable[np.ndarray], shows: Iterable[Show]) -> None:
    """Show the events of a session until the packets end or the user interrupts."""
    shows = tuple(shows)

    def show(events: Iterable[Event]) -> None:
        for event in events:
            for each in shows:
                each(event)

    with Interrupt() as interrupt:
        try:
            for packet in packets:
                with interrupt.step():
                    show(session.push(packet))
        except KeyboardInterrupt:
            pass
        finally:
            with interrupt.step(last=True):
                show(session.finish())


def print_finals(event: Event) -> None:
    """Print each stretch as a line."""
    if isinstance(event, Final) and event.words:
        print(event.text, flush=True)


class Captions:
    """Captions in a terminal: finished stretches scroll by, the current one is redrawn below them.

    Words that may change are grey. `lost` gives the seconds of audio dropped.
    """

    def __init__(self, console: Console, lost: Callable[[], float] = lambda: 0.0) -> None:
        self._console, self._lost = console, lost
        self._text = Text("listening", style="bright_black")
        self._live = Live(self, console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "Captions":
        self._live.start(refresh=True)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def __call__(self, event: Event) -> None:
        """Show an event."""
        if isinstance(event, Partial):
            self._text = Text(f"{event.stable} ".lstrip())
            self._text.append(event.unstable, style="bright_black")
        elif isinstance(event, Final):
            self._text = Text("")
            self._console.print(Text(event.text))
        if not isinstance(event, Committed | Endpoint):
            self._live.refresh()

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The last lines that fit the terminal: a taller region could not be redrawn."""
        text = self._text.copy()
        if lost := self._lost():
            text.append(f" [{lost:.1f} s lost]", style="red")
        yield from text.wrap(console, options.max_width)[-max(1, console.height - 1) :]


class SubtitleFile:
    """SubRip that is complete after every event: cues of finals, then of the words committed since."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self._number, self._last, self._end = 0, 0.0, 0
        self._words: list[Word] = []

    def __call__(self, event: Event) -> None:
        """Write an event."""
        if isinstance(event, Committed):
            self._words += event.words
            self._write(self._words, self._words[-1].end)
        elif isinstance(event, Final):
            self._number, self._last = self._write(event.words, event.end)
            self._end = self._file.tell()
            self._words = [word for word in self._words if word.start >= event.end]

    def _write(self, words: Iterable[Word], end: float) -> tuple[int, float]:
        """Write cues after those of the last final; returns the number and the end of the last cue."""
        number, last = self._number, self._last
        self._file.seek(self._end)
        for cue in cues(Transcript(tuple(segments(tuple(words))), end)):
            number += 1
            self._file.write("\n" * (number > 1) + srt_cue(replace(cue, start=max(last, cue.start)), number))
            last = cue.end
        self._file.truncate()
        self._file.flush()
        return number, last


def listen_in_terminal(
    session: LiveSession,
    packets: Iterable[np.ndarray],
    subtitles: Path | None = None,
    lost: Callable[[], float] = lambda: 0.0,
) -> None:
    """Listen, and show captions: drawn in a terminal, else one line per stretch."""
    console = Console(highlight=False)
    with ExitStack() as stack:
        shows: list[Show] = []
        if subtitles:
            shows.append(SubtitleFile(stack.enter_context(subtitles.open("w", encoding="utf-8"))))
        if console.is_terminal:
            shows.append(stack.enter_context(Captions(console, lost)))
        else:
            shows.append(print_finals)
        listen(session, packets, shows)
