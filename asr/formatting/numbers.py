"""Spoken numbers -> digits, by the library text2num."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from asr.errors import AsrError

LEAST = 10.0
"""A number below this stays a word, unless it is part of a series ("one two three")."""

PAUSE = 0.5  # seconds that separate two numbers

_CENTURIES = range(13, 21)  # "nineteen eighty four" is a year, "eleven thirty" a time
_PLAIN = re.compile(r"[^\w']+$")


@dataclass(frozen=True)
class _Token:
    """A word as text2num reads it."""

    word: str
    separated: bool
    excluded: bool

    def text(self) -> str:
        return self.word

    def nt_separated(self, previous: object) -> bool:
        return self.separated

    def not_a_number_part(self) -> bool:
        return self.excluded


def require() -> Callable[..., list[Any]]:
    """Import text2num's find_numbers. Raises AsrError if it is not installed."""
    try:
        from text_to_num import find_numbers
    except ModuleNotFoundError:
        raise AsrError("text2num is not installed; --numbers needs pip install 'asr[numbers]'") from None
    return find_numbers  # type: ignore[no-any-return]


def find(words: Sequence[str], pauses: Sequence[float] = ()) -> list[tuple[int, int, str]]:
    """Numbers in formatted words: (first word, end, digits and the mark after them).

    `pauses` in seconds follow each word, and separate numbers.

    Raises AsrError if text2num is not installed.
    """
    find_numbers = require()
    plain = [_PLAIN.sub("", word).lower() for word in words]
    breaks = [a != b.lower() for a, b in zip(plain, words, strict=True)]
    breaks = [a or b >= PAUSE for a, b in zip(breaks, pauses or [0.0] * len(words), strict=True)]
    tokens = [
        _Token(word, separated, "oh" in (before, after))  # as in "nineteen oh five"
        for word, separated, before, after in zip(
            plain, [False, *breaks], ["", *plain], [*plain[1:], ""], strict=False
        )
    ]
    found = find_numbers(tokens, "en", LEAST)
    return [
        (start, end, digits + words[end - 1][len(plain[end - 1]) :])
        for start, end, digits in _years(found, breaks)
        if start == 0 or plain[start - 1] not in ("a", "an", "half")
    ]


def _years(found: Sequence[Any], breaks: Sequence[bool]) -> list[tuple[int, int, str]]:
    """Join the two halves of a year."""
    numbers: list[tuple[int, int, str]] = []
    years = {
        b.start
        for a, b in pairwise(found)
        if a.end == b.start == a.start + 1 and not breaks[a.start] and not a.is_ordinal and not b.is_ordinal
        if a.value in _CENTURIES and b.value in range(10, 100)
    }
    for number in found:
        if number.start in years and not (numbers and len(numbers[-1][2]) > 2):
            start, _, digits = numbers.pop()
            numbers.append((start, number.end, digits + number.text))
        else:
            numbers.append((number.start, number.end, number.text))
    return numbers
