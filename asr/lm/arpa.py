"""ARPA files, the text form of n-gram models used by SRILM, KenLM and LibriSpeech."""

import bz2
import gzip
import itertools
import lzma
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np

from asr.errors import LanguageModelError
from asr.files import atomic_write
from asr.jit import compiled
from asr.lm.ngram import (
    BEGIN,
    END,
    MAX_NODES,
    MAX_ORDER,
    SPECIAL,
    UNKNOWN,
    NgramArrays,
    NgramBuilder,
    NgramLM,
    Vocabulary,
    find_child,
    nodes_of_order,
)
from asr.lm.text import read_blocks

MISSING_UNKNOWN = -100.0
"""log10 probability of <unk> if a file has none, as in KenLM."""

_LARGEST = float(np.finfo(np.float32).max)
_ROWS = 1 << 16


def read_arpa(path: Path) -> NgramLM:
    """Read an ARPA file, plain or compressed; `-` is standard input.

    N-grams of one order may come in any order. A missing backoff weight is 0; <UNK> is <unk>; an n-gram may
    lack its suffix (SRILM's cut-offs), not its prefix. Memory holds the model and about 40 bytes for each
    n-gram of one order. Raises LanguageModelError that names the line.
    """
    try:
        return _Reader(path).read()
    except MemoryError:
        raise LanguageModelError(f"{path}: larger than the memory; prune the model") from None


_Row = tuple[list[int], tuple[float, float], int]
"""Word ids, log probability and backoff weight, number of the line."""


class _Reader:
    """Reads lines that are not blank: `line` is the current one, `number` its number."""

    def __init__(self, path: Path) -> None:
        self.path, self.number, self.line = path, 0, b""
        blocks = ((first, block.split(b"\n")) for first, block in read_blocks(path))
        self._lines = (
            (number, stripped)
            for first, lines in blocks
            for number, line in enumerate(lines, first)
            if (stripped := line.strip())
        )

    def read(self) -> NgramLM:
        counts = self._read_counts()
        vocabulary, weights = self._read_unigrams(counts[0])
        builder = NgramBuilder((len(vocabulary), *counts[1:]))
        numbers = np.arange(len(vocabulary), dtype=np.uint32)
        builder.add(np.zeros_like(numbers), numbers, *weights.T)
        ids = {**vocabulary.ids(), b"<UNK>": UNKNOWN}
        for n in range(2, len(counts) + 1):
            self._expect(f"\\{n}-grams:")
            self._add_ngrams(n, builder, ids)
        self._expect("\\end\\")
        return builder.finish(vocabulary)

    def _read_counts(self) -> list[int]:
        """Read the \\data\\ section; text before it is skipped."""
        while self._advance() != b"\\data\\":
            pass
        counts: list[int] = []
        while self._advance() != b"\\1-grams:":
            match = re.fullmatch(rb"ngram\s+(\d+)\s*=\s*(\d+)", self.line)
            if not match or int(match[1]) != len(counts) + 1:
                raise self._error(f"expected 'ngram {len(counts) + 1}=...' or '\\1-grams:'")
            counts.append(int(match[2]))
        if not 1 <= len(counts) <= MAX_ORDER:
            raise self._error(f"a model of order {len(counts)}; 1 to {MAX_ORDER} can be read")
        if sum(counts) >= MAX_NODES:
            raise self._error(f"{sum(counts)} n-grams; {MAX_NODES - 1} at most can be read")
        return counts

    def _read_unigrams(self, count: int) -> tuple[Vocabulary, np.ndarray]:
        """Return the vocabulary, and log probability and backoff weight of each word, float32[words, 2]."""
        special = {**Vocabulary.of([]).ids(), b"<UNK>": UNKNOWN}
        ids = defaultdict(itertools.count(len(SPECIAL)).__next__, special)
        weights: dict[int, tuple[float, float]] = {}
        for (word,), values, _ in self._rows(1, count, ids):
            if word in weights:
                raise self._error("the word is there twice")
            weights[word] = values
        for word in (BEGIN, END):
            if word not in weights:
                raise self._error(f"no 1-gram {SPECIAL[word]}; a model needs <s> and </s>")
        weights.setdefault(UNKNOWN, (MISSING_UNKNOWN, 0.0))
        del ids[b"<UNK>"]
        vocabulary = Vocabulary.of(ids)
        return vocabulary, np.array([weights[ids[word]] for word in vocabulary.ids()], np.float32)

    def _add_ngrams(self, n: int, builder: NgramBuilder, ids: Mapping[bytes, int]) -> None:
        count, start = builder.counts[n - 1], 0
        keys: np.ndarray = np.empty(count, np.uint64)  # parent node << 32 | last word
        weights: np.ndarray = np.empty((count, 2), np.float32)
        section = self._rows(n, count, ids)
        while start < count:
            # Flat lists: many small containers would keep the garbage collector busy.
            ngrams: list[int] = []
            values: list[float] = []
            numbers: list[int] = []
            for words, pair, number in itertools.islice(section, _ROWS):
                ngrams += words
                values += pair
                numbers.append(number)
            part = slice(start, start := start + len(numbers))
            missing = _find_parents(builder.arrays, np.array(ngrams).reshape(-1, n), keys[part])
            if missing >= 0:
                where = f"{self.path}:{numbers[missing]}"
                raise LanguageModelError(f"{where}: its first {n - 1} words are not among the {n - 1}-grams")
            weights[part] = np.reshape(values, (-1, 2))
        next(section, None)
        if not (keys[1:] > keys[:-1]).all():
            order = np.argsort(keys)
            keys, weights = keys[order], weights[order]
            if len(twice := keys[1:][keys[1:] == keys[:-1]]):
                word = [*ids][int(twice[0]) & 0xFFFFFFFF].decode()
                raise LanguageModelError(f"{self.path}: a {n}-gram that ends in {word!r} is there twice")
        builder.add((keys >> np.uint64(32)).astype(np.uint32), keys.astype(np.uint32), *weights.T)

    def _rows(self, n: int, count: int, ids: Mapping[bytes, int]) -> Iterator[_Row]:
        """Parse the rows of a section; `line` is then the one that follows it."""
        read = 0
        for number, line in self._lines:
            self.number, self.line = number, line
            if line.startswith(b"\\"):
                break
            fields = line.split()
            if not n < len(fields) <= n + 2:
                raise self._error(f"expected a log probability, {n} words, perhaps a backoff weight")
            if read == count:
                raise self._error(f"more {n}-grams than \\data\\ announces")
            try:
                weights = float(fields[0]), float(fields[n + 1]) if n + 1 < len(fields) else 0.0
            except ValueError:
                weights = math.nan, math.nan
            if not (-_LARGEST <= weights[0] <= 0 and abs(weights[1]) <= _LARGEST):
                raise self._error("a number is missing or malformed, or a log probability above 0")
            try:
                words = [*map(ids.__getitem__, fields[1 : n + 1])]
            except KeyError:
                raise self._error("one of its words is not among the 1-grams") from None
            yield words, weights, number
            read += 1
        else:
            raise self._cut_off()
        if read < count:
            raise self._error(f"only {read} {n}-grams before this line, \\data\\ announces {count}")

    def _advance(self) -> bytes:
        for self.number, self.line in self._lines:  # noqa: B020
            return self.line
        raise self._cut_off()

    def _expect(self, wanted: str) -> None:
        if self.line != wanted.encode():
            raise self._error(f"expected '{wanted}'")

    def _cut_off(self) -> LanguageModelError:
        return LanguageModelError(f"{self.path}: ends before '\\end\\'; not an ARPA file, or cut off")

    def _error(self, message: str) -> LanguageModelError:
        quoted = repr(self.line.decode()[:80]).replace("\\\\", "\\")
        return LanguageModelError(f"{self.path}:{self.number}: {message}: {quoted}")


@compiled
def _find_parents(lm: NgramArrays, ngrams: np.ndarray, keys: np.ndarray) -> int:
    """Fill `keys` for the rows of `ngrams` (int64[rows, n]); return the first without its prefix, or -1."""
    for i in range(len(ngrams)):
        node = 0
        for word in ngrams[i, :-1]:
            node = find_child(lm, node, word)
            if node < 0:
                return i
        keys[i] = np.uint64(node) << np.uint64(32) | np.uint64(ngrams[i, -1])
    return -1


def write_arpa(lm: NgramLM, path: Path) -> None:
    """Write an ARPA file, compressed if it ends in .gz, .xz or .bz2; numbers are exact in float32."""
    with atomic_write(path, "wb") as raw, _compressed(raw, path.suffix) as file:
        counts = "".join(f"ngram {n}={count}\n" for n, count in enumerate(lm.counts, 1))
        file.write(f"\\data\\\n{counts}\n".encode())
        names = list(lm.vocabulary)
        for n in range(1, lm.order + 1):
            file.write(f"\\{n}-grams:\n".encode())
            nodes = nodes_of_order(lm.counts, n)
            for start in range(nodes.start, nodes.stop, _ROWS):
                file.write(_format_rows(lm, n, slice(start, min(start + _ROWS, nodes.stop)), names).encode())
            file.write(b"\n")
        file.write(b"\\end\\\n")


def _compressed(file: IO[bytes], suffix: str) -> Any:
    if suffix == ".gz":
        return gzip.GzipFile("", "wb", 6, file, mtime=0)  # neither name nor time, for reproducible bytes
    if suffix == ".xz":
        return lzma.open(file, "wb")
    return bz2.open(file, "wb") if suffix == ".bz2" else nullcontext(file)


def _format_rows(lm: NgramLM, n: int, nodes: slice, names: list[str]) -> str:
    words = _words_of(lm.arrays, np.arange(nodes.start, nodes.stop), n)
    columns = [lm.arrays.log_probs[nodes].astype(str).tolist()]
    columns.append([" ".join(names[word] for word in row) for row in words.tolist()])
    if n < lm.order:
        columns.append(lm.arrays.backoffs[nodes].astype(str).tolist())
    return "\n".join(map("\t".join, zip(*columns, strict=True))) + "\n"


def _words_of(lm: NgramArrays, nodes: np.ndarray, n: int) -> np.ndarray:
    """Return the word ids of n-grams of order n: uint32[len(nodes), n]."""
    nodes = nodes.astype(np.uint32)
    words = np.empty((len(nodes), n), np.uint32)
    for column in range(n - 1, -1, -1):
        words[:, column] = lm.words[nodes]
        nodes = np.searchsorted(lm.first_children, nodes, side="right").astype(np.uint32) - np.uint32(1)
    return words
