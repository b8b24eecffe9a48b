"""Text normalisation and the tokens of a CTC model."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from asr.errors import TextError

BLANK = 0
"""Token of the CTC blank in every vocabulary."""

ENGLISH = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""LibriSpeech's alphabet."""

_DROPPED = frozenset('.,;:!?"()[]{}…«»‹›“”„‚¿¡')  # noqa: RUF001
_SPACES = frozenset("-‐‑‒–—―/_")  # noqa: RUF001
_APOSTROPHES = frozenset("’‘ʼ`´")  # noqa: RUF001


def normalize(text: str, characters: str = ENGLISH) -> str:
    """Normalise free text to the alphabet `characters` without guessing.

    Case is folded if the alphabet has only one case. Accents are stripped if the alphabet lacks the accented
    letter. Punctuation and invisible characters are dropped; dashes and white space become one space. Other
    characters, such as digits, are kept for `Tokenizer.unknown` to report.
    """
    alphabet = frozenset(characters)
    if not any(c.islower() for c in characters):
        text = text.upper()
    elif not any(c.isupper() for c in characters):
        text = text.lower()
    text = unicodedata.normalize("NFC", text)
    return " ".join("".join(_normalize_character(c, alphabet) for c in text).split())


def _normalize_character(character: str, alphabet: frozenset[str]) -> str:
    if character in alphabet:
        return character
    if character in _APOSTROPHES:
        return "'" if "'" in alphabet else character
    if character in _DROPPED or unicodedata.combining(character) or unicodedata.category(character) == "Cf":
        return ""
    if character in _SPACES or character.isspace():
        return " "
    plain = "".join(c for c in unicodedata.normalize("NFKD", character) if not unicodedata.combining(c))
    return plain if plain and set(plain) <= alphabet else character


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
