"""Compressed language models, a fifth to a tenth of the size, expanded when they are loaded.

Log probabilities and backoff weights of each order from 2 on are quantised to 256 values, the means of
equally filled bins (Federico and Bertoldi, 2006); a weight of 0 stays 0. Words are stored as differences
among the children of a context, in byte planes, deflated. States are not stored but linked again.
"""

import itertools
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asr.errors import LanguageModelError
from asr.files import atomic_write
from asr.lm.ngram import MAX_ORDER, NgramBuilder, NgramLM, Vocabulary, check_version, nodes_of_order

LEVELS = 256

_MAGIC = b"asr-lmz\n"
_VERSION = 1
_FIELDS = struct.Struct(f"<8sII{MAX_ORDER}Q")  # magic, version, order, counts
_CHECKSUM = struct.Struct("<I")  # CRC-32 of the fields
_SECTION = struct.Struct("<QI")  # size in the file, CRC-32


def load(path: Path) -> NgramLM:
    """Load a language model, packed or not. Raises LanguageModelError if it is missing or damaged."""
    try:
        with path.open("rb") as file:
            packed = file.read(len(_MAGIC)) == _MAGIC
            content = _MAGIC + file.read() if packed else b""
    except OSError as error:
        raise LanguageModelError(f"{path}: {error.strerror or error}") from None
    if not packed:
        return NgramLM.load(path)
    try:
        return _unpack(path, content)
    except (struct.error, zlib.error, ValueError, StopIteration):
        raise LanguageModelError(f"{path}: cut off or damaged; copy it again") from None


def save(lm: NgramLM, path: Path) -> None:
    """Write a packed model; its weights are rounded to LEVELS values per order."""
    with atomic_write(path, "wb") as file:
        fields = _FIELDS.pack(_MAGIC, _VERSION, lm.order, *lm.counts, *(0,) * (MAX_ORDER - lm.order))
        file.write(fields + _CHECKSUM.pack(zlib.crc32(fields)))
        for values in _sections(lm):
            deflated = zlib.compress(_planes(np.ascontiguousarray(values)), 9)
            file.write(_SECTION.pack(len(deflated), zlib.crc32(deflated)))
            file.write(deflated)


def _sections(lm: NgramLM) -> Iterator[np.ndarray]:
    """Yield everything but the links, order by order."""
    arrays = lm.arrays
    yield lm.vocabulary.text
    yield np.diff(lm.vocabulary.offsets).astype(np.uint32)
    for n in range(1, lm.order + 1):
        above, nodes = nodes_of_order(lm.counts, n - 1), nodes_of_order(lm.counts, n)
        if n > 1:
            children = np.diff(arrays.first_children[above.start : above.stop + 1])
            yield children
            yield _gaps(arrays.words[nodes], children)
        for values in [arrays.log_probs[nodes]] + [arrays.backoffs[nodes]] * (n < lm.order):
            yield from [values] if n == 1 else _quantize(values)


def _unpack(path: Path, content: bytes) -> NgramLM:
    _, version, order, *counts = _FIELDS.unpack_from(content)
    check_version(path, version, _VERSION)
    if _CHECKSUM.unpack_from(content, _FIELDS.size)[0] != zlib.crc32(content[: _FIELDS.size]):
        raise ValueError("the header's checksum differs")
    sections = _read_sections(content, _FIELDS.size + _CHECKSUM.size)
    text = next(sections).copy()
    lengths = _values(next(sections), np.uint32)
    vocabulary = Vocabulary(text, np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))))
    builder = NgramBuilder(counts[:order])
    words, parents = np.arange(counts[0], dtype=np.uint32), np.zeros(counts[0], np.uint32)
    for n in range(1, order + 1):
        if n > 1:
            children = _values(next(sections), np.uint32)
            words = _words(_values(next(sections), np.uint32), children)
            above = nodes_of_order(counts, n - 1)
            parents = np.repeat(np.arange(above.start, above.stop, dtype=np.uint32), children)
        weights = [_weights(sections, n) for _ in range(1 + (n < order))]
        builder.add(parents, words, *weights)
    return builder.finish(vocabulary)


def _weights(sections: Iterator[np.ndarray], n: int) -> np.ndarray:
    values = _values(next(sections), np.float32)
    return values if n == 1 else values[next(sections)]


def _read_sections(content: bytes, position: int) -> Iterator[np.ndarray]:
    """Yield each section as uint8. Raises ValueError if a checksum differs."""
    while position < len(content):
        size, checksum = _SECTION.unpack_from(content, position)
        position += _SECTION.size
        deflated = memoryview(content)[position : position + size]
        if zlib.crc32(deflated) != checksum:
            raise ValueError("a checksum differs")
        yield np.frombuffer(zlib.decompress(deflated), np.uint8)
        position += size


def _quantize(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Quantise float[n]; return the levels, float32[<= LEVELS], and the level of each value, uint8[n]."""
    table = np.unique(values.astype(np.float32))
    if len(table) > LEVELS:
        table = _make_levels(values[values != 0].astype(np.float64))
    middles = (table[1:].astype(np.float64) + table[:-1]) / 2
    codes = np.searchsorted(middles, values)
    # Only 0 may become 0, as a context with neither weight nor children is no state.
    zero = np.searchsorted(table, 0)
    stray = (values != 0) & (table[codes] == 0)
    codes[stray] = zero + np.sign(values[stray])
    codes[values == 0] = zero
    used, codes = np.unique(codes, return_inverse=True)
    return table[used], codes.astype(np.uint8)


def _make_levels(values: np.ndarray) -> np.ndarray:
    """Return 0 and the means of equally filled bins of one sign each."""
    negative, positive = np.sort(values[values < 0]), np.sort(values[values > 0])
    least, most = len(negative) > 0, LEVELS - 1 - (len(positive) > 0)
    bins = int(np.clip(round(len(negative) / len(values) * (LEVELS - 1)), least, most))
    parts = [np.array_split(side, k) for side, k in ((negative, bins), (positive, LEVELS - 1 - bins)) if k]
    means = [part.mean() for part in itertools.chain(*parts) if len(part)]
    return np.unique(np.array([0.0, *means], np.float32))


def _gaps(words: np.ndarray, children: np.ndarray) -> np.ndarray:
    """Turn words, ascending among the children of each context, into differences to the one before."""
    gaps = np.diff(words, prepend=np.uint32(0))
    first = (np.cumsum(children, dtype=np.int64) - children)[children > 0]
    gaps[first] = words[first]
    return gaps


def _words(gaps: np.ndarray, children: np.ndarray) -> np.ndarray:
    """Invert `_gaps`."""
    words = np.cumsum(gaps, dtype=np.int64)
    first = (np.cumsum(children, dtype=np.int64) - children)[children > 0]
    before = np.where(first > 0, words[first - 1], 0)
    return (words - np.repeat(before, children[children > 0])).astype(np.uint32)


def _planes(values: np.ndarray) -> bytes:
    """Reorder to all lowest bytes, then all second bytes, ..., which deflate better."""
    return values.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def _values(planes: np.ndarray, dtype: type) -> np.ndarray:
    """Invert `_planes`."""
    size = np.dtype(dtype).itemsize
    return np.ascontiguousarray(planes.reshape(size, -1).T).view(dtype).reshape(-1)
