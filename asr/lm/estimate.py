"""From texts to a language model: counting on disk, Kneser-Ney smoothing, entropy pruning.

Counting: memory holds the vocabulary and blocks of fixed size, temporary files hold everything else. An
n-gram is counted as the pair (index of its first n - 1 words among the (n - 1)-grams, last word): 64 bits for
every n. Blocks of pairs are sorted and merged, which yields the order of the model's trie.

Smoothing: interpolated modified Kneser-Ney (S. Chen and J. Goodman, "An empirical study of smoothing
techniques for language modeling", 1998) with the conventions of lmplz (K. Heafield et al., "Scalable modified
Kneser-Ney language model estimation", 2013): <unk> has an adjusted count of 0 and gets its share of the
uniform distribution only; n-grams that begin with <s> keep their counts, as nothing can precede them; the
mass of n-grams that are cut off goes to the shorter ones.

Pruning: A. Stolcke, "Entropy-based pruning of backoff language models", 1998. As in SRILM, every n-gram is
judged alone against the whole model, the longest first; prefixes of n-grams that stay are kept; P(<s>) is
taken to be P(</s>). The lower orders of Kneser-Ney are not distributions of words, so that contexts are
weighted slightly wrongly (Chelba et al., 2010). Cut-offs do not have this weakness.
"""

import itertools
import math
import os
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr.console import option
from asr.errors import LanguageModelError
from asr.jit import compiled
from asr.lm.ngram import (
    BEGIN,
    END,
    MAX_ORDER,
    SPECIAL,
    UNKNOWN,
    NgramArrays,
    NgramBuilder,
    NgramLM,
    Vocabulary,
    link,
    nodes_of_order,
    score_word,
)
from asr.lm.text import encode, read_blocks

MAX_TOKENS = 2**32 - 2

FALLBACK = (0.5, 1.0, 1.5)
"""Discounts of a text that is too small or too regular to estimate them; see lmplz --discount_fallback."""

Discounts = tuple[float, float, float]
"""Subtracted from counts of 1, 2, and 3 or more."""

_NONE = np.uint32(2**32 - 1)
"""Marks tokens where no n-gram begins because the sentence is too short."""

_CHUNK = 1 << 23
"""Tokens per block; 64 MiB of n-grams to sort."""

_SMALL = 1 << 20
"""Bytes below which an array stays in memory."""

_SATURATED = 1e-6
"""Probability mass of unlisted words below which rounding errors dominate."""


@dataclass(frozen=True)
class LmOptions:
    """Options of estimation. Raises LanguageModelError if one is out of range."""

    order: int = option("length of the longest n-grams", 3, choices=range(1, MAX_ORDER + 1))
    cutoffs: tuple[int, ...] = option(
        "omit n-grams with this count or less: one per order, the last repeats",
        (),
        flag="--prune",
        metavar="COUNT",
    )
    entropy: float = option("threshold of entropy pruning, e.g. 1e-8", 0.0)
    vocabulary: int | Path | None = option(
        "only the N most frequent words, or the words of a file", None, flag="--vocab", metavar="N|FILE"
    )
    temporary: Path | None = option("folder for temporary files", None, flag="--temp", metavar="FOLDER")

    def __post_init__(self) -> None:
        if not 1 <= self.order <= MAX_ORDER:
            raise LanguageModelError(f"order {self.order}: must be 1 to {MAX_ORDER}")
        if isinstance(self.vocabulary, int) and self.vocabulary < 1:
            raise LanguageModelError(f"vocabulary of {self.vocabulary} words: must be 1 or more")
        _check_entropy(self.entropy)
        given = f"cut-offs {' '.join(map(str, self.cutoffs))}"
        padded = (*self.cutoffs, *[(0, *self.cutoffs)[-1]] * (self.order - len(self.cutoffs)))
        if len(padded) > self.order:
            raise LanguageModelError(f"{given}: {len(padded)} of them for a model of order {self.order}")
        if list(padded) != sorted(padded) or padded[0] < 0:
            raise LanguageModelError(f"{given}: must be 0 or more and must not fall with the order")
        object.__setattr__(self, "cutoffs", padded)


def _check_entropy(threshold: float) -> None:
    if not (threshold >= 0 and math.isfinite(threshold)):
        raise LanguageModelError(f"entropy threshold {threshold}: must be 0 or more; 1e-8 is usual")


@dataclass(frozen=True)
class Trained:
    """A model, and for each order the number of distinct n-grams in the text and the discounts."""

    lm: NgramLM
    counted: tuple[int, ...]
    discounts: tuple[Discounts, ...]


def train(
    texts: Iterable[Path], options: LmOptions, progress: Callable[[str], None] = lambda stage: None
) -> Trained:
    """Estimate a model from texts: one sentence per line, words separated by white space.

    `progress` is called with the name of each stage. Raises LanguageModelError if a text cannot be used.
    """
    limit, folder = options.vocabulary, options.temporary
    blocks = read_blocks(limit) if isinstance(limit, Path) else ()
    listed = {word for _, block in blocks for word in block.split()}
    progress("reading")
    vocabulary, tokens = read_corpus(texts, folder)
    levels = count_ngrams(vocabulary, tokens, options.order, folder, progress)
    progress("estimating")
    kept = _kept(levels, options.cutoffs, _allowed(limit, listed, vocabulary, levels[0].counts), folder)
    lm, discounts = _estimate(levels, kept, vocabulary, folder)
    if options.entropy:
        progress("pruning")
        lm = prune(lm, options.entropy)
    return Trained(lm, tuple(len(level.words) for level in levels), discounts)


def _allowed(
    limit: int | Path | None, listed: Iterable[bytes], vocabulary: Vocabulary, counts: np.ndarray
) -> np.ndarray:
    """Select words, bool by word id; equally frequent ones in the order of their bytes."""
    allowed = np.full(len(vocabulary), limit is None)
    if isinstance(limit, int):
        frequent = np.argsort(-counts[len(SPECIAL) :].astype(np.int64), kind="stable")[:limit]
        allowed[len(SPECIAL) + frequent] = True
    elif limit:
        ids = vocabulary.ids()
        allowed[[ids.get(word, UNKNOWN) for word in listed]] = True
        if not allowed[len(SPECIAL) :].any():
            raise LanguageModelError(f"{limit}: the text has none of these words; do they differ in case?")
    return allowed


# ------------------------------------------------------------------------------------------- counting


class Level(NamedTuple):
    """The distinct n-grams of one order in a text, sorted by (parent, word); in temporary files."""

    parents: np.ndarray
    """uint32, index of the first n - 1 words among the (n - 1)-grams; 0 in the first order"""
    words: np.ndarray
    """uint32, last word"""
    counts: np.ndarray
    """uint32, occurrences in the text"""
    first_children: np.ndarray
    """uint32[n-grams + 1], its extensions in the next order; all 0 in the highest order"""
    suffixes: np.ndarray
    """uint32, index of the last n - 1 words among the (n - 1)-grams; 0 in the first order"""


def disk_array(length: int, dtype: type[np.generic], folder: Path | None) -> np.ndarray:
    """Make a zeroed array, backed by a temporary file (deleted with the array) if it is large.

    Raises OSError that names the folder if it is full or missing.
    """
    size = length * np.dtype(dtype).itemsize
    if size < _SMALL:
        return np.zeros(length, dtype)
    folder = folder or Path(tempfile.gettempdir())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            if hasattr(os, "posix_fallocate"):  # otherwise a full disk would kill the process by a signal
                os.posix_fallocate(file.fileno(), 0, size)
            # The base class of memmap, as numba compiles again for subclasses.
            return np.asarray(np.memmap(file, dtype, "w+", shape=(length,)))
    except OSError as error:
        raise OSError(error.errno, f"{error.strerror} (temporary files)", str(folder)) from None


def read_corpus(paths: Iterable[Path], folder: Path | None = None) -> tuple[Vocabulary, np.ndarray]:
    """Read texts; return their vocabulary and all word ids (uint32, on disk): <s>, words, </s>, ...

    Raises LanguageModelError if there are no words, or if a special word is in the text.
    """
    words = defaultdict(itertools.count(len(SPECIAL)).__next__, Vocabulary.of([]).ids())
    pieces: list[np.ndarray] = []
    pending: list[np.ndarray] = []
    for ids in itertools.chain.from_iterable(encode(path, words) for path in paths):
        pending.append(ids)
        if sum(map(len, pending)) >= _CHUNK:
            pieces.append(_to_disk(pending, folder))
            pending = []
    pieces.append(_to_disk(pending, folder))
    total = sum(map(len, pieces))
    if len(words) == len(SPECIAL):
        raise LanguageModelError("the text has no words; there is nothing to learn from")
    if total > MAX_TOKENS:
        raise LanguageModelError(f"the text is too long: {total} words, {MAX_TOKENS} at most")
    vocabulary, new_ids = Vocabulary.of(words), np.empty(len(words), np.uint32)
    new_ids[[words[word] for word in vocabulary.ids()]] = range(len(words))
    tokens = _to_disk(pieces, folder)
    pieces.clear()
    for start in range(0, total, _CHUNK):
        part = tokens[start : start + _CHUNK]
        part[:] = new_ids[part]
    return vocabulary, tokens


def _to_disk(arrays: Sequence[np.ndarray], folder: Path | None) -> np.ndarray:
    whole = disk_array(sum(map(len, arrays)), np.uint32, folder)
    return np.concatenate(arrays, out=whole) if arrays else whole


def count_ngrams(
    vocabulary: Vocabulary,
    tokens: np.ndarray,
    order: int,
    folder: Path | None = None,
    progress: Callable[[str], None] = lambda stage: None,
) -> list[Level]:
    """Count the n-grams of order 1 to `order`; every word of the vocabulary is a unigram.

    Raises LanguageModelError if no sentence is long enough for the order.
    """
    counts = disk_array(len(vocabulary), np.uint32, folder)
    for start in range(0, len(tokens), _CHUNK):
        counts[:] += np.bincount(tokens[start : start + _CHUNK], minlength=len(counts)).astype(np.uint32)
    levels = [_new_level(counts, folder)]
    levels[0].words[:] = np.arange(len(vocabulary))
    nodes = disk_array(len(tokens), np.uint32, folder)  # the n-gram that begins at each token
    nodes[:] = tokens
    for n in range(2, order + 1):
        progress(f"counting {n}-grams")
        keys, counts = _count_pairs(nodes, tokens, n, folder)
        if not len(keys):
            raise LanguageModelError(f"no line of the text is long enough for order {n}; ask for {n - 1}")
        below, level = levels[-1], _new_level(counts, folder)
        _unpack(keys, level.parents, level.words)
        _index(level.parents, below.first_children)
        if n == 2:
            level.suffixes[:] = level.words
        else:
            _find_suffixes(level, below, levels[-2].first_children)
        if n < order:
            _advance(nodes, tokens, n, below.first_children, level.words)
        levels.append(level)
    return levels


def _new_level(counts: np.ndarray, folder: Path | None) -> Level:
    parents, words, suffixes = (disk_array(len(counts), np.uint32, folder) for _ in range(3))
    return Level(parents, words, counts, disk_array(len(counts) + 1, np.uint32, folder), suffixes)


_Run = tuple[np.ndarray, np.ndarray]
"""Distinct pairs (n-gram << 32 | word, uint64), sorted, and their counts (uint32)."""


def _count_pairs(nodes: np.ndarray, tokens: np.ndarray, n: int, folder: Path | None) -> _Run:
    """Count the pairs of an (n - 1)-gram in `nodes` and the word that follows it."""
    runs = []
    for start in range(0, max(1, len(tokens) - n + 1), _CHUNK):
        stop = min(start + _CHUNK, len(tokens) - n + 1)
        follows = (nodes[start:stop] != _NONE) & (tokens[start + n - 2 : stop + n - 2] != END)
        keys = nodes[start:stop][follows].astype(np.uint64) << np.uint64(32)
        keys |= tokens[start + n - 1 : stop + n - 1][follows]
        keys.sort()
        first = np.flatnonzero(np.concatenate((keys[:1] == keys[:1], keys[1:] != keys[:-1])))
        run = disk_array(len(first), np.uint64, folder), disk_array(len(first), np.uint32, folder)
        run[0][:], run[1][:] = keys[first], np.diff(first, append=len(keys))
        runs.append(run)
    while len(runs) > 1:
        odd = runs[len(runs) // 2 * 2 :]
        runs = [_merged(a, b, folder) for a, b in zip(runs[::2], runs[1::2], strict=False)] + odd
    return runs[0]


def _merged(a: _Run, b: _Run, folder: Path | None) -> _Run:
    size = len(a[0]) + len(b[0])
    keys, counts = disk_array(size, np.uint64, folder), disk_array(size, np.uint32, folder)
    size = _merge(a, b, keys, counts)
    return keys[:size], counts[:size]


@compiled
def _merge(a: _Run, b: _Run, keys: np.ndarray, counts: np.ndarray) -> int:
    i, j, used = 0, 0, 0
    while i < len(a[0]) or j < len(b[0]):
        from_a = i < len(a[0]) and (j == len(b[0]) or a[0][i] <= b[0][j])
        keys[used], counts[used] = a[0][i] if from_a else b[0][j], 0
        if from_a:
            counts[used] += a[1][i]
            i += 1
        if j < len(b[0]) and b[0][j] == keys[used]:
            counts[used] += b[1][j]
            j += 1
        used += 1
    return used


@compiled
def _unpack(keys: np.ndarray, parents: np.ndarray, words: np.ndarray) -> None:
    for i in range(len(keys)):
        parents[i] = keys[i] >> np.uint64(32)
        words[i] = keys[i] & np.uint64(0xFFFFFFFF)


@compiled
def _index(parents: np.ndarray, first_children: np.ndarray) -> None:
    child = 0
    for parent in range(len(first_children)):
        while child < len(parents) and parents[child] < parent:
            child += 1
        first_children[parent] = child


@compiled
def _child(first_children: np.ndarray, words: np.ndarray, node: int, word: int) -> int:
    """Return the n-gram of the next order that extends n-gram `node` by `word`; it is known to exist."""
    low, high = np.int64(first_children[node]), np.int64(first_children[node + 1])
    while high - low > 1:
        middle = (low + high) >> 1
        if words[middle] <= word:
            low = middle
        else:
            high = middle
    return int(low)


@compiled
def _find_suffixes(level: Level, below: Level, first_children: np.ndarray) -> None:
    for i in range(len(level.words)):
        shorter = below.suffixes[level.parents[i]]
        level.suffixes[i] = _child(first_children, below.words, shorter, level.words[i])


@compiled
def _advance(
    nodes: np.ndarray, tokens: np.ndarray, n: int, first_children: np.ndarray, words: np.ndarray
) -> None:
    """Turn the (n - 1)-gram that begins at each token into the n-gram."""
    for i in range(len(tokens)):
        if i + n <= len(tokens) and nodes[i] != _NONE and tokens[i + n - 2] != END:
            nodes[i] = _child(first_children, words, nodes[i], tokens[i + n - 1])
        else:
            nodes[i] = _NONE


# ------------------------------------------------------------------------------------------ smoothing


def _kept(
    levels: Sequence[Level], cutoffs: Sequence[int], allowed: np.ndarray, folder: Path | None
) -> list[np.ndarray]:
    """Select n-grams by count and vocabulary (bool for each order).

    Prefixes and suffixes of an n-gram are at least as frequent, so they stay with it.
    """
    words = disk_array(len(allowed), np.bool_, folder)
    words[:] = (levels[0].counts > cutoffs[0]) & allowed
    words[: len(SPECIAL)] = True
    kept = [words]
    for level, cutoff in zip(levels[1:], cutoffs[1:], strict=True):
        kept.append(disk_array(len(level.words), np.bool_, folder))
        _keep(level, cutoff, words, kept[-2], kept[-1])
    return kept


@compiled
def _keep(level: Level, cutoff: int, words: np.ndarray, parents: np.ndarray, kept: np.ndarray) -> None:
    for i in range(len(kept)):
        kept[i] = level.counts[i] > cutoff and words[level.words[i]] and parents[level.parents[i]]


def _estimate(
    levels: Sequence[Level], kept: Sequence[np.ndarray], vocabulary: Vocabulary, folder: Path | None
) -> tuple[NgramLM, tuple[Discounts, ...]]:
    """Make a model of the n-grams that are `kept`; return it and the discounts of each order."""
    discounts, probs, backoffs = [], [], []
    below = np.array([1 / (np.count_nonzero(kept[0]) - 1)], np.float32)  # uniform over all words but <s>
    for n, level in enumerate(levels, 1):
        adjusted = _adjusted_counts(levels, n, folder)
        discounts.append(find_discounts(adjusted))
        backoffs.append(disk_array(len(levels[n - 2].words) if n > 1 else 1, np.float32, folder))
        probs.append(disk_array(len(level.words), np.float32, folder))
        steps = np.array([0, *discounts[-1]])
        _interpolate(level, adjusted, kept[n - 1], steps, below, probs[-1], backoffs[-1])
        below = probs[-1]
    probs[0][BEGIN] = 1  # as in lmplz; never looked up
    return _build(levels, kept, probs, backoffs[1:], vocabulary), tuple(discounts)


def _adjusted_counts(levels: Sequence[Level], n: int, folder: Path | None) -> np.ndarray:
    """Return the counts in the highest order, else the number of distinct words to the left (uint32)."""
    counts = levels[n - 1].counts
    adjusted = disk_array(len(counts), np.uint32, folder)
    if n == len(levels):
        adjusted[:] = counts
    else:
        _count_left(levels[n].suffixes, adjusted)
    if n == 1:
        adjusted[BEGIN] = 0
    elif n < len(levels):
        start, stop = BEGIN, BEGIN + 1  # the n-grams that begin with <s>
        for level in levels[: n - 1]:
            start, stop = int(level.first_children[start]), int(level.first_children[stop])
        adjusted[start:stop] = counts[start:stop]
    return adjusted


@compiled
def _count_left(suffixes: np.ndarray, adjusted: np.ndarray) -> None:
    """Count how many longer n-grams have each n-gram as their suffix."""
    for suffix in suffixes:
        adjusted[suffix] += 1


def find_discounts(adjusted: np.ndarray) -> Discounts:
    """Estimate the discounts from the numbers of counts 1, 2, 3 and 4 (Chen and Goodman, equation 26)."""
    n1, n2, n3, n4 = (int(np.count_nonzero(adjusted == count)) for count in range(1, 5))
    if n1 and n2 and n3:
        y = n1 / (n1 + 2 * n2)
        values = (1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3)
        if all(0 < value <= count for count, value in enumerate(values, 1)):
            return values
    return FALLBACK


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
    """Fill the probability of each n-gram, and for each context the weight of the shorter order `below`."""
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


def _build(
    levels: Sequence[Level],
    kept: Sequence[np.ndarray],
    probs: Sequence[np.ndarray],
    backoffs: Sequence[np.ndarray],
    vocabulary: Vocabulary,
) -> NgramLM:
    builder = NgramBuilder([int(np.count_nonzero(stays)) for stays in kept])
    words = _renumber(kept[0])
    nodes: np.ndarray = np.zeros(1, np.uint32)
    for n, (level, stays) in enumerate(zip(levels, kept, strict=True), 1):
        backoff = np.log10(backoffs[n - 1][stays]) if n < len(levels) else None
        log_probs = np.minimum(np.log10(probs[n - 1][stays]), 0)  # rounding may exceed a probability of 1
        builder.add(nodes[level.parents[stays]], words[level.words[stays]], log_probs, backoff)
        nodes = _renumber(stays) + np.uint32(nodes_of_order(builder.counts, n).start)
    return builder.finish(vocabulary.take(kept[0]))


def _renumber(kept: np.ndarray) -> np.ndarray:
    """Return the new index of everything `kept`, uint32; the values of the rest are meaningless."""
    return np.cumsum(kept, dtype=np.uint32) - np.uint32(1)


# -------------------------------------------------------------------------------------------- pruning


def prune(lm: NgramLM, threshold: float) -> NgramLM:
    """Remove the n-grams whose loss raises the perplexity by less than the factor 1 + `threshold`.

    Backoff weights are recomputed so that the probabilities of every context sum to one.
    """
    _check_entropy(threshold)
    orders = [nodes_of_order(lm.counts, n) for n in range(lm.order + 1)]
    kept = np.ones(orders[-1].stop, np.bool_)
    contexts = _context_log_probs(lm.arrays)
    for above in reversed(orders[1:-1]):
        _mark(lm.arrays, contexts, above.start, above.stop, threshold, kept)
    builder = NgramBuilder([int(np.count_nonzero(kept[nodes])) for nodes in orders[1:]])
    arrays, indices = lm.arrays, _renumber(kept)
    for above, nodes in itertools.pairwise(orders):
        stays = kept[nodes]
        children = np.diff(arrays.first_children[above.start : above.stop + 1])
        parents = np.repeat(indices[above], children)[stays]
        backoffs = None if nodes is orders[-1] else arrays.backoffs[nodes][stays]
        builder.add(parents, arrays.words[nodes][stays], arrays.log_probs[nodes][stays], backoffs)
    pruned = builder.finish(lm.vocabulary)
    _normalize(pruned.arrays)
    link(pruned.arrays)  # weights have changed, and with them what is live
    return pruned


@compiled
def _context_log_probs(lm: NgramArrays) -> np.ndarray:
    """Compute log10 of the probability of each context by the chain rule."""
    log_probs = np.zeros(len(lm.backoffs))
    for parent in range(len(log_probs)):
        first = np.int64(lm.first_children[parent])
        for node in range(first, np.int64(min(lm.first_children[parent + 1], len(log_probs)))):
            own = lm.log_probs[1 + END] if node == 1 + BEGIN else lm.log_probs[node]
            log_probs[node] = log_probs[parent] + own
    return log_probs


@compiled
def _unlisted_mass(lm: NgramArrays, context: int) -> tuple[float, float]:
    """Return the mass of the words not listed after a context: in the context, and in its suffix."""
    own, shorter = 1.0, 1.0
    for child in range(np.int64(lm.first_children[context]), np.int64(lm.first_children[context + 1])):
        own -= 10.0 ** np.float64(lm.log_probs[child])
        shorter -= 10.0 ** score_word(lm, lm.suffixes[context], lm.words[child])[0]
    return own, shorter


@compiled
def _mark(
    lm: NgramArrays, contexts: np.ndarray, start: int, stop: int, threshold: float, kept: np.ndarray
) -> None:
    """Clear `kept` for the n-grams to remove among the children of the nodes `start` to `stop`."""
    for context in range(start, stop):
        own, shorter = _unlisted_mass(lm, context)
        own, shorter = max(own, 0.0), max(shorter, 0.0)
        for child in range(np.int64(lm.first_children[context]), np.int64(lm.first_children[context + 1])):
            if child < len(lm.backoffs):
                first, last = np.int64(lm.first_children[child]), np.int64(lm.first_children[child + 1])
                if kept[first:last].any():
                    continue
            log_prob = np.float64(lm.log_probs[child])
            log_shorter = score_word(lm, lm.suffixes[context], lm.words[child])[0]
            # Backoff weight of the context without this n-gram.
            weight = math.log10((own + 10.0**log_prob) / (shorter + 10.0**log_shorter))
            change = 10.0**log_prob * (log_shorter + weight - log_prob)
            change += own * (weight - lm.backoffs[context])
            entropy = -(10.0 ** contexts[context]) * change * math.log(10)
            kept[child] = math.expm1(entropy) >= threshold


@compiled
def _normalize(lm: NgramArrays) -> None:
    """Recompute the backoff weights, shorter contexts first, as longer ones depend on them."""
    for context in range(1, len(lm.backoffs)):
        if lm.first_children[context] == lm.first_children[context + 1]:
            lm.backoffs[context] = 0
            continue
        own, shorter = _unlisted_mass(lm, context)
        if own > _SATURATED and shorter > _SATURATED:
            lm.backoffs[context] = math.log10(own / shorter)
