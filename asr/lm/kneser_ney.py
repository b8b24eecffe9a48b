"""Interpolated modified Kneser-Ney smoothing.

S. Chen and J. Goodman, "An empirical study of smoothing techniques for language modeling", 1998; the
conventions are those of K. Heafield et al., "Scalable modified Kneser-Ney language model estimation", 2013
(lmplz): <unk> has an adjusted count of 0 and so its share of the uniform distribution alone; what begins with
<s> keeps its count, because nothing can come before it; the mass of n-grams that are cut off goes to
the shorter ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from asr.errors import LanguageModelError
from asr.jit import compiled
from asr.lm.counting import Level
from asr.lm.disk import Scratch
from asr.lm.ngram import NgramBuilder, NgramLM, NgramTable
from asr.lm.vocabulary import BEGIN, SPECIAL, Vocabulary

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts where a text is too small or too regular to tell them; those of lmplz --discount_fallback."""


@dataclass(frozen=True)
class Discounts:
    """What is taken from a count of 1, of 2, and of 3 or more; `fallback` if the text did not tell."""

    values: tuple[float, float, float]
    fallback: bool


@dataclass(frozen=True)
class Estimate:
    """A model, and the discounts of each order."""

    lm: NgramLM
    discounts: tuple[Discounts, ...]


def parse_cutoffs(cutoffs: Sequence[int], order: int) -> tuple[int, ...]:
    """One cut-off an order: n-grams that occur so often or less are left out. The last one is repeated.

    Raises LanguageModelError if there are too many, or if they fall.
    """
    last = cutoffs[-1] if cutoffs else 0
    padded = (*cutoffs, *[last] * (order - len(cutoffs)))
    shown = " ".join(map(str, cutoffs))
    if len(padded) > order:
        raise LanguageModelError(f"cut-offs {shown}: {len(cutoffs)} of them for a model of order {order}")
    if any(cutoff < 0 for cutoff in padded) or list(padded) != sorted(padded):
        raise LanguageModelError(f"cut-offs {shown}: must be 0 or more and must not fall with the order")
    return padded


def estimate(
    levels: Sequence[Level],
    vocabulary: Vocabulary,
    scratch: Scratch,
    cutoffs: Sequence[int] = (),
    allowed: np.ndarray | None = None,
) -> Estimate:
    """A model of the n-grams that `count_ngrams` counted.

    `cutoffs`: see `parse_cutoffs`; what counts is how often the text holds the n-gram. `allowed` (bool, by
    word id) limits the vocabulary: n-grams with other words are cut off, as by lmplz --limit_vocab_file.
    """
    kept = _kept(levels, parse_cutoffs(cutoffs, len(levels)), allowed, scratch)
    discounts, probs, backoffs = [], [], []
    below = np.array([1 / (np.count_nonzero(kept[0]) - 1)], np.float32)  # uniform, over all words but <s>
    for n, level in enumerate(levels, 1):
        adjusted = _adjusted_counts(levels, n, scratch)
        discounts.append(find_discounts(adjusted))
        backoffs.append(scratch.array(len(levels[n - 2].words) if n > 1 else 1, np.float32))
        probs.append(scratch.array(len(level.words), np.float32))
        steps = np.array([0, *discounts[-1].values])
        _interpolate(level, adjusted, kept[n - 1], steps, below, probs[-1], backoffs[-1])
        below = probs[-1]
    probs[0][BEGIN] = 1  # as lmplz has it; nobody asks for it
    return Estimate(_build(levels, kept, probs, backoffs[1:], vocabulary), tuple(discounts))


def _adjusted_counts(levels: Sequence[Level], n: int, scratch: Scratch) -> np.ndarray:
    """uint32: in the highest order the counts themselves, below how many different words come before."""
    counts = levels[n - 1].counts
    adjusted = scratch.array(len(counts), np.uint32)
    if n == len(levels):
        adjusted[:] = counts
    else:
        _count_left(levels[n].suffixes, adjusted)
    if n == 1:
        adjusted[BEGIN] = 0
    elif n < len(levels):
        begins = _beginning(levels[:n])
        adjusted[begins] = counts[begins]
    return adjusted


def find_discounts(adjusted: np.ndarray) -> Discounts:
    """By how many n-grams have an adjusted count of 1, 2, 3 and 4 (Chen and Goodman, equation 26)."""
    n1, n2, n3, n4 = (int(np.count_nonzero(adjusted == count)) for count in range(1, 5))
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        values = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 < value <= count for count, value in enumerate(values, 1)):
            return Discounts(values, fallback=False)
    return Discounts(FALLBACK, fallback=True)


def _kept(
    levels: Sequence[Level], thresholds: Sequence[int], allowed: np.ndarray | None, scratch: Scratch
) -> list[np.ndarray]:
    """Which n-grams of each order stay; the prefixes and suffixes of what stays are as frequent, and stay."""
    words = scratch.array(len(levels[0].words), np.bool_)
    words[:] = (levels[0].counts > thresholds[0]) & (True if allowed is None else allowed)
    words[: len(SPECIAL)] = True
    kept = [words]
    for level, threshold in zip(levels[1:], thresholds[1:], strict=True):
        kept.append(scratch.array(len(level.words), np.bool_))
        _keep(level, threshold, words, kept[-2], kept[-1])
    return kept


def _beginning(levels: Sequence[Level]) -> slice:
    """Where in the last of `levels` the n-grams are that begin with <s>."""
    start, stop = BEGIN, BEGIN + 1
    for level in levels[:-1]:
        start, stop = int(level.first_children[start]), int(level.first_children[stop])
    return slice(start, stop)


def _build(
    levels: Sequence[Level],
    kept: Sequence[np.ndarray],
    probs: Sequence[np.ndarray],
    backoffs: Sequence[np.ndarray],
    vocabulary: Vocabulary,
) -> NgramLM:
    builder = NgramBuilder([int(np.count_nonzero(stays)) for stays in kept])
    words = _renumbered(kept[0])
    nodes: np.ndarray = np.zeros(1, np.uint32)
    for n, (level, stays) in enumerate(zip(levels, kept, strict=True)):
        backoff = np.log10(backoffs[n][stays]) if n + 1 < len(levels) else np.zeros(0, np.float32)
        # Rounding may have left a probability a hair above one.
        log_probs = np.minimum(np.log10(probs[n][stays]), 0)
        builder.add(NgramTable(nodes[level.parents[stays]], words[level.words[stays]], log_probs, backoff))
        nodes = _renumbered(stays) + np.uint32(builder.nodes(n + 1).start)
    if not kept[0].all():
        vocabulary = Vocabulary.of_bytes(vocabulary.bytes(int(word)) for word in np.flatnonzero(kept[0]))
    return builder.finish(vocabulary)


def _renumbered(kept: np.ndarray) -> np.ndarray:
    """The numbers that what stays gets; those of the others mean nothing."""
    numbers = np.cumsum(kept, dtype=np.uint32)
    numbers -= 1
    return numbers


@compiled
def _keep(level: Level, threshold: int, words: np.ndarray, parents: np.ndarray, kept: np.ndarray) -> None:
    for i in range(len(kept)):
        kept[i] = level.counts[i] > threshold and words[level.words[i]] and parents[level.parents[i]]


@compiled
def _count_left(suffixes: np.ndarray, adjusted: np.ndarray) -> None:
    """How many different words come before each n-gram: it is the suffix of so many longer ones."""
    for suffix in suffixes:
        adjusted[suffix] += 1


@compiled
def _interpolate(
    level: Level,
    adjusted: np.ndarray,
    kept: np.ndarray,
    discounts: np.ndarray,
    below: np.ndarray,
    probs: np.ndarray,
    backoffs: np.ndarray,
) -> None:
    """Fill the probability of each n-gram, and for each context the weight of `below`, the shorter order."""
    backoffs[:] = 1
    start = 0
    while start < len(adjusted):
        parent = level.parents[start]
        stop, total, left = start, 0.0, 0.0
        while stop < len(adjusted) and level.parents[stop] == parent:
            count = adjusted[stop]
            total += count
            left += discounts[min(count, 3)] if kept[stop] else count
            stop += 1
        backoffs[parent] = left / total
        for i in range(start, stop):
            discounted = adjusted[i] - discounts[min(adjusted[i], 3)]
            probs[i] = discounted / total + left / total * below[level.suffixes[i]]
        start = stop
