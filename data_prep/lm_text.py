"""Language-model text without the evaluation set, and a check that training data does not contain it either.

Checked: speakers, utterance ids and word sequences of the training manifests, and word sequences of the text,
in any case and across line ends. The text must be without punctuation.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from asr import manifest
from asr.console import option
from asr.errors import UsageError
from asr.files import atomic_write
from asr.lm.text import read_lines
from asr.manifest import Utterance
from asr.prepare import Problem

LENGTH = 8
"""Words of a sequence that does not recur by chance."""

_BLOCK = 500_000
"""Lines of text processed at a time."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of `asr prepare lm-text`."""

    held_out: tuple[Path, ...] = option("folders with the manifests of evaluation sets", metavar="FOLDER")
    train: tuple[Path, ...] = option("folders with the manifests of training sets", (), metavar="FOLDER")
    text: Path | None = option("text, one sentence per line, may be compressed", None, metavar="FILE")
    out: Path | None = option("the text without lines that share words", None, metavar="FILE")


def prepare(options: Options) -> list[Problem]:
    """Print what is shared with the evaluation sets and write the text without it.

    Overlap with the training sets is a problem, and so are shared lines of the text if `out` is not given.
    Nothing is written if the training sets overlap.
    """
    if options.out and not options.text:
        raise UsageError("--out needs --text")
    held_out, train = _read(options.held_out), _read(options.train)
    sequences = Sequences(u.text for u in held_out)
    shared: dict[str, Collection[str | None]] = {
        "speaker": {u.speaker for u in held_out} & {u.speaker for u in train} - {None},
        "utterance id": {u.id for u in held_out} & {u.id for u in train},
        f"sequence of {LENGTH} words": {u.text for u in train if sequences.mark([u.text.split()])[0]},
    }
    print(f"held out: {len(held_out)} utterances, training: {len(train)}")
    for kind, common in shared.items():
        print(f"{kind} in common: {len(common)}", *sorted(map(str, common))[:5], sep="  ")
    problems = [Problem(str(name), f"{kind} in common") for kind, common in shared.items() for name in common]
    if options.text and not problems:
        dropped = _filter(sequences, options.text, options.out)
        if dropped and not options.out:
            reason = f"{dropped} lines share words with the evaluation sets; leave them out with --out"
            problems.append(Problem(str(options.text), reason))
    return problems


def _read(folders: Sequence[Path]) -> list[Utterance]:
    return [u for folder in folders for u in manifest.read(folder / "manifest.jsonl")]


def _filter(sequences: "Sequences", text: Path, out: Path | None) -> int:
    """Print and count the lines of a text that share a sequence; write the others to `out`."""
    dropped: list[str] = []
    count = 0

    def kept() -> Iterator[str]:
        nonlocal count
        before: list[str] = []
        lines = read_lines(text)
        while block := list(islice(lines, _BLOCK)):
            marks = sequences.mark([before, *(line.split() for line in block)])[1:]
            count += len(block)
            for line, mark in zip(block, marks, strict=True):
                if mark:
                    dropped.append(line)
                else:
                    yield line + "\n"
            before = [*before, *(word for line in block for word in line.split())][-(LENGTH - 1) :]

    if out:
        with atomic_write(out) as file:
            file.writelines(kept())
    else:
        for _ in kept():
            pass
    print(f"lines of {text.name} with {LENGTH} held-out words in a row: {len(dropped)} of {count}")
    for line in dropped[:5]:
        print("   ", line[:100])
    return len(dropped)


class Sequences:
    """All sequences of LENGTH words in some texts, as 64-bit hashes."""

    _FACTORS = np.cumprod(np.full(LENGTH, 0x9E3779B97F4A7C15, np.uint64))

    def __init__(self, texts: Iterable[str]) -> None:
        # Joined, as the utterances of a chapter follow each other: a book goes on where an utterance ends.
        words = [word for text in texts for word in text.upper().split()]
        self._ids = {word: i for i, word in enumerate(set(words), start=1)}
        hashes, known = self._hash(words)
        self._hashes = np.unique(hashes[known])

    def mark(self, lines: Sequence[Sequence[str]]) -> np.ndarray:
        """Return which lines of running text have a word in a known sequence: `bool[lines]`."""
        hashes, known = self._hash([word for line in lines for word in line])
        starts = np.flatnonzero(np.isin(hashes, self._hashes) & known)
        words = np.unique(starts[:, None] + np.arange(LENGTH))
        ends = np.cumsum([len(line) for line in lines])
        marks = np.zeros(len(lines), np.bool_)
        marks[np.searchsorted(ends, words, side="right")] = True
        return marks

    def _hash(self, words: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Hash the sequence starting at each word; return hashes and whether all of its words are known."""
        ids = np.fromiter((self._ids.get(word.upper(), 0) for word in words), np.uint64, len(words))
        count = max(0, len(ids) - LENGTH + 1)
        hashes, known = np.zeros(count, np.uint64), np.ones(count, np.bool_)
        for i, factor in enumerate(self._FACTORS):
            part = ids[i : i + count]
            hashes += part * factor
            known &= part > 0
        return hashes, known
