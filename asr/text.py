"""Transcripts: normalisation, and the tokens that a CTC model emits."""

import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from asr.errors import TextError

BLANK = 0
"""Index of the CTC blank in every vocabulary."""

ENGLISH = " 'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""LibriSpeech's alphabet."""

_DROPPED = frozenset('.,;:!?"()[]{}…«»‹›“”„‚¿¡')  # noqa: RUF001
_SPACES = frozenset("-‐‑‒–—―/_")  # noqa: RUF001
_APOSTROPHES = frozenset("’‘ʼ`´")  # noqa: RUF001


def normalize(text: str, characters: str = ENGLISH) -> str:
    """Bring free text as close to the alphabet `characters` as is safe.

    Case is folded where the alphabet has one case only, accents are stripped where the alphabet lacks
    the accented letter, punctuation and invisible characters are dropped, dashes and white space become one
    space. What is left outside the alphabet (digits, say) stays, so that `Tokenizer.unknown` can report it.
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
    """Token 0 is the CTC blank, token i+1 is `units[i]`: a character of a string, or a name in a tuple.

    Named units are phones, say: a text of them has spaces between, and a lexicon turns them into words.
    """

    units: str | tuple[str, ...] = ENGLISH

    def __post_init__(self) -> None:
        if not self.units or len(set(self.units)) != len(self.units):
            raise TextError(f"vocabulary {self.units!r}: characters must be present and distinct")
        if not isinstance(self.units, str) and any(unit.split() != [unit] for unit in self.units):
            raise TextError(f"vocabulary {self.units!r}: names must not be empty or hold white space")

    @property
    def size(self) -> int:
        """Number of tokens, the blank included."""
        return len(self.units) + 1

    @property
    def separator(self) -> int | None:
        """The token between words; None where the units have none, as phones."""
        return self.units.index(" ") + 1 if " " in self.units else None

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`. Raises TextError that names the units outside the vocabulary."""
        if outside := self.unknown(text):
            raise TextError(f"characters outside the vocabulary: {outside!r} in {text[:60]!r}")
        return [self.units.index(unit) + 1 for unit in self._split(text)]

    def decode(self, tokens: Iterable[int]) -> str:
        """Text of `tokens`. Raises ValueError on the blank, and on what is no token at all."""
        tokens = list(tokens)
        if not all(BLANK < token < self.size for token in tokens):
            raise ValueError(f"tokens {tokens}: expected 1 to {self.size - 1}")
        return ("" if isinstance(self.units, str) else " ").join(self.units[token - 1] for token in tokens)

    def unknown(self, text: str) -> str:
        """The distinct units of `text` that no token stands for, sorted."""
        outside = sorted(set(self._split(text)) - set(self.units))
        return ("" if isinstance(self.units, str) else " ").join(outside)

    def _split(self, text: str) -> Sequence[str]:
        return text if isinstance(self.units, str) else text.split()


def ctc_frames_needed(tokens: list[int]) -> int:
    """Least number of frames in which CTC can emit `tokens`: one each, and a blank between repeats."""
    return len(tokens) + sum(a == b for a, b in pairwise(tokens))
