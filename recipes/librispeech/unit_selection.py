"""Unit selection (Hunt and Black, 1996) of activations, not waveforms: speech put together from pieces."""

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

import numpy as np

from asr.decoding.align import align
from asr.text import Tokenizer, ctc_frames_needed

Key = tuple[int, ...]
"""A phone, whether its word ends with it, the one before and the one after, or fewer: see `contexts`."""

Phrase = tuple[tuple[int, ...], ...]
"""Words in phones."""

CHARACTERS = Tokenizer()

CHOICE = 9
"""Pieces that there must be to choose from, else less context or fewer words will do: three places' where
speech is heard at three speeds."""

PHRASE = 3
"""Most words that are kept together."""

MOST_FRAMES = 4000
"""Of 40 ms in an example."""


class Example(NamedTuple):
    """Activations float16[T, D] and the characters to be written."""

    frames: np.ndarray
    tokens: list[int]


@dataclass
class Bank:
    """Utterances, and the pieces of their activations by phone and by phrase."""

    utterances: list[Example] = field(default_factory=list)
    phones: dict[Key, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))
    phrases: dict[Phrase, list[np.ndarray]] = field(default_factory=lambda: defaultdict(list))

    def cut(self, frames: np.ndarray, log_probs: np.ndarray, words: Sequence[Sequence[int]]) -> None:
        """Add the phones and phrases of an utterance, cut half-way between the frames that say them.

        Activations `[T, D]`, log-probabilities `float32[T, V]` and words in phones; nothing, if T frames are
        too few for them. What begins or ends an utterance keeps the silence there.
        """
        phones = [phone for word in words for phone in word]
        if ctc_frames_needed(phones) > len(frames):
            return
        places = align(log_probs, phones)
        edges = [0, *(places.ends[:-1] + places.starts[1:] + 1) // 2, len(frames)]
        for i, keys in enumerate(contexts(words)):
            for key in keys:
                self.phones[key].append(frames[edges[i] : edges[i + 1]])
        starts = [edges[i] for i in accumulate(map(len, words), initial=0)]
        for first in range(len(words)):
            for end in range(first + 1, min(first + PHRASE, len(words)) + 1):
                self.phrases[phrase(words[first:end])].append(frames[starts[first] : starts[end]])

    def example(
        self, words: Sequence[str], lexicon: Mapping[str, list[int]], chooser: random.Random
    ) -> Example | None:
        """Words, spoken; None for none, one not in the lexicon or never heard, too many or too few frames."""
        if not words or not all(word in lexicon for word in words):
            return None
        frames = self.speak([lexicon[word] for word in words], chooser)
        tokens = CHARACTERS.encode(" ".join(words))
        if frames is None or not ctc_frames_needed(tokens) <= len(frames) <= MOST_FRAMES:
            return None
        return Example(frames, tokens)

    def speak(self, words: Sequence[Sequence[int]], chooser: random.Random) -> np.ndarray | None:
        """Activations `[T, D]` of words in phones: phrases where there is a choice of them, else phones; None
        where one was never heard."""
        choices: list[Sequence[np.ndarray]] = []
        keys = contexts(words)
        end = 0
        while end < len(words):
            first, (end, said) = end, self.longest(words, end)
            phones = [next(keys) for word in words[first:end] for _ in word]
            choices += [said] if said else map(self.closest, phones)
        if not all(choices):
            return None
        return np.concatenate([chooser.choice(fitting) for fitting in choices])

    def longest(self, words: Sequence[Sequence[int]], first: int) -> tuple[int, Sequence[np.ndarray]]:
        """The end of the longest phrase from word `first` on of which there is a choice, and its pieces;
        none for a word by itself."""
        for end in range(min(first + PHRASE, len(words)), first, -1):
            if len(said := self.phrases.get(phrase(words[first:end]), ())) >= CHOICE:
                return end, said
        return first + 1, ()

    def closest(self, keys: Sequence[Key]) -> Sequence[np.ndarray]:
        """The pieces of a phone in the closest context that leaves a choice; () if it was never heard."""
        fitting = [found for key in keys if (found := self.phones.get(key))]
        return next((found for found in fitting if len(found) >= CHOICE), fitting[-1] if fitting else ())


def phrase(words: Sequence[Sequence[int]]) -> Phrase:
    """The key of words, spelt in phones."""
    return tuple(map(tuple, words))


def contexts(words: Sequence[Sequence[int]]) -> Iterator[list[Key]]:
    """The keys of each phone, the closest first; phone 0 stands for what lies beyond the ends."""
    phones = [phone for word in words for phone in word]
    ends = [int(i + 1 == len(word)) for word in words for i in range(len(word))]
    for before, phone, after, end in zip([0, *phones[:-1]], phones, [*phones[1:], 0], ends, strict=True):
        yield [(phone, end, before, after), (phone, end, after), (phone, end), (phone,)]
