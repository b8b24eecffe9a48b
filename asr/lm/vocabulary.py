"""The words of a language model, as bytes in a row, so that they load with the file they lie in."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

UNKNOWN, BEGIN, END = 0, 1, 2
"""Ids of <unk>, <s> and </s>; the other words follow, sorted by their UTF-8 bytes."""

SPECIAL = ("<unk>", "<s>", "</s>")


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """`text` is all words laid end to end, uint8; word i is text[offsets[i]:offsets[i + 1]] (int64)."""

    text: np.ndarray
    offsets: np.ndarray

    @classmethod
    def of(cls, words: Iterable[str]) -> "Vocabulary":
        """A vocabulary of the three special words and `words`, in whatever order they come."""
        return cls.of_bytes(word.encode() for word in words)

    @classmethod
    def of_bytes(cls, words: Iterable[bytes]) -> "Vocabulary":
        """The same of words that are UTF-8 already."""
        special = [word.encode() for word in SPECIAL]
        every = special + sorted(set(words).difference(special))
        offsets = np.zeros(len(every) + 1, np.int64)
        np.cumsum([len(word) for word in every], out=offsets[1:])
        return cls(np.frombuffer(bytearray(b"".join(every)), np.uint8), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, word: int) -> str:
        return self.bytes(range(len(self))[word]).decode()

    def __iter__(self) -> Iterator[str]:
        return iter(self.words())

    def bytes(self, word: int) -> bytes:
        """The word's UTF-8."""
        return self.text[self.offsets[word] : self.offsets[word + 1]].tobytes()

    def id(self, word: str) -> int:
        """The word's id; UNKNOWN if the vocabulary lacks it."""
        if word in SPECIAL:
            return SPECIAL.index(word)
        sought = word.encode(errors="surrogatepass")
        low, high = len(SPECIAL), len(self)
        while low < high:
            middle = (low + high) // 2
            if self.bytes(middle) < sought:
                low = middle + 1
            else:
                high = middle
        return low if low < len(self) and self.bytes(low) == sought else UNKNOWN

    def take(self, kept: np.ndarray) -> "Vocabulary":
        """The words i where kept[i], `bool[words]`."""
        lengths = np.diff(self.offsets)
        text = self.text[np.repeat(kept, lengths)]
        return Vocabulary(text, np.concatenate(([0], np.cumsum(lengths[kept]))))

    def words(self) -> list[str]:
        """All words by id."""
        text, offsets = self.text.tobytes(), self.offsets.tolist()
        return [text[a:b].decode() for a, b in pairwise(offsets)]
