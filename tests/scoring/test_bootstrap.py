import math
import random
from dataclasses import replace

import numpy as np
import pytest

from asr.errors import ManifestError
from asr.scoring.bootstrap import compare, interval
from asr.scoring.wer import Counts, UtteranceScore, score


def utterance(number: int, errors: int, words: int, speaker: str | None = None) -> UtteranceScore:
    counts = Counts(hits=words - errors, substitutions=errors)
    return UtteranceScore(f"u{number:05d}", speaker, f"reference {number}", "", counts, counts)


def test_equals_the_binomial_interval_for_single_words() -> None:
    scores = [utterance(i, int(i < 100), 1) for i in range(400)]
    result = interval(scores)
    assert result is not None
    margin = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert (result.low, result.high) == pytest.approx((0.25 - margin, 0.25 + margin), abs=0.004)
    assert (result.unit, result.units) == ("utterance", 400)
    # The four equally likely draws of two units have rates 0, 1/2, 1/2, 1.
    two = interval([utterance(0, 0, 10), utterance(1, 10, 10)])
    assert two is not None and (two.low, two.high) == (0, 1)


def test_order_and_repetition_do_not_matter() -> None:
    scores = [utterance(i, i % 4, 5 + i % 3, f"s{i % 7}") for i in range(60)]
    shuffled = random.Random(1).sample(scores, len(scores))
    assert interval(scores) == interval(shuffled) == interval(scores)
    anonymous = [replace(s, speaker=None) for s in scores]
    assert interval(anonymous) == interval([replace(s, speaker=None) for s in shuffled])
    assert interval(scores, seed=1) != interval(scores)


def test_drawing_in_blocks_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scores = [utterance(i, i % 4, 5 + i % 3) for i in range(60)]
    whole = interval(scores, replicates=1_000)
    monkeypatch.setattr("asr.scoring.bootstrap._DRAWS_AT_ONCE", 60 * 7)
    assert interval(scores, replicates=1_000) == whole


def test_unit_is_the_speaker_if_known() -> None:
    scores = [utterance(i, i % 2, 4, f"s{i % 3}") for i in range(12)]
    result = interval(scores)
    assert result is not None and (result.unit, result.units) == ("speaker", 3)
    for speakers in ([None, *["a", "b"] * 5, "c"], ["only"] * 12):
        result = interval([replace(s, speaker=name) for s, name in zip(scores, speakers, strict=True)])
        assert result is not None and (result.unit, result.units) == ("utterance", 12)


def test_no_interval_without_anything_to_resample() -> None:
    assert interval([]) is None
    assert interval([utterance(0, 1, 2)]) is None
    assert interval([score("a", "", "X"), score("b", "", "")]) is None
    assert interval([score("a", "", "X"), score("b", "A", "A")]) is not None


def test_coverage_with_correlated_utterances() -> None:
    """The interval by speaker covers the true rate in about 95 % of trials, by utterance in far fewer."""
    random_numbers = np.random.default_rng(7)
    trials, truth = 150, 0.2
    hits = {True: 0, False: 0}
    for _ in range(trials):
        rates = random_numbers.beta(2, 8, size=40)  # of mean 0.2
        errors = random_numbers.binomial(20, np.repeat(rates, 8))
        for known in hits:
            scores = [utterance(i, int(e), 20, f"s{i // 8}" if known else None) for i, e in enumerate(errors)]
            result = interval(scores, replicates=400)
            assert result is not None
            hits[known] += result.low <= truth <= result.high
    assert 0.89 <= hits[True] / trials <= 0.99
    assert hits[False] / trials < 0.8


def test_comparison_by_hand() -> None:
    a = [utterance(i, 2, 10) for i in range(50)]
    b = [utterance(i, 1, 10) for i in range(50)]
    result = compare(a, b)
    assert (result.difference, result.low, result.high) == pytest.approx((-0.1, -0.1, -0.1))
    assert result.improvement == 1
    backwards = compare(b, a)
    assert backwards.difference == pytest.approx(0.1) and backwards.improvement == 0
    assert compare(a, a).improvement == 0 and compare(a, a).high == 0


def test_pairs_are_more_sensitive_than_two_intervals() -> None:
    random_numbers = np.random.default_rng(3)
    errors = random_numbers.integers(1, 20, size=200)
    a = [utterance(i, int(e), 20) for i, e in enumerate(errors)]
    b = [utterance(i, int(e) - int(i % 4 == 0), 20) for i, e in enumerate(errors)]
    one, other = interval(a), interval(b)
    assert one is not None and other is not None and one.low < other.high
    result = compare(a, random.Random(0).sample(b, len(b)))
    assert result.difference == pytest.approx(-50 / 4_000)
    assert result.low < result.difference < result.high < 0
    assert result.improvement > 0.999


def test_comparison_of_different_corpora() -> None:
    a = [utterance(i, 1, 10) for i in range(5)]
    for b in ([*a[:4], replace(a[4], reference="another")], [*a[:4], replace(a[4], id="u00005")]):
        with pytest.raises(ManifestError, match="utterance 'u00004' differs"):
            compare(a, b)
    with pytest.raises(ManifestError, match="4 and 5 utterances"):
        compare(a[:4], a)
    wordless = [utterance(i, 0, 0) for i in range(6)]
    with pytest.raises(ManifestError, match="no utterance has a word"):
        compare(wordless, wordless)
