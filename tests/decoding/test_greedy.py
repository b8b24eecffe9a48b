"""Greedy decoding, and the check of posteriors."""

import math
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.greedy import greedy
from asr.decoding.types import Hypothesis, Word
from asr.errors import DecodingError
from asr.text import Tokenizer
from tests.decoding.test_align import SPACE, TOKENIZER, A, B, posteriors


def test_words_times_and_confidences_by_hand() -> None:
    path = [0, A, A, 0, A, SPACE, 0, B, B, 0]
    peaks = [0.9, 0.5, 0.8, 0.9, 0.6, 0.9, 0.9, 0.7, 0.5, 0.9]
    result = greedy(posteriors(path, peaks), TOKENIZER, frame_seconds=0.04)
    assert result.text == "AA B"
    assert [(w.text, w.start, w.end) for w in result.words] == [
        ("AA", pytest.approx(0.04), pytest.approx(0.20)),
        ("B", pytest.approx(0.28), pytest.approx(0.36)),
    ]
    assert all(0 < word.confidence < 1 for word in result.words)  # values: test_align.py
    assert result.score == pytest.approx(sum(math.log(p) for p in peaks), abs=1e-4)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ([], ""),
        ([0, 0, 0], ""),
        ([A, A, A], "A"),
        ([A, 0, A], "AA"),
        ([A, B, A], "ABA"),
        ([SPACE, SPACE], ""),
        ([SPACE, A, SPACE, 0, SPACE, B, SPACE], "A B"),
    ],
)
def test_collapse(path: list[int], text: str) -> None:
    result = greedy(posteriors(path), TOKENIZER, 0.04)
    assert result.text == text
    assert path or result == Hypothesis((), 0.0)


@given(st.lists(st.integers(0, 3), max_size=60), st.floats(0.3, 0.999))
def test_equals_the_definition(path: list[int], peak: float) -> None:
    result = greedy(posteriors(path, peak), TOKENIZER, frame_seconds=1.0)
    collapsed = "".join(TOKENIZER.decode([token]) for token, _ in groupby(path) if token)
    assert [word.text for word in result.words] == collapsed.split()
    assert result.text == " ".join(collapsed.split())
    edge = 0
    for word in result.words:
        inside = path[int(word.start) : int(word.end)]
        assert TOKENIZER.decode(token for token, _ in groupby(inside) if token) == word.text
        assert inside[0] != 0 and inside[-1] != 0
        assert edge <= word.start < word.end <= len(path)
        edge = int(word.end)


def test_certainty_is_not_above_one() -> None:
    log_probs = np.full((3, 4), -50.0, np.float32)
    log_probs[:, A] = 1e-6  # a log-softmax in float32 can end up this far above 0
    assert greedy(log_probs, TOKENIZER, 0.5).words == (Word("A", 0.0, 1.5, 1.0),)


def test_a_vocabulary_without_space_gives_one_word() -> None:
    log_probs = posteriors([1, 2, 3])
    assert [word.text for word in greedy(log_probs, Tokenizer("XYZ"), 0.04).words] == ["XYZ"]


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ([np.nan] * 4, r"NaN \(first in frame 0\)"),
        ([np.inf] * 4, "reach inf"),
        ([0.0] * 7, r"shape \(1, 7\) do not fit 4 tokens"),
    ],
)
def test_posteriors_that_do_not_fit(frame: list[float], message: str) -> None:
    with pytest.raises(DecodingError, match=message):
        greedy(np.array([frame], np.float32), TOKENIZER, 0.04)
