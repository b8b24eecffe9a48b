"""Punctuation marks and letter cases: what the tagger predicts for each word, and how text shows it."""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

MARKS = ("", ",", ".", "?", "!", ";", ":", "--")
"""Punctuation after a word; the first is none."""

SENTENCE_END = frozenset(".?!")

LOWER, CAPITAL, UPPER = range(3)
"""Cases of a word: all lower, first letter (or the word's own form, such as McCarthy), all upper."""

_WORD = re.compile(r"[A-Za-z]+(?:'[A-Za-z]+)*")
_TITLES = {
    "mr": "mister",
    "mrs": "missus",
    "dr": "doctor",
    "st": "saint",
    "messrs": "messieurs",
    "capt": "captain",
    "col": "colonel",
    "gen": "general",
    "lieut": "lieutenant",
    "prof": "professor",
    "rev": "reverend",
    "esq": "esquire",
}
"""Abbreviations as they are spoken, and as LibriSpeech's transcripts spell them."""


@dataclass(frozen=True, slots=True)
class Token:
    """A word as it is spelt in text, and the index of the mark after it."""

    form: str
    mark: int = 0


def parse(text: str) -> list[Token]:
    """Split text with punctuation into words and marks.

    Of several marks after a word, the one that ends a sentence counts. Quotation marks and brackets are
    dropped, hyphens separate words. Periods of abbreviations are no marks; titles become the spoken word.
    """
    found = list(_WORD.finditer(text))
    tokens = []
    for i, match in enumerate(found):
        form, last = match.group(), i + 1 == len(found)
        gap = text[match.end() : len(text) if last else found[i + 1].start()]
        mark = _mark(gap, "" if last else found[i + 1].group())
        if gap.startswith("."):
            spoken = _TITLES.get(form.lower())
            if not last and (spoken or (len(form) == 1 and form not in "Ia")):
                mark = "," if "," in gap else ""
            form = spoken.capitalize() if spoken else form
        tokens.append(Token(form, MARKS.index(mark)))
    return tokens


def _mark(gap: str, next_word: str) -> str:
    """The mark in the characters between two words."""
    starts = not next_word or next_word[0].isupper() or '"' in gap
    for mark in "?!":
        if mark in gap:
            return mark
    if "..." in gap:
        return "." if starts else "--"
    if "." in gap and starts:
        return "."
    return next((mark for mark in (";", ":", ",", "--") if mark in gap), "")


def case_of(form: str) -> int:
    """The case of a spelling: UPPER from two capitals on and without small letters."""
    if form.islower() or not form:
        return LOWER
    letters = [letter for letter in form if letter.isalpha()]
    return UPPER if len(letters) > 1 and form.isupper() and "'" not in form[:2] else CAPITAL


def attach(word: str, mark: str) -> str:
    """Write a mark after a word; a dash is separated from it."""
    return f"{word} {mark}" if mark == "--" else word + mark


def ends_sentence(word: str, next_word: str) -> bool:
    """Test for the last word of a formatted sentence; '"Never!" she cried' is one sentence."""
    return word[-1:] in SENTENCE_END and not next_word[:1].islower()


def recase(
    words: Sequence[str],
    marks: Iterable[str],
    cases: Iterable[int],
    spell: Callable[[str, bool], str],
    begins: bool = True,
) -> list[str]:
    """Words with their case; `spell` spells a word with or without a capital.

    "I" has a capital whatever its case, and so has a word after a period, or at the start if `begins`.
    """
    texts, starts = [], begins
    for word, mark, case in zip(words, marks, cases, strict=True):
        lower = word.lower()
        capital = starts or case == CAPITAL or lower == "i" or lower.startswith("i'")
        text = word.upper() if case == UPPER else spell(word, capital)
        kept = text.casefold() == word.casefold()  # not so for a dotless i, whose capital is another letter's
        texts.append(text if kept else word)
        starts = mark == "."
    return texts
