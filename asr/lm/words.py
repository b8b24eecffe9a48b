"""Words to numbers, fast: a hash table over the words' bytes, for numba."""

from typing import NamedTuple

import numpy as np

from asr.jit import compiled
from asr.lm.vocabulary import BEGIN, END, SPECIAL, UNKNOWN, Vocabulary

_OFFSET, _PRIME = np.uint64(14695981039346656037), np.uint64(1099511628211)  # FNV-1a


class WordTable(NamedTuple):
    """Words in the order in which they were added; their number is kept by whoever adds."""

    slots: np.ndarray
    """uint32, a power of two of them: 0 where free, else 1 + the id of a word; linear probing"""
    hashes: np.ndarray
    """uint64, by id"""
    text: np.ndarray
    """uint8, all words end to end"""
    offsets: np.ndarray
    """int64, word i is text[offsets[i]:offsets[i + 1]]"""


class Words:
    """A WordTable that grows. It starts with the special words, as every vocabulary does."""

    def __init__(self) -> None:
        self.count = 0
        self.table = _empty(1 << 10, 1 << 10)
        for word in SPECIAL:
            data = np.frombuffer(bytearray(word.encode()), np.uint8)
            self.count = add_word(self.table, self.count, data, 0, len(data))

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> "Words":
        """The words of `vocabulary` under the same ids."""
        words = cls()
        words.reserve(len(vocabulary), len(vocabulary.text))
        words.count = _add_all(words.table, words.count, vocabulary.text, vocabulary.offsets)
        return words

    def reserve(self, count: int, size: int) -> None:
        """Make room for `count` more words of `size` bytes together."""
        old, used = self.table, int(self.table.offsets[self.count])
        if 2 * (self.count + count) <= len(old.slots) and used + size <= len(old.text):
            return
        self.table = _empty(2 * (self.count + count), 2 * (used + size))
        _add_all(self.table, 0, old.text, old.offsets[: self.count + 1])

    def vocabulary(self) -> tuple[Vocabulary, np.ndarray]:
        """The words sorted as a vocabulary has them; and the new id of each of the old ones, uint32."""
        words = self._bytes()
        vocabulary = Vocabulary.of_bytes(words)
        ids = np.empty(self.count, np.uint32)
        order = sorted(range(len(SPECIAL), self.count), key=words.__getitem__)
        ids[[*range(len(SPECIAL)), *order]] = np.arange(self.count)
        return vocabulary, ids

    def _bytes(self) -> list[bytes]:
        offsets = self.table.offsets[: self.count + 1].tolist()
        text = self.table.text[: offsets[-1]].tobytes()
        return [text[offsets[i] : offsets[i + 1]] for i in range(self.count)]


def _empty(slots: int, size: int) -> WordTable:
    slots = 1 << (slots - 1).bit_length()
    return WordTable(
        np.zeros(slots, np.uint32),
        np.zeros(slots // 2, np.uint64),
        np.zeros(size, np.uint8),
        np.zeros(slots // 2 + 1, np.int64),
    )


@compiled
def is_space(byte: int) -> bool:
    """What separates words: the white space of ASCII, as lmplz and KenLM understand it."""
    return byte == 32 or byte == 10 or byte == 9 or byte == 13 or byte == 0


@compiled
def is_unknown(text: np.ndarray, start: int, end: int) -> bool:
    """Whether this is <UNK>, as some tools write <unk>."""
    return (
        end - start == 5
        and text[start] == 60
        and text[start + 1] == 85
        and text[start + 2] == 78
        and text[start + 3] == 75
        and text[start + 4] == 62
    )


@compiled
def _hash(text: np.ndarray, start: int, end: int) -> int:
    value = _OFFSET
    for i in range(start, end):
        value = (value ^ np.uint64(text[i])) * _PRIME
    return int(value ^ (value >> np.uint64(29)))


@compiled
def _slot(table: WordTable, text: np.ndarray, start: int, end: int, hashed: int) -> int:
    """Where the word text[start:end] is in the table, or would be."""
    mask = np.int64(len(table.slots) - 1)
    slot = np.int64(hashed & np.uint64(mask))
    while table.slots[slot] != 0:
        word = np.int64(table.slots[slot]) - 1
        if table.hashes[word] == hashed:
            offset = table.offsets[word]
            same = table.offsets[word + 1] - offset == end - start
            for i in range(end - start):
                same = same and table.text[offset + i] == text[start + i]
            if same:
                break
        slot = (slot + 1) & mask
    return int(slot)


@compiled
def find_word(table: WordTable, text: np.ndarray, start: int, end: int) -> int:
    """The id of the word text[start:end]; -1 if it is not in the table."""
    return int(np.int64(table.slots[_slot(table, text, start, end, _hash(text, start, end))])) - 1


@compiled
def add_word(table: WordTable, count: int, text: np.ndarray, start: int, end: int) -> int:
    """Add a word to a table of `count` words that has room for it; returns how many there are then."""
    hashed = _hash(text, start, end)
    slot = _slot(table, text, start, end, hashed)
    if table.slots[slot] != 0:
        return count
    table.slots[slot] = count + 1
    table.hashes[count] = hashed
    offset = table.offsets[count]
    table.text[offset : offset + end - start] = text[start:end]
    table.offsets[count + 1] = offset + end - start
    return count + 1


@compiled
def _add_all(table: WordTable, count: int, text: np.ndarray, offsets: np.ndarray) -> int:
    for i in range(len(offsets) - 1):
        count = add_word(table, count, text, offsets[i], offsets[i + 1])
    return count


@compiled
def encode(
    table: WordTable, count: int, text: np.ndarray, grow: bool, ids: np.ndarray
) -> tuple[int, int, int]:
    """Write the word ids of whole lines to `ids` (uint32[2 * len(text)]), <s> and </s> around each line.

    New words are added where `grow`, else they are UNKNOWN. Returns the number of words in the table, of
    ids, and the position of the first special word in the text (-1 if there is none).
    """
    used, position, special = 0, 0, -1
    while position < len(text):
        ids[used] = BEGIN
        used += 1
        while text[position] != 10:
            start = position
            while not is_space(text[position]):
                position += 1
            if position == start:
                position += 1
                continue
            if grow:
                count = add_word(table, count, text, start, position)
            word = find_word(table, text, start, position)
            if word < len(SPECIAL) or is_unknown(text, start, position):
                if special < 0 and (word >= 0 or is_unknown(text, start, position)):
                    special = start
                word = UNKNOWN
            ids[used] = word
            used += 1
        ids[used] = END
        used += 1
        position += 1
    return count, used, special
