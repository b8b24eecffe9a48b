import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.align import align, align_words
from asr.decoding.confidence import word_confidences
from tests.decoding.test_align import SPACE, A, B, collapse, posteriors, random_posteriors


def sum_of_paths(log_probs: np.ndarray, tokens: list[int]) -> float:
    """Probability that the frames emit exactly the tokens, by looking at every path."""
    frames, size = log_probs.shape
    return sum(
        math.exp(sum(float(log_probs[t, k]) for t, k in enumerate(path)))
        for path in itertools.product(range(size), repeat=frames)
        if collapse(path) == tokens
    )


@given(st.integers(0, 2**32), st.lists(st.integers(2, 3), min_size=1, max_size=3), st.floats(0.2, 5))
def test_one_word_is_the_sum_over_all_alignments(seed: int, tokens: list[int], temperature: float) -> None:
    log_probs = random_posteriors(seed, 5, 4)
    (word,) = align_words(log_probs, [("W", tokens)], SPACE, 0.04, temperature=temperature)
    expected = sum_of_paths(log_probs, tokens) ** (1 / (len(tokens) * temperature))
    assert word.confidence == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 2**32))
def test_a_word_between_others(seed: int) -> None:
    log_probs = random_posteriors(seed, 9, 4)
    result = align(log_probs, tokens := [B, SPACE, A, A, SPACE, B])
    words = align_words(log_probs, [("B", [B]), ("AA", [A, A]), ("B", [B])], SPACE, 1.0)
    window = log_probs[result.ends[1] : result.starts[4]]
    separators = math.exp(result.peaks[1] + result.peaks[4])
    expected = (sum_of_paths(window, tokens[2:4]) * separators) ** (1 / 4)
    assert words[1].confidence == pytest.approx(expected, rel=1e-5)
    first = sum_of_paths(log_probs[: result.starts[1]], [B]) * math.exp(result.peaks[1])
    assert words[0].confidence == pytest.approx(math.sqrt(first), rel=1e-5)


def test_without_separators_neighbours_are_the_words_tokens() -> None:
    log_probs = posteriors([1, 0, 2, 0, 3])
    words = align_words(log_probs, [("X", [1]), ("Y", [2]), ("Z", [3])], None, 1.0)
    expected = [sum_of_paths(log_probs[a:b], [k]) for a, b, k in [(0, 2, 1), (1, 4, 2), (3, 5, 3)]]
    assert [w.confidence for w in words] == pytest.approx(expected, rel=1e-5)


def test_a_token_between_words_counts_on_both_sides_and_at_the_edges() -> None:
    log_probs = posteriors([SPACE, A, SPACE, B])
    result = align(log_probs, tokens := [SPACE, A, SPACE, B])
    places = (result.starts, result.ends, result.peaks)
    first, second = word_confidences(log_probs, np.array(tokens), places, np.array([[1, 2], [3, 4]]))
    assert first == pytest.approx(0.7, rel=1e-5)
    assert second == pytest.approx(0.7, rel=1e-5)
    joined = word_confidences(log_probs, np.array(tokens), places, np.array([[0, 2], [2, 4]]))
    assert joined == pytest.approx([0.7, 0.7], rel=1e-5)


@given(st.integers(0, 2**32), st.floats(0.1, 10))
def test_bounds_and_the_power_of_the_temperature(seed: int, temperature: float) -> None:
    log_probs = random_posteriors(seed, 30, 4) + np.float32(1e-6)  # as a float32 log-softmax can come out
    spelt = [("A", [A]), ("BA", [B, A]), ("AAB", [A, A, B])]
    raw = align_words(log_probs, spelt, SPACE, 1.0)
    tempered = align_words(log_probs, spelt, SPACE, 1.0, temperature=temperature)
    for a, b in zip(raw, tempered, strict=True):
        assert 0 <= a.confidence <= 1
        assert b.confidence == pytest.approx(a.confidence ** (1 / temperature), rel=1e-9)


def test_certainty_is_one() -> None:
    log_probs = np.full((3, 4), -np.inf, np.float32)
    log_probs[np.arange(3), [A, SPACE, B]] = 1e-6
    words = align_words(log_probs, [("A", [A]), ("B", [B])], SPACE, 1.0)
    assert [w.confidence for w in words] == [1.0, 1.0]
