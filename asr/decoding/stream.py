"""Decoding of posteriors that come in pieces, in bounded memory however long the recording is.

When LOOK_BACK frames are held, words that lie SETTLE frames back become final: hypotheses that have others
there are dropped, and the posteriors of final words are forgotten. Up to LOOK_BACK frames, a recording is
decoded as if it came in one piece. Where no word ends for longer, all is held until one does.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from asr.decoding.align import Alignment, Span, align, join_words, time_words
from asr.decoding.beam import BeamSearch
from asr.decoding.greedy import best_path, word_spans
from asr.decoding.hypothesis import Alternative, Hypothesis, Word
from asr.decoding.posteriors import check_posteriors
from asr.text import Tokenizer, ctc_frames_needed

LOOK_BACK = 1000
SETTLE = 250
"""Frames; 40 s and 10 s where a frame takes 40 ms."""


@dataclass(frozen=True)
class AlignedTokens:
    """Tokens, the words among them, and where they lie in the frames since the last final word."""

    tokens: Sequence[int]
    spans: Sequence[Span]
    alignment: Alignment

    def final(self, limit: int, separator: int | None) -> int:
        """How many of the words end before frame `limit`, and will not go on."""
        count = 0
        for _, _, after in self.spans:
            closed = separator is None or after < len(self.tokens)
            if not closed or self.alignment.ends[after - 1] > limit:
                break
            count += 1
        return count


class Search(Protocol):
    """A way to decode; `frames` are always the posteriors since the words last made final."""

    def advance(self, log_probs: np.ndarray) -> None:
        """Take in the next posteriors."""

    def best(self, frames: np.ndarray) -> AlignedTokens:
        """The best words so far."""

    def keep(self, words: int, frames: int) -> None:
        """Make the first words of `best` final, and forget so many frames."""

    def finish(self, frames: np.ndarray) -> tuple[AlignedTokens, list[Alternative]]:
        """The best words at the end, and the n-best list, whose scores are of the whole recording."""


class Stream:
    """One recording on its way through a search. `feed` it all posteriors, then `finish`."""

    def __init__(
        self, search: Search, tokenizer: Tokenizer, frame_seconds: float, temperature: float
    ) -> None:
        self._search, self._separator = search, tokenizer.separator
        self._frame_seconds, self._temperature = frame_seconds, temperature
        self._frames: np.ndarray = np.zeros((0, tokenizer.size), dtype=np.float32)
        self._fresh: list[np.ndarray] = []
        self._count, self._due, self._forgotten = 0, LOOK_BACK, 0
        self._words: list[Word] = []

    def feed(self, log_probs: np.ndarray) -> None:
        """Take in `float[T, V]` log-probabilities; how they are cut into pieces changes nothing.

        Raises DecodingError on NaN, or where V is not the vocabulary's size.
        """
        while True:
            piece, log_probs = log_probs[: self._due - self._count], log_probs[self._due - self._count :]
            self._search.advance(piece)
            self._fresh.append(piece)
            self._count += len(piece)
            if self._count < self._due:
                return
            self._settle()

    def finish(self) -> Hypothesis:
        """The whole transcript. Where words were made final, the n-best list differs after them only."""
        frames = self._gather()
        aligned, n_best = self._search.finish(frames)
        before = " ".join(word.text for word in self._words)
        self._time(frames, aligned, len(aligned.spans))
        n_best = [Alternative(f"{before} {entry.text}".strip(), entry.score) for entry in n_best]
        return Hypothesis(tuple(self._words), n_best[0].score, tuple(n_best))

    def _settle(self) -> None:
        """Make final what can be, and forget its frames."""
        frames = self._gather()
        aligned = self._search.best(frames)
        limit = len(frames) - SETTLE
        words = aligned.final(limit, self._separator)
        if words or all(token == self._separator for token in aligned.tokens):
            self._time(frames, aligned, words)
            if words:
                limit = int(aligned.alignment.ends[aligned.spans[words - 1][2] - 1])
            self._search.keep(words, limit)
            self._frames = frames[limit:].copy()
            self._count -= limit
            self._forgotten += limit
        else:
            self._search.keep(0, 0)
        self._due = max(LOOK_BACK, 2 * self._count)

    def _gather(self) -> np.ndarray:
        self._frames = np.concatenate([self._frames, *self._fresh])
        self._fresh = []
        return self._frames

    def _time(self, frames: np.ndarray, aligned: AlignedTokens, words: int) -> None:
        timed = time_words(
            frames,
            aligned.tokens,
            aligned.alignment,
            aligned.spans,
            self._frame_seconds,
            self._forgotten,
            self._temperature,
        )
        self._words += timed[:words]


class GreedySearch:
    """The most probable token of each frame."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._score = 0.0

    def advance(self, log_probs: np.ndarray) -> None:
        check_posteriors(log_probs, self._tokenizer)
        self._score += float(log_probs.max(axis=1).sum())

    def best(self, frames: np.ndarray) -> AlignedTokens:
        tokens, alignment = best_path(frames)
        return AlignedTokens(tokens, word_spans(tokens, self._tokenizer), alignment)

    def keep(self, words: int, frames: int) -> None:
        pass

    def finish(self, frames: np.ndarray) -> tuple[AlignedTokens, list[Alternative]]:
        aligned = self.best(frames)
        return aligned, [Alternative(" ".join(text for text, _, _ in aligned.spans), self._score)]


class AlignedBeamSearch:
    """Beam search; its words are aligned by forced alignment."""

    def __init__(self, search: BeamSearch, separator: int | None) -> None:
        self._search, self._separator = search, separator
        self._first: list[int] = []  # the separator after the last final word
        self._first_end = 0

    def advance(self, log_probs: np.ndarray) -> None:
        self._search.advance(log_probs)

    def best(self, frames: np.ndarray) -> AlignedTokens:
        words, under_way = self._search.best()
        tokens, spans = join_words([(w.text, w.tokens) for w in words], self._separator, self._first)
        if words and self._separator is not None:
            tokens.append(self._separator)
        aligned = _place(frames, [*tokens, *under_way], spans)
        self._first_end = int(aligned.alignment.ends[0]) if self._first else 0
        return aligned

    def keep(self, words: int, frames: int) -> None:
        self._search.keep(words)
        if words and self._separator is not None:
            self._first = [self._separator]
        elif self._first_end <= frames:
            self._first = []

    def finish(self, frames: np.ndarray) -> tuple[AlignedTokens, list[Alternative]]:
        n_best = self._search.finish()
        words = [(word.text, word.tokens) for word in n_best[0].words]
        tokens, spans = join_words(words, self._separator, self._first if words else [])
        return _place(frames, tokens, spans), [Alternative(h.text, h.score) for h in n_best]


def _place(frames: np.ndarray, tokens: list[int], spans: list[Span]) -> AlignedTokens:
    """Align; words that a hypothesis has where others were made final may need more frames than are left."""
    if not tokens:
        nothing = np.zeros(0, dtype=np.int64)
        return AlignedTokens(tokens, spans, Alignment(nothing, nothing, np.zeros(0), 0.0))
    if ctc_frames_needed(tokens) <= len(frames):
        return AlignedTokens(tokens, spans, align(frames, tokens))
    edges = np.linspace(0, len(frames), len(tokens) + 1).astype(np.int64)
    return AlignedTokens(
        tokens, spans, Alignment(edges[:-1], edges[1:], np.full(len(tokens), -np.inf), -np.inf)
    )
