"""Decoding of posteriors that arrive in pieces, in bounded memory for recordings of any length.

Every LOOK_BACK frames, words older than SETTLE frames are committed: hypotheses with other words are dropped,
and the posteriors of committed words forgotten. Recordings up to LOOK_BACK frames are decoded as a whole. If
no word ends for longer, all is kept until one does.
"""

from typing import Protocol

import numpy as np

from asr.decoding.align import NO_ALIGNMENT, AlignedTokens, Alignment, Span, align, join_words, time_words
from asr.decoding.beam import BeamSearch
from asr.decoding.greedy import best_words
from asr.decoding.types import Alternative, Hypothesis, Word, check_posteriors
from asr.text import Tokenizer, ctc_frames_needed

LOOK_BACK = 1000
SETTLE = 250
"""Frames: 40 s and 10 s at 40 ms per frame."""


class Search(Protocol):
    """A decoding method; `frames` are the posteriors since the last commit.

    `best` returns the best words so far. `commit` makes the first `words` of them final and forgets `frames`
    frames. `finish` returns the best words at the end, and the n-best list of the whole recording.
    """

    def advance(self, log_probs: np.ndarray) -> None: ...

    def best(self, frames: np.ndarray) -> AlignedTokens: ...

    def commit(self, words: int, frames: int) -> None: ...

    def finish(self, frames: np.ndarray) -> tuple[AlignedTokens, list[Alternative]]: ...


class Stream:
    """Decoding of one recording: `feed` all posteriors, then `finish`. `pace` replaces LOOK_BACK, SETTLE."""

    def __init__(
        self,
        search: Search,
        tokenizer: Tokenizer,
        frame_seconds: float,
        temperature: float,
        pace: tuple[int, int] | None = None,
    ) -> None:
        self._search, self._separator = search, tokenizer.separator
        self._frame_seconds, self._temperature = frame_seconds, temperature
        self._frames: np.ndarray = np.zeros((0, tokenizer.size), dtype=np.float32)
        self._fresh: list[np.ndarray] = []
        self._look_back, self._settle = pace or (LOOK_BACK, SETTLE)
        self._count, self._due, self._forgotten = 0, self._look_back, 0
        self._words: list[Word] = []

    def feed(self, log_probs: np.ndarray) -> None:
        """Process log-probabilities `float[T, V]`; the size of pieces does not change the result.

        Raises DecodingError as `check_posteriors`.
        """
        while True:
            piece, log_probs = log_probs[: self._due - self._count], log_probs[self._due - self._count :]
            self._search.advance(piece)
            self._fresh.append(piece)
            self._count += len(piece)
            if self._count < self._due:
                return
            self._commit()

    def committed(self) -> list[Word]:
        """Words that are final so far."""
        return self._words

    def finish(self) -> Hypothesis:
        """The whole transcript. All entries of the n-best list share the committed words."""
        frames = self._gather()
        aligned, n_best = self._search.finish(frames)
        committed = " ".join(word.text for word in self._words)
        self._append(frames, aligned, len(aligned.spans))
        n_best = [Alternative(f"{committed} {entry.text}".strip(), entry.score) for entry in n_best]
        return Hypothesis(tuple(self._words), n_best[0].score, tuple(n_best))

    def _commit(self) -> None:
        frames = self._gather()
        aligned = self._search.best(frames)
        tokens, ends = aligned.tokens, aligned.alignment.ends
        words, limit = 0, len(frames) - self._settle
        for _, _, after in aligned.spans:  # words are final if complete and old enough
            if (self._separator is not None and after == len(tokens)) or ends[after - 1] > limit:
                break
            words += 1
        if words:
            self._append(frames, aligned, words)
            limit = int(ends[aligned.spans[words - 1][2] - 1])
        elif any(token != self._separator for token in tokens):
            limit = 0
        self._search.commit(words, limit)
        self._frames = frames[limit:].copy()
        self._count -= limit
        self._forgotten += limit
        self._due = max(self._look_back, 2 * self._count)

    def _gather(self) -> np.ndarray:
        self._frames, self._fresh = np.concatenate([self._frames, *self._fresh]), []
        return self._frames

    def _append(self, frames: np.ndarray, aligned: AlignedTokens, words: int) -> None:
        """Append the first words. All are timed, as confidences depend on the neighbours."""
        timed = time_words(frames, aligned, self._frame_seconds, self._forgotten, self._temperature)
        self._words += timed[:words]


class GreedySearch:
    """Most probable token of each frame."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._score = 0.0

    def advance(self, log_probs: np.ndarray) -> None:
        check_posteriors(log_probs, self._tokenizer)
        self._score += float(log_probs.max(axis=1).sum())

    def best(self, frames: np.ndarray) -> AlignedTokens:
        return best_words(frames, self._tokenizer)

    def commit(self, words: int, frames: int) -> None:
        pass

    def finish(self, frames: np.ndarray) -> tuple[AlignedTokens, list[Alternative]]:
        aligned = self.best(frames)
        return aligned, [Alternative(" ".join(text for text, _, _ in aligned.spans), self._score)]


class AlignedBeamSearch:
    """Beam search with words timed by forced alignment."""

    def __init__(self, search: BeamSearch, separator: int | None) -> None:
        self._search, self._separator = search, separator
        self._first: list[int] = []  # the separator after the last committed word
        self._first_end = 0

    def advance(self, log_probs: np.ndarray) -> None:
        self._search.advance(log_probs)

    def best(self, frames: np.ndarray) -> AlignedTokens:
        words, unfinished = self._search.best()
        tokens, spans = join_words([(w.text, w.tokens) for w in words], self._separator, self._first)
        if words and self._separator is not None:
            tokens.append(self._separator)
        aligned = _align(frames, [*tokens, *unfinished], spans)
        self._first_end = int(aligned.alignment.ends[0]) if self._first else 0
        return aligned

    def commit(self, words: int, frames: int) -> None:
        self._search.commit(words)
        if words and self._separator is not None:
            self._first = [self._separator]
        elif self._first_end <= frames:
            self._first = []

    def finish(self, frames: np.ndarray) -> tuple[AlignedTokens, list[Alternative]]:
        n_best = self._search.finish()
        words = [(word.text, word.tokens) for word in n_best[0].words]
        tokens, spans = join_words(words, self._separator, self._first if words else [])
        return _align(frames, tokens, spans), [Alternative(h.text, h.score) for h in n_best]


def _align(frames: np.ndarray, tokens: list[int], spans: list[Span]) -> AlignedTokens:
    """Align tokens, evenly spread if they need more frames than the committed words have left."""
    if not tokens:
        return AlignedTokens(tokens, spans, NO_ALIGNMENT)
    if ctc_frames_needed(tokens) <= len(frames):
        return AlignedTokens(tokens, spans, align(frames, tokens))
    edges = np.linspace(0, len(frames), len(tokens) + 1).astype(np.int64)
    even = Alignment(edges[:-1], edges[1:], np.full(len(tokens), -np.inf, np.float32), -np.inf)
    return AlignedTokens(tokens, spans, even)
