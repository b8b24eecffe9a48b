"""Words -> readable subtitles.

A cue is any run of words that fits LINES lines of WIDTH characters and spans at most LONGEST. The words of a
channel are split into cues of the least total cost, a shortest path found by dynamic programming. Cues and
lines preferably end with a sentence or a clause.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from asr.decoding.types import Word
from asr.formatting.marks import SENTENCE_END
from asr.inference.transcript import Transcript

LINES, WIDTH = 2, 42  # characters per line
SHORTEST, LONGEST = 1_000, 7_000  # duration of a cue in milliseconds
_BREAK = 500  # milliseconds of pause within a cue that cost as much as one more cue can
_SENTENCE, _CLAUSE = 0.5, 0.2  # credit of a cue that ends with one
_BALANCE = 12  # characters by which a first line may be longer or shorter to end with a clause
_SHORT = 1_000.0  # cost of a cue that is too short: more than joining it to its neighbours over any pause


@dataclass(frozen=True)
class Cue:
    """A subtitle shown from `start` to `end`, in seconds (whole milliseconds)."""

    start: float
    end: float
    lines: tuple[str, ...]
    channel: int | None = None


class _Piece(NamedTuple):
    """A word, or a part of a long word that fits a line; times in milliseconds."""

    text: str
    start: int
    end: int


def cues(transcript: Transcript) -> list[Cue]:
    """Split a transcript into cues, sorted by start, which do not overlap within a channel.

    A cue has at most two lines of 42 characters and lasts 1 to 7 seconds; less only if it already reaches
    from the previous cue (or the start of the recording) to the next (or the end). A word of more than 42
    characters is broken over lines; one that lasts more than 7 seconds is shown for 7.
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
    """Pieces in order, without overlap, at most LONGEST; parts of a word share its time by length."""
    last = 0
    for word in words:
        start = max(last, round(1000 * word.start))
        last = max(start, round(1000 * word.end))
        length = len(word.text)
        for at in range(0, length, WIDTH):
            part = word.text[at : at + WIDTH]
            begin, end = ((start * (length - i) + last * i) // length for i in (at, at + len(part)))
            yield _Piece(part, begin, min(end, begin + LONGEST))


def _cut(pieces: Sequence[_Piece], limit: int) -> list[tuple[int, int]]:
    """Bounds `[a, b)` of the cues of least total cost."""
    shares = [0, *((p.end + q.start) // 2 for p, q in pairwise(pieces)), limit]
    costs = [0.0] * (len(pieces) + 1)  # costs[a]: least cost of pieces[a:]
    following = [0] * len(pieces)
    for a in reversed(range(len(pieces))):
        costs[a], following[a] = min((cost + costs[b], b) for b, cost in _candidates(pieces, shares, a))
    bounds = [0]
    while bounds[-1] < len(pieces):
        bounds.append(following[bounds[-1]])
    return list(pairwise(bounds))


def _candidates(pieces: Sequence[_Piece], shares: Sequence[int], a: int) -> Iterator[tuple[int, float]]:
    """Each possible end `b` of a cue from `a`, and its cost.

    The cost is the squared empty share of the cue, plus its pauses, minus the credit of its end, plus a
    penalty if its guaranteed time, between the middles of the pauses around it, is too short. Without
    punctuation, a pause of _BREAK always pays for a break, as (1 - x)^2 + (1 - y)^2 exceeds (1 - (x + y))^2
    by at most 1.
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
        yield (
            b + 1,
            empty**2 + pauses / _BREAK - _credit(piece.text) + (_SHORT * (1 + missing) if missing else 0),
        )


def _credit(word: str) -> float:
    """Credit of a cue that ends with this word; 0 for plain words."""
    return (
        _SENTENCE if word[-1:] in SENTENCE_END else _CLAUSE if word.endswith((",", ";", ":", "--")) else 0.0
    )


def _times(pieces: Sequence[_Piece], bounds: Sequence[tuple[int, int]], limit: int) -> list[tuple[int, int]]:
    """Start and end of each cue. A cue that is too short ends later, or else starts earlier, than its words.

    Works backwards, so that no cue takes time that the next one needs.
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
    """One line if the words fit, else two: the longer one as short as possible, preferably the second.

    A break after a sentence or a clause counts as _BALANCE characters less.
    """
    whole = " ".join(words)
    if len(whole) <= WIDTH:
        return (whole,)
    halves = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]

    def length(lines: tuple[str, str]) -> tuple[int, int]:
        longer = max(map(len, lines))
        return longer - _BALANCE * (longer <= WIDTH and _credit(lines[0]) > 0), len(lines[0])

    return min(halves, key=length)
