"""Bootstrap confidence intervals of error rates (Bisani & Ney, ICASSP 2004).

Speakers are resampled rather than utterances, because the errors of one speaker are correlated. Utterances
are the unit if any of them lacks a speaker or all have the same one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from asr.errors import ManifestError
from asr.scoring.wer import Counts, UtteranceScore

REPLICATES = 10_000
_DRAWS_AT_ONCE = 1_000_000


@dataclass(frozen=True)
class Interval:
    """95 % percentile interval of an error rate, from resampling `units` speakers or utterances."""

    low: float
    high: float
    unit: str
    units: int


@dataclass(frozen=True)
class Comparison:
    """WER of B minus WER of A on the same utterances, with its 95 % interval.

    `improvement` is the share of replicates in which B has fewer errors.
    """

    difference: float
    low: float
    high: float
    improvement: float


def interval(
    scores: Sequence[UtteranceScore],
    counts: Callable[[UtteranceScore], Counts] = lambda s: s.words,
    seed: int = 0,
    replicates: int = REPLICATES,
) -> Interval | None:
    """Interval of the corpus error rate; it does not depend on the order of `scores`.

    None with fewer than two utterances or without reference words.
    """
    values = {s.id: (counts(s).errors, counts(s).length) for s in scores}
    if len(scores) < 2 or not any(length for _, length in values.values()):
        return None
    unit, sums = _sums_by_unit(scores, values)
    low, high = np.percentile(_resample(sums, seed, replicates), [2.5, 97.5]).tolist()
    return Interval(low, high, unit, len(sums))


def compare(a: Sequence[UtteranceScore], b: Sequence[UtteranceScore], seed: int = 0) -> Comparison:
    """Paired comparison of two systems by word errors. Raises ManifestError unless the utterances agree."""
    others = {s.id: s for s in b}
    if a and not sum(s.words.length for s in a):
        raise ManifestError("no utterance has a word to compare; evaluate on another manifest")
    if len(a) != len(b) or not a:
        raise ManifestError(f"{len(a)} and {len(b)} utterances; evaluate both systems on the same manifest")
    for s in a:
        if s.id not in others or s.reference != others[s.id].reference:
            raise ManifestError(f"utterance {s.id!r} differs; evaluate both systems on the same manifest")
    values = {s.id: (others[s.id].words.errors - s.words.errors, s.words.length) for s in a}
    _, sums = _sums_by_unit(a, values)
    rates = _resample(sums, seed, REPLICATES)
    low, high = np.percentile(rates, [2.5, 97.5]).tolist()
    difference, length = sums.sum(axis=0)
    return Comparison(float(difference / length), low, high, float((rates < 0).mean()))


def _sums_by_unit(
    scores: Sequence[UtteranceScore], values: dict[str, tuple[int, int]]
) -> tuple[str, np.ndarray]:
    """Unit and `int64[units, 2]`, the values summed per speaker or utterance, sorted by name."""
    speakers = {s.speaker for s in scores}
    by_speaker = None not in speakers and len(speakers) > 1
    sums: dict[str, np.ndarray] = {}
    for s in scores:
        name = str(s.speaker) if by_speaker else s.id
        sums[name] = sums.get(name, np.zeros(2, dtype=np.int64)) + values[s.id]
    return "speaker" if by_speaker else "utterance", np.array([sums[name] for name in sorted(sums)])


def _resample(sums: np.ndarray, seed: int, replicates: int) -> np.ndarray:
    """`float[replicates]`: ratio of the column sums of `sums`, units drawn with replacement.

    Replicates without reference words have no rate and are left out.
    """
    random, units = np.random.default_rng(seed), len(sums)
    block = max(1, _DRAWS_AT_ONCE // units)
    sizes = [min(block, replicates - start) for start in range(0, replicates, block)]
    draws = [sums[random.integers(units, size=(size, units))].sum(axis=1) for size in sizes]
    errors, lengths = np.concatenate(draws).T
    rates: np.ndarray = errors[lengths > 0] / lengths[lengths > 0]
    return rates
