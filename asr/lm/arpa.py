"""ARPA files, the text form of n-gram models, as SRILM, KenLM and LibriSpeech have them."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr.errors import LanguageModelError
from asr.kernel import compiled
from asr.lm.arpa_writer import spell
from asr.lm.ngram import MAX_NODES, MAX_ORDER, NgramArrays, NgramBuilder, NgramLM, NgramTable, find_child
from asr.lm.reading import Block, line_of, read_blocks
from asr.lm.vocabulary import BEGIN, END, SPECIAL, UNKNOWN, Vocabulary
from asr.lm.words import Words, WordTable, add_word, find_word, is_space, is_unknown

MISSING_UNKNOWN = -100.0
"""log10 probability of <unk> where a file has none, as in KenLM."""

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


_Parser = Callable[[np.ndarray, int, int], tuple[int, int, int]]
"""From text, position and number of n-grams so far to the new position, the new number and the trouble."""


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
        log_probs, backoffs = np.zeros((2, len(seen)), np.float32)

        def parse(text: np.ndarray, position: int, filled: int) -> tuple[int, int, int]:
            words.reserve(len(text) // 2 + 1, len(text))
            position, words.count, filled, trouble = _parse_unigrams(
                text, position, words.table, words.count, seen, log_probs, backoffs, filled, count
            )
            return position, filled, trouble

        self._parse(parse, 1, count)
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

        def parse(text: np.ndarray, position: int, filled: int) -> tuple[int, int, int]:
            return _parse_ngrams(text, position, n, words, lm, section, filled)

        self._parse(parse, n, count)
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

    def _parse(self, parse: _Parser, n: int, count: int) -> None:
        """Run `parse` over the lines of a section up to the next line that begins with a backslash."""
        filled = 0
        while self._more() and self._block.text[self._position] != _BACKSLASH:
            self._position, filled, trouble = parse(self._block.text, self._position, filled)
            if trouble:
                found = self._line("")
                raise self._error(f"{_TROUBLES[trouble].format(n=n, prefix=n - 1)}: {_shown(found)}")
        self._at = self._position
        if filled < count:
            raise self._error(f"only {filled} {n}-grams before this line, \\data\\ announces {count}")

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
def _number(text: np.ndarray, position: int) -> tuple[float, int]:
    """The decimal number that comes next in a line, nan if there is none, and where it ends."""
    start, end = _token(text, position)
    i = start
    negative = i < end and text[i] == 45  # -
    if i < end and (text[i] == 45 or text[i] == 43):
        i += 1
    mantissa, exponent, digits, point = 0.0, 0, 0, False
    while i < end and (48 <= text[i] <= 57 or (text[i] == 46 and not point)):
        if text[i] == 46:
            point = True
        else:
            mantissa = 10 * mantissa + (text[i] - 48)
            exponent -= point
            digits += 1
        i += 1
    if digits and i < end and (text[i] == 101 or text[i] == 69):  # e or E
        i += 1
        down = i < end and text[i] == 45
        if i < end and (text[i] == 45 or text[i] == 43):
            i += 1
        power, digits = 0, 0
        while i < end and 48 <= text[i] <= 57:
            power = min(10 * power + (text[i] - 48), 1000)
            digits += 1
            i += 1
        exponent += -power if down else power
    if i < end or not digits:
        return np.nan, end
    value = mantissa / 10.0**-exponent if exponent < 0 else mantissa * 10.0**exponent
    return (-value if negative else value), end


@compiled
def _end_of_row(text: np.ndarray, position: int, row: int, values: np.ndarray, rows: int) -> tuple[int, int]:
    """Read the backoff weight if there is one; returns where the line ends, and what is wrong with it."""
    values[1] = 0
    if _token(text, position)[0] != _token(text, position)[1]:
        values[1], position = _number(text, position)
    end = _token(text, position)[0]
    if text[end] != _NEWLINE:
        return end, _FIELDS
    if not (np.isfinite(np.float32(values[0])) and np.isfinite(np.float32(values[1]))):
        return end, _NUMBER
    if values[0] > 0:
        return end, _POSITIVE
    return end, _TOO_MANY if row == rows else _FINE


@compiled
def _skip_empty(text: np.ndarray, position: int) -> int:
    while position < len(text) and is_space(text[position]):
        position += 1
    return position


@compiled
def _parse_unigrams(
    text: np.ndarray,
    position: int,
    table: WordTable,
    words: int,
    seen: np.ndarray,
    log_probs: np.ndarray,
    backoffs: np.ndarray,
    filled: int,
    count: int,
) -> tuple[int, int, int, int]:
    """Returns the new position, number of words in the table, number of unigrams, and the trouble."""
    values = np.empty(2)
    position = _skip_empty(text, position)
    while position < len(text) and text[position] != _BACKSLASH:
        values[0], end = _number(text, position)
        start, end = _token(text, end)
        if start == end:
            return position, words, filled, _FIELDS
        stop, trouble = _end_of_row(text, end, filled, values, count)
        if trouble:
            return position, words, filled, trouble
        if is_unknown(text, start, end):
            word = UNKNOWN
        else:
            words = add_word(table, words, text, start, end)
            word = find_word(table, text, start, end)
        if seen[word]:
            return position, words, filled, _TWICE
        seen[word], log_probs[word], backoffs[word] = True, values[0], values[1]
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
    section: _Section,
    filled: int,
) -> tuple[int, int, int]:
    """Returns the new position, number of n-grams, and the trouble."""
    values = np.empty(2)
    position = _skip_empty(text, position)
    while position < len(text) and text[position] != _BACKSLASH:
        values[0], end = _number(text, position)
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
        stop, trouble = _end_of_row(text, end, filled, values, len(section.keys))
        if trouble:
            return position, filled, trouble
        section.keys[filled] = np.uint64(node) << np.uint64(32) | np.uint64(word)
        section.log_probs[filled], section.backoffs[filled] = values[0], values[1]
        filled += 1
        position = _skip_empty(text, stop)
    return position, filled, _FINE
