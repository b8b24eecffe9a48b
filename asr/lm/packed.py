"""Language models in little space, to ship or to send: a fifth of the size, spread out when they are loaded.

Probabilities and backoff weights of each order from 2 on become one of 256 values, the means of bins that
hold equally many (Federico and Bertoldi, 2006); a weight of 0 stays 0. Words are
kept as their distance to the one before among the children of a context, all in planes of bytes, deflated.
States are not kept but linked anew.
"""

import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from asr.errors import LanguageModelError
from asr.files import atomic_write
from asr.lm.ngram import MAX_ORDER, NgramBuilder, NgramLM, NgramTable
from asr.lm.vocabulary import Vocabulary

LEVELS = 256

_MAGIC = b"asr-lmz\n"
_VERSION = 1
_FIELDS = struct.Struct(f"<8sII{MAX_ORDER}Q")  # magic, version, order, counts
_CHECKSUM = struct.Struct("<I")  # CRC-32 of the fields
_SECTION = struct.Struct("<QI")  # bytes as they lie in the file, and their CRC-32


def load(path: Path) -> NgramLM:
    """Open a language model, packed or not. Raises LanguageModelError where it is missing or damaged."""
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
    """Write a model packed; it is loaded again with its weights rounded to LEVELS an order."""
    with atomic_write(path, "wb") as file:
        padded = (*lm.counts, *(0,) * (MAX_ORDER - len(lm.counts)))
        fields = _FIELDS.pack(_MAGIC, _VERSION, lm.order, *padded)
        file.write(fields + _CHECKSUM.pack(zlib.crc32(fields)))
        for values in _sections(lm):
            deflated = zlib.compress(_planes(np.ascontiguousarray(values)), 9)
            file.write(_SECTION.pack(len(deflated), zlib.crc32(deflated)))
            file.write(deflated)


def _sections(lm: NgramLM) -> Iterator[np.ndarray]:
    """All that a model is made of but its links, order by order."""
    arrays = lm.arrays
    yield lm.vocabulary.text
    yield np.diff(lm.vocabulary.offsets).astype(np.uint32)
    starts = np.cumsum([0, 1, *lm.counts])
    for n in range(1, lm.order + 1):
        nodes, parents = slice(starts[n], starts[n + 1]), slice(starts[n - 1], starts[n])
        children = np.diff(arrays.first_children[parents.start : parents.stop + 1])
        if n > 1:
            yield children
            yield _gaps(arrays.words[nodes], children)
        weights = [arrays.log_probs[nodes]] + [arrays.backoffs[nodes]] * (n < lm.order)
        for values in weights:
            yield from [values] if n == 1 else _quantize(values)


def _unpack(path: Path, content: bytes) -> NgramLM:
    _, version, order, *counts = _FIELDS.unpack_from(content)
    if version != _VERSION:
        raise LanguageModelError(
            f"{path}: version {version} of the format, this asr reads {_VERSION}; update asr or make it anew"
        )
    if _CHECKSUM.unpack_from(content, _FIELDS.size)[0] != zlib.crc32(content[: _FIELDS.size]):
        raise ValueError("the header's checksum differs")
    sections = _read_sections(content, _FIELDS.size + _CHECKSUM.size)
    text = next(sections).view(np.uint8).copy()
    lengths = _values(next(sections), np.uint32)
    vocabulary = Vocabulary(text, np.concatenate(([0], np.cumsum(lengths, dtype=np.int64))))
    builder = NgramBuilder(counts[:order])
    for n in range(1, order + 1):
        above = builder.nodes(n - 1)
        if n == 1:
            words, parents = np.arange(counts[0], dtype=np.uint32), np.zeros(counts[0], np.uint32)
        else:
            children = _values(next(sections), np.uint32)
            words = _words(_values(next(sections), np.uint32), children)
            parents = np.repeat(np.arange(above.start, above.stop, dtype=np.uint32), children)
        log_probs = _weights(sections, n)
        backoffs = _weights(sections, n) if n < order else np.zeros(0, np.float32)
        builder.add(NgramTable(parents, words, log_probs, backoffs))
    return builder.finish(vocabulary)


def _weights(sections: Iterator[np.ndarray], n: int) -> np.ndarray:
    values = _values(next(sections), np.float32)
    return values if n == 1 else values[next(sections)]


def _read_sections(content: bytes, position: int) -> Iterator[np.ndarray]:
    """Each section as uint8. Raises ValueError where a checksum differs."""
    while position < len(content):
        size, checksum = _SECTION.unpack_from(content, position)
        position += _SECTION.size
        deflated = memoryview(content)[position : position + size]
        if zlib.crc32(deflated) != checksum:
            raise ValueError("a checksum differs")
        yield np.frombuffer(zlib.decompress(deflated), np.uint8)
        position += size


def _quantize(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float[n] -> the levels float32[<= 256], and uint8[n]: the level of each."""
    table = np.unique(values.astype(np.float32))
    if len(table) > LEVELS:
        rest = np.sort(values[values != 0].astype(np.float64))
        # Bins of one sign each, so that what is not 0 finds a level of its own sign.
        negative = int(
            np.clip(round((rest < 0).mean() * (LEVELS - 1)), (rest < 0).any(), LEVELS - 1 - (rest > 0).any())
        )
        sides = ((rest[rest < 0], negative), (rest[rest > 0], LEVELS - 1 - negative))
        means = [
            part.mean() for side, bins in sides if bins for part in np.array_split(side, bins) if len(part)
        ]
        table = np.unique(np.array([0.0, *means], np.float32))
    middles = (table[1:].astype(np.float64) + table[:-1]) / 2
    codes = np.searchsorted(middles, values)
    # None but 0 itself may become 0, as a context with neither weight nor children is no state.
    zero = np.searchsorted(table, 0)
    stray = (values != 0) & (table[codes] == 0)
    codes[stray] = zero + np.sign(values[stray])
    codes[values == 0] = zero
    used, codes = np.unique(codes, return_inverse=True)
    return table[used], codes.astype(np.uint8)


def _gaps(words: np.ndarray, children: np.ndarray) -> np.ndarray:
    """Words that ascend among the children of each context -> distances to the one before."""
    gaps = np.diff(words, prepend=np.uint32(0))
    first = (np.cumsum(children, dtype=np.int64) - children)[children > 0]
    gaps[first] = words[first]
    return gaps


def _words(gaps: np.ndarray, children: np.ndarray) -> np.ndarray:
    """The inverse of `_gaps`."""
    words = np.cumsum(gaps, dtype=np.int64)
    first = (np.cumsum(children, dtype=np.int64) - children)[children > 0]
    before = np.where(first > 0, words[first - 1], 0)
    return (words - np.repeat(before, children[children > 0])).astype(np.uint32)


def _planes(values: np.ndarray) -> bytes:
    """First the lowest bytes of all values, then the next ones, which deflate to little."""
    return values.view(np.uint8).reshape(-1, values.itemsize).T.tobytes()


def _values(planes: np.ndarray, dtype: type) -> np.ndarray:
    """The inverse of `_planes`."""
    size = np.dtype(dtype).itemsize
    return np.ascontiguousarray(planes.reshape(size, -1).T).view(dtype).reshape(-1)
