"""Prepare the prose for the tagger: vocabulary, and words, marks and cases as arrays.

    python -m recipes.formatting.prepare prose.txt.xz data/prose

PROSE has a paragraph a line and an empty line between books. The last 31 books are held out for results
(`dev`), the 20 before them for choices (`valid`).
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from operator import itemgetter
from pathlib import Path

import numpy as np

from asr.console import exit_code
from asr.files import atomic_write
from asr.formatting.marks import MARKS, SENTENCE_END, Token, case_of, parse
from asr.formatting.vocabulary import Vocabulary
from asr.lm.text import read_lines

HELD_OUT = {"dev": 31, "valid": 20}  # books at the end, the last part first
WORDS = 24_000
ALWAYS, LEAST = (
    0.95,
    3,
)  # share and number of times that a word has capitals within a sentence, if it keeps them

Book = list[list[Token]]
"""Paragraphs of words."""


def main(prose: Path, data: Path) -> int:
    """Write words.txt and {train,valid,dev}.npz."""
    parts = split(list(read_books(prose)))
    forms = choose_words([token for book in parts["train"] for paragraph in book for token in paragraph])
    with atomic_write(data / "words.txt") as file:
        file.writelines(f"{form}\n" for form in forms)
    vocabulary = Vocabulary(forms)
    for name, books in parts.items():
        with atomic_write(data / f"{name}.npz", "wb") as file:
            np.savez(file, **arrays(books, vocabulary))
        print(f"{name}: {len(books)} books, {sum(len(p) for b in books for p in b)} words")
    return 0


def read_books(path: Path) -> Iterator[Book]:
    """Read the books; paragraphs with digits, which no recogniser writes, are left out."""
    book: Book = []
    for line in read_lines(path):
        if line.strip():
            if not any(character.isdigit() for character in line):
                book.append(parse(line))
        elif book:
            yield book
            book = []
    if book:
        yield book


def split(books: list[Book]) -> dict[str, list[Book]]:
    """Held-out parts from the end, and `train`."""
    parts = {}
    for name, count in HELD_OUT.items():
        books, parts[name] = books[:-count], books[-count:]
    return {"train": books, **parts}


def choose_words(tokens: Sequence[Token], count: int = WORDS) -> list[str]:
    """The most frequent words, most frequent first: with capitals if they always have them, else without."""
    frequency = Counter(token.form.lower() for token in tokens)
    spellings: dict[str, Counter[str]] = defaultdict(Counter)
    for before, token in pairwise(tokens):
        if MARKS[before.mark] not in SENTENCE_END:
            spellings[token.form.lower()][token.form] += 1
    words = sorted(frequency, key=lambda word: (-frequency[word], word))[:count]
    return [_spelling(word, spellings[word]) for word in words]


def _spelling(word: str, found: Counter[str]) -> str:
    form, times = max(found.items(), key=itemgetter(1), default=(word, 0))
    return form if times >= max(LEAST, ALWAYS * found.total()) else word


def arrays(books: Sequence[Book], vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """`words int32[N]`, `marks uint8[N]`, `cases uint8[N]`, and the ends of paragraphs and of books."""
    paragraphs = [paragraph for book in books for paragraph in book]
    tokens = [token for paragraph in paragraphs for token in paragraph]
    ends = np.cumsum([len(paragraph) for paragraph in paragraphs])
    return {
        "words": np.array(vocabulary.encode(token.form.lower() for token in tokens), np.int32),
        "marks": np.array([token.mark for token in tokens], np.uint8),
        "cases": np.array([case_of(token.form) for token in tokens], np.uint8),
        "paragraphs": ends,
        "books": ends[np.cumsum([len(book) for book in books]) - 1],
    }


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: main(Path(sys.argv[1]), Path(sys.argv[2]))))
