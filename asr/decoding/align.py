"""CTC forced alignment (Viterbi), word times and word confidences.

CTC states follow Graves et al. (2006): state 2i + 1 is token i, even states are the blanks around tokens.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from asr.decoding.types import FLOOR, Word
from asr.errors import DecodingError
from asr.jit import compiled
from asr.text import BLANK, ctc_frames_needed

_MOVES_BYTES = 16 << 20  # most backpointers held at once, unless one block of ~sqrt(T) frames needs more
Span = tuple[str, int, int]  # a word, the index of its first token, and of the one after its last


class Alignment(NamedTuple):
    """Token i spans frames `starts[i]` to `ends[i]` (exclusive); all other frames are blank.

    `peaks[i]` is its highest log posterior there, `score` the log-probability of the path.
    """

    starts: np.ndarray
    ends: np.ndarray
    peaks: np.ndarray
    score: float


# All alignments have arrays of one type: _score_words would be compiled again for another.
NO_ALIGNMENT = Alignment(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32), 0.0)


class AlignedTokens(NamedTuple):
    """Tokens, the words in them, and their alignment with frames; tokens outside words are separators."""

    tokens: Sequence[int]
    spans: Sequence[Span]
    alignment: Alignment


def align(log_probs: np.ndarray, tokens: Sequence[int]) -> Alignment:
    """Find the best path through log-probabilities `float[T, V]` that emits `tokens`.

    Takes O(T L) time for L tokens, and O(sqrt(T) L) memory if T L is large: scores are kept at checkpoints
    and the backpointers between them computed twice. Raises DecodingError if no path emits the tokens.
    """
    labels = np.full(2 * len(tokens) + 1, BLANK)
    labels[1::2] = tokens
    _check(log_probs, labels[1::2])
    log_probs = np.ascontiguousarray(np.maximum(log_probs, FLOOR), dtype=np.float32)
    path, score = _best_path(log_probs, labels)
    states = np.arange(1, len(labels), 2)
    starts, ends = np.searchsorted(path, states), np.searchsorted(path, states, side="right")
    along = np.append(log_probs[np.arange(len(path)), labels[path]], np.float32(-np.inf))
    peaks = np.maximum.reduceat(along, np.stack([starts, ends], axis=1).ravel())[::2]
    return Alignment(starts, ends, np.ascontiguousarray(peaks), score)


def align_words(
    log_probs: np.ndarray,
    words: Sequence[tuple[str, Sequence[int]]],
    separator: int | None,
    frame_seconds: float,
    temperature: float = 1.0,
) -> tuple[Word, ...]:
    """Times and confidences of words with known tokens. Raises DecodingError as `align`."""
    if not words:
        return ()
    tokens, spans = join_words(words, separator)
    aligned = AlignedTokens(tokens, spans, align(log_probs, tokens))
    return time_words(log_probs, aligned, frame_seconds, temperature=temperature)


def join_words(
    words: Sequence[tuple[str, Sequence[int]]], separator: int | None, first: Sequence[int] = ()
) -> tuple[list[int], list[Span]]:
    """Join the tokens `first` and those of words with separators between; returns tokens and word spans."""
    tokens = list(first)
    spans: list[Span] = []
    for text, spelling in words:
        if spans and separator is not None:
            tokens.append(separator)
        spans.append((text, len(tokens), len(tokens) + len(spelling)))
        tokens.extend(spelling)
    return tokens, spans


def time_words(
    log_probs: np.ndarray,
    aligned: AlignedTokens,
    frame_seconds: float,
    offset: int = 0,
    temperature: float = 1.0,
) -> tuple[Word, ...]:
    """Times and confidences of aligned words.

    `log_probs` begin at frame `offset` of the recording. A word lasts from its first token to its last. Its
    probability p is that of its tokens, summed over all CTC alignments within the frames between its
    neighbours' tokens, times the posterior peaks of the separators beside it: a word is right only if it also
    begins and ends there. Its confidence is p ** (1 / (n T)) for n tokens, separators included, at
    temperature T. At T = 1 that is a geometric mean over tokens, not a calibrated probability;
    asr.scoring.calibration fits T.
    """
    words = np.array([span[1:] for span in aligned.spans], dtype=np.int64).reshape(-1, 2)
    frames, tokens = (
        np.ascontiguousarray(log_probs, dtype=np.float32),
        np.array(aligned.tokens, dtype=np.int64),
    )
    scores = _score_words(frames, tokens, aligned.alignment, words)
    confidences = np.exp(np.minimum(scores, 0) / temperature).tolist()
    starts = ((offset + aligned.alignment.starts[words[:, 0]]) * frame_seconds).tolist()
    ends = ((offset + aligned.alignment.ends[words[:, 1] - 1]) * frame_seconds).tolist()
    return tuple(map(Word, (text for text, _, _ in aligned.spans), starts, ends, confidences))


def _check(log_probs: np.ndarray, tokens: np.ndarray) -> None:
    if log_probs.ndim != 2 or len(log_probs) == 0:
        raise DecodingError(f"posteriors of shape {log_probs.shape} hold no frame to align with")
    if len(tokens) == 0:
        raise DecodingError("no tokens to align; give a text")
    frames, size = log_probs.shape
    if len(outside := tokens[(tokens <= BLANK) | (tokens >= size)]):
        raise DecodingError(f"token {outside[0]} cannot be aligned; the model has tokens 1 to {size - 1}")
    if (needed := ctc_frames_needed(tokens.tolist())) > frames:
        raise DecodingError(f"{len(tokens)} tokens need {needed} frames, the recording has {frames}")
    if (bad := ~(log_probs < np.inf).all(axis=1)).any():
        raise DecodingError(f"posteriors hold NaN or +inf (first in frame {bad.argmax()}); damaged model?")


# Viterbi search


def _best_path(log_probs: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, float]:
    """State of each frame `int64[T]`, and the path's log-probability."""
    frames, states = len(log_probs), len(labels)
    # Backpointers take a byte per frame and state, a checkpoint eight bytes per state.
    block = frames if frames * states <= _MOVES_BYTES else int(np.ceil(np.sqrt(8 * frames)))
    starts = range(0, frames, block)
    moves = np.empty((min(block, frames), states), dtype=np.uint8)
    checkpoints = np.empty((len(starts), states))
    row = np.full(states, -np.inf)
    row[0] = 0.0  # as if a blank preceded the first frame
    for checkpoint, start in zip(checkpoints, starts, strict=True):
        checkpoint[:] = row
        _advance(log_probs, labels, start, row, moves)
    state = states - 1 if row[-1] > row[-2] else states - 2
    score = float(row[state])

    path = np.empty(frames, dtype=np.int64)
    for checkpoint, start in zip(checkpoints[::-1], reversed(starts), strict=True):
        if start != starts[-1]:
            _advance(log_probs, labels, start, checkpoint, moves)
        state = _trace(moves, state, path[start : start + block])
    return path, score


@compiled
def _advance(
    log_probs: np.ndarray, labels: np.ndarray, start: int, row: np.ndarray, moves: np.ndarray
) -> None:
    """Advance `row`, the states' scores before frame `start`, through a block of frames.

    A move is how many states back the best predecessor is: 0, 1, or 2 from one token to a different one.
    States that no path can pass in a frame are skipped: no other state is entered from one of them.
    """
    frames, states = len(log_probs), len(labels)
    for t in range(start, min(start + len(moves), frames)):
        lowest, highest = max(0, states - 2 * (frames - t)), min(states - 1, 2 * t + 1)
        for s in range(highest, lowest - 1, -1):  # downwards, so that lower states still hold frame t - 1
            best, move = row[s], 0
            if s >= 1 and row[s - 1] > best:
                best, move = row[s - 1], 1
            if s >= 3 and s % 2 == 1 and labels[s] != labels[s - 2] and row[s - 2] > best:
                best, move = row[s - 2], 2
            row[s] = best + log_probs[t, labels[s]]
            moves[t - start, s] = move


@compiled
def _trace(moves: np.ndarray, state: int, path: np.ndarray) -> int:
    """Write the states of a block that ends in `state`; returns the state of the frame before it."""
    for t in range(len(path) - 1, -1, -1):
        path[t] = state
        state -= moves[t, state]
    return state


# Confidences


@compiled
def _score_words(
    log_probs: np.ndarray, tokens: np.ndarray, alignment: Alignment, words: np.ndarray
) -> np.ndarray:
    """Mean log-probability per token of each word `int64[W, 2]`: `float64[W]`."""
    starts, ends, peaks, _ = alignment
    means = np.empty(len(words))
    for i in range(len(words)):
        first, last = words[i]
        begin = ends[first - 1] if first > 0 else 0
        end = starts[last] if last < len(tokens) else len(log_probs)
        score, count = _forward(log_probs[begin:end], tokens[first:last]), last - first
        if first > (words[i - 1, 1] if i > 0 else 0):
            score, count = score + min(peaks[first - 1], 0), count + 1
        if last < (words[i + 1, 0] if i + 1 < len(words) else len(tokens)):
            score, count = score + min(peaks[last], 0), count + 1
        means[i] = score / count
    return means


@compiled
def _forward(log_probs: np.ndarray, tokens: np.ndarray) -> float:
    """Log-probability that the frames emit exactly the tokens (CTC forward algorithm)."""
    row = np.full(2 * len(tokens) + 1, -np.inf)
    row[0] = 0.0
    for t in range(len(log_probs)):
        for s in range(min(2 * t + 1, len(row) - 1), -1, -1):
            total = row[s]
            if s >= 1:
                total = np.logaddexp(total, row[s - 1])
            if s >= 3 and s % 2 == 1 and tokens[s // 2] != tokens[s // 2 - 1]:
                total = np.logaddexp(total, row[s - 2])
            row[s] = total + log_probs[t, tokens[s // 2] if s % 2 == 1 else 0]
    return float(np.logaddexp(row[-1], row[-2]))
