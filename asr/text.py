"""Text normalisation and the tokens of a CTC model."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from asr.errors import TextError

BLANK = 0
"""Token of the CTC blank in every vocabulary."""

ENGLISH = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""LibriSpeech's alphabet."""

APOSTROPHES = "'’‘ʼ`´′＇"  # noqa: RUF001
_SPACES = frozenset("/፡・")
_KEPT = frozenset("%&@#*\\·‧‰‱§¶†‡٪؉؊׳״")  # noqa: RUF001
"""Punctuation that is read aloud or belongs to a word; all other is dropped."""

_MEANT = ("<super>", "<sub>", "<fraction>", "<circle>")
"""Compatibility characters that are other text than their letters and digits, such as the square in m²."""

_ACCENTS = (range(10, 37), range(202, 256))
"""Combining classes of accents and vowel points. Marks of others make another letter, such as a nukta."""


def normalize(text: str, characters: str = ENGLISH) -> str:
    """Normalise free text to the alphabet `characters` without guessing.

    Case is folded if the alphabet has only one case; by the rules of Turkish if it has a dotless i or a
    dotted I. Canonically equivalent spellings of a letter become the alphabet's. Accents are stripped if
    the alphabet lacks both the accented letter and the accent. Punctuation and invisible characters are
    dropped; dashes and white space become one space. Other characters, such as digits, are kept for
    `Tokenizer.unknown` to report.
    """
    alphabet = _alphabet(characters)
    segments: list[str] = []  # characters with their combining marks
    for character in unicodedata.normalize("NFC", alphabet.fold(unicodedata.normalize("NFC", text))):
        if segments and unicodedata.combining(character):
            segments[-1] += character
        else:
            segments.append(character)
    return " ".join("".join(map(alphabet.spell, segments)).split())


class _Alphabet:
    """Spells segments, which are characters with their combining marks, in the letters of an alphabet."""

    def __init__(self, characters: str) -> None:
        self.upper = not any(c.islower() for c in characters if c != "ß")  # whose capital is rare
        self.lower = not self.upper and not any(c.isupper() for c in characters)
        self.letters = frozenset(characters)
        # Letters by canonical decomposition; of equivalent letters, the composed one.
        by_form = sorted(characters, key=lambda c: unicodedata.is_normalized("NFC", c))
        self.forms = {unicodedata.normalize("NFD", c): c for c in by_form}
        self.apostrophe = next((c for c in APOSTROPHES if c in self.letters), None)
        self.starts: dict[str, list[str]] = {}  # decompositions by first character, longest first
        for form in sorted(self.forms, key=len, reverse=True):
            self.starts.setdefault(form[0], []).append(form)
        self.spell = lru_cache(maxsize=4096)(self._spell)

    def fold(self, text: str) -> str:
        """Fold the case of a text in NFC, but of no letter of the alphabet."""
        if self.upper:
            special = {"i": "İ"} if "İ" in self.letters else {}
            special["ẞ"] = special["ß"] = next((c for c in "ẞß" if c in self.letters), "SS")
            return "".join(c if c in self.letters else special.get(c, c.upper()) for c in text)
        if self.lower:
            if "ς" in self.letters and "Σ" in text:
                text = text.lower()  # a sigma's form depends on its place in a word
            special = {"İ": "i", "I": "ı"} if "ı" in self.letters else {}  # noqa: RUF001
            special["ς"] = "σ"  # noqa: RUF001
            return "".join(c if c in self.letters else special.get(c, c.lower()) for c in text)
        return text

    def _spell(self, segment: str) -> str:
        if segment in self.letters:
            return segment
        found = self._by_letters(unicodedata.normalize("NFD", segment))
        if found is not None:
            return found
        first, marks = segment[0], segment[1:]
        if unicodedata.combining(first):
            first, marks = "", segment
        return self._spell_base(first) + "".join(map(self._spell_mark, marks))

    def _by_letters(self, form: str) -> str | None:
        """Spell a decomposed segment by the letter with most of its marks, and its other marks."""
        for start in self.starts.get(form[0], ()):
            rest = _without(form, start)
            if rest is not None:
                spelt = list(map(self._spell_mark, rest))
                return self.forms[start] + "".join(spelt) if self.letters.issuperset("".join(spelt)) else None
        return None

    def _spell_mark(self, mark: str) -> str:
        accent = any(unicodedata.combining(mark) in classes for classes in _ACCENTS)
        return self.forms.get(mark, "" if accent else mark)

    def _spell_base(self, character: str) -> str:
        if not character or character in self.letters:
            return character
        if character in APOSTROPHES:
            return self.apostrophe or character
        category = unicodedata.category(character)
        if category in ("Pd", "Pc") or character in _SPACES or character.isspace():
            return " "
        plain = unicodedata.normalize("NFKD", character)
        if category == "Cf" or (category[0] == "P" and not _KEPT.intersection(plain)):
            return ""
        if unicodedata.decomposition(character).startswith(_MEANT):
            return character
        spelt = "".join(map(self._spell_mark, plain))
        return spelt if spelt and self.letters.issuperset(spelt) else character


def _without(form: str, start: str) -> str | None:
    """Remove the characters of `start`, in order, from `form`; None if it lacks one."""
    rest = ""
    for character in form:
        if start.startswith(character):
            start = start[1:]
        else:
            rest += character
    return None if start else rest


_alphabet = lru_cache(maxsize=16)(_Alphabet)


@dataclass(frozen=True)
class Tokenizer:
    """Maps text to tokens: 0 is the CTC blank, i+1 is `units[i]`.

    Units are the characters of a string, or names in a tuple, such as phones. Names are separated by spaces
    in text, and a lexicon turns them into words. Raises TextError if units are missing or repeated.
    """

    units: str | tuple[str, ...] = ENGLISH

    def __post_init__(self) -> None:
        if not self.units or len(set(self.units)) != len(self.units):
            raise TextError(f"vocabulary {self.units!r}: units must be non-empty and distinct")
        if not isinstance(self.units, str) and any(unit.split() != [unit] for unit in self.units):
            raise TextError(f"vocabulary {self.units!r}: names must be non-empty, without white space")

    @property
    def size(self) -> int:
        """Number of tokens, including the blank."""
        return len(self.units) + 1

    @property
    def is_english(self) -> bool:
        """True for the letters of English, in either case, and for phones."""
        return not isinstance(self.units, str) or set(self.units.upper()) <= set(ENGLISH)

    @property
    def separator(self) -> int | None:
        """Token between words, or None if the units (phones) have none."""
        return self.units.index(" ") + 1 if " " in self.units else None

    def encode(self, text: str) -> list[int]:
        """Encode `text` as tokens. Raises TextError with the units outside the vocabulary."""
        if outside := self.unknown(text):
            raise TextError(f"characters outside the vocabulary: {outside!r} in {text[:60]!r}")
        return [self.units.index(unit) + 1 for unit in self._split(text)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Decode tokens to text. Raises ValueError on the blank and on values out of range."""
        tokens = list(tokens)
        if not all(BLANK < token < self.size for token in tokens):
            raise ValueError(f"tokens {tokens}: expected 1 to {self.size - 1}")
        return ("" if isinstance(self.units, str) else " ").join(self.units[token - 1] for token in tokens)

    def unknown(self, text: str) -> str:
        """Return the distinct units of `text` outside the vocabulary, sorted."""
        outside = sorted(set(self._split(text)) - set(self.units))
        return ("" if isinstance(self.units, str) else " ").join(outside)

    def _split(self, text: str) -> Sequence[str]:
        return text if isinstance(self.units, str) else text.split()


def ctc_frames_needed(tokens: list[int]) -> int:
    """Return the minimum frames for CTC to emit `tokens`: one each, plus a blank between repeats."""
    return len(tokens) + sum(a == b for a, b in pairwise(tokens))
