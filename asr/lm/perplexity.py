"""How well a language model foresees a text."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from asr.errors import LanguageModelError
from asr.jit import compiled
from asr.lm.ngram import NgramArrays, NgramLM, score_word
from asr.lm.reading import read_blocks, refuse_special
from asr.lm.vocabulary import BEGIN, UNKNOWN
from asr.lm.words import Words, encode


@dataclass(frozen=True)
class Perplexity:
    """Numbers of sentences, words and unknown words; log10 probability of all words and </s>, and of the
    unknown words alone. The end of each sentence counts as a word that is foreseen."""

    sentences: int
    words: int
    unknown: int
    log_prob: float
    unknown_log_prob: float

    @property
    def perplexity(self) -> float:
        """With unknown words, which are scored as <unk>."""
        return _power_of_ten(-self.log_prob / (self.words + self.sentences))

    @property
    def known_perplexity(self) -> float:
        """Without unknown words; they only stand in the contexts of others."""
        foreseen = self.words + self.sentences - self.unknown
        return _power_of_ten(-(self.log_prob - self.unknown_log_prob) / foreseen)

    @property
    def unknown_rate(self) -> float:
        """Share of the words that the model lacks; nan without words."""
        return self.unknown / self.words if self.words else float("nan")

    def to_json(self) -> str:
        """All of it as one JSON object."""
        rate = self.unknown_rate if self.words else None
        values = {"perplexity": self.perplexity, "known_perplexity": self.known_perplexity}
        derived = {name: value if np.isfinite(value) else None for name, value in values.items()}
        return json.dumps({**asdict(self), "unknown_rate": rate, **derived})


def _power_of_ten(exponent: float) -> float:
    with np.errstate(over="ignore"):
        return float(np.power(10.0, exponent))


def perplexity(lm: NgramLM, paths: Iterable[Path]) -> Perplexity:
    """Score texts, plain or compressed, one sentence a line; `-` is the standard input.

    Raises LanguageModelError if they are missing, empty, or hold a special word.
    """
    table, begin = Words.of(lm.vocabulary), lm.begin_state
    counts, log_probs = np.zeros(3, np.int64), np.zeros(2)
    for path in paths:
        for block in read_blocks(path):
            ids = np.empty(2 * len(block.text), np.uint32)
            _, used, special = encode(table.table, table.count, block.text, False, ids)
            refuse_special(path, block, special)
            _score(lm.arrays, begin, ids[:used], counts, log_probs)
    sentences, tokens, unknown = counts.tolist()
    if not sentences:
        raise LanguageModelError("the text is empty; nothing to score")
    return Perplexity(sentences, tokens - sentences, unknown, *log_probs.tolist())


@compiled
def _score(lm: NgramArrays, begin: int, ids: np.ndarray, counts: np.ndarray, log_probs: np.ndarray) -> None:
    """Add up sentences, tokens (</s> is one), unknown words; log probabilities of all, of the unknown."""
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
