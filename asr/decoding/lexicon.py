"""The words that a decoder may say, and how they are spelt in the model's tokens."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.errors import DecodingError, TextError
from asr.lm.ngram import SPECIAL, Vocabulary
from asr.lm.text import read_lines
from asr.text import Tokenizer, normalize


@dataclass(frozen=True)
class Lexicon:
    """Spelling i is `tokens[offsets[i]:offsets[i + 1]]` and stands for `words[i]`.

    A word may have several spellings, and a spelling may stand for several words (homophones).
    """

    words: Sequence[str] | Vocabulary
    tokens: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.words)

    def spelling(self, index: int) -> list[int]:
        """Token ids of one spelling."""
        spelling: list[int] = self.tokens[self.offsets[index] : self.offsets[index + 1]].tolist()
        return spelling

    def first_spellings(self) -> dict[str, list[int]]:
        """Token ids of each word; of several spellings the first."""
        return {self.words[i]: self.spelling(i) for i in reversed(range(len(self)))}


def spell(vocabulary: Vocabulary, tokenizer: Tokenizer) -> tuple[Lexicon, np.ndarray]:
    """Spell the words of a language model by their characters, and tell their ids `int[spellings]`.

    Words with a character that the model lacks are left out. No word becomes a string, as there may be many.
    """
    letters = np.frombuffer(vocabulary.text.tobytes().decode().encode("utf-32-le"), dtype=np.uint32)
    token_of = np.zeros(sys.maxunicode + 1, dtype=np.int32)
    for token, unit in enumerate(tokenizer.units, start=1):
        # A space inside a word would end it.
        token_of[ord(unit)] = 0 if unit == " " else token
    tokens = token_of[letters]
    begins_letter = (vocabulary.text & 0xC0) != 0x80
    offsets = _before(begins_letter)[vocabulary.offsets]
    lengths, unspelt = np.diff(offsets), np.diff(_before(tokens == 0)[offsets])
    kept = (unspelt == 0) & (lengths > 0)
    kept[: len(SPECIAL)] = False
    lexicon = Lexicon(
        words=vocabulary.take(kept),
        tokens=tokens[np.repeat(kept, lengths)],
        offsets=np.concatenate(([0], np.cumsum(lengths[kept]))),
    )
    return lexicon, np.flatnonzero(kept)


def _before(marks: np.ndarray) -> np.ndarray:
    """`bool[n]` -> `int[n + 1]`: how many marks come before each place."""
    counts: np.ndarray = np.concatenate(([0], np.cumsum(marks, dtype=np.int32)))
    return counts


def read_lexicon(path: Path, tokenizer: Tokenizer) -> Lexicon:
    """Read `WORD<tab>T O K E N S` lines, compressed or not; without tokens a word is spelt by characters.

    Raises DecodingError that names the line where a token is not the model's, a word is empty or holds
    white space, or nothing is there, LanguageModelError where the file cannot be read.
    """
    entries: dict[tuple[str, tuple[int, ...]], None] = {}  # a line that stands twice counts once
    ids = {unit: index for index, unit in enumerate(tokenizer.units, start=1)}
    for number, line in enumerate(read_lines(path), start=1):
        word, _, spelling = line.partition("\t") if "\t" in line else line.partition(" ")
        if not line.strip():
            continue
        if not word or word.split() != [word]:
            raise DecodingError(f"{path}:{number}: expected WORD, a tab, and its tokens, not {line[:60]!r}")
        tokens = spelling.split() or list(word)
        if lacking := [token for token in tokens if token not in ids or token == " "]:
            raise DecodingError(
                f"{path}:{number}: {word} is spelt with {lacking[0]!r}, which the model lacks"
            )
        entries[word, tuple(ids[token] for token in tokens)] = None
    if not entries:
        raise DecodingError(f"{path}: the lexicon is empty")
    lengths = [len(spelling) for _, spelling in entries]
    return Lexicon(
        words=[word for word, _ in entries],
        tokens=np.array([token for _, spelling in entries for token in spelling], dtype=np.int32),
        offsets=np.concatenate(([0], np.cumsum(lengths))),
    )


def spellable(text: str, tokenizer: Tokenizer) -> str:
    """Bring the text of a user into the model's characters (see asr.text.normalize).

    Raises TextError where nothing is left of it, or with the first word that cannot be spelt.
    """
    if isinstance(tokenizer.units, str):
        text = normalize(text, tokenizer.units)
    for word in text.split():
        if outside := tokenizer.unknown(word):
            raise TextError(f"the model has no token for {outside!r} in {word[:60]!r}; spell it out")
    if not text.strip():
        raise TextError("there is no word in it; give what is said")
    return text
