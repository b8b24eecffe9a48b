"""Input check and results of all decoders."""

from dataclasses import dataclass

import numpy as np

from asr.errors import DecodingError
from asr.text import Tokenizer

FLOOR = np.float32(-1e3)
"""Least log-probability in decoders, so that every path stays possible."""

LOG_PROB_MAX = 1e-3
"""Largest accepted log-probability: 0 plus rounding errors."""


@dataclass(frozen=True, slots=True)
class Word:
    """A recognised word: `start` and `end` in seconds, `confidence` in [0, 1]."""

    text: str
    start: float
    end: float
    confidence: float


@dataclass(frozen=True)
class Alternative:
    """An entry of an n-best list with its log score."""

    text: str
    score: float


@dataclass(frozen=True)
class Hypothesis:
    """A transcript: timed words, the decoder's log score, and the n-best list."""

    words: tuple[Word, ...]
    score: float
    n_best: tuple[Alternative, ...] = ()

    @property
    def text(self) -> str:
        """The words, joined by spaces."""
        return " ".join(word.text for word in self.words)


def check_posteriors(log_probs: np.ndarray, tokenizer: Tokenizer) -> None:
    """Raise DecodingError unless `log_probs` are log-probabilities `float[T, V]` over the tokens."""
    if log_probs.ndim != 2 or log_probs.shape[1] != tokenizer.size:
        raise DecodingError(f"posteriors of shape {log_probs.shape} do not fit {tokenizer.size} tokens")
    if (broken := np.isnan(log_probs).any(axis=1)).any():
        frame = int(broken.argmax())
        raise DecodingError(f"posteriors hold NaN (first in frame {frame}); the model is damaged or diverged")
    if len(log_probs) and log_probs.max() > LOG_PROB_MAX:
        raise DecodingError(f"posteriors reach {log_probs.max():.3g}; log-probabilities cannot exceed 0")
