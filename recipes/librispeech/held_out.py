"""Proves that what a system is evaluated on is in nothing that it was made of.

    python -m recipes.librispeech.held_out --held-out data/librispeech/dev-excerpt \
        --train data/librispeech/train-clean-5 --text lm-text.txt [--write clean.txt]

Speakers, utterance ids and texts of the training manifests, and sequences of eight words of the language
model's text, in upper or lower case, whether or not a line ends within them. The text must be without
punctuation, as a language model's is. `--write` writes the text without the lines that share
one; exits with 1 where anything else is shared.
"""

import argparse
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np

from asr import manifest
from asr.console import exit_code
from asr.files import atomic_write
from asr.lm.text import read_lines
from asr.manifest import Utterance

LENGTH = 8
"""Words of a sequence that does not recur by chance."""

_LINES = 500_000


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, check, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--held-out", type=Path, nargs="+", required=True, metavar="FOLDER")
    parser.add_argument("--train", type=Path, nargs="*", default=[], metavar="FOLDER")
    parser.add_argument("--text", type=Path, help="one sentence a line, plain or compressed")
    parser.add_argument("--write", type=Path, metavar="FILE", help="the text without lines that share words")
    arguments = parser.parse_args(argv)
    if arguments.write and not arguments.text:
        parser.error("--write needs --text")
    return exit_code(lambda: check(arguments))


def check(arguments: argparse.Namespace) -> int:
    """Print what is shared; 1 if anything is."""
    held_out = _utterances(arguments.held_out)
    train = _utterances(arguments.train)
    found = {
        "speakers": {u.speaker for u in held_out} & {u.speaker for u in train} - {None},
        "utterance ids": {u.id for u in held_out} & {u.id for u in train},
        f"sequences of {LENGTH} words in the training texts": shared(held_out, [u.text for u in train]),
    }
    print(f"held out: {len(held_out)} utterances, training: {len(train)}")
    for name, common in found.items():
        print(f"{name} in common: {len(common)}", *sorted(map(str, common))[:5], sep="  ")
    if any(found.values()):
        return 1
    lines = _check_text(held_out, arguments.text, arguments.write) if arguments.text else 0
    return int(lines > 0 and not arguments.write)


def _utterances(folders: Sequence[Path]) -> list[Utterance]:
    return [u for folder in folders for u in manifest.read(folder / "manifest.jsonl")]


def shared(held_out: Sequence[Utterance], texts: Sequence[str]) -> set[str]:
    """The texts that share a sequence with one that is held out."""
    sequences = Sequences(u.text for u in held_out)
    return {text for text in texts if sequences.mark([text.split()])[0]}


def _check_text(held_out: Sequence[Utterance], text: Path, clean: Path | None) -> int:
    """Count, print and leave out the lines of a text that share a sequence."""
    sequences = Sequences(u.text for u in held_out)
    dropped: list[str] = []
    count = 0

    def kept() -> Iterator[str]:
        nonlocal count
        before: list[str] = []
        lines = read_lines(text)
        while block := list(islice(lines, _LINES)):
            marks = sequences.mark([before, *(line.split() for line in block)])[1:]
            count += len(block)
            for line, mark in zip(block, marks, strict=True):
                if mark:
                    dropped.append(line)
                else:
                    yield line + "\n"
            before = [*before, *(word for line in block for word in line.split())][-(LENGTH - 1) :]

    if clean:
        with atomic_write(clean) as file:
            file.writelines(kept())
    else:
        for _ in kept():
            pass
    print(f"lines of {text.name} with {LENGTH} words in a row that are held out: {len(dropped)} of {count}")
    for line in dropped[:5]:
        print("   ", line[:100])
    return len(dropped)


class Sequences:
    """All sequences of LENGTH words of some texts, as hashes of 64 bits."""

    _FACTORS = np.cumprod(np.full(LENGTH, 0x9E3779B97F4A7C15, np.uint64))

    def __init__(self, texts: Iterable[str]) -> None:
        words = [text.upper().split() for text in texts]
        self._ids = {word: i for i, word in enumerate({w for text in words for w in text}, start=1)}
        # One after the other, as the utterances of a chapter are: a book runs on where an utterance ends.
        hashes, whole = self._hashes([word for text in words for word in text])
        self._known = np.unique(hashes[whole])

    def mark(self, lines: Sequence[Sequence[str]]) -> np.ndarray:
        """Which lines have a word in such a sequence of the running text: bool[lines]."""
        hashes, whole = self._hashes([word for line in lines for word in line])
        starts = np.flatnonzero(np.isin(hashes, self._known) & whole)
        words = np.unique(starts[:, None] + np.arange(LENGTH))
        ends = np.cumsum([len(line) for line in lines])
        marks = np.zeros(len(lines), np.bool_)
        marks[np.searchsorted(ends, words, side="right")] = True
        return marks

    def _hashes(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """A hash of the sequence from each word on, and whether all of its words are known."""
        ids = np.fromiter((self._ids.get(word.upper(), 0) for word in words), np.uint64, len(words))
        count = max(0, len(ids) - LENGTH + 1)
        hashes, whole = np.zeros(count, np.uint64), np.ones(count, np.bool_)
        for i, factor in enumerate(self._FACTORS):
            part = ids[i : i + count]
            hashes += part * factor
            whole &= part > 0
        return hashes, whole


if __name__ == "__main__":
    raise SystemExit(main())
