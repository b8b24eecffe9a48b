"""Perplexity of a language model on texts."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from asr.errors import LanguageModelError
from asr.jit import compiled
from asr.lm.ngram import BEGIN, UNKNOWN, NgramArrays, NgramLM, score_word
from asr.lm.text import encode


@dataclass(frozen=True)
class Perplexity:
    """Counts of sentences, words and unknown words, and total log10 probabilities.

    `log_prob` is of all words and </s>, `unknown_log_prob` of the unknown words only.
    """

    sentences: int
    words: int
    unknown: int
    log_prob: float
    unknown_log_prob: float

    @property
    def perplexity(self) -> float:
        """Perplexity with unknown words scored as <unk>; </s> counts as a word."""
        return _power_of_ten(-self.log_prob / (self.words + self.sentences))

    @property
    def known_perplexity(self) -> float:
        """Perplexity without unknown words, which remain in the contexts of others."""
        known = self.words + self.sentences - self.unknown
        return _power_of_ten(-(self.log_prob - self.unknown_log_prob) / known)

    @property
    def unknown_rate(self) -> float:
        """Share of unknown words; nan without words."""
        return self.unknown / self.words if self.words else float("nan")

    def to_json(self) -> str:
        """Format as one JSON object; values that are not finite become null."""
        names = ("perplexity", "known_perplexity", "unknown_rate")
        derived = {name: getattr(self, name) for name in names}
        finite = {name: value if np.isfinite(value) else None for name, value in derived.items()}
        return json.dumps({**asdict(self), **finite})


def _power_of_ten(exponent: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.power(10.0, exponent))


def perplexity(lm: NgramLM, paths: Iterable[Path]) -> Perplexity:
    """Score texts, plain or compressed, one sentence per line; `-` is standard input.

    Raises LanguageModelError if they are missing, empty, or contain a special word.
    """
    words = defaultdict(lambda: UNKNOWN, lm.vocabulary.ids())
    counts, log_probs = np.zeros(3, np.int64), np.zeros(2)
    for path in paths:
        for ids in encode(path, words):
            _score(lm.arrays, lm.begin_state, ids, counts, log_probs)
    sentences, tokens, unknown = counts.tolist()
    if not sentences:
        raise LanguageModelError("the text is empty; nothing to score")
    return Perplexity(sentences, tokens - sentences, unknown, *log_probs.tolist())


@compiled
def _score(lm: NgramArrays, begin: int, ids: np.ndarray, counts: np.ndarray, log_probs: np.ndarray) -> None:
    """Add to the counts (sentences, words with </s>, unknown) and log probabilities (all, unknown)."""
    state = begin
    for word in ids:
        if word == BEGIN:
            state = begin
            counts[0] += 1
            continue
        log_prob, state = score_word(lm, state, word)
        counts[1] += 1
        log_probs[0] += log_prob
        if word == UNKNOWN:
            counts[2] += 1
            log_probs[1] += log_prob
