"""ARPA files, the text form of n-gram models, as SRILM, KenLM and LibriSpeech have them."""

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr.errors import LanguageModelError
from asr.jit import compiled
from asr.lm.arpa_writer import spell
from asr.lm.ngram import MAX_NODES, MAX_ORDER, NgramArrays, NgramBuilder, NgramLM, NgramTable, find_child
from asr.lm.reading import Block, line_of, read_blocks
from asr.lm.vocabulary import BEGIN, END, SPECIAL, UNKNOWN, Vocabulary
from asr.lm.words import Words, WordTable, add_word, find_word, is_space, is_unknown

MISSING_UNKNOWN = -100.0
"""log10 probability of <unk> where a file has none, as in KenLM."""

_LARGEST = float(np.finfo(np.float32).max)
_BACKSLASH, _NEWLINE = ord("\\"), ord("\n")

_FINE, _NUMBER, _FIELDS, _WORD, _PREFIX, _POSITIVE, _TOO_MANY, _TWICE = range(8)
_TROUBLES = {
    _NUMBER: "a number is missing or malformed",
    _FIELDS: "expected a log probability, the words of a {n}-gram, perhaps a backoff weight",
    _WORD: "one of its words is not among the 1-grams",
    _PREFIX: "its first {prefix} words are not among the {prefix}-grams",
    _POSITIVE: "its log probability is above 0",
    _TOO_MANY: "more {n}-grams than \\data\\ announces",
    _TWICE: "the word is there twice",
}


def read_arpa(path: Path) -> NgramLM:
    """Read an ARPA file, plain, gzip, xz or bzip2; the path `-` is the standard input.

    N-grams may come in any order within their section. A missing backoff weight is 0; <UNK> is <unk>; an
    n-gram may be there without its suffix, as SRILM's cut-offs leave it, but not without its prefix. Memory
    holds the model and some 40 bytes for each n-gram of one section. Raises LanguageModelError that names the
    line.
    """
    reader = _Reader(path)
    try:
        return reader.read()
    except MemoryError:
        raise LanguageModelError(f"{path}: larger than the memory; prune the model") from None


class _Section(NamedTuple):
    """The n-grams of one order as they come from the file."""

    keys: np.ndarray
    """uint64, node of the n-gram without its last word << 32 | last word"""
    log_probs: np.ndarray
    """float32"""
    backoffs: np.ndarray
    """float32"""


_Parser = Callable[[np.ndarray, int, int, np.ndarray], tuple[int, int, int]]
"""Text, position, n-grams so far and `spans` to be filled -> new position, n-grams so far, trouble.

`spans` is int64[rows, 4]: start and end of the log probability and of the backoff weight.
"""


class _Reader:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._blocks = read_blocks(path)
        self._block, self._bytes = Block(1, np.zeros(0, np.uint8)), b""
        self._position = self._at = 0  # where to read on, and where the line in question begins

    def read(self) -> NgramLM:
        counts = self._counts()
        vocabulary, unigrams = self._unigrams(counts[0])
        builder = NgramBuilder((len(vocabulary), *counts[1:]))
        builder.add(unigrams)
        words = Words.of(vocabulary).table
        for n in range(2, len(counts) + 1):
            builder.add(self._ngrams(n, words, builder, vocabulary))
        self._expect("\\end\\")
        return builder.finish(vocabulary)

    def _counts(self) -> list[int]:
        """What \\data\\ announces; text before it is skipped."""
        while (line := self._line("\\data\\")) != "\\data\\":
            pass
        counts: list[int] = []
        while (line := self._line("\\1-grams:")) != "\\1-grams:":
            match = re.fullmatch(r"ngram\s+(\d+)\s*=\s*(\d+)", line)
            if not match or int(match[1]) != len(counts) + 1:
                raise self._error(
                    f"expected 'ngram {len(counts) + 1}=...' or '\\1-grams:', found {_shown(line)}"
                )
            counts.append(int(match[2]))
        if not 1 <= len(counts) <= MAX_ORDER:
            raise self._error(f"a model of order {len(counts)}; 1 to {MAX_ORDER} can be read")
        if sum(counts) > MAX_NODES:
            raise self._error(f"{sum(counts)} n-grams; {MAX_NODES} at most can be read")
        return counts

    def _unigrams(self, count: int) -> tuple[Vocabulary, NgramTable]:
        words = Words()
        seen = np.zeros(count + len(SPECIAL), np.bool_)
        section = _Section(np.empty(count, np.uint64), *np.empty((2, count), np.float32))

        def parse(text: np.ndarray, position: int, filled: int, spans: np.ndarray) -> tuple[int, int, int]:
            words.reserve(len(text) // 2 + 1, len(text))
            position, words.count, filled, trouble = _parse_unigrams(
                text, position, words.table, words.count, seen, section.keys, spans, filled
            )
            return position, filled, trouble

        self._parse(parse, 1, section)
        log_probs, backoffs = np.zeros((2, len(seen)), np.float32)
        log_probs[section.keys], backoffs[section.keys] = section.log_probs, section.backoffs
        for word in (BEGIN, END):
            if not seen[word]:
                raise self._error(f"no 1-gram {SPECIAL[word]}; a model needs <s> and </s>")
        if not seen[UNKNOWN]:
            log_probs[UNKNOWN] = MISSING_UNKNOWN
        vocabulary, ids = words.vocabulary()
        numbers = np.arange(len(ids), dtype=np.uint32)
        table = NgramTable(np.zeros_like(numbers), numbers, *np.zeros((2, len(ids)), np.float32))
        table.log_probs[ids], table.backoffs[ids] = log_probs[: len(ids)], backoffs[: len(ids)]
        return vocabulary, table

    def _ngrams(self, n: int, words: WordTable, builder: NgramBuilder, vocabulary: Vocabulary) -> NgramTable:
        self._expect(f"\\{n}-grams:")
        count, lm = builder.counts[n - 1], builder.arrays
        section = _Section(np.empty(count, np.uint64), *np.empty((2, count), np.float32))

        def parse(text: np.ndarray, position: int, filled: int, spans: np.ndarray) -> tuple[int, int, int]:
            return _parse_ngrams(text, position, n, words, lm, section.keys, spans, filled)

        self._parse(parse, n, section)
        keys, log_probs, backoffs = section
        if not (keys[1:] > keys[:-1]).all():
            order = np.argsort(keys)
            keys, log_probs, backoffs = keys[order], log_probs[order], backoffs[order]
            if len(twice := np.flatnonzero(keys[1:] == keys[:-1])):
                parent, word = divmod(int(keys[twice[0]]), 1 << 32)
                known = lm._replace(first_children=lm.first_children[: builder.nodes(n - 2).stop + 1])
                ids = [*spell(known, np.array([parent]), n - 1)[0].tolist(), word]
                named = " ".join(vocabulary[id] for id in ids)
                raise LanguageModelError(f"{self.path}: the {n}-gram {named!r} is there twice")
        parents = (keys >> np.uint64(32)).astype(np.uint32)
        return NgramTable(parents, keys.astype(np.uint32), log_probs, backoffs)

    def _parse(self, parse: _Parser, n: int, section: _Section) -> None:
        """Run `parse` over the lines of a section up to the next line that begins with a backslash."""
        filled, count = 0, len(section.keys)
        while self._more() and self._block.text[self._position] != _BACKSLASH:
            text, before = self._block.text, filled
            spans = np.empty((len(text) // 4 + 1, 4), np.int64)  # the shortest row is "0 a" and its line end
            self._position, filled, trouble = parse(text, self._position, filled, spans)
            self._read_numbers(spans[: filled - before], n, section, before)
            if trouble:
                raise self._trouble(trouble, n)
        self._at = self._position
        if filled < count:
            raise self._error(f"only {filled} {n}-grams before this line, \\data\\ announces {count}")

    def _read_numbers(self, spans: np.ndarray, n: int, section: _Section, filled: int) -> None:
        """Read the numbers at `spans` into the rows of `section` from `filled` on."""
        text = self._bytes
        values = np.array([(_float(text[a:b]), _float(text[c:d] or b"0")) for a, b, c, d in spans.tolist()])
        log_probs, backoffs = values.reshape(-1, 2).T
        malformed = ~((np.abs(log_probs) <= _LARGEST) & (np.abs(backoffs) <= _LARGEST))
        if len(wrong := np.flatnonzero(malformed | (log_probs > 0))):
            self._position = int(spans[wrong[0], 0])
            raise self._trouble(_NUMBER if malformed[wrong[0]] else _POSITIVE, n)
        rows = slice(filled, filled + len(spans))
        section.log_probs[rows], section.backoffs[rows] = log_probs, backoffs

    def _trouble(self, trouble: int, n: int) -> LanguageModelError:
        """An error about the line at the position."""
        found = self._line("")
        return self._error(f"{_TROUBLES[trouble].format(n=n, prefix=n - 1)}: {_shown(found)}")

    def _more(self) -> bool:
        """Go to the next block where this one is at its end; False at the end of the file."""
        while self._position == len(self._block.text):
            block = next(self._blocks, None)
            if block is None:
                return False
            self._block, self._bytes, self._position = block, block.text.tobytes(), 0
        return True

    def _expect(self, wanted: str) -> None:
        if (line := self._line(wanted)) != wanted:
            raise self._error(f"expected '{wanted}', found {_shown(line)}")

    def _line(self, wanted: str) -> str:
        """The next line that is not empty, without white space around it."""
        while self._more():
            self._at, end = self._position, self._bytes.index(b"\n", self._position)
            self._position = end + 1
            if line := self._bytes[self._at : end].decode().strip():
                return line
        raise LanguageModelError(f"{self.path}: ends without '{wanted}'; not an ARPA file, or cut off")

    def _error(self, message: str) -> LanguageModelError:
        return LanguageModelError(f"{self.path}:{line_of(self._block, self._at)[0]}: {message}")


def _shown(line: str) -> str:
    """A line of the file within a message; control characters as escapes."""
    return repr(line[:80]).replace("\\\\", "\\")


def _float(token: bytes) -> float:
    """The number, nan if there is none."""
    try:
        return float(token)
    except ValueError:
        return math.nan


@compiled
def _token(text: np.ndarray, position: int) -> tuple[int, int]:
    """Start and end of the next word of a line; equal where there is none."""
    while text[position] != _NEWLINE and is_space(text[position]):
        position += 1
    start = position
    while not is_space(text[position]):
        position += 1
    return start, position


@compiled
def _skip_empty(text: np.ndarray, position: int) -> int:
    while position < len(text) and is_space(text[position]):
        position += 1
    return position


@compiled
def _end_of_row(text: np.ndarray, position: int, span: np.ndarray) -> tuple[int, int]:
    """Put the span of the backoff weight, empty if there is none, into `span`; returns line end, trouble."""
    span[2], span[3] = _token(text, position)
    end = _token(text, span[3])[0]
    return end, _FINE if text[end] == _NEWLINE else _FIELDS


@compiled
def _parse_unigrams(
    text: np.ndarray,
    position: int,
    table: WordTable,
    words: int,
    seen: np.ndarray,
    keys: np.ndarray,
    spans: np.ndarray,
    filled: int,
) -> tuple[int, int, int, int]:
    """Returns the new position, number of words in the table, number of unigrams, and the trouble."""
    row = 0
    position = _skip_empty(text, position)
    while position < len(text) and text[position] != _BACKSLASH:
        spans[row, 0], spans[row, 1] = _token(text, position)
        start, end = _token(text, spans[row, 1])
        if start == end:
            return position, words, filled, _FIELDS
        stop, trouble = _end_of_row(text, end, spans[row])
        if trouble == _FINE and filled == len(keys):
            trouble = _TOO_MANY
        if trouble:
            return position, words, filled, trouble
        if is_unknown(text, start, end):
            word = UNKNOWN
        else:
            words = add_word(table, words, text, start, end)
            word = find_word(table, text, start, end)
        if seen[word]:
            return position, words, filled, _TWICE
        seen[word], keys[filled] = True, word
        row += 1
        filled += 1
        position = _skip_empty(text, stop)
    return position, words, filled, _FINE


@compiled
def _parse_ngrams(
    text: np.ndarray,
    position: int,
    n: int,
    table: WordTable,
    lm: NgramArrays,
    keys: np.ndarray,
    spans: np.ndarray,
    filled: int,
) -> tuple[int, int, int]:
    """Returns the new position, number of n-grams, and the trouble."""
    row = 0
    position = _skip_empty(text, position)
    while position < len(text) and text[position] != _BACKSLASH:
        spans[row, 0], spans[row, 1] = _token(text, position)
        end = spans[row, 1]
        node, word = 0, 0
        for i in range(n):
            start, end = _token(text, end)
            if start == end:
                return position, filled, _FIELDS
            if i > 0:
                node = find_child(lm, node, word)
                if node < 0:
                    return position, filled, _PREFIX
            word = UNKNOWN if is_unknown(text, start, end) else find_word(table, text, start, end)
            if word < 0:
                return position, filled, _WORD
        stop, trouble = _end_of_row(text, end, spans[row])
        if trouble == _FINE and filled == len(keys):
            trouble = _TOO_MANY
        if trouble:
            return position, filled, trouble
        keys[filled] = np.uint64(node) << np.uint64(32) | np.uint64(word)
        row += 1
        filled += 1
        position = _skip_empty(text, stop)
    return position, filled, _FINE
