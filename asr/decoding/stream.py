"""Decoding of posteriors that arrive in pieces, in bounded memory for recordings of any length.

Words are committed as decoding goes on: hypotheses with other words are dropped, and the posteriors of
committed words forgotten. A Stream does so every LOOK_BACK frames, to words older than SETTLE frames, so that
recordings up to LOOK_BACK frames are decoded as a whole. If no word ends for longer, all is kept until one
does. A LiveStream commits a word as soon as it is unlikely to change, and previews those after it.
"""

from collections.abc import Sequence
from itertools import takewhile
from typing import Protocol

import numpy as np

from asr.decoding.align import NO_ALIGNMENT, AlignedTokens, Alignment, Span, align, join_words, time_words
from asr.decoding.beam import BeamSearch, DecodedWord
from asr.decoding.greedy import best_words
from asr.decoding.types import Alternative, Hypothesis, Word, check_posteriors
from asr.text import Tokenizer, ctc_frames_needed

LOOK_BACK = 1000
SETTLE = 250
"""Frames: 40 s and 10 s at 40 ms per frame."""


PAUSE = 5
"""Frames of blanks after which a word is shown that is not followed by a separator."""


class Search(Protocol):
    """A decoding method; `frames` are the posteriors since the last commit.

    `best` returns the best words so far, or those that `follow` the last `peek`, and `settled` how many of
    them cannot change. The last one may be unfinished. `commit` makes the first `words` of them final and
    forgets `frames` frames. `peek` returns the best words if posteriors `ahead` follow, without processing
    them. `finish` returns the best words at the end, and the n-best list of the whole recording; `restart`
    begins a new sentence after it.
    """

    def advance(self, log_probs: np.ndarray) -> None: ...

    def best(self, frames: np.ndarray, follow: bool = False) -> AlignedTokens: ...

    def settled(self) -> int: ...

    def peek(self, frames: np.ndarray, ahead: np.ndarray) -> AlignedTokens: ...

    def commit(self, words: int, frames: int) -> None: ...

    def finish(self, frames: np.ndarray) -> tuple[AlignedTokens, list[Alternative]]: ...

    def restart(self) -> None: ...


class _Committer:
    """Posteriors since the last commit, and what makes words of them."""

    def __init__(
        self, search: Search, tokenizer: Tokenizer, frame_seconds: float, temperature: float
    ) -> None:
        self._search, self._separator = search, tokenizer.separator
        self._frame_seconds, self._temperature = frame_seconds, temperature
        self._frames: np.ndarray = np.zeros((0, tokenizer.size), dtype=np.float32)
        self._fresh: list[np.ndarray] = []
        self._count = self._forgotten = 0

    def _advance(self, log_probs: np.ndarray) -> None:
        self._search.advance(log_probs)
        self._fresh.append(log_probs)
        self._count += len(log_probs)

    def _gather(self) -> np.ndarray:
        self._frames, self._fresh = np.concatenate([self._frames, *self._fresh]), []
        return self._frames

    def _complete(self, aligned: AlignedTokens, limit: int) -> int:
        """Number of words that are complete and end by frame `limit`."""
        tokens, ends = aligned.tokens, aligned.alignment.ends

        def complete(after: int) -> bool:
            return (self._separator is None or after < len(tokens)) and bool(ends[after - 1] <= limit)

        return len(list(takewhile(complete, (after for _, _, after in aligned.spans))))

    def _time(self, aligned: AlignedTokens) -> tuple[Word, ...]:
        frames = self._gather()
        return time_words(frames, aligned, self._frame_seconds, self._forgotten, self._temperature)

    def _forget(self, words: int, frames: int) -> None:
        self._search.commit(words, frames)
        self._frames = self._gather()[frames:].copy()
        self._count -= frames
        self._forgotten += frames


class Stream(_Committer):
    """Decoding of one recording: `feed` all posteriors, then `finish`. `pace` replaces LOOK_BACK, SETTLE."""

    def __init__(
        self,
        search: Search,
        tokenizer: Tokenizer,
        frame_seconds: float,
        temperature: float,
        pace: tuple[int, int] | None = None,
    ) -> None:
        super().__init__(search, tokenizer, frame_seconds, temperature)
        self._look_back, self._settle = pace or (LOOK_BACK, SETTLE)
        self._due = self._look_back
        self._words: list[Word] = []

    def feed(self, log_probs: np.ndarray) -> None:
        """Process log-probabilities `float[T, V]`; the size of pieces does not change the result.

        Raises DecodingError as `check_posteriors`.
        """
        while True:
            piece, log_probs = log_probs[: self._due - self._count], log_probs[self._due - self._count :]
            self._advance(piece)
            if self._count < self._due:
                return
            self._commit()

    def committed(self) -> list[Word]:
        """Words that are final so far."""
        return self._words

    def finish(self) -> Hypothesis:
        """The whole transcript. All entries of the n-best list share the committed words."""
        aligned, n_best = self._search.finish(self._gather())
        committed = " ".join(word.text for word in self._words)
        self._words += self._time(aligned)
        n_best = [Alternative(f"{committed} {entry.text}".strip(), entry.score) for entry in n_best]
        return Hypothesis(tuple(self._words), n_best[0].score, tuple(n_best))

    def _commit(self) -> None:
        aligned = self._search.best(self._gather())
        limit = self._count - self._settle
        words = self._complete(aligned, limit)
        if words:  # all words are timed, as confidences depend on the neighbours
            self._words += self._time(aligned)[:words]
            limit = int(aligned.alignment.ends[aligned.spans[words - 1][2] - 1])
        elif any(token != self._separator for token in aligned.tokens):
            limit = 0
        self._forget(words, limit)
        self._due = max(self._look_back, 2 * self._count)


class LiveStream(_Committer):
    """Decoding while someone speaks, with a look-ahead of less reliable posteriors.

    A word is committed once all hypotheses share it, or once it ended `age` frames ago and is as it was at
    the last update. A word after those is shown once it ended `hold` frames ago. Both include the look-ahead,
    and the hypothesis is the best one after it.
    """

    def __init__(
        self,
        search: Search,
        tokenizer: Tokenizer,
        frame_seconds: float,
        temperature: float,
        age: int,
        hold: int,
    ) -> None:
        super().__init__(search, tokenizer, frame_seconds, temperature)
        self._age, self._hold = age, hold
        self._before: list[str] = []

    def feed(self, log_probs: np.ndarray) -> None:
        """Process log-probabilities `float[T, V]`. Raises DecodingError as `check_posteriors`."""
        self._advance(log_probs)

    def update(self, ahead: np.ndarray, until: int = 0) -> tuple[tuple[Word, ...], list[str]]:
        """Commit words, and preview those after them if log-probabilities `ahead` follow.

        Words that end by frame `until` are committed in any case.
        """
        frames = self._gather()
        seen = len(frames) + len(ahead)
        peeked = self._search.peek(frames, ahead)
        aligned = self._search.best(frames, follow=True)
        texts = [text for text, _, _ in aligned.spans]
        same = len(list(takewhile(lambda pair: pair[0] == pair[1], zip(texts, self._before, strict=False))))
        words = max(
            min(same, self._complete(aligned, seen - self._age)),
            min(self._search.settled(), self._complete(aligned, len(frames))),
            self._complete(aligned, until - self._forgotten),
        )
        self._before = texts[words:]
        committed: tuple[Word, ...] = ()
        if words:  # all words are timed, as confidences depend on the neighbours
            committed = self._time(aligned)[:words]
            self._forget(words, int(aligned.alignment.ends[aligned.spans[words - 1][2] - 1]))
        shown = self._complete(peeked, seen - self._hold)
        if shown == len(peeked.spans) - 1 and peeked.alignment.ends[-1] <= seen - max(PAUSE, self._hold):
            shown += 1
        return committed, [text for text, _, _ in peeked.spans[words:shown]]

    def finish(self) -> tuple[Word, ...]:
        """Commit all words, and begin a new sentence."""
        aligned, _ = self._search.finish(self._gather())
        words = self._time(aligned)
        self._search.restart()
        self._forgotten += self._count
        self._frames, self._count, self._before = self._frames[:0].copy(), 0, []
        return words


class GreedySearch:
    """Most probable token of each frame."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._score = 0.0

    def advance(self, log_probs: np.ndarray) -> None:
        check_posteriors(log_probs, self._tokenizer)
        self._score += float(log_probs.max(axis=1).sum())

    def best(self, frames: np.ndarray, follow: bool = False) -> AlignedTokens:
        self._words = best_words(frames, self._tokenizer)
        return self._words

    def settled(self) -> int:
        return len(self._words.spans)  # later frames change no word that is complete

    def peek(self, frames: np.ndarray, ahead: np.ndarray) -> AlignedTokens:
        return best_words(np.concatenate([frames, ahead]), self._tokenizer)

    def commit(self, words: int, frames: int) -> None:
        pass

    def restart(self) -> None:
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

    def best(self, frames: np.ndarray, follow: bool = False) -> AlignedTokens:
        aligned = self._aligned(frames, *self._search.best(follow))
        self._first_end = int(aligned.alignment.ends[0]) if self._first else 0
        return aligned

    def settled(self) -> int:
        return self._search.settled()

    def peek(self, frames: np.ndarray, ahead: np.ndarray) -> AlignedTokens:
        return self._aligned(np.concatenate([frames, ahead]), *self._search.peek(ahead))

    def _aligned(
        self, frames: np.ndarray, words: Sequence[DecodedWord], unfinished: list[int]
    ) -> AlignedTokens:
        tokens, spans = join_words([(w.text, w.tokens) for w in words], self._separator, self._first)
        if words and self._separator is not None:
            tokens.append(self._separator)
        if unfinished and self._separator is not None:
            spans.append((self._search.spelt(unfinished), len(tokens), len(tokens) + len(unfinished)))
        return _align(frames, [*tokens, *unfinished], spans)

    def restart(self) -> None:
        self._search.restart()
        self._first, self._first_end = [], 0

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
