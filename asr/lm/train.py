"""From texts to a language model."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.errors import LanguageModelError
from asr.lm.counting import count_ngrams, read_corpus
from asr.lm.disk import Scratch
from asr.lm.kneser_ney import Discounts, estimate, parse_cutoffs
from asr.lm.ngram import MAX_ORDER, NgramLM
from asr.lm.pruning import prune
from asr.lm.reading import read_blocks
from asr.lm.vocabulary import SPECIAL, UNKNOWN, Vocabulary


@dataclass(frozen=True)
class LmOptions:
    """How to make a model.

    `cutoffs`: n-grams that the text holds so often or less are left out; a number an order, the last for all
    that follow. `entropy`: threshold of entropy pruning. `vocabulary`: only so many of the most frequent
    words, or the words of a file. `temporary`: folder for temporary files.
    """

    order: int = 3
    cutoffs: tuple[int, ...] = ()
    entropy: float = 0.0
    vocabulary: int | Path | None = None
    temporary: Path | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.order <= MAX_ORDER:
            raise LanguageModelError(f"order {self.order}: must be 1 to {MAX_ORDER}")
        parse_cutoffs(self.cutoffs, self.order)
        if not (self.entropy >= 0 and math.isfinite(self.entropy)):
            raise LanguageModelError(f"entropy threshold {self.entropy}: must be 0 or more; 1e-8 is usual")
        if isinstance(self.vocabulary, int) and self.vocabulary < 1:
            raise LanguageModelError(f"vocabulary of {self.vocabulary} words: must be 1 or more")


@dataclass(frozen=True)
class Trained:
    """A model; for each order how many n-grams the text holds, and the discounts."""

    lm: NgramLM
    counted: tuple[int, ...]
    discounts: tuple[Discounts, ...]


def train(
    texts: Sequence[Path], options: LmOptions, progress: Callable[[str], None] = lambda stage: None
) -> Trained:
    """Estimate a model from texts: one sentence a line, words between white space, taken as they are.

    `progress` is told each stage. Raises LanguageModelError if a text cannot be used.
    """
    scratch = Scratch(options.temporary)
    limit = options.vocabulary
    listed = _word_list(limit) if isinstance(limit, Path) else None
    progress("reading")
    corpus = read_corpus(texts, scratch)
    levels = count_ngrams(corpus, options.order, scratch, progress)
    progress("estimating")
    allowed = _allowed(limit, listed, corpus.vocabulary, levels[0].counts)
    result = estimate(levels, corpus.vocabulary, scratch, options.cutoffs, allowed)
    lm = result.lm
    if options.entropy:
        progress("pruning")
        lm = prune(lm, options.entropy)
    return Trained(lm, tuple(len(level.words) for level in levels), result.discounts)


def _word_list(path: Path) -> list[str]:
    """Words of a file, split as texts are."""
    words: list[str] = []
    for block in read_blocks(path):
        words += re.split(r"[ \n\t\r\0]+", block.text.tobytes().decode())
    return words


def _allowed(
    limit: int | Path | None, listed: list[str] | None, vocabulary: Vocabulary, counts: np.ndarray
) -> np.ndarray | None:
    """bool by word id; None for all. Of words that are as frequent the first by their bytes go in."""
    if limit is None:
        return None
    allowed = np.zeros(len(vocabulary), np.bool_)
    if isinstance(limit, int):
        frequent = np.argsort(-counts[len(SPECIAL) :].astype(np.int64), kind="stable")[:limit]
        allowed[len(SPECIAL) + frequent] = True
        return allowed
    known = {word: index for index, word in enumerate(vocabulary.words())}
    for word in listed or ():
        allowed[known.get(word, UNKNOWN)] = True
    if not allowed[len(SPECIAL) :].any():
        raise LanguageModelError(f"{limit}: the text holds none of these words; do they differ in case?")
    return allowed
