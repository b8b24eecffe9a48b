"""Spelling of a user's words in a model's tokens: by the lexicon, else by letter to sound.

The letter-to-sound network was trained on CMUdict by data_prep.letter_to_sound; here it needs NumPy only.
"""

import re
from collections.abc import Callable, Sequence
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np

from asr.decoding.lexicon import Lexicon, find_words, known_form, listed, spellable
from asr.errors import DecodingError
from asr.text import BLANK, Tokenizer, normalize

LETTERS = "'ABCDEFGHIJKLMNOPQRSTUVWXYZ"
"""Characters of the words with a pronunciation."""

WORD = re.compile(f"'*[A-Z][{LETTERS}]*")

FRAMES = 2
"""CTC frames per letter: X is K S, and the U of USE is Y UW."""

Pronunciation = tuple[str, ...]
"""Phones of one way to say a word."""

DATA = Path(__file__).with_name("letter_to_sound.npz")
_VOICELESS = frozenset(("P", "T", "K", "F", "TH"))
_SIBILANTS = frozenset(("S", "Z", "SH", "ZH", "CH", "JH"))
_MIN_SINGULAR = 3  # letters: AS is not the plural of A


class LetterToSound:
    """Trained network of data_prep.letter_to_sound, from a file of int8 weights with a scale for each row."""

    def __init__(self, path: Path = DATA) -> None:
        with np.load(path) as file:
            data = dict(file)
        self.phones: Pronunciation = tuple(map(str, data.pop("phones")))
        scales = {name: data.pop(f"{name} scale") for name in sorted(data) if f"{name} scale" in data}
        self._weights = {name: array.astype(np.float32) * scales.get(name, 1) for name, array in data.items()}

    def pronounce(self, word: str) -> Pronunciation:
        """Return the phones of a non-empty word of LETTERS, at least one."""
        hidden, layer = self._weights["embedding.weight"][[LETTERS.index(letter) for letter in word]], 0
        while f"layers.weight_ih_l{layer}" in self._weights:
            backward = self._gru(hidden[::-1], f"l{layer}_reverse")[::-1]
            hidden = np.concatenate([self._gru(hidden, f"l{layer}"), backward], axis=1)
            layer += 1
        logits = hidden @ self._weights["head.weight"].T + self._weights["head.bias"]
        frames = logits.reshape(FRAMES * len(word), 1 + len(self.phones))
        log_probs = frames - np.log(np.exp(frames).sum(axis=1, keepdims=True))
        tokens = [int(token) for token, _ in groupby(frames.argmax(axis=1)) if token != BLANK]
        tokens = tokens or [int(log_probs[:, BLANK + 1 :].max(axis=0).argmax()) + 1]
        return tuple(self.phones[token - 1] for token in tokens)

    def _gru(self, inputs: np.ndarray, name: str) -> np.ndarray:
        """One direction of a layer in PyTorch's order of gates: `float32[T, inputs]` -> `[T, H]`."""
        w_in, w, b_in, b = (
            self._weights[f"layers.{kind}_{name}"]
            for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        )
        state, states = np.zeros(w.shape[1], dtype=np.float32), []
        for gates in inputs @ w_in.T + b_in:
            (reset_in, update_in, new_in), (reset, update, new) = (
                np.split(gates, 3),
                np.split(w @ state + b, 3),
            )
            mix = _sigmoid(update_in + update)
            state = (1 - mix) * np.tanh(new_in + _sigmoid(reset_in + reset) * new) + mix * state
            states.append(state)
        return np.stack(states)


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 * np.tanh(0.5 * x) + 0.5)  # exp would overflow


letter_to_sound = cache(LetterToSound)
"""The network that ships, loaded once."""


def spell_words(text: str, tokenizer: Tokenizer, lexicon: Lexicon | None) -> list[tuple[str, list[int]]]:
    """Return the words of a user's text and their tokens.

    Without a lexicon words are spelt by their characters; words that it lacks by their characters, or for
    a model of ARPAbet phones by letter to sound. Raises TextError or DecodingError with those that cannot be.
    """
    if lexicon is None:
        return [(word, tokenizer.encode(word)) for word in spellable(text, tokenizer).split()]
    words = find_words(text, lexicon)
    spellings = {word: _spell_word(word, tokenizer, lexicon) for word in dict.fromkeys(words)}
    if unspelt := [word for word, tokens in spellings.items() if not tokens]:
        raise DecodingError(f"the lexicon lacks {listed(map(repr, unspelt))}; write it as it is said")
    return [(word, spellings[word]) for word in words]


def _spell_word(word: str, tokenizer: Tokenizer, lexicon: Lexicon) -> list[int]:
    """Spell a word as `find_words` returns it; no tokens if it cannot be spelt."""
    if word in lexicon.entries_of:
        return lexicon.spelling(lexicon.entries_of[word][0])
    if isinstance(tokenizer.units, str):
        return [] if tokenizer.unknown(word) else tokenizer.encode(word)
    letters = normalize(word)
    if not WORD.fullmatch(letters) or not set(letter_to_sound().phones) <= set(tokenizer.units):
        return []
    name, added = root(letters, lambda stem: known_form(stem, lexicon) is not None)
    known = known_form(name, lexicon)
    if known is None:
        way = letter_to_sound().pronounce(name)
    else:
        way = tuple(tokenizer.decode(lexicon.spelling(lexicon.entries_of[known][0])).split())
    return tokenizer.encode(" ".join(add_s(way, added)))


def root(word: str, known: Callable[[str], bool]) -> tuple[str, int]:
    """Return the root of a word in capitals, and how often S was added to it.

    Possessives always have a root, plurals only one that is known: on held-out words the plural
    rule has less than half the errors of letter to sound. Rules for other endings did not help.
    """
    added = 0
    while not known(word):
        if not is_possessive(word):
            singular = next(filter(known, _singulars(word)), None)
            return (singular, added + 1) if singular else (word, added)
        added += word.endswith("'S")
        word = word[:-2] if word.endswith("'S") else word[:-1]
    return word, added


def _singulars(word: str) -> Sequence[str]:
    if not word.endswith("S") or word.endswith("SS"):
        return []
    singulars = [word[:-1], word[:-3] + "Y"] if word.endswith("IES") else [word[:-1]]
    return [singular for singular in singulars if len(singular) >= _MIN_SINGULAR]


def is_possessive(word: str) -> bool:
    """Return whether a word in capitals ends in 'S or S' after a letter."""
    return word.endswith(("'S", "S'")) and word[:-2].strip("'") != ""


def add_s(way: Pronunciation, times: int) -> Pronunciation:
    """Add the phones of the ending S or 'S, `times` over."""
    for _ in range(times):
        last = way[-1]
        way += ("IH", "Z") if last in _SIBILANTS else ("S",) if last in _VOICELESS else ("Z",)
    return way
