"""Forced alignment, word times and confidences."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asr.decoding import align as module
from asr.decoding.align import AlignedTokens, Alignment, align, align_words, time_words
from asr.decoding.greedy import greedy
from asr.decoding.types import Word
from asr.errors import DecodingError
from asr.text import Tokenizer, ctc_frames_needed
from tests.decoding.brute_force import collapse, random_posteriors

TOKENIZER = Tokenizer(" AB")
SPACE, A, B = 1, 2, 3


def posteriors(path: list[int], peak: float | list[float] = 0.7) -> np.ndarray:
    """Log-probabilities whose best path is `path`, with probability `peak` per frame."""
    peaks = np.broadcast_to(peak, len(path))
    probabilities = np.repeat((1 - peaks)[:, None] / (TOKENIZER.size - 1), TOKENIZER.size, axis=1)
    probabilities[np.arange(len(path)), path] = peaks
    return np.log(probabilities).astype(np.float32)


def path_of(alignment: Alignment, tokens: list[int], frames: int) -> list[int]:
    """The token of each frame; also checks that tokens are in order and do not overlap."""
    path, edge = [0] * frames, 0
    for token, start, end in zip(tokens, alignment.starts, alignment.ends, strict=True):
        assert edge <= start < end <= frames
        path[start:end] = [token] * (end - start)
        edge = end
    return path


def spell(text: str) -> list[tuple[str, list[int]]]:
    return [(word, TOKENIZER.encode(word)) for word in text.split()]


@given(st.integers(0, 2**32), st.integers(1, 6), st.lists(st.integers(1, 2), min_size=1, max_size=4))
def test_equals_brute_force(seed: int, frames: int, tokens: list[int]) -> None:
    assume(ctc_frames_needed(tokens) <= frames)
    log_probs = random_posteriors(seed, frames, 3)
    every = [p for p in itertools.product(range(3), repeat=frames) if collapse(p) == tuple(tokens)]
    best = max(every, key=lambda p: sum(float(log_probs[t, k]) for t, k in enumerate(p)))
    result = align(log_probs, tokens)
    assert path_of(result, tokens, frames) == list(best)
    along = log_probs[np.arange(frames), best].astype(np.float64)
    assert result.score == pytest.approx(along.sum(), abs=1e-9)
    spans = zip(result.starts, result.ends, strict=True)
    assert result.peaks.tolist() == [log_probs[a:b, k].max() for (a, b), k in zip(spans, tokens, strict=True)]


@pytest.mark.parametrize(
    ("frames", "length", "size"), [(2, 1, 3), (7, 3, 3), (40, 12, 4), (300, 60, 29), (1500, 220, 29)]
)
@pytest.mark.parametrize("moves_bytes", [16 << 20, 0])
def test_equals_torchaudio(
    frames: int, length: int, size: int, moves_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    torchaudio = pytest.importorskip("torchaudio")
    monkeypatch.setattr(module, "_MOVES_BYTES", moves_bytes)
    for seed in range(4):
        log_probs = random_posteriors(seed, frames, size)
        tokens = np.random.default_rng(seed).integers(1, size, length).tolist()
        theirs, scores = torchaudio.functional.forced_align(
            torch.from_numpy(log_probs)[None].double(), torch.tensor([tokens], dtype=torch.int32)
        )
        result = align(log_probs, tokens)
        assert path_of(result, tokens, frames) == theirs[0].tolist()
        assert result.score == pytest.approx(scores.sum().item(), abs=1e-6)


def test_ties_have_the_best_score_and_few_frames_are_enough() -> None:
    log_probs, tokens = np.log(np.full((6, 4), 0.25, dtype=np.float32)), [A, B, B]
    result = align(log_probs, tokens)
    assert result.score == pytest.approx(6 * math.log(0.25), abs=1e-5)
    assert collapse(path_of(result, tokens, 6)) == tuple(tokens)
    assert path_of(align(random_posteriors(2, 4, 4), [A, A, B]), [A, A, B], 4) == [A, 0, A, B]


def test_memory_of_long_recordings_is_bounded() -> None:
    frames, length = 15_000, 1_500  # 10 minutes; a byte per frame and state would be 45 MB
    log_probs = random_posteriors(0, frames, 4)
    tokens = np.random.default_rng(0).integers(1, 4, length).tolist()
    align(log_probs[:10], [1])  # compiled beforehand
    tracemalloc.start()
    try:
        result = align(log_probs, tokens)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 6e6
    assert collapse(path_of(result, tokens, frames)) == tuple(tokens)


def test_takes_any_floats_in_any_order() -> None:
    log_probs = random_posteriors(1, 30, 4)
    expected = align(log_probs, [1, 2, 2, 3])
    for other in (log_probs.astype(np.float64), np.asfortranarray(log_probs), log_probs.copy()):
        other.flags.writeable = False
        result = align(other, [1, 2, 2, 3])
        assert result.starts.tolist() == expected.starts.tolist()
        assert result.score == expected.score


def test_impossible_tokens_get_the_floor() -> None:
    log_probs = np.full((4, 4), -np.inf, dtype=np.float32)
    log_probs[:, A] = 0
    result = align(log_probs, [A, B])
    assert path_of(result, [A, B], 4) == [A, A, A, B]
    assert result.score == -1000
    (word,) = align_words(log_probs, [("AB", [A, B])], SPACE, 0.04)
    assert word == Word("AB", 0.0, pytest.approx(0.16), 0.0)


@pytest.mark.parametrize(
    ("log_probs", "tokens", "message"),
    [
        (np.zeros((3, 4)), [A, B, B], "need 4 frames, the recording has 3"),
        (np.zeros((3, 4)), [], "no tokens to align"),
        (np.zeros((3, 4)), [A, 0], "token 0 .* tokens 1 to 3"),
        (np.zeros((3, 4)), [A, 4], "token 4 "),
        (np.zeros((3, 4)), [-1], "token -1 "),
        (np.zeros((0, 4)), [A], r"shape \(0, 4\) hold no frame"),
        (np.zeros(4), [A], r"shape \(4,\) hold no frame"),
        (np.where(np.eye(4)[2], np.nan, -np.eye(4)), [A], "first in frame 0"),
        (np.diag([-1, -1, np.inf, -1]), [A], r"NaN or \+inf \(first in frame 2\)"),
    ],
)
def test_errors(log_probs: np.ndarray, tokens: list[int], message: str) -> None:
    with pytest.raises(DecodingError, match=message):
        align(log_probs, tokens)


def test_words_by_hand() -> None:
    log_probs = posteriors([0, A, A, 0, A, SPACE, 0, B, B, 0])
    first, second = align_words(log_probs, spell("AA B"), SPACE, frame_seconds=0.04)
    assert (first.text, second.text) == ("AA", "B")
    assert (first.start, first.end) == pytest.approx((0.04, 0.20))
    assert (second.start, second.end) == pytest.approx((0.28, 0.36))


def test_words_of_phones_have_no_separator() -> None:
    words = [("I", [1]), ("EYE", [1]), ("ABLE", [2, 3])]
    result = align_words(posteriors([1, 1, 0, 1, 2, 2, 3]), words, None, frame_seconds=1.0)
    assert [(w.text, w.start, w.end) for w in result] == [("I", 0, 2), ("EYE", 3, 4), ("ABLE", 4, 7)]


def test_no_words() -> None:
    assert align_words(np.zeros((0, 4), np.float32), [], SPACE, 0.04) == ()


@given(st.lists(st.integers(0, 3), max_size=40), st.floats(0.4, 0.99))
def test_agrees_with_greedy_on_its_own_text(path: list[int], peak: float) -> None:
    log_probs = posteriors(path, peak)
    tokens = list(collapse(path))
    assume(" ".join(TOKENIZER.decode(tokens).split()) == TOKENIZER.decode(tokens))
    expected = greedy(log_probs, TOKENIZER, 0.04)
    result = align_words(log_probs, spell(expected.text), SPACE, 0.04)
    assert [(w.text, w.start, w.end) for w in result] == [(w.text, w.start, w.end) for w in expected.words]


def sum_of_paths(log_probs: np.ndarray, tokens: list[int]) -> float:
    """Probability that the frames emit exactly the tokens, by enumeration of all paths."""
    frames, size = log_probs.shape
    return sum(
        math.exp(sum(float(log_probs[t, k]) for t, k in enumerate(path)))
        for path in itertools.product(range(size), repeat=frames)
        if collapse(path) == tuple(tokens)
    )


@given(st.integers(0, 2**32), st.lists(st.integers(2, 3), min_size=1, max_size=3), st.floats(0.2, 5))
def test_confidence_sums_over_all_alignments(seed: int, tokens: list[int], temperature: float) -> None:
    log_probs = random_posteriors(seed, 5, 4)
    (word,) = align_words(log_probs, [("W", tokens)], SPACE, 0.04, temperature=temperature)
    expected = sum_of_paths(log_probs, tokens) ** (1 / (len(tokens) * temperature))
    assert word.confidence == pytest.approx(expected, rel=1e-5)


@given(st.integers(0, 2**32))
def test_confidence_of_a_word_between_others(seed: int) -> None:
    log_probs = random_posteriors(seed, 9, 4)
    result = align(log_probs, tokens := [B, SPACE, A, A, SPACE, B])
    words = align_words(log_probs, [("B", [B]), ("AA", [A, A]), ("B", [B])], SPACE, 1.0)
    window = log_probs[result.ends[1] : result.starts[4]]
    separators = math.exp(result.peaks[1] + result.peaks[4])
    expected = (sum_of_paths(window, tokens[2:4]) * separators) ** (1 / 4)
    assert words[1].confidence == pytest.approx(expected, rel=1e-5)
    first = sum_of_paths(log_probs[: result.starts[1]], [B]) * math.exp(result.peaks[1])
    assert words[0].confidence == pytest.approx(math.sqrt(first), rel=1e-5)


def test_without_separators_the_neighbouring_tokens_bound_the_window() -> None:
    log_probs = posteriors([1, 0, 2, 0, 3])
    words = align_words(log_probs, [("X", [1]), ("Y", [2]), ("Z", [3])], None, 1.0)
    expected = [sum_of_paths(log_probs[a:b], [k]) for a, b, k in [(0, 2, 1), (1, 4, 2), (3, 5, 3)]]
    assert [w.confidence for w in words] == pytest.approx(expected, rel=1e-5)


def test_a_token_between_words_counts_on_both_sides_and_at_the_edges() -> None:
    log_probs = posteriors([SPACE, A, SPACE, B])
    result = align(log_probs, tokens := [SPACE, A, SPACE, B])
    for edges in ([("A", 1, 2), ("B", 3, 4)], [("A", 0, 2), ("B", 2, 4)]):
        words = time_words(log_probs, AlignedTokens(tokens, edges, result), 1.0)
        assert [w.confidence for w in words] == pytest.approx([0.7, 0.7], rel=1e-5)


@given(st.integers(0, 2**32), st.floats(0.1, 10))
def test_bounds_and_the_power_of_the_temperature(seed: int, temperature: float) -> None:
    log_probs = random_posteriors(seed, 30, 4) + np.float32(1e-6)  # as a float32 log-softmax can come out
    spelt = [("A", [A]), ("BA", [B, A]), ("AAB", [A, A, B])]
    raw = align_words(log_probs, spelt, SPACE, 1.0)
    tempered = align_words(log_probs, spelt, SPACE, 1.0, temperature=temperature)
    assert all(0 <= word.confidence <= 1 for word in raw)
    expected = [word.confidence ** (1 / temperature) for word in raw]
    assert [word.confidence for word in tempered] == pytest.approx(expected, rel=1e-9)
