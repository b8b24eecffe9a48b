import itertools
import math
import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from asr.decoding import align as module
from asr.decoding.align import Alignment, align, align_words
from asr.decoding.greedy import greedy
from asr.decoding.hypothesis import Word
from asr.decoding.lexicon import spellable
from asr.errors import DecodingError, TextError
from asr.text import Tokenizer, ctc_frames_needed

TOKENIZER = Tokenizer(" AB")
SPACE, A, B = 1, 2, 3


def random_posteriors(seed: int, frames: int, size: int) -> np.ndarray:
    """Log-softmax of noise, `float32[frames, size]`."""
    scores = np.random.default_rng(seed).normal(scale=3, size=(frames, size))
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(np.float32)


def posteriors(path: list[int], peak: float = 0.7) -> np.ndarray:
    """Log-probabilities whose best path is `path`, with probability `peak` in each frame."""
    probabilities = np.full((len(path), TOKENIZER.size), (1 - peak) / (TOKENIZER.size - 1))
    probabilities[np.arange(len(path)), path] = peak
    return np.log(probabilities).astype(np.float32)


def path_of(alignment: Alignment, tokens: list[int], frames: int) -> list[int]:
    """The token of each frame; also checks that tokens lie in order, none over another."""
    path, edge = [0] * frames, 0
    for token, start, end in zip(tokens, alignment.starts, alignment.ends, strict=True):
        assert edge <= start < end <= frames
        path[start:end] = [token] * (end - start)
        edge = end
    return path


def collapse(path: tuple[int, ...] | list[int]) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token]


def spell(text: str) -> list[tuple[str, list[int]]]:
    return [(word, TOKENIZER.encode(word)) for word in text.split()]


@given(st.integers(0, 2**32), st.integers(1, 6), st.lists(st.integers(1, 2), min_size=1, max_size=4))
def test_equals_brute_force(seed: int, frames: int, tokens: list[int]) -> None:
    assume(ctc_frames_needed(tokens) <= frames)
    log_probs = random_posteriors(seed, frames, 3)
    every = [p for p in itertools.product(range(3), repeat=frames) if collapse(p) == tokens]
    best = max(every, key=lambda p: sum(float(log_probs[t, k]) for t, k in enumerate(p)))
    result = align(log_probs, tokens)
    assert path_of(result, tokens, frames) == list(best)
    along = log_probs[np.arange(frames), best].astype(np.float64)
    assert result.score == pytest.approx(along.sum(), abs=1e-9)
    spans = zip(result.starts, result.ends, strict=True)
    assert result.peaks.tolist() == [log_probs[a:b, k].max() for (a, b), k in zip(spans, tokens, strict=True)]


@pytest.mark.parametrize(
    ("frames", "length", "size"), [(7, 3, 3), (40, 12, 4), (300, 60, 29), (1500, 220, 29)]
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


def test_ties_have_the_best_score() -> None:
    log_probs = np.log(np.full((6, 4), 0.25, dtype=np.float32))
    tokens = [A, B, B]
    assert align(log_probs, tokens).score == pytest.approx(6 * math.log(0.25), abs=1e-5)
    assert collapse(path_of(align(log_probs, tokens), tokens, 6)) == tokens


def test_check_points_give_the_same_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for frames in (1, 2, 9, 64, 257):
        log_probs = random_posteriors(frames, frames, 5)
        tokens = np.random.default_rng(frames).integers(1, 5, max(1, frames // 3)).tolist()
        monkeypatch.setattr(module, "_MOVES_BYTES", 16 << 20)
        whole = align(log_probs, tokens)
        monkeypatch.setattr(module, "_MOVES_BYTES", 0)
        parts = align(log_probs, tokens)
        assert whole.score == parts.score
        for name in ("starts", "ends", "peaks"):
            assert getattr(whole, name).tobytes() == getattr(parts, name).tobytes()


def test_memory_of_long_recordings_is_bounded() -> None:
    frames, length = 15_000, 1_500  # 10 minutes; a byte a frame and state would be 45 MB
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
    assert collapse(path_of(result, tokens, frames)) == tokens


@given(st.integers(0, 2**32), st.lists(st.integers(1, 3), min_size=1, max_size=8))
def test_backwards_is_the_mirror_image(seed: int, tokens: list[int]) -> None:
    log_probs = random_posteriors(seed, 20, 4)
    forwards, backwards = align(log_probs, tokens), align(log_probs[::-1], tokens[::-1])
    assert (20 - backwards.ends[::-1]).tolist() == forwards.starts.tolist()
    assert (20 - backwards.starts[::-1]).tolist() == forwards.ends.tolist()


def test_takes_any_floats_in_any_order() -> None:
    log_probs = random_posteriors(1, 30, 4)
    expected = align(log_probs, [1, 2, 2, 3])
    for other in (log_probs.astype(np.float64), np.asfortranarray(log_probs), log_probs.copy()):
        other.flags.writeable = False
        result = align(other, [1, 2, 2, 3])
        assert result.starts.tolist() == expected.starts.tolist()
        assert result.score == expected.score


def test_exactly_enough_frames() -> None:
    tokens = [A, A, B]
    assert path_of(align(random_posteriors(2, 4, 4), tokens), tokens, 4) == [A, 0, A, B]


def test_impossible_tokens_are_held_above_a_floor() -> None:
    log_probs = np.full((4, 4), -np.inf, dtype=np.float32)
    log_probs[:, A] = 0
    result = align(log_probs, [A, B])
    assert path_of(result, [A, B], 4) == [A, A, A, B]
    assert result.score == -1000
    (word,) = align_words(log_probs, [("AB", [A, B])], SPACE, 0.04)
    assert word == Word("AB", 0.0, pytest.approx(0.16), 0.0)


BROKEN = "posteriors hold NaN or +inf (first in frame 2); the model is damaged or diverged"


def spoilt(value: float) -> np.ndarray:
    log_probs = np.zeros((4, 4), dtype=np.float32)
    log_probs[2, 3] = value
    return log_probs


@pytest.mark.parametrize(
    ("log_probs", "tokens", "message"),
    [
        (np.zeros((3, 4)), [A, B, B], "3 tokens need 4 frames, the recording has 3"),
        (np.zeros((3, 4)), [], "no tokens to align; give a text"),
        (np.zeros((3, 4)), [A, 0], "token 0 cannot be aligned; the model has tokens 1 to 3"),
        (np.zeros((3, 4)), [A, 4], "token 4 cannot be aligned; the model has tokens 1 to 3"),
        (np.zeros((3, 4)), [-1], "token -1 cannot be aligned; the model has tokens 1 to 3"),
        (np.zeros((0, 4)), [A], "posteriors of shape (0, 4) hold no frame to align with"),
        (np.zeros(4), [A], "posteriors of shape (4,) hold no frame to align with"),
        (
            spoilt(np.nan),
            [A],
            "posteriors hold NaN or +inf (first in frame 2); the model is damaged or diverged",
        ),
        (
            spoilt(np.inf),
            [A],
            "posteriors hold NaN or +inf (first in frame 2); the model is damaged or diverged",
        ),
    ],
)
def test_errors(log_probs: np.ndarray, tokens: list[int], message: str) -> None:
    with pytest.raises(DecodingError) as error:
        align(log_probs, tokens)
    assert str(error.value) == message


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


def test_no_words_and_empty_words() -> None:
    assert align_words(np.zeros((0, 4), np.float32), [], SPACE, 0.04) == ()
    with pytest.raises(DecodingError) as error:
        align_words(posteriors([A]), [("A", [A]), ("", [])], SPACE, 0.04)
    assert str(error.value) == "word '' has no tokens to align"


@given(st.lists(st.integers(0, 3), max_size=40), st.floats(0.4, 0.99))
def test_agrees_with_greedy_on_its_own_text(path: list[int], peak: float) -> None:
    log_probs = posteriors(path, peak)
    tokens = collapse(path)
    assume(" ".join(TOKENIZER.decode(tokens).split()) == TOKENIZER.decode(tokens))
    expected = greedy(log_probs, TOKENIZER, 0.04)
    result = align_words(log_probs, spell(expected.text), SPACE, 0.04)
    assert [(w.text, w.start, w.end) for w in result] == [(w.text, w.start, w.end) for w in expected.words]


@pytest.mark.parametrize(
    ("text", "expected"), [("A b", "A B"), (" “a—b!” \n", "A B"), ("AB", "AB"), ("Ä", "A")]
)
def test_spellable(text: str, expected: str) -> None:
    assert spellable(text, TOKENIZER) == expected


def test_spellable_leaves_phones_alone() -> None:
    assert spellable("aa  B-0", Tokenizer(("aa", "B-0"))) == "aa  B-0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a 12b", "the model has no token for '12' in '12B'; spell it out"),
        (" ?! ", "there is no word in it; give what is said"),
    ],
)
def test_not_spellable(text: str, message: str) -> None:
    with pytest.raises(TextError) as error:
        spellable(text, TOKENIZER)
    assert str(error.value) == message
