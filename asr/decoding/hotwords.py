"""Hotwords: phrases to boost, followed all at once by an automaton (Aho & Corasick, 1975)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, islice, product
from typing import NamedTuple

import numpy as np

from asr.decoding.lexicon import Lexicon, find_words, listed, spellable
from asr.errors import DecodingError, TextError
from asr.text import Tokenizer

WORD_END = 0
"""Symbol for the end of a word; 0 is the blank, which no text contains."""

INSIDE, BETWEEN = 0, 1
"""States without any partial phrase: inside a word, and where a phrase may begin."""

NO_HOTWORDS = 2  # states of an automaton without phrases
MAX_SPELLINGS = 64  # followed per phrase


@dataclass(frozen=True)
class Hotword:
    """A word or phrase; each occurrence adds `boost` (natural log) per character to a text's score."""

    phrase: str
    boost: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.boost):
            raise DecodingError(f"hotword {self.phrase!r}: its boost must be a number, not {self.boost}")


class HotwordGraph(NamedTuple):
    """The automaton of S states over symbols: tokens, and word ends."""

    next_states: np.ndarray  # int32[S, symbols]
    rewards: np.ndarray  # float64[S], for the phrases completed on arrival
    lookahead: np.ndarray  # float64[S], share earned of the best partial phrase; for pruning only
    word_ends: np.ndarray  # int32, symbol of the word end, by lexicon entry


def build_hotwords(
    hotwords: Sequence[Hotword], tokenizer: Tokenizer, lexicon: Lexicon, open_vocabulary: bool
) -> HotwordGraph:
    """Build the automaton of `hotwords`. Raises DecodingError for one that cannot be spelt.

    With an open vocabulary words are told apart by spelling, else by lexicon entry: each word of a phrase has
    its own word-end symbol, so that homophones earn nothing.
    """
    word_ends = np.full(len(lexicon), WORD_END, dtype=np.int32)
    patterns: list[tuple[list[int], float]] = []
    symbol_of: dict[str, int] = {}
    for hotword in hotwords:
        try:
            if open_vocabulary:
                phrase = spellable(hotword.phrase, tokenizer).split()
            else:
                phrase = find_words(hotword.phrase, lexicon)
                if unknown := [word for word in phrase if word not in lexicon.entries_of]:
                    raise DecodingError(f"the lexicon lacks {listed(map(repr, unknown))}")
        except (TextError, DecodingError) as error:
            raise DecodingError(f"hotword {hotword.phrase!r}: {error}") from None
        spellings = []
        for word in phrase:
            if open_vocabulary:
                spellings.append([(*tokenizer.encode(word), WORD_END)])
                continue
            entries = lexicon.entries_of[word]
            word_ends[entries] = symbol_of.setdefault(word, tokenizer.size + len(symbol_of))
            spellings.append(sorted({(*lexicon.spelling(entry), symbol_of[word]) for entry in entries}))
        reward = hotword.boost * sum(map(len, phrase))
        for parts in islice(product(*spellings), MAX_SPELLINGS):
            patterns.append((list(chain.from_iterable(parts)), reward))
    return _automaton(patterns, tokenizer.size + len(symbol_of), word_ends)


def _automaton(patterns: list[tuple[list[int], float]], symbols: int, word_ends: np.ndarray) -> HotwordGraph:
    """Aho-Corasick automaton of phrases with their rewards; phrases begin where words do."""
    children: list[dict[int, int]] = [{}, {}]
    size = 2 + sum(len(pattern) for pattern, _ in patterns)
    earned, partial = np.zeros(size), np.zeros(size)
    for pattern, reward in patterns:
        node = BETWEEN
        for length, symbol in enumerate(pattern, start=1):
            if symbol not in children[node]:
                children[node][symbol] = len(children)
                children.append({})
            node = children[node][symbol]
            if length < len(pattern):
                partial[node] = max(partial[node], reward * length / len(pattern))
        earned[node] += reward

    rewards, lookahead = earned[: len(children)], partial[: len(children)]
    next_states = np.zeros((len(children), symbols), dtype=np.int32)
    next_states[:2, np.append(word_ends, WORD_END)] = BETWEEN
    failures = {child: int(next_states[INSIDE, symbol]) for symbol, child in children[BETWEEN].items()}
    nodes = [BETWEEN]
    for node in nodes:  # breadth first, so that a node's failure state is complete
        if node != BETWEEN:
            next_states[node] = next_states[failures[node]]
            rewards[node] += rewards[failures[node]]
            lookahead[node] = max(lookahead[node], lookahead[failures[node]])
        for symbol, child in children[node].items():
            failures.setdefault(child, int(next_states[node, symbol]))  # still the failure's
            next_states[node, symbol] = child
            nodes.append(child)
    return HotwordGraph(next_states, rewards, lookahead, word_ends)
