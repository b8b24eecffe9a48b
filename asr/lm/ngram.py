"""N-gram language models: a trie of flat arrays, the same in memory and on disk.

All probabilities are log10, as in ARPA files.
"""

import mmap
import os
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr.errors import LanguageModelError
from asr.files import atomic_write
from asr.jit import compiled, kernel
from asr.lm.vocabulary import BEGIN, END, SPECIAL, UNKNOWN, Vocabulary

__all__ = ["BEGIN", "END", "MAX_ORDER", "UNKNOWN", "NgramArrays", "NgramLM", "NgramTable", "score_word"]

MAX_ORDER = 5
MAX_NODES = 2**32 - 1

_MAGIC = b"asr-lm\r\n"
_VERSION = 1
_FIELDS = struct.Struct(f"<8sII{MAX_ORDER}QQ")  # magic, version, order, counts, size of the vocabulary's text
_CHECKSUM = struct.Struct("<I")
_HEADER_SIZE = _FIELDS.size + _CHECKSUM.size
_ALIGNMENT = 64


class NgramArrays(NamedTuple):
    """A trie over n-grams read forwards, of N nodes.

    Node 0 is the root (the empty context), node 1 + w the unigram w, then come the nodes of order 2, 3, ...,
    each order sorted by (parent, word). The M nodes of less than the highest order are contexts; a context is
    live if it has children or a backoff weight other than 0. Only live contexts (and the root) are states, so
    that what cannot be told apart any more has the same state.
    """

    words: np.ndarray
    """uint32[N], the last word of the n-gram"""
    log_probs: np.ndarray
    """float32[N], log10"""
    next_states: np.ndarray
    """uint32[N], the longest suffix of the n-gram that is a live context: itself, maybe"""
    backoffs: np.ndarray
    """float32[M], log10"""
    suffixes: np.ndarray
    """uint32[M], the longest proper suffix of the n-gram that is a live context; 0 for the root"""
    first_children: np.ndarray
    """uint32[M + 1], the children of node i are first_children[i] to first_children[i + 1]"""


class NgramTable(NamedTuple):
    """The n-grams of one order, sorted by (parent, word), from which a model is built."""

    parents: np.ndarray
    """uint32, node of the n-gram without its last word"""
    words: np.ndarray
    """uint32, the last word"""
    log_probs: np.ndarray
    """float32, log10"""
    backoffs: np.ndarray
    """float32, log10; not looked at in the highest order"""


@kernel
def find_child(lm: NgramArrays, node: int, word: int) -> int:
    """The node of context `node` followed by `word`; -1 if the model lacks that n-gram."""
    if node == 0:
        return 1 + int(word)
    low = np.int64(lm.first_children[node])
    end = high = np.int64(lm.first_children[node + 1])
    while low < high:
        middle = (low + high) >> 1
        if lm.words[middle] < word:
            low = middle + 1
        else:
            high = middle
    if low < end and lm.words[low] == word:
        return int(low)
    return -1


@kernel
def score_word(lm: NgramArrays, state: int, word: int) -> tuple[float, int]:
    """log10 P(word | state) with backing off, and the state after it."""
    context = np.int64(state)
    log_prob = 0.0
    node = find_child(lm, context, word)
    while node < 0:
        log_prob += lm.backoffs[context]
        context = np.int64(lm.suffixes[context])
        node = find_child(lm, context, word)
    return float(log_prob + lm.log_probs[node]), int(np.int64(lm.next_states[node]))


@kernel
def score_words(lm: NgramArrays, state: int, words: np.ndarray, log_probs: np.ndarray) -> int:
    """Write log10 P of each of `words` (integer[n]), which follow `state`, to `log_probs` (float64[n])."""
    context = np.int64(state)
    for i in range(len(words)):
        log_probs[i], context = score_word(lm, context, words[i])
    return int(context)


@compiled
def link(lm: NgramArrays) -> None:
    """Fill `suffixes` and `next_states`, shorter n-grams first.

    A context without children and backoff weight can be left out of the chain of suffixes: nothing is found
    in it, and to back off from it costs nothing. So can one that a pruned model lacks altogether.
    """
    contexts = len(lm.backoffs)
    for parent in range(contexts):
        for node in range(lm.first_children[parent], lm.first_children[parent + 1]):
            suffix, shorter = np.int64(0), np.int64(parent)
            while shorter != 0:
                shorter = np.int64(lm.suffixes[shorter])
                found = find_child(lm, shorter, lm.words[node])
                if found >= 0:
                    suffix = np.int64(lm.next_states[found])
                    break
            lm.next_states[node] = suffix
            if node < contexts:
                lm.suffixes[node] = suffix
                if lm.backoffs[node] != 0 or lm.first_children[node] < lm.first_children[node + 1]:
                    lm.next_states[node] = node


@dataclass(frozen=True, eq=False)
class NgramLM:
    """A language model; `counts` is its number of n-grams of each order."""

    arrays: NgramArrays
    vocabulary: Vocabulary
    counts: tuple[int, ...]

    @property
    def order(self) -> int:
        """Length of the longest n-grams."""
        return len(self.counts)

    @property
    def begin_state(self) -> int:
        """The state at the begin of a sentence, after <s>."""
        return int(self.arrays.next_states[1 + BEGIN])

    def word_id(self, word: str) -> int:
        """The word's id; UNKNOWN if the model lacks it."""
        return self.vocabulary.id(word)

    def word(self, id: int) -> str:
        """The word with that id."""
        return self.vocabulary[id]

    def words(self) -> list[str]:
        """All words by id, the three special ones first."""
        return self.vocabulary.words()

    def score(self, words: Sequence[str]) -> float:
        """log10 P(words </s> | <s>); unknown words are scored as <unk>."""
        ids = np.array([*map(self.word_id, words), END], np.int64)
        log_probs = np.empty(len(ids))
        score_words(self.arrays, self.begin_state, ids, log_probs)
        return float(log_probs.sum())

    @classmethod
    def build(cls, vocabulary: Vocabulary, tables: Sequence[NgramTable]) -> "NgramLM":
        """A model of the tables of order 1, 2, ...; a table may lack suffixes of n-grams, but no prefix."""
        builder = NgramBuilder([len(table.words) for table in tables])
        for table in tables:
            builder.add(table)
        return builder.finish(vocabulary)

    @classmethod
    def load(cls, path: Path) -> "NgramLM":
        """Map a file that `save` wrote into memory, in a time that does not depend on its size.

        Raises LanguageModelError if the file is missing, foreign, cut or of another version.
        """
        try:
            with path.open("rb") as file:
                counts, text_size = _read_header(path, file.read(_HEADER_SIZE))
                layout, expected = _layout(counts, text_size)
                size = os.fstat(file.fileno()).st_size
                if size != expected:
                    raise LanguageModelError(
                        f"{path}: cut off or damaged ({size} bytes, expected {expected}); copy it again"
                    )
                # A private mapping, because numba compiles anew for arrays that cannot be written to.
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise LanguageModelError(f"{path}: {error.strerror or error}") from None
        *arrays, offsets, text = (np.frombuffer(data, *section) for section in layout)
        lm = cls(NgramArrays(*arrays), Vocabulary(text, offsets), counts)
        lm._check_body(path)
        return lm

    def _check_body(self, path: Path) -> None:
        """Look at the ends of the arrays, which shows holes that a copy left; to read all would take long."""
        arrays, offsets, text = self.arrays, self.vocabulary.offsets, self.vocabulary.text
        special = "".join(SPECIAL).encode()
        if (
            arrays.first_children[0] != 1
            or arrays.first_children[-1] != len(arrays.words)
            or (offsets[0], offsets[-1]) != (0, len(text))
            or text[: len(special)].tobytes() != special
        ):
            raise LanguageModelError(f"{path}: damaged inside; copy it again")

    def save(self, path: Path) -> None:
        """Write the model to `path`: a header, and all arrays as they are, little-endian, aligned."""
        layout, _ = _layout(self.counts, len(self.vocabulary.text))
        with atomic_write(path, "wb") as file:
            file.write(_header(self.counts, len(self.vocabulary.text)))
            position = _HEADER_SIZE
            sections = (*self.arrays, self.vocabulary.offsets, self.vocabulary.text)
            for section, (dtype, count, offset) in zip(sections, layout, strict=True):
                file.write(bytes(offset - position))
                file.write(np.ascontiguousarray(section, dtype).data)
                position = offset + dtype.itemsize * count


class NgramBuilder:
    """Fills the arrays of a model order by order, so that the tables need not be there all at once.

    `arrays` can be searched with `find_child` up to the order that was last added.
    """

    def __init__(self, counts: Sequence[int]) -> None:
        self.counts = tuple(counts)
        self._order = 0
        nodes, contexts = 1 + sum(counts), 1 + sum(counts[:-1])
        if nodes > MAX_NODES:
            raise LanguageModelError(f"{nodes - 1} n-grams: {MAX_NODES - 1} is the limit; prune the model")
        self.arrays = NgramArrays(
            words=np.zeros(nodes, np.uint32),
            log_probs=np.zeros(nodes, np.float32),
            next_states=np.zeros(nodes, np.uint32),
            backoffs=np.zeros(contexts, np.float32),
            suffixes=np.zeros(contexts, np.uint32),
            first_children=np.zeros(contexts + 1, np.uint32),
        )

    def nodes(self, order: int) -> slice:
        """Where the nodes of an order are; the root alone is order 0."""
        start = 1 + sum(self.counts[: order - 1]) if order else 0
        return slice(start, 1 + sum(self.counts[:order]))

    def add(self, table: NgramTable) -> None:
        """Add the n-grams of the next order."""
        self._order += 1
        parents, nodes = self.nodes(self._order - 1), self.nodes(self._order)
        self.arrays.words[nodes] = table.words
        self.arrays.log_probs[nodes] = table.log_probs
        if self._order < len(self.counts):
            self.arrays.backoffs[nodes] = table.backoffs
        of_parent = np.arange(parents.start, parents.stop, dtype=np.uint32)
        self.arrays.first_children[parents] = nodes.start + np.searchsorted(table.parents, of_parent)
        self.arrays.first_children[parents.stop] = nodes.stop

    def finish(self, vocabulary: Vocabulary) -> NgramLM:
        """The model."""
        link(self.arrays)
        return NgramLM(self.arrays, vocabulary, self.counts)


def _header(counts: tuple[int, ...], text_size: int) -> bytes:
    padded = (*counts, *(0,) * (MAX_ORDER - len(counts)))
    fields = _FIELDS.pack(_MAGIC, _VERSION, len(counts), *padded, text_size)
    return fields + _CHECKSUM.pack(zlib.crc32(fields))


def _read_header(path: Path, header: bytes) -> tuple[tuple[int, ...], int]:
    """The counts and the size of the vocabulary's text."""
    if header[: len(_MAGIC)] != _MAGIC:
        raise LanguageModelError(f"{path}: not a language model; make one with asr lm train or asr lm import")
    if len(header) < _HEADER_SIZE:
        raise LanguageModelError(f"{path}: cut off after {len(header)} bytes; copy it again")
    _, version, order, *counts, text_size = _FIELDS.unpack_from(header)
    if version != _VERSION:
        raise LanguageModelError(
            f"{path}: version {version} of the format, this asr reads {_VERSION}; update asr or make it anew"
        )
    if header != _header(tuple(counts[:order]), text_size):
        raise LanguageModelError(f"{path}: its header is damaged; copy it again")
    return tuple(counts[:order]), text_size


def _layout(counts: tuple[int, ...], text_size: int) -> tuple[list[tuple[np.dtype, int, int]], int]:
    """Type, length and offset of each array in the file, in the order of NgramArrays; and the file's size."""
    nodes, contexts = 1 + sum(counts), 1 + sum(counts[:-1])
    sections = [("<u4", nodes), ("<f4", nodes), ("<u4", nodes)]
    sections += [("<f4", contexts), ("<u4", contexts), ("<u4", contexts + 1)]
    sections += [("<i8", counts[0] + 1), ("u1", text_size)]
    layout, offset = [], _HEADER_SIZE
    for name, count in sections:
        dtype = np.dtype(name)
        offset = -(-offset // _ALIGNMENT) * _ALIGNMENT
        layout.append((dtype, count, offset))
        offset += dtype.itemsize * count
    return layout, offset
