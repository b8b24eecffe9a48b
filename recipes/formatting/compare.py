"""Compare the tagger that ships with two baselines, on held-out prose and on recordings.

    python -m recipes.formatting.compare prose.txt.xz data/prose [ALIGNED.jsonl]

Rules: a period after 0.6 s of pause and at the end, a capital after it. Bigram: the
commonest mark between two words, else after the first of them; the commonest case of a word after that mark.
ALIGNED, of recipes.formatting.pauses, has `formatted` texts.
"""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Protocol

import numpy as np

from asr.console import exit_code
from asr.decoding.types import Word
from asr.formatting.marks import CAPITAL, LOWER, MARKS, SENTENCE_END, Token, parse, recase
from asr.formatting.pauses import Pauses, seconds
from asr.formatting.readable import LOOKAHEAD, LiveFormatter
from asr.formatting.tagger import Tagger
from asr.formatting.vocabulary import Vocabulary
from asr.scoring.formatted import FormattedReport, tally
from recipes.formatting.pauses import join, read
from recipes.formatting.prepare import read_books, split

PAUSES = Path(__file__).with_name("pauses.json")
PAUSE = 0.6  # seconds that end a sentence for the rules
MOST = 6000  # words of a book, whole paragraphs
LIVE_WORDS = 300  # of each book
GROUP = 5  # clips laid end to end

Paragraphs = list[list[Token]]


class System(Protocol):
    """Tags words; pauses are unknown if there are none."""

    def tag(self, words: Sequence[str], pauses: Sequence[float]) -> tuple[np.ndarray, np.ndarray]: ...


class Rules:
    """A period after each pause, and at the end."""

    def tag(self, words: Sequence[str], pauses: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        long = np.nan_to_num(np.asarray(pauses if len(pauses) else np.zeros(len(words)))) >= PAUSE
        long[-1:] = True
        return np.where(long, MARKS.index("."), 0), np.full(len(words), LOWER)


class Bigram:
    """Relative frequencies in the training part."""

    def __init__(self, data: Path) -> None:
        self.vocabulary = Vocabulary.read(data / "words.txt")
        with np.load(data / "train.npz") as file:
            words, marks, cases = (file[name].astype(np.int64) for name in ("words", "marks", "cases"))
        size = self.vocabulary.size
        self.pairs = _commonest(words[:-1] * size + words[1:], marks[:-1], least=2)
        self.singles = _commonest(words, marks)
        ends = np.isin(marks, [MARKS.index(mark) for mark in SENTENCE_END])
        self.cases = _commonest(words[1:] * 2 + ends[:-1], cases[1:])

    def tag(self, words: Sequence[str], pauses: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
        ids, size = self.vocabulary.encode(words), self.vocabulary.size
        marks = [self.pairs.get(a * size + b, self.singles.get(a, 0)) for a, b in pairwise(ids)]
        marks.append(MARKS.index("."))
        starts = [True, *(MARKS[mark] in SENTENCE_END for mark in marks[:-1])]
        cases = [self.cases.get(word * 2 + start, CAPITAL) for word, start in zip(ids, starts, strict=True)]
        return np.array(marks), np.array(cases)


def _commonest(keys: np.ndarray, labels: np.ndarray, least: int = 1) -> dict[int, int]:
    """The commonest label of each key that occurs `least` times."""
    table, counts = np.unique(keys * len(MARKS) + labels, return_counts=True)
    found, total = table // len(MARKS), np.zeros(len(table), np.int64)
    order = np.lexsort((counts, found))  # the last row of a key has its commonest label
    last = np.flatnonzero(np.append(found[order][1:] != found[order][:-1], True))
    total = np.diff(np.append(0, counts[order].cumsum()[last]))
    kept = last[total >= least]
    return dict(zip(found[order][kept].tolist(), (table[order][kept] % len(MARKS)).tolist(), strict=True))


def write(
    system: System, tokens: Sequence[Token], pauses: Sequence[float], vocabulary: Vocabulary
) -> list[Token]:
    """The words of `tokens` as `system` formats them."""
    words = [token.form.lower() for token in tokens]
    marks, cases = system.tag(words, pauses)
    texts = recase(words, [MARKS[mark] for mark in marks], cases, vocabulary.spell)
    return [Token(text, int(mark)) for text, mark in zip(texts, marks, strict=True)]


def stream(tokens: Sequence[Token], pauses: Sequence[float]) -> list[Token]:
    """The words of `tokens` as a LiveFormatter returns them; pauses must be known."""
    times = list(accumulate(pauses, initial=0.0))
    words = [Word(token.form.lower(), time, time, 1.0) for token, time in zip(tokens, times, strict=False)]
    formatter = LiveFormatter()
    texts = [word.text for one in words for word in formatter.push([one])]
    return parse(" ".join(texts + [word.text for word in formatter.finish()]))


def cut(tokens: Sequence[Token], lengths: Iterable[int]) -> Iterator[Sequence[Token]]:
    """Split into parts of these lengths."""
    yield from (tokens[a:b] for a, b in pairwise(accumulate(lengths, initial=0)))


def head(book: Paragraphs) -> Paragraphs:
    """The first MOST words of a book."""
    ends = accumulate(map(len, book))
    return [paragraph for paragraph, end in zip(book, ends, strict=True) if end <= MOST]


def row(name: str, report: FormattedReport) -> str:
    """A line of the table, in %."""
    f1 = " | ".join(f"{100 * report.marks[mark].f1:.1f}" for mark in (*MARKS[1:], "sentence"))
    return f"| {name} | {f1} | {100 * report.case_accuracy:.2f} | {100 * report.words.rate:.1f} |"


HEAD = f"| | {' | '.join(MARKS[1:])} | sentences | case | WER |\n|{'---|' * 11}"


def prose(books: Sequence[Paragraphs], data: Path) -> Iterator[str]:
    """Rows on held-out prose."""
    tagger, bigram = Tagger(), Bigram(data)
    vocabulary, simulated = tagger.vocabulary, Pauses.read(PAUSES)
    systems: dict[str, System] = {"rules": Rules(), "word bigrams": bigram, "tagger": tagger}
    rng = np.random.default_rng(0)
    texts = [[token for paragraph in book for token in paragraph] for book in books]
    known = [seconds(simulated.draw(rng, np.array([t.mark for t in text]))) for text in texts]
    for name, system in systems.items():
        pairs = [(p, write(system, p, (), vocabulary)) for book in books for p in book]
        yield row(f"{name}, a paragraph at a time", tally(pairs))
    for kind in ("no pauses", "simulated pauses"):
        for name, system in systems.items():
            if name == "word bigrams" and kind != "no pauses":
                continue
            pairs = []
            for book, text, pauses in zip(books, texts, known, strict=True):
                found = write(system, text, pauses if kind != "no pauses" else (), vocabulary)
                pairs += list(zip(book, cut(found, map(len, book)), strict=True))
            yield row(f"{name}, a book at a time, {kind}", tally(pairs))
    starts = [(t[:LIVE_WORDS], p[:LIVE_WORDS]) for t, p in zip(texts, known, strict=True)]
    pairs = [(text, write(tagger, text, pauses, vocabulary)) for text, pauses in starts]
    yield row(f"tagger, {LIVE_WORDS} words of each book, simulated pauses", tally(pairs))
    pairs = [(text, stream(text, pauses)) for text, pauses in starts]
    yield row(f"the same live, {LOOKAHEAD} words of lookahead", tally(pairs))


def recordings(aligned: Path) -> Iterator[str]:
    """Rows on recordings, with the pauses in them."""
    rows = [r for r in read(aligned) if r["audio_filepath"].startswith("common_voice")]
    tagger = Tagger()
    for size in (1, GROUP):
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        for name, system, known in (
            ("rules, pauses", Rules(), True),
            ("tagger, no pauses", tagger, False),
            ("tagger, pauses", tagger, True),
        ):
            pairs = []
            for group in groups:
                reference = [token for r in group for token in parse(r["formatted"])]
                words, pauses = join(group, prompts=True)
                if len(reference) == len(words):
                    given = [*pauses, np.nan] if known else ()
                    pairs.append((reference, write(system, reference, given, tagger.vocabulary)))
            yield row(f"{size} clip{'s' * (size > 1)}: {name}", tally(pairs))


def main(prose_path: Path, data: Path, aligned: Path | None = None) -> int:
    """Print the tables and the speed."""
    books = [head(book) for book in split(list(read_books(prose_path)))["dev"]]
    print(f"Held-out prose, {sum(len(p) for b in books for p in b)} words:\n\n{HEAD}", flush=True)
    for line in prose(books, data):
        print(line, flush=True)
    if aligned:
        print(f"\nCommon Voice, pauses by forced alignment:\n\n{HEAD}")
        print("\n".join(recordings(aligned)))
    words = [token.form for book in books for p in book for token in p][:100_000]
    tagger, begin = Tagger(), time.process_time()
    tagger.tag(words)
    print(f"\n{len(words) / (time.process_time() - begin):.0f} words per second on one core")
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: main(*map(Path, sys.argv[1:]))))
