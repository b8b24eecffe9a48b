"""What a decoder returns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Word:
    """A recognised word: `start` and `end` in seconds, `confidence` in [0, 1]."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Hypothesis:
    """A transcript with its words; `score` is its natural-log probability as the decoder counts it."""

    text: str
    words: tuple[Word, ...]
    score: float
