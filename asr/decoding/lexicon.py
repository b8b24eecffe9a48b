"""Lexicons: the words a decoder may output, spelt in the model's tokens, and their prefix tree."""

import sys
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from asr.errors import DecodingError, TextError
from asr.jit import kernel
from asr.lm.ngram import SPECIAL, Vocabulary
from asr.lm.text import read_lines
from asr.text import APOSTROPHES, Tokenizer, normalize

ROOT = 0

_NO_WORD = "there is no word in it; give what is said"

TRIE_NODE = np.dtype(
    [
        ("token", np.int32),  # on the edge from the parent
        ("first_child", np.int32),  # children end where the next node's begin; sorted by token
        ("first_entry", np.int32),  # entries that end here, likewise
        ("lookahead", np.float32),  # best score of an entry at or below this node
    ]
)


@dataclass(frozen=True)
class Lexicon:
    """Entry i spells `words[i]` as `tokens[offsets[i]:offsets[i + 1]]`; words and spellings may repeat."""

    words: Sequence[str] | Vocabulary
    tokens: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.words)

    def spelling(self, index: int) -> list[int]:
        """Token ids of one entry."""
        return list(map(int, self.tokens[self.offsets[index] : self.offsets[index + 1]]))

    @cached_property
    def entries_of(self) -> dict[str, list[int]]:
        """Entries of each word."""
        entries: dict[str, list[int]] = {}
        for index, word in enumerate(self.words):
            entries.setdefault(word, []).append(index)
        return entries

    @cached_property
    def characters(self) -> str:
        """The characters of all words, and a space."""
        return "".join(sorted({" ", *chain.from_iterable(self.words)}))

    @cached_property
    def letters(self) -> str:
        """The characters of all words without punctuation, other than apostrophes."""
        kept = (c for c in self.characters if unicodedata.category(c)[0] in "LMN" or c in APOSTROPHES + " ")
        return "".join(kept)

    def with_words(self, spellings: Iterable[tuple[str, Sequence[int]]]) -> "Lexicon":
        """Add entries: words and their tokens."""
        words, tokens = zip(*spellings, strict=True)
        ends = self.offsets[-1] + np.cumsum(list(map(len, tokens)))
        new = np.array(list(chain.from_iterable(tokens)), dtype=self.tokens.dtype)
        return Lexicon([*self.words, *words], np.append(self.tokens, new), np.append(self.offsets, ends))

    def first_spellings(self) -> dict[str, list[int]]:
        """Token ids of each word's first entry."""
        return {self.words[i]: self.spelling(i) for i in reversed(range(len(self)))}


def spell(vocabulary: Vocabulary, tokenizer: Tokenizer) -> tuple[Lexicon, np.ndarray]:
    """Spell a language model's words by their characters; also returns their ids `int[entries]`.

    Words with a character outside the model are left out. Works on whole arrays, as vocabularies are large.
    """
    letters = np.frombuffer(vocabulary.text.tobytes().decode().encode("utf-32-le"), dtype=np.uint32)
    token_of = np.zeros(sys.maxunicode + 1, dtype=np.int32)
    token_of[[ord(unit) for unit in tokenizer.units]] = np.arange(1, tokenizer.size)
    token_of[ord(" ")] = 0  # would end the word
    tokens = token_of[letters]
    offsets = _count_before((vocabulary.text & 0xC0) != 0x80)[vocabulary.offsets]  # bytes that begin a letter
    lengths, unspelt = np.diff(offsets), np.diff(_count_before(tokens == 0)[offsets])
    kept = (unspelt == 0) & (lengths > 0)
    kept[: len(SPECIAL)] = False
    kept_offsets = np.append(0, np.cumsum(lengths[kept]))
    lexicon = Lexicon(vocabulary.take(kept), tokens[np.repeat(kept, lengths)], kept_offsets)
    return lexicon, np.flatnonzero(kept)


def _count_before(marks: np.ndarray) -> np.ndarray:
    """Number of marks before each position: `bool[n]` -> `int32[n + 1]`."""
    return np.append(np.int32(0), np.cumsum(marks, dtype=np.int32))


def read_lexicon(path: Path, tokenizer: Tokenizer) -> Lexicon:
    """Read lines of `WORD<tab>T O K E N S`, compressed or not; words without tokens are spelt by characters.

    Raises DecodingError with the line number for unknown tokens and malformed words, or if the file holds no
    entry; LanguageModelError if it cannot be read.
    """
    entries: dict[tuple[str, tuple[int, ...]], None] = {}  # without duplicates, in order
    ids = {unit: index for index, unit in enumerate(tokenizer.units, start=1) if unit != " "}
    for number, line in enumerate(map(str.rstrip, read_lines(path)), start=1):  # also CR LF line ends
        if not line:
            continue
        word, _, spelling = line.partition("\t" if "\t" in line else " ")
        if word.split() != [word]:
            raise DecodingError(f"{path}:{number}: expected WORD, a tab and its tokens, not {line[:60]!r}")
        try:
            entries[word, tuple(ids[token] for token in spelling.split() or word)] = None
        except KeyError as error:
            token = error.args[0]
            case = next((f"; it has {form!r}" for form in (token.upper(), token.lower()) if form in ids), "")
            message = f"{path}:{number}: {word}: the model has no token {token!r}{case}"
            raise DecodingError(message) from None
    if not entries:
        raise DecodingError(f"{path}: the lexicon is empty")
    spellings = [spelling for _, spelling in entries]
    return Lexicon(
        words=[word for word, _ in entries],
        tokens=np.array(list(chain.from_iterable(spellings)), dtype=np.int32),
        offsets=np.cumsum([0, *map(len, spellings)]),
    )


def spellable(text: str, tokenizer: Tokenizer) -> str:
    """Normalize a user's text to the model's characters (see `asr.text.normalize`).

    Raises TextError with the words that cannot be spelt, or if no word is left.
    """
    if isinstance(tokenizer.units, str):
        text = normalize(text, tokenizer.units)
    if unspelt := [word for word in text.split() if tokenizer.unknown(word)]:
        faults = listed(f"{tokenizer.unknown(word)!r} in {word[:60]!r}" for word in unspelt)
        raise TextError(f"the model has no token for {faults}; spell it out")
    if not text.strip():
        raise TextError(_NO_WORD)
    return text


def listed(items: Iterable[str], most: int = 9) -> str:
    """Join the first `most` items for a message."""
    shown = list(islice(items, most + 1))
    return ", ".join(shown[:most]) + " and others" * (len(shown) > most)


def find_words(text: str, lexicon: Lexicon) -> list[str]:
    """Find a user's words in a lexicon: as given, else normalized to its characters, else to its letters.

    Words that it lacks are returned normalized. Raises TextError if there is no word.
    """
    words = [found for word in text.split() for found in _find_word(word, lexicon)]
    if not words:
        raise TextError(_NO_WORD)
    return words


def _find_word(word: str, lexicon: Lexicon) -> list[str]:
    parts, known = [word], [known_form(word, lexicon)]
    if not set(APOSTROPHES) & set(lexicon.characters):
        word = "".join(c for c in word if c not in APOSTROPHES)
    for alphabet in (lexicon.characters, lexicon.letters):
        if None in known:
            parts = [part for part in normalize(word, alphabet).split() if part.strip(APOSTROPHES)]
            known = [known_form(part, lexicon) for part in parts]
    return [form or part.strip(APOSTROPHES) for part, form in zip(parts, known, strict=True)]


def known_form(word: str, lexicon: Lexicon) -> str | None:
    """Find a word as given, in upper or in lower case, or without the quotes around it."""
    forms = (form for w in (word, word.strip(APOSTROPHES)) for form in (w, w.upper(), w.lower()))
    return next((form for form in forms if form in lexicon.entries_of), None)


class Trie(NamedTuple):
    """The spellings of a lexicon as a prefix tree."""

    nodes: np.ndarray  # TRIE_NODE, breadth first from the root, with a sentinel at the end
    entries: np.ndarray  # lexicon indices, sorted by node


def build_trie(lexicon: Lexicon, scores: np.ndarray) -> Trie:
    """Build the trie level by level; the lookahead is the maximum of `scores` `float[entries]` below."""
    lengths = np.diff(lexicon.offsets)
    depth = int(lengths.max(initial=0))
    # One row per spelling, padded with zeros: sorting puts equal prefixes side by side, the shortest first.
    narrow = int(lexicon.tokens.max(initial=0)) < 256  # a quarter of the bytes to sort
    table = np.zeros((len(lexicon), depth), dtype=np.dtype("u1" if narrow else ">u4"))
    table[np.arange(depth) < lengths[:, None]] = lexicon.tokens
    row = f"S{table.itemsize * depth}"
    order = np.argsort(table.view(row)[:, 0], kind="stable") if depth else np.arange(0)
    table, lengths, scores = table[order], lengths[order], scores[order]

    levels = [np.array([(0, 0, 0, scores.max() if len(scores) else 0.0)], dtype=TRIE_NODE)]
    parents, count = [np.array([-1], dtype=np.int32)], 1
    node_of = np.zeros(len(lexicon), dtype=np.int32)  # node that each row has reached
    for column in range(depth):
        rows = np.flatnonzero(lengths > column)
        parent, token = node_of[rows], table[rows, column]
        first = np.append(True, (parent[1:] != parent[:-1]) | (token[1:] != token[:-1]))
        starts = np.flatnonzero(first)
        node_of[rows] = count - 1 + np.cumsum(first)
        level = np.zeros(len(starts), dtype=TRIE_NODE)
        level["token"], level["lookahead"] = token[starts], np.maximum.reduceat(scores[rows], starts)
        levels.append(level)
        parents.append(parent[starts])
        count += len(starts)
    nodes = np.concatenate([*levels, np.zeros(1, dtype=TRIE_NODE)])
    by_node, numbers = np.argsort(node_of, kind="stable"), np.arange(count + 1, dtype=np.int32)
    nodes["first_child"] = np.searchsorted(np.concatenate(parents), numbers)
    nodes["first_entry"] = np.searchsorted(node_of[by_node], numbers)
    return Trie(nodes, order[by_node].astype(np.int32))


@kernel
def find_child(nodes: np.ndarray, node: int, token: int) -> int:
    """The child of `node` by `token`; -1 if there is none."""
    low, end = nodes[node].first_child, nodes[node + 1].first_child
    high = end
    while low < high:
        middle = (low + high) >> 1
        if nodes[middle].token < token:
            low = middle + 1
        else:
            high = middle
    return low if low < end and nodes[low].token == token else -1
