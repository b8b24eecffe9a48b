"""Entropy pruning: leave out the n-grams whose loss changes the model least.

A. Stolcke, "Entropy-based pruning of backoff language models", 1998. As in SRILM, n-grams are judged one by
one against the whole model, the longest first; those that longer ones begin with stay; a context that begins
with <s> is as likely as </s>. Kneser-Ney's lower orders are not distributions of words as they occur, so
that contexts are weighed a little wrongly (Chelba et al., 2010); cut-offs do not have this weakness.
"""

import math
from itertools import pairwise

import numpy as np

from asr.errors import LanguageModelError
from asr.jit import compiled
from asr.lm.ngram import NgramArrays, NgramBuilder, NgramLM, NgramTable, link, score_word
from asr.lm.vocabulary import BEGIN, END

_SATURATED = 1e-6
"""Where less than this is left for other words, rounding outweighs it."""


def prune(lm: NgramLM, threshold: float) -> NgramLM:
    """A model without the n-grams whose loss raises the perplexity by less than the factor 1 + `threshold`.

    Backoff weights are set anew, so that all probabilities of a context still sum to one.
    """
    if not (threshold >= 0 and math.isfinite(threshold)):
        raise LanguageModelError(f"entropy threshold {threshold}: must be 0 or more; 1e-8 is usual")
    starts = np.cumsum([0, 1, *lm.counts])
    kept = np.ones(starts[-1], np.bool_)
    contexts = _context_log_probs(lm.arrays)
    for n in range(lm.order, 1, -1):
        _mark(lm.arrays, contexts, starts[n - 1], starts[n], threshold, kept)
    pruned = _select(lm, kept, starts)
    _normalize(pruned.arrays)
    link(pruned.arrays)  # contexts may have lost their meaning
    return pruned


def _select(lm: NgramLM, kept: np.ndarray, starts: np.ndarray) -> NgramLM:
    """The model of the n-grams that are `kept`."""
    arrays = lm.arrays
    numbers = np.cumsum(kept, dtype=np.uint32)
    numbers -= 1
    orders = [slice(start, stop) for start, stop in pairwise(starts[1:])]
    builder = NgramBuilder([int(np.count_nonzero(kept[nodes])) for nodes in orders])
    above = slice(0, 1)
    for nodes in orders:
        stays = kept[nodes]
        children = np.diff(arrays.first_children[above.start : above.stop + 1])
        parents = np.repeat(numbers[above], children)[stays]
        backoffs = arrays.backoffs[nodes][stays] if nodes is not orders[-1] else np.zeros(0, np.float32)
        words, log_probs = arrays.words[nodes][stays], arrays.log_probs[nodes][stays]
        builder.add(NgramTable(parents, words, log_probs, backoffs))
        above = nodes
    return builder.finish(lm.vocabulary)


@compiled
def _context_log_probs(lm: NgramArrays) -> np.ndarray:
    """log10 of how likely each context is, by the chain rule."""
    log_probs = np.zeros(len(lm.backoffs))
    for parent in range(len(log_probs)):
        first = np.int64(lm.first_children[parent])
        for node in range(first, np.int64(min(lm.first_children[parent + 1], len(log_probs)))):
            own = lm.log_probs[1 + END] if node == 1 + BEGIN else lm.log_probs[node]
            log_probs[node] = log_probs[parent] + own
    return log_probs


@compiled
def _left_over(lm: NgramArrays, context: int) -> tuple[float, float]:
    """What a context leaves for words that it does not list, and what the shorter context gives to these."""
    own, shorter = 1.0, 1.0
    for child in range(np.int64(lm.first_children[context]), np.int64(lm.first_children[context + 1])):
        own -= 10.0 ** np.float64(lm.log_probs[child])
        shorter -= 10.0 ** score_word(lm, lm.suffixes[context], lm.words[child])[0]
    return own, shorter


@compiled
def _mark(
    lm: NgramArrays, contexts: np.ndarray, start: int, stop: int, threshold: float, kept: np.ndarray
) -> None:
    """Set `kept` to False for n-grams to lose, whose contexts are the nodes from `start` to `stop`."""
    for context in range(start, stop):
        own, shorter = _left_over(lm, context)
        own, shorter = max(own, 0.0), max(shorter, 0.0)
        for child in range(np.int64(lm.first_children[context]), np.int64(lm.first_children[context + 1])):
            if child < len(lm.backoffs):
                first, last = np.int64(lm.first_children[child]), np.int64(lm.first_children[child + 1])
                if kept[first:last].any():
                    continue
            log_prob = np.float64(lm.log_probs[child])
            log_shorter = score_word(lm, lm.suffixes[context], lm.words[child])[0]
            # The backoff weight if this n-gram is lost too.
            weight = math.log10((own + 10.0**log_prob) / (shorter + 10.0**log_shorter))
            change = 10.0**log_prob * (log_shorter + weight - log_prob)
            change += own * (weight - lm.backoffs[context])
            entropy = -(10.0 ** contexts[context]) * change * math.log(10)
            kept[child] = math.expm1(entropy) >= threshold


@compiled
def _normalize(lm: NgramArrays) -> None:
    """Set the backoff weights, those of shorter contexts first because longer ones depend on them."""
    for context in range(1, len(lm.backoffs)):
        if lm.first_children[context] == lm.first_children[context + 1]:
            lm.backoffs[context] = 0
            continue
        own, shorter = _left_over(lm, context)
        if own > _SATURATED and shorter > _SATURATED:
            lm.backoffs[context] = math.log10(own / shorter)
