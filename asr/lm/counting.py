"""How often each n-gram occurs in a text of any length.

Memory holds the vocabulary and blocks of fixed size; all else lies in temporary files. An n-gram is counted
as the pair of its first n - 1 words, known by their number among the (n - 1)-grams, and its last word: 64
bits, whatever n. Blocks of such pairs are sorted, merged and come out in the order of the model's trie.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr.errors import LanguageModelError
from asr.jit import compiled
from asr.lm.disk import Scratch
from asr.lm.reading import read_blocks, refuse_special
from asr.lm.vocabulary import END, Vocabulary
from asr.lm.words import Words, encode

MAX_TOKENS = 2**32 - 2

_NONE = np.uint32(2**32 - 1)
"""Stands where no n-gram begins, because its sentence ends before."""

_CHUNK = 1 << 24
"""Tokens at a time; 128 MiB of n-grams to sort."""


class Corpus(NamedTuple):
    """A text as numbers: each sentence is <s>, its words, </s>."""

    vocabulary: Vocabulary
    tokens: np.ndarray
    """uint32, on disk"""


class Level(NamedTuple):
    """The n-grams of one order that a text holds, sorted by (parent, word); on disk."""

    parents: np.ndarray
    """uint32, which of the (n - 1)-grams comes before the last word; 0 in the first order"""
    words: np.ndarray
    """uint32"""
    counts: np.ndarray
    """uint32, how often the text holds it"""
    first_children: np.ndarray
    """uint32[n-grams + 1], its extensions in the next order; all 0 in the highest"""
    suffixes: np.ndarray
    """uint32, which of the (n - 1)-grams it is without its first word; 0 in the first order"""


def read_corpus(paths: Iterable[Path], scratch: Scratch) -> Corpus:
    """Read texts, one sentence a line, words between white space, as they are.

    Raises LanguageModelError if there is no text, or if a special word (<s>, </s>, <unk>) is in it.
    """
    words, pieces, total = Words(), [], 0
    pending: list[np.ndarray] = []
    for path in paths:
        for block in read_blocks(path):
            words.reserve(len(block.text) // 2 + 1, len(block.text))
            ids = np.empty(2 * len(block.text), np.uint32)
            words.count, used, special = encode(words.table, words.count, block.text, True, ids)
            refuse_special(path, block, special)
            pending.append(ids[:used].copy())
            total += used
            if sum(map(len, pending)) >= _CHUNK:
                pieces.append(_to_disk(pending, scratch))
                pending = []
    if words.count == END + 1:
        raise LanguageModelError("the text holds no words; nothing to learn from")
    if total > MAX_TOKENS:
        raise LanguageModelError(f"the text is too long: {total} words, {MAX_TOKENS} at most")
    pieces.append(_to_disk(pending, scratch))
    vocabulary, ids = words.vocabulary()
    tokens = scratch.array(total, np.uint32)
    position = 0
    while pieces:
        piece = pieces.pop(0)
        tokens[position : position + len(piece)] = ids[piece]
        position += len(piece)
    return Corpus(vocabulary, tokens)


def _to_disk(arrays: Sequence[np.ndarray], scratch: Scratch) -> np.ndarray:
    whole = scratch.array(sum(map(len, arrays)), np.uint32)
    return np.concatenate(arrays, out=whole) if arrays else whole


def count_ngrams(
    corpus: Corpus, order: int, scratch: Scratch, progress: Callable[[str], None] = lambda stage: None
) -> list[Level]:
    """The n-grams of order 1 to `order`; every word of the vocabulary is a unigram.

    Raises LanguageModelError if the sentences are too short for the order.
    """
    levels = [_first_level(corpus, scratch)]
    nodes = scratch.array(len(corpus.tokens), np.uint32)  # the n-gram that begins at each token
    nodes[:] = corpus.tokens
    for n in range(2, order + 1):
        progress(f"counting {n}-grams")
        run = _count_pairs(nodes, corpus.tokens, n, scratch)
        size = len(run.keys)
        if not size:
            raise LanguageModelError(f"no line of the text is long enough for order {n}; ask for {n - 1}")
        below, level = levels[-1], _empty_level(size, run.counts, scratch)
        _unpack(run.keys, level.parents, level.words)
        _index(level.parents, below.first_children)
        if n == 2:
            level.suffixes[:] = level.words
        else:
            _find_suffixes(level, below, levels[-2].first_children)
        if n < order:
            _advance(nodes, corpus.tokens, n, below.first_children, level.words)
        levels.append(level)
    return levels


def _first_level(corpus: Corpus, scratch: Scratch) -> Level:
    size = len(corpus.vocabulary)
    level = _empty_level(size, scratch.array(size, np.uint32), scratch)
    level.words[:] = np.arange(size)
    for start in range(0, len(corpus.tokens), _CHUNK):
        tokens = corpus.tokens[start : start + _CHUNK]
        level.counts[:] += np.bincount(tokens, minlength=size).astype(np.uint32)
    return level


def _empty_level(size: int, counts: np.ndarray, scratch: Scratch) -> Level:
    parents, words, suffixes = (scratch.array(size, np.uint32) for _ in range(3))
    return Level(parents, words, counts, scratch.array(size + 1, np.uint32), suffixes)


class _Run(NamedTuple):
    """Distinct pairs (n-gram << 32 | word, uint64), sorted, and how often each occurs (uint32)."""

    keys: np.ndarray
    counts: np.ndarray


def _count_pairs(nodes: np.ndarray, tokens: np.ndarray, n: int, scratch: Scratch) -> _Run:
    """Each (n - 1)-gram in `nodes` with the word that follows it."""
    runs = []
    size = min(_CHUNK, len(tokens))
    keys, counts = np.empty(size, np.uint64), np.empty(size, np.uint32)
    for start in range(0, len(tokens), _CHUNK):
        used = _pair(nodes, tokens, n, start, min(start + _CHUNK, len(tokens)), keys)
        keys[:used].sort()
        runs.append(_spill(_Run(keys, counts), _tally(keys[:used], counts), scratch))
    while len(runs) > 1:
        runs = [_merged(runs[i : i + 2], scratch) for i in range(0, len(runs), 2)]
    return runs[0]


def _spill(run: _Run, size: int, scratch: Scratch) -> _Run:
    keys, counts = scratch.array(size, np.uint64), scratch.array(size, np.uint32)
    keys[:], counts[:] = run.keys[:size], run.counts[:size]
    return _Run(keys, counts)


def _merged(runs: list[_Run], scratch: Scratch) -> _Run:
    if len(runs) == 1:
        return runs[0]
    size = sum(len(run.keys) for run in runs)
    out = _Run(scratch.array(size, np.uint64), scratch.array(size, np.uint32))
    size = _merge(runs[0], runs[1], out)
    return _Run(out.keys[:size], out.counts[:size])


@compiled
def _follows(nodes: np.ndarray, tokens: np.ndarray, i: int, n: int) -> bool:
    """Whether the (n - 1)-gram that begins at token i has a next word in its sentence."""
    return i + n <= len(tokens) and nodes[i] != _NONE and tokens[i + n - 2] != END


@compiled
def _pair(nodes: np.ndarray, tokens: np.ndarray, n: int, start: int, stop: int, keys: np.ndarray) -> int:
    used = 0
    for i in range(start, stop):
        if _follows(nodes, tokens, i, n):
            keys[used] = np.uint64(nodes[i]) << np.uint64(32) | np.uint64(tokens[i + n - 1])
            used += 1
    return used


@compiled
def _tally(keys: np.ndarray, counts: np.ndarray) -> int:
    """Move the distinct ones of sorted keys to the front, and count them."""
    used = 0
    for i in range(len(keys)):
        if used and keys[i] == keys[used - 1]:
            counts[used - 1] += 1
        else:
            keys[used], counts[used] = keys[i], 1
            used += 1
    return used


@compiled
def _merge(a: _Run, b: _Run, out: _Run) -> int:
    i, j, used = 0, 0, 0
    while i < len(a.keys) or j < len(b.keys):
        from_a = i < len(a.keys) and (j == len(b.keys) or a.keys[i] <= b.keys[j])
        from_b = j < len(b.keys) and (i == len(a.keys) or b.keys[j] <= a.keys[i])
        out.counts[used] = 0
        if from_a:
            out.keys[used] = a.keys[i]
            out.counts[used] += a.counts[i]
            i += 1
        if from_b:
            out.keys[used] = b.keys[j]
            out.counts[used] += b.counts[j]
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
    """Which n-gram of the next order extends n-gram `node` by `word`; it is known to be there."""
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
        if _follows(nodes, tokens, i, n):
            nodes[i] = _child(first_children, words, nodes[i], tokens[i + n - 1])
        else:
            nodes[i] = _NONE
