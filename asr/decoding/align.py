"""CTC forced alignment: the most probable path that collapses to given tokens (Graves et al. 2006)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.decoding.confidence import word_confidences
from asr.decoding.hypothesis import Word
from asr.decoding.posteriors import FLOOR
from asr.errors import DecodingError
from asr.jit import compiled
from asr.text import BLANK, ctc_frames_needed

_MOVES_BYTES = 16 << 20
"""Moves that are kept at a time, unless a single block of ~sqrt(T) frames takes more."""

Span = tuple[str, int, int]
"""A word's text, its first token and the one after its last."""


@dataclass(frozen=True)
class Alignment:
    """Token i lasts from frame `starts[i]` up to, not including, `ends[i]`; the other frames are blank.

    `peaks[i]` is its highest log posterior over them, `score` the log-probability of the whole path.
    """

    starts: np.ndarray
    ends: np.ndarray
    peaks: np.ndarray
    score: float


def align(log_probs: np.ndarray, tokens: Sequence[int]) -> Alignment:
    """The best path through log-probabilities `float[T, V]` that emits `tokens`, by Viterbi search.

    Takes O(T L) time for L tokens; memory is O(sqrt(T) L) where T L is large: rows are kept at check-points
    and the moves between them computed twice. Raises DecodingError where no path can emit the tokens.
    """
    labels = np.full(2 * len(tokens) + 1, BLANK, dtype=np.int64)
    labels[1::2] = tokens
    _check(log_probs, labels[1::2])
    log_probs = np.ascontiguousarray(np.maximum(log_probs, FLOOR), dtype=np.float32)
    path, score = _best_path(log_probs, labels)
    states = np.arange(1, len(labels), 2)
    starts, ends = np.searchsorted(path, states), np.searchsorted(path, states, side="right")
    along = np.append(log_probs[np.arange(len(path)), labels[path]], np.float32(-np.inf))
    peaks = np.maximum.reduceat(along, np.stack([starts, ends], axis=1).ravel())[::2]
    return Alignment(starts, ends, peaks, score)


def align_words(
    log_probs: np.ndarray,
    words: Sequence[tuple[str, Sequence[int]]],
    separator: int | None,
    frame_seconds: float,
    temperature: float = 1.0,
) -> tuple[Word, ...]:
    """Times and confidences of words, each given with its tokens; `separator` is the token between words.

    No words give no words. Raises DecodingError as `align`.
    """
    if not words:
        return ()
    tokens, spans = join_words(words, separator)
    return time_words(
        log_probs, tokens, align(log_probs, tokens), spans, frame_seconds, temperature=temperature
    )


def join_words(
    words: Sequence[tuple[str, Sequence[int]]], separator: int | None, first: Sequence[int] = ()
) -> tuple[list[int], list[Span]]:
    """The tokens `first` and those of `words`, with separators between; and where the words lie in them."""
    tokens = list(first)
    spans: list[Span] = []
    for text, spelling in words:
        if spans and separator is not None:
            tokens.append(separator)
        if not spelling:
            raise DecodingError(f"word {text!r} has no tokens to align")
        spans.append((text, len(tokens), len(tokens) + len(spelling)))
        tokens.extend(spelling)
    return tokens, spans


def time_words(
    log_probs: np.ndarray,
    tokens: Sequence[int],
    alignment: Alignment,
    spans: Sequence[Span],
    frame_seconds: float,
    offset: int = 0,
    temperature: float = 1.0,
) -> tuple[Word, ...]:
    """Words from aligned tokens; the first of `log_probs` is frame `offset` of the recording.

    A word lasts from the begin of its first token to the end of its last, in frames of
    `frame_seconds`; for confidences see asr.decoding.confidence.
    """
    starts, ends = alignment.starts, alignment.ends
    confidences = word_confidences(
        np.ascontiguousarray(log_probs, dtype=np.float32),
        np.array(tokens, dtype=np.int64),
        (starts, ends, alignment.peaks),
        np.array([span[1:] for span in spans], dtype=np.int64).reshape(-1, 2),
        temperature,
    )
    return tuple(
        Word(
            text=text,
            start=(offset + int(starts[first])) * frame_seconds,
            end=(offset + int(ends[last - 1])) * frame_seconds,
            confidence=float(confidence),
        )
        for (text, first, last), confidence in zip(spans, confidences, strict=True)
    )


def _check(log_probs: np.ndarray, tokens: np.ndarray) -> None:
    if log_probs.ndim != 2 or len(log_probs) == 0:
        raise DecodingError(f"posteriors of shape {log_probs.shape} hold no frame to align with")
    if len(tokens) == 0:
        raise DecodingError("no tokens to align; give a text")
    frames, size = log_probs.shape
    outside = tokens[(tokens <= BLANK) | (tokens >= size)]
    if len(outside):
        raise DecodingError(f"token {outside[0]} cannot be aligned; the model has tokens 1 to {size - 1}")
    needed = ctc_frames_needed(tokens.tolist())
    if needed > frames:
        raise DecodingError(f"{len(tokens)} tokens need {needed} frames, the recording has {frames}")
    bad = ~(log_probs < np.inf).all(axis=1)
    if bad.any():
        raise DecodingError(
            f"posteriors hold NaN or +inf (first in frame {bad.argmax()}); the model is damaged or diverged"
        )


def _best_path(log_probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """State of each frame, `int64[T]`, and the path's log-probability.

    State 2i + 1 is token i, the even states are the blanks around the tokens: a path starts in one of the
    first two and ends in one of the last two.
    """
    frames, states = len(log_probs), len(labels)
    # A block's moves take a byte a frame and state, a check-point eight bytes a state.
    block = frames if frames * states <= _MOVES_BYTES else int(np.ceil(np.sqrt(8 * frames)))
    starts = range(0, frames, block)
    earliest, latest = _reach(labels, frames)
    moves = np.empty((min(block, frames), states), dtype=np.uint8)
    rows = np.empty((len(starts), states))
    row = np.full(states, -np.inf)
    row[0] = 0.0  # as if a blank came before the first frame
    for kept, start in zip(rows, starts, strict=True):
        kept[:] = row
        _advance(log_probs, labels, earliest, latest, start, row, moves)
    state = states - 1 if row[-1] > row[-2] else states - 2
    score = float(row[state])

    path = np.empty(frames, dtype=np.int64)
    for kept, start in zip(rows[::-1], reversed(starts), strict=True):
        if start != starts[-1]:
            _advance(log_probs, labels, earliest, latest, start, kept, moves)
        state = _trace(moves, state, path[start : start + block])
    return path, score


def _reach(labels: np.ndarray, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """First frame at which each state can be reached, and last from which the end still can; both rise."""

    def from_start(labels: np.ndarray) -> np.ndarray:
        tokens = labels[1::2]
        repeats = np.concatenate([[0], np.cumsum(tokens[1:] == tokens[:-1])])
        earliest = np.zeros(len(labels), dtype=np.int64)
        earliest[1::2] = np.arange(len(tokens)) + repeats
        earliest[2::2] = earliest[1::2] + 1
        return earliest

    return from_start(labels), frames - 1 - from_start(labels[::-1])[::-1]


@compiled
def _advance(
    log_probs: np.ndarray,
    labels: np.ndarray,
    earliest: np.ndarray,
    latest: np.ndarray,
    start: int,
    row: np.ndarray,
    moves: np.ndarray,
) -> None:
    """Take `row`, the states' scores before frame `start`, through a block of frames.

    A move is how many states back the best predecessor lies: 0, 1, or 2 from a token to another one. States
    out of reach are skipped; a state within reach is never entered from one that is not.
    """
    for t in range(start, min(start + len(moves), len(log_probs))):
        lowest = np.searchsorted(latest, t)
        highest = np.searchsorted(earliest, t, side="right") - 1
        for s in range(highest, lowest - 1, -1):  # downwards: what is below is still the row before
            best, move = row[s], 0
            if s >= 1 and row[s - 1] > best:
                best, move = row[s - 1], 1
            if s >= 3 and s % 2 == 1 and labels[s] != labels[s - 2] and row[s - 2] > best:
                best, move = row[s - 2], 2
            row[s] = best + log_probs[t, labels[s]]
            moves[t - start, s] = move


@compiled
def _trace(moves: np.ndarray, state: int, path: np.ndarray) -> int:
    """Write the states of a block, given the one of its last frame; returns that of the frame before it."""
    for t in range(len(path) - 1, -1, -1):
        path[t] = state
        state -= moves[t, state]
    return state
