"""Live speech recognition: packets of samples in, partial and final words out.

The model is computed in short overlapping windows: a chunk, some context to its left, which was computed
before, and a look-ahead to its right. Posteriors of chunks are decoded and committed; those of the look-ahead
only preview words. A pause ends a stretch of speech. Stretches are transcribed again with full context.

A session has no threads and no clock, so that a server can compute windows of several sessions as one batch.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from asr.audio import SAMPLE_RATE
from asr.console import option
from asr.decoding.hotwords import Hotword
from asr.decoding.types import Alternative, Word
from asr.formatting.readable import format_words, lower
from asr.frames import FrameGrid
from asr.inference.engine import Window
from asr.inference.transcriber import TranscribeOptions, Transcriber
from asr.text import BLANK


@dataclass(frozen=True)
class LiveOptions:
    """Options of live recognition. Times are in seconds."""

    chunk: float = option("seconds of audio decoded at a time", 0.4, least=0.04, most=10)
    look_ahead: float = option("seconds after a chunk that the model sees", 0.6, least=0.04, most=10)
    left_context: float = option("seconds before a chunk, computed again each time", 2.0, least=0, most=10)
    commit_age: float = option("seconds after which an unchanged word is committed", 1.2, least=0)
    hold: float = option("seconds after which a word is shown", 0.3, least=0)
    pause: float = option("seconds of silence that end a stretch of speech", 0.7, least=0.1)
    no_speech: float = option("seconds without words after which audio is dropped", 2.4, least=0.1)
    longest: float = option("longest stretch of speech in seconds", 20.0, least=2, most=60)
    two_pass: bool = option("transcribe stretches again with full context", True, hidden=True)


@dataclass(frozen=True, slots=True)
class Partial:
    """Text of the current stretch: `stable` words are committed, `unstable` ones may change.

    `start` is that of the stretch's first committed word, or else of the stretch, in seconds.
    """

    stable: str
    unstable: str
    start: float


@dataclass(frozen=True, slots=True)
class Committed:
    """Words that will not change."""

    words: tuple[Word, ...]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """End of a stretch of speech in seconds; its Final follows, maybe after words of the next stretch."""

    stretch: int
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Final:
    """Words of a stretch by the second pass; they may differ from the committed ones."""

    stretch: int
    start: float
    end: float
    words: tuple[Word, ...]
    n_best: tuple[Alternative, ...] = ()

    @property
    def text(self) -> str:
        """The words, joined by spaces."""
        return " ".join(word.text for word in self.words)


Event = Partial | Committed | Endpoint | Final


@dataclass(frozen=True)
class LiveWindow(Window):
    """Samples to compute; the last `ahead` output frames are look-ahead.

    `final` is the end of the stretch for the second pass, None for live text.
    """

    ahead: int = 0
    last: bool = False
    final: Endpoint | None = None


class Endpointer:
    """Finds the ends of stretches in blanks; lengths are in frames."""

    def __init__(self, pause: int, silence: int, longest: int) -> None:
        self._pause, self._silence, self._longest = pause, silence, longest
        self._blanks: list[bool] = []
        self._run = 0

    def end(self, is_blank: bool) -> bool:
        """Process a frame; returns whether the stretch ends after it."""
        self._blanks.append(is_blank)
        self._run = self._run + 1 if is_blank else 0
        spoken = self._run < len(self._blanks)
        return self._run >= (self._pause if spoken else self._silence) or len(self._blanks) >= self._longest

    def cut(self) -> int:
        """End the stretch and begin the next; returns how many frames of the past belong to the next.

        Those after a pause are none. A stretch that became too long is cut in the middle of the longest run
        of blanks in its second half.
        """
        rest = 0
        if self._run < self._pause:
            rest = _middle_of_longest_run(self._blanks[len(self._blanks) // 2 :][::-1])
        self._blanks = self._blanks[len(self._blanks) - rest :]
        self._run = min(self._run, rest)
        return rest


def _middle_of_longest_run(flags: list[bool]) -> int:
    """Index of the middle of the longest run of true values; 0 if there is none."""
    best, middle, run = 0, 0, 0
    for index, flag in enumerate(flags):
        run = run + 1 if flag else 0
        if run > best:
            best, middle = run, index + 1 - (run + 1) // 2
    return middle


class Recorder:
    """The last samples of a source, from frame `origin` on."""

    def __init__(self, grid: FrameGrid) -> None:
        self._grid = grid
        self._samples: np.ndarray = np.zeros(0, dtype=np.float32)
        self._packets: list[np.ndarray] = []
        self.origin = 0
        self.held = 0  # samples, packets included

    @property
    def seconds(self) -> float:
        """Length of the source so far."""
        return (self.origin * self._grid.stride + self.held) / SAMPLE_RATE

    def append(self, samples: np.ndarray) -> None:
        """Add a packet."""
        self._packets.append(np.array(samples, dtype=np.float32))
        self.held += len(samples)

    def frames(self, whole: bool) -> int:
        """Output frames of the source so far; with `whole`, only those with all of their samples."""
        return self.origin + (self.held // self._grid.stride if whole else self._grid.frames(self.held))

    def cut(self, begin: int, end: int) -> np.ndarray:
        """Samples from one frame to another, or to the last one."""
        if self._packets:
            self._samples, self._packets = np.concatenate([self._samples, *self._packets]), []
        first, last = ((frame - self.origin) * self._grid.stride for frame in (begin, end))
        return self._samples[first : last if last <= self.held else None].copy()

    def forget(self, frame: int) -> None:
        """Drop the samples before a frame, if they are many."""
        drop = (frame - self.origin) * self._grid.stride
        if 2 * drop > len(self._samples):
            self._samples = self._samples[drop:].copy()
            self.origin, self.held = frame, self.held - drop


class LiveSession:
    """Recognition of one live source.

    `push` samples as they arrive and `finish` at the end; both return events. Or else, to compute windows
    elsewhere: `receive` samples and `close` at the end; pass each `next_window` to `Engine.run`, and the
    result to `feed`, in order. Those with `final` may come later, after windows that were due later.

    Hotwords that cannot be spelt are left out, with one of `warnings` for each.
    """

    def __init__(
        self,
        model: Transcriber,
        live: LiveOptions = LiveOptions(),
        options: TranscribeOptions = TranscribeOptions(),
    ) -> None:
        self._engine, self._decoder, self._live, self._options = model.engine, model.decoder, live, options
        self._readable = model.writes_readable(options)
        self._grid = grid = model.engine.grid
        self._chunk, self._ahead = (max(1, grid.frames_in(s)) for s in (live.chunk, live.look_ahead))
        self._left = grid.frames_in(live.left_context)
        asked = (Hotword(phrase, options.hotword_boost) for phrase in options.hotwords)
        self._hotwords, self.warnings = model.decoder.fit_hotwords(asked)
        age, hold = grid.frames_in(live.commit_age), grid.frames_in(live.hold)
        self._stream = self._decoder.live(self._hotwords, age, hold)
        limits = (grid.frames_in(seconds) for seconds in (live.pause, live.no_speech, live.longest))
        self._endpointer = Endpointer(*limits)
        self._recorder = Recorder(grid)
        self._closed = False
        self._next = 0  # frame of the next chunk
        self._finals: deque[LiveWindow] = deque()
        self._decoded = 0  # frames
        self._start = 0  # frame of the stretch
        self._stretch = 0  # number of stretches with words so far
        self._words: tuple[Word, ...] = ()  # committed, of the stretch
        self._shown = ("", "")

    def push(self, samples: np.ndarray) -> list[Event]:
        """Process samples `float32[n]` at 16 kHz. Raises BundleError, DecodingError."""
        self.receive(samples)
        return self._run()

    def finish(self) -> list[Event]:
        """Process the rest after the last samples."""
        self.close()
        return self._run()

    def _run(self) -> list[Event]:
        events: list[Event] = []
        while window := self.next_window():
            events += self.feed(window, self._engine.run([window])[0])
        return events

    def receive(self, samples: np.ndarray) -> None:
        """Add samples `float32[n]` at 16 kHz."""
        self._recorder.append(samples)

    def close(self) -> None:
        """End the audio."""
        self._closed = True

    def next_window(self) -> LiveWindow | None:
        """The next window to compute, if there is one now; each is returned once."""
        if self._finals:
            return self._finals.popleft()
        end, ahead = self._next + self._chunk, self._ahead
        if self._recorder.frames(whole=True) < end + ahead:
            end, ahead = self._recorder.frames(whole=False), 0
            if not self._closed or end == self._next:
                return None
        begin = max(0, self._next - self._left)
        samples = self._recorder.cut(begin, end + ahead)
        window = LiveWindow(samples, self._next - begin, end + ahead - begin, ahead, last=not ahead)
        self._next = end
        self._recorder.forget(max(0, min(end, self._start) - self._left))
        return window

    def feed(self, window: LiveWindow, log_probs: np.ndarray) -> list[Event]:
        """Process what the engine returned for a window."""
        if window.final:
            return [self._second_pass(window.final, log_probs)]
        events: list[Event] = []
        chunk = log_probs[: len(log_probs) - window.ahead]
        blanks = np.isin(chunk.argmax(axis=1), (BLANK, self._decoder.tokenizer.separator or BLANK))
        fed = 0
        for index, is_blank in enumerate(blanks.tolist(), start=1):
            if self._endpointer.end(is_blank):
                self._decode(chunk[fed:index])
                events += self._end_stretch(self._endpointer.cut())
                fed = index
        self._decode(chunk[fed:])
        if window.last:
            return [*events, *self._end_stretch()]
        words, preview = self._stream.update(log_probs[len(chunk) :])
        return [*events, *self._commit(words), *self._partial(preview)]

    def _decode(self, log_probs: np.ndarray) -> None:
        self._stream.feed(log_probs)
        self._decoded += len(log_probs)

    def _commit(self, words: Iterable[Word]) -> list[Event]:
        words = self._within(words)
        self._words += words
        shown = self._show([word.text for word in words])
        return [Committed(tuple(map(_with_text, words, shown)))] if words else []

    def _show(self, words: list[str]) -> list[str]:
        """Words as they are shown before their stretch is finished and formatted."""
        return lower(words) if self._readable else words

    def _within(self, words: Iterable[Word], shift: float = 0.0) -> tuple[Word, ...]:
        """Words `shift` seconds later; the last frame may end a few milliseconds after the audio."""
        most = self._recorder.seconds
        return tuple(replace(w, start=w.start + shift, end=min(w.end + shift, most)) for w in words)

    def _partial(self, preview: list[str]) -> list[Event]:
        shown = " ".join(self._show([w.text for w in self._words])), " ".join(self._show(preview))
        if shown == self._shown:
            return []
        self._shown = shown
        start = self._words[0].start if self._words else self._start * self._grid.frame_seconds
        return [Partial(*shown, start)]

    def _end_stretch(self, rest: int = 0) -> list[Event]:
        """End the stretch `rest` frames ago."""
        end = self._decoded - rest
        nothing = np.zeros((0, self._decoder.tokenizer.size), dtype=np.float32)
        events = self._commit(self._stream.update(nothing, end)[0] if rest else self._stream.finish())
        begins, ends = (frame * self._grid.frame_seconds for frame in (self._start, end))
        words = tuple(word for word in self._words if word.start < ends)
        start, self._start, self._words = self._start, end, self._words[len(words) :]
        if not words:
            return [*events, *self._partial([])]
        endpoint = Endpoint(self._stretch, begins, ends)
        self._stretch, self._shown = self._stretch + 1, ("", "")
        if not self._live.two_pass:
            return [*events, endpoint, Final(endpoint.stretch, begins, ends, self._format(words))]
        begin = max(0, start - self._left)
        samples = self._recorder.cut(begin, end + self._ahead)
        self._finals.append(LiveWindow(samples, start - begin, end - begin, final=endpoint))
        return [*events, endpoint]

    def _second_pass(self, endpoint: Endpoint, log_probs: np.ndarray) -> Final:
        stream = self._decoder.stream(self._hotwords, self._options.n_best)
        stream.feed(log_probs)
        found = stream.finish()
        words = self._within(found.words, endpoint.start)
        n_best = found.n_best if len(found.n_best) > 1 else ()
        return Final(endpoint.stretch, endpoint.start, endpoint.end, self._format(words), n_best)

    def _format(self, words: tuple[Word, ...]) -> tuple[Word, ...]:
        """Words of a finished stretch with punctuation and capitals, unless raw ones are asked for."""
        return tuple(format_words(words, self._options.numbers)) if self._readable else words


def _with_text(word: Word, text: str) -> Word:
    return replace(word, text=text)
