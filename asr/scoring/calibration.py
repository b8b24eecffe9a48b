"""Calibration of word confidences: its quality, and the temperature that gives the best one.

The decoder computes a confidence c at temperature 1; at temperature T it is c ** (1 / T). So T is fitted to
decoded words, without decoding again.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import jiwer
import numpy as np

from asr.decoding.types import Word
from asr.errors import AsrError

BINS = 15
FOLDS = 10
_CLIP = 1e-7  # bounds confidences: a certain but wrong word costs 16 nats, not infinity


class JudgedWord(NamedTuple):
    """Confidence and correctness of a recognised word; `group` is the speaker."""

    confidence: float
    correct: bool
    group: str


@dataclass(frozen=True)
class Quality:
    """Quality of confidences; NaN if undefined.

    `accuracy` is the share of correct words, `confidence` the mean, `calibration_error` the expected
    calibration error (Guo et al. 2017), `cross_entropy` normalised (Siu & Gish 1999): 1 is perfect, 0 no
    better than `accuracy` alone.
    """

    words: int
    accuracy: float
    confidence: float
    calibration_error: float
    cross_entropy: float


class CrossFit(NamedTuple):
    """Temperature fitted to all words, and quality of each fold at the temperature of the other folds."""

    temperature: float
    fold_temperatures: tuple[float, ...]
    calibrated: Quality


def judge(reference: str, words: Sequence[Word], group: str = "") -> list[JudgedWord]:
    """Align recognised words with the reference: hits are correct, substitutions and insertions wrong."""
    output = jiwer.process_words(" ".join(reference.split()), " ".join(word.text for word in words))
    equal = (chunk for chunk in output.alignments[0] if chunk.type == "equal")
    correct = {i for chunk in equal for i in range(chunk.hyp_start_idx, chunk.hyp_end_idx)}
    return [JudgedWord(word.confidence, i in correct, group) for i, word in enumerate(words)]


def measure(words: Sequence[JudgedWord], bins: int = BINS) -> Quality:
    """Quality of confidences; the calibration error uses `bins` bins of equal width."""
    if not words:
        return Quality(0, math.nan, math.nan, math.nan, math.nan)
    confidence, correct = _arrays(words)
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    accuracy, cross_entropy = float(correct.mean()), math.nan
    if 0 < accuracy < 1:
        baseline = _cross_entropy(np.full(len(words), accuracy), correct)
        cross_entropy = 1 - _cross_entropy(confidence, correct) / baseline
    error = float(np.abs(gaps).sum() / len(words))
    return Quality(len(words), accuracy, float(confidence.mean()), error, cross_entropy)


def fit_temperature(words: Sequence[JudgedWord]) -> float:
    """Temperature T that minimises the cross entropy of c ** (1 / T).

    It is convex in 1 / T, so the root of its derivative is bisected. Raises AsrError if there is no minimum,
    because all words are correct or all are wrong.
    """
    confidence, correct = _arrays(words)
    if correct.all() or not correct.any():
        kind = "correct" if correct.all() else "wrong"
        found = f"all {len(words)} words are {kind}" if words else "no words"
        raise AsrError(f"confidence cannot be calibrated: {found}; take other utterances")
    surprisal = -np.log(np.clip(confidence, _CLIP, 1 - _CLIP))
    of_correct, of_wrong = surprisal[correct].sum(), surprisal[~correct]
    low, high = math.log(1e-3), math.log(1e3)  # bounds of log(1 / T)
    for _ in range(60):
        middle = (low + high) / 2
        too_high = of_correct > (of_wrong / np.expm1(np.minimum(of_wrong * math.exp(middle), 700))).sum()
        low, high = (low, middle) if too_high else (middle, high)
    return math.exp(-(low + high) / 2)


def at_temperature(words: Iterable[JudgedWord], temperature: float) -> list[JudgedWord]:
    """Convert confidences from temperature 1 to `temperature`."""
    return [word._replace(confidence=word.confidence ** (1 / temperature)) for word in words]


def cross_fit(words: Sequence[JudgedWord], folds: int = FOLDS) -> CrossFit:
    """Fit the temperature, and measure it by cross-validation over groups.

    Raises AsrError with fewer than two groups, or as `fit_temperature`.
    """
    groups = sorted({word.group for word in words})
    if len(groups) < 2:
        raise AsrError("calibration: needs at least two speakers, one to fit on and one to report on")
    temperatures: list[float] = []
    held_out: list[JudgedWord] = []
    for first in range(min(folds, len(groups))):
        fold = set(groups[first::folds])
        temperatures.append(fit_temperature([word for word in words if word.group not in fold]))
        held_out += at_temperature([word for word in words if word.group in fold], temperatures[-1])
    return CrossFit(fit_temperature(words), tuple(temperatures), measure(held_out))


def _arrays(words: Sequence[JudgedWord]) -> tuple[np.ndarray, np.ndarray]:
    """Confidences `float64[N]` and correctness `bool[N]`."""
    confidence = np.array([word.confidence for word in words], dtype=np.float64)
    return confidence, np.array([word.correct for word in words], dtype=bool)


def _cross_entropy(confidence: np.ndarray, correct: np.ndarray) -> float:
    """Sum over words, in nats."""
    clipped = np.clip(confidence, _CLIP, 1 - _CLIP)
    return float(-np.log(np.where(correct, clipped, 1 - clipped)).sum())
