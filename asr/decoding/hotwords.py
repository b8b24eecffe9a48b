"""Phrases to listen for: an automaton that follows all of them at once (Aho & Corasick, 1975)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from asr.errors import DecodingError

WORD_END = 0
"""Symbol for the end of a word; the blank's place, which is no symbol of a text."""

INSIDE, BETWEEN = 0, 1
"""States that have seen nothing of any phrase: in the midst of a word, and where one may begin."""

NO_HOTWORDS = 2
"""Number of states where there is nothing else."""


@dataclass(frozen=True)
class Hotword:
    """A word or phrase; wherever it is said, the text's score is `boost` (natural log) higher a character."""

    phrase: str
    boost: float = 1.0

    def __post_init__(self) -> None:
        if not math.isfinite(self.boost):
            raise DecodingError(f"hotword {self.phrase!r}: its boost must be a number, not {self.boost}")


@dataclass(frozen=True)
class Pattern:
    """One spelling of a phrase: its symbols (tokens, and the end of each word), and what it earns in all."""

    symbols: tuple[int, ...]
    reward: float


class HotwordGraph(NamedTuple):
    """Arrays over the automaton's S states."""

    next_states: np.ndarray
    """int32[S, symbols]"""
    rewards: np.ndarray
    """float64[S], of the phrases that end on arrival"""
    ahead: np.ndarray
    """float64[S], what the best phrase under way has earned so far; it counts for pruning only"""
    word_ends: np.ndarray
    """int32, the symbol that ends a word, by entry of the lexicon"""


def build_hotwords(patterns: Sequence[Pattern], symbols: int, word_ends: np.ndarray) -> HotwordGraph:
    """The automaton of `patterns`, whose symbols are below `symbols`; phrases begin where words do."""
    children: list[dict[int, int]] = [{}, {}]
    arrivals = [0.0, 0.0]
    best = [0.0, 0.0]
    for pattern in patterns:
        node = BETWEEN
        for place, symbol in enumerate(pattern.symbols, start=1):
            if symbol not in children[node]:
                children[node][symbol] = len(children)
                children.append({})
                arrivals.append(0.0)
                best.append(0.0)
            node = children[node][symbol]
            if place < len(pattern.symbols):
                best[node] = max(best[node], pattern.reward * place / len(pattern.symbols))
        arrivals[node] += pattern.reward

    rewards, ahead = np.array(arrivals), np.array(best)
    next_states = np.zeros((len(children), symbols), dtype=np.int32)
    next_states[INSIDE, np.append(word_ends, WORD_END)] = BETWEEN
    next_states[BETWEEN] = next_states[INSIDE]
    failures = {child: int(next_states[INSIDE, symbol]) for symbol, child in children[BETWEEN].items()}
    nodes = [BETWEEN]
    for node in nodes:  # breadth first: what a node fails to has been done before
        if node != BETWEEN:
            failure = failures[node]
            next_states[node] = next_states[failure]
            rewards[node] += rewards[failure]
            ahead[node] = max(ahead[node], ahead[failure])
        for symbol, child in children[node].items():
            if node != BETWEEN:
                failures[child] = int(next_states[node, symbol])  # still the failure's
            next_states[node, symbol] = child
            nodes.append(child)
    return HotwordGraph(next_states, rewards, ahead, word_ends)
