"""Numbers in digits."""

import sys

import pytest

from asr.errors import AsrError
from asr.formatting.numbers import find, require


def digits(text: str, pauses: tuple[float, ...] = ()) -> str:
    words = text.split()
    for start, end, number in reversed(find(words, pauses)):
        words[start:end] = [number]
    return " ".join(words)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Twenty five percent, or", "25 percent, or"),
        ("five hundred dollars.", "500 dollars."),
        ("the twenty first of May", "the 21st of May"),
        ("in nineteen eighty four, and", "in 1984, and"),
        ("in nineteen hundred and five", "in 1905"),
        ("at ten o'clock", "at 10 o'clock"),
        ("one two three", "1 2 3"),
        ("three point one four", "3.14"),
        ("one hundred and one dalmatians", "101 dalmatians"),
        ("eighteen sixty one or nineteen twenty", "1861 or 1920"),
    ],
)
def test_numbers(text: str, expected: str) -> None:
    assert digits(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        *("one of them", "second to none", "oh", "a hundred times", "for a second", "no one", "first of all"),
        *(
            "wait a second, please",
            "a thousand and one nights",
            "half a million men",
            "won to four",
            "Oh, one",
        ),
        *("one day", "a hundred and twenty five times", "tense, forth, ate", "in nineteen oh five", ""),
    ],
)
def test_other_words_stay(text: str) -> None:
    assert digits(text) == text


def test_a_pause_or_a_mark_separates_numbers() -> None:
    assert digits("twenty five") == "25"
    assert digits("twenty five", (0.6, 0.0)) == "20 5"
    assert digits("twenty, thirty") == "20, 30"


def test_without_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "text_to_num", None)
    with pytest.raises(AsrError, match=r"asr\[numbers\]"):
        require()
