"""Recognised words -> readable words: with punctuation, capitals and, if asked for, digits."""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from math import nan

import numpy as np

from asr.decoding.types import Word
from asr.formatting.marks import LOWER, MARKS, SENTENCE_END, attach, recase
from asr.formatting.numbers import find
from asr.formatting.tagger import load

LOOKAHEAD = 8
"""Words that follow a word before a LiveFormatter returns it."""

LOOK_BACK = 40  # returned words that a LiveFormatter reads again

_PIECES = re.compile(r"(\W*)(.*?)(\W*)", re.DOTALL)


def format_words(words: Sequence[Word], numbers: bool = False) -> list[Word]:
    """Format the words of one speaker; the tagger also reads the pauses between their times.

    With `numbers`, words that are a number become one word. Raises AsrError if text2num is not installed.
    """
    pauses = _pauses(words)
    formatted = _tag(words, pauses)
    if numbers:
        for start, end, text in reversed(find([word.text for word in formatted], pauses)):
            parts = formatted[start:end]
            confidence = min(word.confidence for word in parts)
            formatted[start:end] = [Word(text, parts[0].start, parts[-1].end, confidence)]
    return formatted


def format_text(text: str, numbers: bool = False) -> str:
    """Format plain text, which becomes one line.

    Text that has punctuation keeps it and gets no more. Text in small and large letters keeps its case.
    """
    matches = [_PIECES.fullmatch(token) for token in text.split()]
    pieces = [
        match.groups() if match and match[2] else ("", match[0] if match else "", "") for match in matches
    ]
    words, tagger = [word for _, word, _ in pieces], load()
    tags, cases = tagger.tag(words)
    marks = [MARKS[mark] for mark in tags]
    if punctuated := any((before + after).strip("'") for before, _, after in pieces):
        marks = ["." if "." in after else "" for _, _, after in pieces]
        within = [SENTENCE_END.isdisjoint(after) for _, _, after in pieces]
        common = tagger.vocabulary.common[tagger.vocabulary.encode(words)]
        cases[np.array([False, *within[:-1]]) & common] = LOWER  # these start no sentence
    if text in (text.upper(), text.lower()):
        words = recase(words, marks, cases, tagger.vocabulary.spell)
    if punctuated:
        texts = [before + word + after for (before, _, after), word in zip(pieces, words, strict=True)]
    else:
        texts = [attach(word, mark) for word, mark in zip(words, marks, strict=True)]
    for start, end, digits in reversed(find(texts) if numbers else []):
        texts[start:end] = [digits]
    return " ".join(texts)


def lower(words: Sequence[str]) -> list[str]:
    """Plain words in small letters, but "I", for text that is still without punctuation."""
    spell = load().vocabulary.spell
    return recase(words, [""] * len(words), [LOWER] * len(words), spell, begins=False)


class LiveFormatter:
    """Formats words as they are recognised: each is returned, for good, once LOOKAHEAD words follow it."""

    def __init__(self) -> None:
        self._words: list[Word] = []  # up to LOOK_BACK returned ones, then those that wait
        self._returned = 0  # of them
        self._begins = self._starts = True  # a text; a sentence

    def push(self, words: Sequence[Word]) -> list[Word]:
        """Append words; returns those that can be formatted now."""
        self._words += words
        return self._format(len(self._words) - LOOKAHEAD, ends=False)

    def finish(self) -> list[Word]:
        """The remaining words, at an endpoint; what follows starts a new sentence."""
        last = self._format(len(self._words), ends=True)
        self._words, self._returned, self._begins, self._starts = [], 0, True, True
        return last

    def _format(self, end: int, ends: bool) -> list[Word]:
        """Format the words before index `end`; the last word of all ends the text if `ends`."""
        if (new := slice(self._returned, end)).start >= end:
            return []
        words, tagger = self._words, load()
        tags, cases = tagger.tag([word.text for word in words], _pauses(words), self._begins, ends)
        marks = [MARKS[mark] for mark in tags[new]]
        texts = recase([w.text for w in words[new]], marks, cases[new], tagger.vocabulary.spell, self._starts)
        self._starts = marks[-1] == "."
        forgotten = max(0, end - LOOK_BACK)
        self._words, self._returned = words[forgotten:], end - forgotten
        self._begins = self._begins and not forgotten
        texts = list(map(attach, texts, marks))
        return [replace(word, text=text) for word, text in zip(words[new], texts, strict=True)]


def _pauses(words: Sequence[Word]) -> list[float]:
    """Seconds after each word; unknown after the last."""
    return [*(b.start - a.end for a, b in pairwise(words)), nan][: len(words)]


def _tag(words: Sequence[Word], pauses: Sequence[float]) -> list[Word]:
    tagger, plain = load(), [word.text for word in words]
    tags, cases = tagger.tag(plain, pauses)
    marks = [MARKS[mark] for mark in tags]
    texts = map(attach, recase(plain, marks, cases, tagger.vocabulary.spell), marks)
    return [replace(word, text=text) for word, text in zip(words, texts, strict=True)]
