"""How far the confidence of words can be believed, and the temperature that makes it so.

A confidence c at temperature 1 is c ** (1 / T) at temperature T (see asr.decoding.align), so that T is
fitted to words that are already decoded.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import jiwer
import numpy as np

from asr.decoding.types import Word
from asr.errors import AsrError

BINS = 15
FOLDS = 10
_LEAST_DOUBT = 1e-7
"""No confidence counts as nearer to 0 or 1: a wrong word that was held for certain costs 16 nats, not all."""


@dataclass(frozen=True)
class JudgedWord:
    """A recognised word's confidence and whether the reference has the word there; `group` is its speaker."""

    confidence: float
    correct: bool
    group: str


@dataclass(frozen=True)
class Quality:
    """Of so many words, the share that is right, the mean confidence, the expected calibration error (Guo et
    al. 2017) and the normalised cross entropy (Siu & Gish 1999): 1 is perfect, 0 what the share alone tells.
    """

    words: int
    accuracy: float
    confidence: float
    calibration_error: float
    cross_entropy: float


@dataclass(frozen=True)
class CrossFit:
    """`temperature` is fitted to all words; `calibrated` is measured on each fold's words at the temperature
    that was fitted to the other folds, `raw` as the confidences were given."""

    temperature: float
    fold_temperatures: tuple[float, ...]
    raw: Quality
    calibrated: Quality


def judge(reference: str, words: Sequence[Word], group: str = "") -> list[JudgedWord]:
    """Align the words of a hypothesis with the reference at the least number of errors, by jiwer.

    A word is correct where it is a hit; substitutions and insertions are wrong. Deletions have no word.
    """
    correct = np.zeros(len(words), dtype=bool)
    output = jiwer.process_words(" ".join(reference.split()), " ".join(word.text for word in words))
    for chunk in output.alignments[0]:
        correct[chunk.hyp_start_idx : chunk.hyp_end_idx] = chunk.type == "equal"
    return [JudgedWord(w.confidence, bool(c), group) for w, c in zip(words, correct, strict=True)]


def measure(words: Sequence[JudgedWord], bins: int = BINS) -> Quality:
    """Quality of confidences as they are, in `bins` of equal width. What has no value is NaN: everything
    without words, the cross entropy where all words are right or all are wrong."""
    if not words:
        return Quality(0, math.nan, math.nan, math.nan, math.nan)
    confidence, correct = _arrays(words)
    bin_of = np.minimum((confidence * bins).astype(np.int64), bins - 1)
    gaps = np.bincount(bin_of, weights=correct - confidence, minlength=bins)
    accuracy = float(correct.mean())
    entropy = _cross_entropy(np.full(len(words), accuracy), correct)
    return Quality(
        words=len(words),
        accuracy=accuracy,
        confidence=float(confidence.mean()),
        calibration_error=float(np.abs(gaps).sum() / len(words)),
        cross_entropy=1 - _cross_entropy(confidence, correct) / entropy if 0 < accuracy < 1 else math.nan,
    )


def fit_temperature(words: Sequence[JudgedWord]) -> float:
    """The T at which c ** (1 / T) has the least cross entropy; it is 1 for confidences that are calibrated.

    The cross entropy is convex in 1 / T, so its slope is bisected. Raises AsrError where no T is best: all
    words are right, or all wrong.
    """
    confidence, correct = _arrays(words)
    if correct.all() or not correct.any():
        what = f"all {len(words)} words are {'right' if words and correct.all() else 'wrong'}"
        raise AsrError(
            f"confidence cannot be calibrated: {what if words else 'no words'}; take other utterances"
        )
    doubt = -np.log(np.clip(confidence, _LEAST_DOUBT, 1 - _LEAST_DOUBT))
    push, pull = doubt[correct].sum(), doubt[~correct]
    low, high = math.log(1e-3), math.log(1e3)  # of 1 / T
    for _ in range(60):
        middle = (low + high) / 2
        if push > (pull / np.expm1(np.minimum(pull * math.exp(middle), 700))).sum():
            high = middle
        else:
            low = middle
    return math.exp(-(low + high) / 2)


def at_temperature(words: Iterable[JudgedWord], temperature: float) -> list[JudgedWord]:
    """The words with their confidences, made at temperature 1, as another temperature makes them."""
    return [replace(word, confidence=word.confidence ** (1 / temperature)) for word in words]


def cross_fit(words: Sequence[JudgedWord], folds: int = FOLDS) -> CrossFit:
    """Fit on some groups, measure on the others, in turn, so that every word is measured once.

    A group never lies on both sides. Raises AsrError with fewer than two groups, or as `fit_temperature`.
    """
    groups = sorted({word.group for word in words})
    if len(groups) < 2:
        raise AsrError("calibration: needs two speakers at least, one to fit on and one to report on")
    count = min(folds, len(groups))
    fold_of = {group: i % count for i, group in enumerate(groups)}
    temperatures, held_out = [], []
    for fold in range(count):
        temperature = fit_temperature([word for word in words if fold_of[word.group] != fold])
        temperatures.append(temperature)
        held_out += at_temperature([word for word in words if fold_of[word.group] == fold], temperature)
    return CrossFit(fit_temperature(words), tuple(temperatures), measure(words), measure(held_out))


def _arrays(words: Sequence[JudgedWord]) -> tuple[np.ndarray, np.ndarray]:
    """Confidences `float[N]` and `bool[N]`."""
    confidence = np.array([word.confidence for word in words], dtype=np.float64)
    return confidence, np.array([word.correct for word in words], dtype=bool)


def _cross_entropy(confidence: np.ndarray, correct: np.ndarray) -> float:
    """In nats, of all words together."""
    clipped = np.clip(confidence, _LEAST_DOUBT, 1 - _LEAST_DOUBT)
    return float(-np.log(np.where(correct, clipped, 1 - clipped)).sum())
