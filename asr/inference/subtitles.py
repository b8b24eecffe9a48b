"""Words -> subtitles that can be read: when each is shown, and how it is laid out.

Where to cut is a shortest path over the words of a channel. A cue is any run of words that fits LINES lines
of WIDTH characters and was said within LONGEST; of all ways to cut, that of the least total cost is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from asr.decoding.types import Word
from asr.inference.transcript import Transcript

LINES = 2
WIDTH = 42
"""Characters a line."""

SHORTEST, LONGEST = 1_000, 7_000
"""Milliseconds that a cue is shown."""

_BREAK = 500
"""A pause of as many milliseconds within a cue costs as much as any one more cue can."""

_SHORT = 1_000.0
"""The cost of a cue that is too short: more than joining it to its neighbours, over any pause, can cost."""


@dataclass(frozen=True)
class Cue:
    """What is shown from `start` to `end`, in seconds (whole milliseconds)."""

    start: float
    end: float
    lines: tuple[str, ...]
    channel: int | None = None


@dataclass(frozen=True)
class _Piece:
    """A word, or the part of a long word that fits a line; times in milliseconds."""

    text: str
    start: int
    end: int


def cues(transcript: Transcript) -> list[Cue]:
    """Subtitles by their start; each word stands in exactly one, in order, and none overlap in a channel.

    At most two lines of 42 characters, 1 to 7 seconds. Shown for less than a second is only what is crammed:
    it then reaches from the cue before (or the recording's begin) to the cue after (or the end). A word of
    more than 42 characters is broken over lines; one that lasts more than 7 seconds is shown for 7.
    """
    made = []
    for channel in dict.fromkeys(segment.channel for segment in transcript.segments):
        words = [w for segment in transcript.segments if segment.channel == channel for w in segment.words]
        pieces = list(_pieces(words))
        limit = max([round(1000 * transcript.duration), *(piece.end for piece in pieces)])
        bounds = _cut(pieces, limit)
        for (a, b), (start, end) in zip(bounds, _times(pieces, bounds, limit), strict=True):
            lines = _lines([piece.text for piece in pieces[a:b]])
            made.append(Cue(start / 1000, end / 1000, lines, channel))
    return sorted(made, key=lambda cue: cue.start)


def _pieces(words: Sequence[Word]) -> Iterator[_Piece]:
    """Pieces in order, none begun before the last has ended, none longer than LONGEST.

    A long word's share its time by their length.
    """
    last = 0
    for word in words:
        start = max(last, round(1000 * word.start))
        last = max(start, round(1000 * word.end))
        for at in range(0, len(word.text), WIDTH):
            part = word.text[at : at + WIDTH]
            begin, end = (
                (start * (len(word.text) - i) + last * i) // len(word.text) for i in (at, at + len(part))
            )
            yield _Piece(part, begin, min(end, begin + LONGEST))


def _cut(pieces: Sequence[_Piece], limit: int) -> list[tuple[int, int]]:
    """Bounds `[a, b)` of the cues, of least total cost."""
    shares = [0, *((p.end + q.start) // 2 for p, q in pairwise(pieces)), limit]
    costs = [0.0] * (len(pieces) + 1)  # costs[a]: of the best cues for pieces[a:]
    following = [0] * len(pieces)
    for a in reversed(range(len(pieces))):
        costs[a], following[a] = min((cost + costs[b], b) for b, cost in _candidates(pieces, shares, a))
    bounds = [0]
    while bounds[-1] < len(pieces):
        bounds.append(following[bounds[-1]])
    return list(pairwise(bounds))


def _candidates(pieces: Sequence[_Piece], shares: Sequence[int], a: int) -> Iterator[tuple[int, float]]:
    """Each end `b` that a cue from `a` can have, and its cost.

    That is: the square of the part of it that is empty, its pauses, and a high price where the time it can
    count on, half the pause before it and half the one after, is too short. As 1 - (x + y) squared is less
    by 1 at most than 1 - x and 1 - y squared together, a pause of _BREAK is always worth a break.
    """
    lines, width, filled, pauses = 1, -1, 0, 0
    for b in range(a, len(pieces)):
        piece = pieces[b]
        width += 1 + len(piece.text)
        if width > WIDTH:
            lines, width = lines + 1, len(piece.text)
        if b > a:
            if lines > LINES or piece.end - pieces[a].start > LONGEST:
                return
            pauses += piece.start - pieces[b - 1].end
        filled += 1 + len(piece.text)
        empty = 1 - filled / (LINES * (WIDTH + 1))
        missing = max(0, SHORTEST - (shares[b + 1] - shares[a])) / SHORTEST
        yield b + 1, empty**2 + pauses / _BREAK + (_SHORT * (1 + missing) if missing else 0)


def _times(pieces: Sequence[_Piece], bounds: Sequence[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """When each cue is shown. What is too short lasts on after its words, or else begins before them.

    From the last to the first, so that no cue takes time that the one after it could not do without.
    """
    times = []
    for a, b in reversed(bounds):
        start, end = pieces[a].start, pieces[b - 1].end
        end = min(max(end, start + SHORTEST), limit)
        if end - start < SHORTEST:
            start = max(end - SHORTEST, pieces[a - 1].end if a else 0)
        times.append((start, end))
        limit = start
    return times[::-1]


def _lines(words: Sequence[str]) -> tuple[str, ...]:
    """One line where that is enough, or two: the longer one as short as can be, and rather the second."""
    whole = " ".join(words)
    if len(whole) <= WIDTH:
        return (whole,)
    halves = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
    return min(halves, key=lambda lines: (max(map(len, lines)), len(lines[0])))
