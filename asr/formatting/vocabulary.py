"""Words -> ids of the tagger: known words by themselves, others by their last letters."""

from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from zlib import crc32

import numpy as np

BEGIN, END = 0, 1
"""Ids of the start and the end of a text; words follow."""

BUCKETS = 4096  # of other words
COMMON = 100  # words, the most frequent
LETTERS = 3  # at the end of a word, which choose its bucket


class Vocabulary:
    """Known words, in small letters unless they are always spelt with capitals, such as London."""

    def __init__(self, forms: Sequence[str]) -> None:
        self.forms = tuple(forms)

    @classmethod
    def read(cls, path: Path) -> "Vocabulary":
        """Read one word a line."""
        return cls(path.read_text(encoding="utf-8").split())

    @property
    def size(self) -> int:
        """Number of ids."""
        return 2 + len(self.forms) + BUCKETS

    @cached_property
    def common(self) -> np.ndarray:
        """`bool[size]`, true for common words that have a capital only at the start of a sentence."""
        lower = [form.islower() for form in self.forms[:COMMON]]
        found: np.ndarray = np.isin(np.arange(self.size), 2 + np.flatnonzero(lower))
        return found

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {form.lower(): 2 + i for i, form in enumerate(self.forms)}

    def encode(self, words: Iterable[str]) -> list[int]:
        """Ids of words in any case."""
        find = self._ids.get
        return [find(word) or self.bucket(word) for word in map(core, words)]

    def bucket(self, word: str) -> int:
        """Id that a word in lower case has if it is unknown."""
        return 2 + len(self.forms) + crc32(word[-LETTERS:].encode()) % BUCKETS

    def spell(self, word: str, capital: bool) -> str:
        """Spell a word in any case, with a capital if `capital` or if it always has one."""
        inner = core(word)
        known = self._ids.get(inner)
        form = self.forms[known - 2] if known else inner
        if capital and form == inner:
            form = form[:1].upper() + form[1:]
        return word.lower().replace(inner, form, 1)


def core(word: str) -> str:
    """A word in lower case without the apostrophes around it."""
    return word.lower().strip("'")
