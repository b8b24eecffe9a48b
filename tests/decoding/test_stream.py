"""Streams: commits, bounded memory, independence of piece sizes."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoding import stream as stream_module
from asr.decoding.beam import BeamDecoder, DecodingOptions
from asr.decoding.greedy import greedy
from asr.decoding.hotwords import Hotword
from asr.decoding.lexicon import Lexicon
from asr.decoding.stream import AlignedBeamSearch, GreedySearch, Stream
from asr.decoding.types import Hypothesis
from asr.text import Tokenizer
from tests.decoding.brute_force import random_lm

LETTERS = Tokenizer(" ABC")
PHONES = Tokenizer(("a", "b", "c"))
WORDS = Lexicon(("X", "Y", "Z"), np.array([1, 2, 3, 3, 1], dtype=np.int32), np.array([0, 1, 3, 5]))


def make(tokenizer: Tokenizer, kind: str, beam: int = 8) -> Stream:
    if kind == "greedy":
        return Stream(GreedySearch(tokenizer), tokenizer, 0.04, 1.0)
    decoder = BeamDecoder(tokenizer, None, None if tokenizer is LETTERS else WORDS)
    search = decoder.search(DecodingOptions(beam=beam, n_best=4))
    return Stream(AlignedBeamSearch(search, tokenizer.separator), tokenizer, 0.04, 1.0)


def decode(stream: Stream, pieces: Sequence[np.ndarray]) -> Hypothesis:
    for piece in pieces:
        stream.feed(piece)
    return stream.finish()


def speech(frames: int, seed: int, sharpness: float = 8.0, silence: float = 0.6) -> np.ndarray:
    """Posteriors of random letters with single spaces and blanks between; `sharpness` is the logit margin."""
    random = np.random.default_rng(seed)
    path = np.where(random.random(frames) < silence, 0, random.integers(1, LETTERS.size, frames))
    said = np.flatnonzero(path)
    path[said[1:][(path[said[1:]] == 1) & (path[said[:-1]] == 1)]] = 0
    return around(path, LETTERS, random, sharpness)


def phones(frames: int, seed: int, sharpness: float = 8.0) -> np.ndarray:
    """Posteriors of random lexicon words with a blank after each phone."""
    random = np.random.default_rng(seed)
    words = [list(WORDS.spelling(entry)) for entry in random.integers(0, 3, frames)]
    path = np.array([[phone, 0] for word in words for phone in word], dtype=np.int64).ravel()[:frames]
    return around(path, PHONES, random, sharpness)


def around(
    path: np.ndarray, tokenizer: Tokenizer, random: np.random.Generator, sharpness: float
) -> np.ndarray:
    logits = random.standard_normal((len(path), tokenizer.size))
    logits[np.arange(len(path)), path] += sharpness
    return (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))).astype(np.float32)


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream_module, "LOOK_BACK", 60)
    monkeypatch.setattr(stream_module, "SETTLE", 20)


@pytest.mark.parametrize("kind", ["greedy", "beam"])
@pytest.mark.parametrize("tokenizer", [LETTERS, PHONES], ids=["letters", "phones"])
@pytest.mark.usefixtures("short")
def test_commits_do_not_change_the_words(
    tokenizer: Tokenizer, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log_probs = speech(3_000, 1) if tokenizer is LETTERS else phones(3_000, 1)
    forgetful = decode(make(tokenizer, kind), [log_probs])
    monkeypatch.setattr(stream_module, "LOOK_BACK", 10_000)
    whole = decode(make(tokenizer, kind), [log_probs])
    assert forgetful.text == whole.text and len(whole.words) > 100
    # Committing drops hypotheses, which makes room for others in the beam.
    assert forgetful.score == pytest.approx(whole.score, abs=1.0)
    for a, b in zip(forgetful.words, whole.words, strict=True):
        assert (a.start, a.end) == pytest.approx((b.start, b.end))
        assert a.confidence == pytest.approx(b.confidence, abs=1e-6)


def test_greedy_streams_equal_greedy() -> None:
    log_probs = speech(500, 2)
    expected = greedy(log_probs, LETTERS, 0.04)
    result = decode(make(LETTERS, "greedy"), np.array_split(log_probs, 7))
    assert result.words == expected.words
    assert result.score == pytest.approx(expected.score)


@given(st.lists(st.integers(0, 400), max_size=8), st.sampled_from(["greedy", "beam"]))
@settings(max_examples=20, deadline=None)
def test_the_size_of_pieces_does_not_matter(cuts: list[int], kind: str) -> None:
    log_probs = speech(400, 3, sharpness=3.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_module, "LOOK_BACK", 60)
        patch.setattr(stream_module, "SETTLE", 20)
        whole = decode(make(LETTERS, kind), [log_probs])
        pieces = decode(make(LETTERS, kind), np.split(log_probs, sorted(cuts)))
    assert pieces.words == whole.words
    assert pieces.score == pytest.approx(whole.score)


@given(
    st.integers(0, 10**6),
    st.integers(0, 120),
    st.floats(0.0, 6.0),
    st.sampled_from(["greedy", "beam"]),
    st.sampled_from([LETTERS, PHONES]),
)
@settings(max_examples=60, deadline=None)
def test_any_posteriors_can_be_decoded(
    seed: int, frames: int, sharpness: float, kind: str, tokenizer: Tokenizer
) -> None:
    log_probs = speech(frames, seed, sharpness, silence=0.2)
    if tokenizer is PHONES:
        log_probs = phones(frames, seed, sharpness)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stream_module, "LOOK_BACK", 8)
        patch.setattr(stream_module, "SETTLE", 3)
        result = decode(make(tokenizer, kind, beam=4), [log_probs])
    assert result.n_best[0].text == result.text
    edges = [edge for word in result.words for edge in (word.start, word.end)]
    assert edges == sorted(edges) and all(0 <= edge <= frames * 0.04 + 1e-9 for edge in edges)


@pytest.mark.parametrize("kind", ["greedy", "beam"])
@pytest.mark.usefixtures("short")
def test_memory_does_not_grow(kind: str) -> None:
    stream = make(LETTERS, kind)
    most = 0
    for seed in range(100):
        stream.feed(speech(100, seed))
        most = max(most, stream._count)
        if isinstance(stream._search, AlignedBeamSearch):
            assert len(stream._search._search._state.prefixes) < 5_000
    assert most < 3 * 60
    stream.finish()


@pytest.mark.parametrize("kind", ["greedy", "beam"])
@pytest.mark.usefixtures("short")
def test_silence_is_forgotten(kind: str) -> None:
    log_probs = np.log(np.full((5_000, LETTERS.size), 1e-3, dtype=np.float32))
    log_probs[:, 0] = np.log(1 - 4e-3)
    word = speech(30, 0, silence=0.0)
    stream = make(LETTERS, kind)
    for piece in (word, np.roll(log_probs, 1, axis=1)[:1], log_probs, word):
        stream.feed(piece)
        assert stream._count < 200
    result = stream.finish()
    assert result.words[0].start < 1.2 and result.words[-1].end > 200


@pytest.mark.usefixtures("short")
def test_an_endless_word_is_kept_whole() -> None:
    # Two letters with many blanks and no space between them are one word.
    log_probs = np.log(np.full((1_000, LETTERS.size), 1e-4, dtype=np.float32))
    log_probs[:, 0] = np.log(1 - 4e-4)
    log_probs[[5, 995]] = np.roll(log_probs[0], 2)
    assert decode(make(LETTERS, "greedy"), [log_probs]).text == "AA"
    assert decode(make(LETTERS, "beam"), [log_probs]).text == "AA"


@pytest.mark.parametrize("tokenizer", [LETTERS, PHONES], ids=["letters", "phones"])
@pytest.mark.usefixtures("short")
def test_language_model_and_hotword_states_survive_commits(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Scores include committed words, and phrases across a commit."""
    words = ["A", "B", "C", "AB", "BA"] if tokenizer is LETTERS else list(WORDS.words)
    lm = random_lm(words, np.random.default_rng(5))
    decoder = BeamDecoder(tokenizer, lm, None if tokenizer is LETTERS else WORDS)
    hotwords = (Hotword("A B A B A B"),) if tokenizer is LETTERS else (Hotword("X Y Z X"),)
    options = DecodingOptions(beam=64, lm_weight=0.5, hotwords=hotwords)
    # Posteriors so sharp that the text is certain and only its score can differ.
    log_probs = speech(2_000, 7, 20.0) if tokenizer is LETTERS else phones(2_000, 7, 20.0)

    def result() -> Hypothesis:
        search = AlignedBeamSearch(decoder.search(options), tokenizer.separator)
        return decode(Stream(search, tokenizer, 0.04, 1.0), [log_probs])

    forgetful = result()
    monkeypatch.setattr(stream_module, "LOOK_BACK", 10_000)
    whole = result()
    assert forgetful.text == whole.text
    assert forgetful.score == pytest.approx(whole.score, abs=1e-3)


@pytest.mark.usefixtures("short")
def test_n_best_lists_differ_after_the_committed_words() -> None:
    log_probs = speech(300, 4)
    n_best = decode(make(LETTERS, "beam"), [log_probs, speech(20, 5, sharpness=1.0)]).n_best
    assert len({entry.text for entry in n_best}) == 4
    assert len({entry.text[:40] for entry in n_best}) == 1
    assert [entry.score for entry in n_best] == sorted((entry.score for entry in n_best), reverse=True)
