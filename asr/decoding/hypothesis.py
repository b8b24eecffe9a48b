"""What a decoder returns."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Word:
    """A recognised word: `start` and `end` in seconds, `confidence` in [0, 1]."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Alternative:
    """An entry of an n-best list; `score` is a natural logarithm."""

    text: str
    score: float


@dataclass(frozen=True)
class Hypothesis:
    """A transcript with its words; `score` is its natural-log probability as the decoder counts it."""

    words: tuple[Word, ...]
    score: float
    n_best: tuple[Alternative, ...] = ()

    @property
    def text(self) -> str:
        """The words, with a space between."""
        return " ".join(word.text for word in self.words)
