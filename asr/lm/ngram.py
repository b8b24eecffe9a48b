"""Back-off n-gram models: a trie of flat arrays with the same layout in memory and on disk.

Probabilities are log10, as in ARPA files.
"""

import mmap
import os
import struct
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr.errors import LanguageModelError
from asr.files import atomic_write
from asr.jit import compiled, kernel

UNKNOWN, BEGIN, END = 0, 1, 2
"""Ids of <unk>, <s> and </s>; all other words follow, sorted by their UTF-8 bytes."""

SPECIAL = ("<unk>", "<s>", "</s>")
MAX_ORDER = 5
MAX_NODES = 2**32 - 1

_MAGIC = b"asr-lm\r\n"
_VERSION = 1
_FIELDS = struct.Struct(f"<8sII{MAX_ORDER}QQ")  # magic, version, order, counts, bytes of vocabulary text
_CHECKSUM = struct.Struct("<I")
_HEADER_SIZE = _FIELDS.size + _CHECKSUM.size
_ALIGNMENT = 64


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Words by id, concatenated so that they can be memory-mapped.

    `text` is uint8; word i is text[offsets[i]:offsets[i + 1]] in UTF-8; `offsets` is int64.
    """

    text: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, words: Iterable[str | bytes]) -> "Vocabulary":
        """Build a vocabulary of the special words and `words` (UTF-8 if bytes), given in any order."""
        encoded = {word.encode() if isinstance(word, str) else word for word in words}
        special = [word.encode() for word in SPECIAL]
        ordered = special + sorted(encoded.difference(special))
        offsets = np.zeros(len(ordered) + 1, np.int64)
        np.cumsum([len(word) for word in ordered], out=offsets[1:])
        return cls(np.frombuffer(bytearray(b"".join(ordered)), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, id: int) -> str:
        return self._bytes(range(len(self))[id]).decode()

    def __iter__(self) -> Iterator[str]:
        return (word.decode() for word in self.ids())

    def _bytes(self, id: int) -> bytes:
        return self.text[self.offsets[id] : self.offsets[id + 1]].tobytes()

    def id(self, word: str) -> int:
        """Return the id of a word, or UNKNOWN."""
        if word in SPECIAL:
            return SPECIAL.index(word)
        wanted = word.encode(errors="surrogatepass")
        index = bisect_left(range(len(self)), wanted, len(SPECIAL), key=self._bytes)
        return index if index < len(self) and self._bytes(index) == wanted else UNKNOWN

    def ids(self) -> dict[bytes, int]:
        """Map the UTF-8 of each word to its id, in the order of the ids."""
        text, offsets = self.text.tobytes(), self.offsets.tolist()
        return {text[a:b]: i for i, (a, b) in enumerate(pairwise(offsets))}

    def take(self, kept: np.ndarray) -> "Vocabulary":
        """Select the words where `kept` (bool[words]) is True."""
        lengths = np.diff(self.offsets)
        text = self.text[np.repeat(kept, lengths)]
        return Vocabulary(text, np.concatenate(([0], np.cumsum(lengths[kept]))))


class NgramArrays(NamedTuple):
    """A trie of N nodes that is read from the first word of an n-gram to the last.

    Node 0 is the root (the empty context) and node 1 + w the unigram w; the nodes of order 2, 3, ... follow,
    each order sorted by (parent, word). The M nodes below the highest order are contexts. A context is live
    if it has children or a non-zero backoff weight. Only live contexts and the root are LM states, so that
    histories with equal futures share a state.
    """

    words: np.ndarray
    """uint32[N], last word of the n-gram"""
    log_probs: np.ndarray
    """float32[N], log10"""
    next_states: np.ndarray
    """uint32[N], longest suffix of the n-gram (or itself) that is a live context"""
    backoffs: np.ndarray
    """float32[M], log10"""
    suffixes: np.ndarray
    """uint32[M], longest proper suffix of the n-gram that is a live context; 0 for the root"""
    first_children: np.ndarray
    """uint32[M + 1]; the children of node i are first_children[i] to first_children[i + 1]"""


@kernel
def find_child(lm: NgramArrays, node: int, word: int) -> int:
    """Return the node of context `node` followed by `word`, or -1."""
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
    """Return log10 P(word | state) and the next state."""
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
    """Fill `log_probs` (float64[n]) with log10 P of `words` (integer[n]) and return the last state."""
    context = np.int64(state)
    for i in range(len(words)):
        log_probs[i], context = score_word(lm, context, words[i])
    return int(context)


@compiled
def link(lm: NgramArrays) -> None:
    """Fill `suffixes` and `next_states`, shorter n-grams first.

    Contexts without children and backoff weight are skipped in the chain of suffixes: nothing is found in
    them and backing off from them is free. So are contexts that a pruned model lacks.
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
    """A language model; `counts` is the number of n-grams of each order."""

    arrays: NgramArrays
    vocabulary: Vocabulary
    counts: tuple[int, ...]

    @property
    def order(self) -> int:
        """Length of the longest n-grams."""
        return len(self.counts)

    @property
    def begin_state(self) -> int:
        """State after <s>."""
        return int(self.arrays.next_states[1 + BEGIN])

    def word_id(self, word: str) -> int:
        """Return the id of a word, or UNKNOWN."""
        return self.vocabulary.id(word)

    def score(self, words: Sequence[str]) -> float:
        """Return log10 P(words </s> | <s>); unknown words score as <unk>."""
        ids = np.array([*map(self.word_id, words), END], np.int64)
        log_probs = np.empty(len(ids))
        score_words(self.arrays, self.begin_state, ids, log_probs)
        return float(log_probs.sum())

    @classmethod
    def load(cls, path: Path) -> "NgramLM":
        """Memory-map a file written by `save`, in constant time.

        Raises LanguageModelError if the file is missing, truncated, of another format or version.
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
                # Copy-on-write rather than read-only: numba would compile again for read-only arrays.
                data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        except OSError as error:
            raise LanguageModelError(f"{path}: {error.strerror or error}") from None
        *arrays, offsets, text = (np.frombuffer(data, *section) for section in layout)
        lm = cls(NgramArrays(*arrays), Vocabulary(text, offsets), counts)
        # Checking both ends of the arrays detects holes left by an incomplete copy; reading all is slow.
        ends = (lm.arrays.first_children[0], lm.arrays.first_children[-1], offsets[0], offsets[-1])
        special = "".join(SPECIAL).encode()
        if ends != (1, 1 + sum(counts), 0, text_size) or text[: len(special)].tobytes() != special:
            raise LanguageModelError(f"{path}: damaged inside; copy it again")
        return lm

    def save(self, path: Path) -> None:
        """Write a header and all arrays, little-endian and aligned."""
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
    """Fills the arrays of a model order by order, so that one order at a time has to be in memory.

    `arrays` can be searched with `find_child` up to the order added last.
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

    def add(
        self,
        parents: np.ndarray,
        words: np.ndarray,
        log_probs: np.ndarray,
        backoffs: np.ndarray | None = None,
    ) -> None:
        """Add the n-grams of the next order, sorted by (parent node, last word).

        Every n-gram needs its prefix, not its suffix. `backoffs` is ignored in the highest order.
        """
        self._order += 1
        above, nodes = nodes_of_order(self.counts, self._order - 1), nodes_of_order(self.counts, self._order)
        self.arrays.words[nodes] = words
        self.arrays.log_probs[nodes] = log_probs
        if self._order < len(self.counts):
            self.arrays.backoffs[nodes] = backoffs
        contexts = np.arange(above.start, above.stop, dtype=np.uint32)
        self.arrays.first_children[above] = nodes.start + np.searchsorted(parents, contexts)
        self.arrays.first_children[above.stop] = nodes.stop

    def finish(self, vocabulary: Vocabulary) -> NgramLM:
        """Link the states and return the model."""
        link(self.arrays)
        return NgramLM(self.arrays, vocabulary, self.counts)


def nodes_of_order(counts: Sequence[int], order: int) -> slice:
    """Return the nodes of the n-grams of one order; order 0 is the root."""
    return slice(1 + sum(counts[: order - 1]) if order else 0, 1 + sum(counts[:order]))


def _header(counts: tuple[int, ...], text_size: int) -> bytes:
    padded = (*counts, *(0,) * (MAX_ORDER - len(counts)))
    fields = _FIELDS.pack(_MAGIC, _VERSION, len(counts), *padded, text_size)
    return fields + _CHECKSUM.pack(zlib.crc32(fields))


def _read_header(path: Path, header: bytes) -> tuple[tuple[int, ...], int]:
    """Return the counts and the size of the vocabulary's text."""
    if header[: len(_MAGIC)] != _MAGIC:
        raise LanguageModelError(f"{path}: not a language model; make one with asr lm train or asr lm import")
    if len(header) < _HEADER_SIZE:
        raise LanguageModelError(f"{path}: cut off after {len(header)} bytes; copy it again")
    _, version, order, *counts, text_size = _FIELDS.unpack_from(header)
    check_version(path, version, _VERSION)
    if header != _header(tuple(counts[:order]), text_size):
        raise LanguageModelError(f"{path}: the header is damaged; copy it again")
    return tuple(counts[:order]), text_size


def check_version(path: Path, version: int, supported: int) -> None:
    """Raise LanguageModelError if a file has another version of the format."""
    if version != supported:
        raise LanguageModelError(
            f"{path}: version {version} of the format, this asr reads {supported}; update asr or make it anew"
        )


def _layout(counts: tuple[int, ...], text_size: int) -> tuple[list[tuple[np.dtype, int, int]], int]:
    """Return the type, length and offset of each array in the file, and the size of the file."""
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
