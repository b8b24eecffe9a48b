"""Beam search against brute force, and its invariants."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoding.beam import BeamDecoder, BeamHypothesis, DecodingOptions
from asr.decoding.hotwords import Hotword
from asr.decoding.lexicon import Lexicon
from asr.errors import DecodingError
from asr.text import Tokenizer
from tests.decoding import brute_force
from tests.decoding.brute_force import random_posteriors

LETTERS = Tokenizer(" AB")
PHONES = Tokenizer(("AH", "B"))
WORDS = ("A", "AB", "ABA", "BB")
WIDE = {"beam": 100_000, "beam_threshold": 1e9, "token_top_k": 1000, "n_best": 100_000}


def lexicon(tokenizer: Tokenizer, *entries: tuple[str, str]) -> Lexicon:
    spellings = [tokenizer.encode(spelling) for _, spelling in entries]
    return Lexicon(
        words=[word for word, _ in entries],
        tokens=np.array([token for spelling in spellings for token in spelling], np.int32),
        offsets=np.cumsum([0, *map(len, spellings)]),
    )


LETTER_LEXICON = lexicon(LETTERS, ("A", "A"), ("AB", "AB"), ("BB", "BB"), ("AHA", "A"), ("AB", "BA"))
"""With homophones, a word of two spellings, and a word outside the LM."""

PHONE_LEXICON = lexicon(PHONES, ("A", "AH"), ("AB", "AH B"), ("BB", "B"), ("B", "B"), ("AB", "B AH"))


def by_words(hypotheses: list[BeamHypothesis]) -> dict[tuple[str, ...], float]:
    return {tuple(word.text for word in h.words): h.score for h in hypotheses}


weights = st.floats(0, 2)
signals = st.tuples(st.integers(0, 10**6), st.integers(0, 5), st.sampled_from([0.3, 1.0, 3.0]))


@given(signals, weights, weights, st.booleans(), st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_every_hypothesis_has_the_score_of_brute_force(
    signal: tuple[int, int, float],
    lm_weight: float,
    word_bonus: float,
    with_lm: bool,
    with_lexicon: bool,
    with_hotwords: bool,
    with_phones: bool,
) -> None:
    seed, frames, sharpness = signal
    tokenizer = PHONES if with_phones else LETTERS
    entries = (PHONE_LEXICON if with_phones else LETTER_LEXICON) if with_phones or with_lexicon else None
    lm = brute_force.random_lm(WORDS, np.random.default_rng(seed)) if with_lm else None
    hotwords = (Hotword("AB", 0.7), Hotword("A AB", 0.4), Hotword("A BB", 1.1), Hotword("A", -0.2))
    options = DecodingOptions(
        **WIDE,
        lm_weight=lm_weight,
        word_bonus=word_bonus,
        unknown_penalty=-0.5,
        hotwords=hotwords if with_hotwords else (),
    )
    log_probs = random_posteriors(seed, frames, tokenizer.size, sharpness)
    found = BeamDecoder(tokenizer, lm, entries).decode(log_probs, options)
    expected = brute_force.decode(log_probs, tokenizer, lm, entries, options)
    assert by_words(found) == pytest.approx(expected, abs=1e-4)
    assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)


@given(signals, weights, st.booleans(), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_recombination_keeps_the_best_text(
    signal: tuple[int, int, float], lm_weight: float, with_lm: bool, with_lexicon: bool, with_hotwords: bool
) -> None:
    seed, frames, sharpness = signal
    lm = brute_force.random_lm(WORDS, np.random.default_rng(seed)) if with_lm else None
    decoder = BeamDecoder(LETTERS, lm, LETTER_LEXICON if with_lexicon else None)
    hotwords = (Hotword("AB", 0.7), Hotword("A BB", 1.1)) if with_hotwords else ()
    options = DecodingOptions(**WIDE, lm_weight=lm_weight, word_bonus=0.3, hotwords=hotwords)
    log_probs = random_posteriors(seed, 2 * frames, LETTERS.size, sharpness)
    every = decoder.decode(log_probs, options)
    best = decoder.decode(log_probs, replace(options, n_best=1))[0]
    # Another spelling of the same words may be dropped, with its share of the probability.
    assert every[0].score - 0.7 <= best.score <= every[0].score + 1e-4
    if not with_lexicon:
        assert best.score == pytest.approx(every[0].score, abs=0.1)
    near = {h.text for h in every if h.score > every[0].score - (0.7 if with_lexicon else 0.1)}
    assert best.text in near


def test_recombination_leaves_room_in_the_beam() -> None:
    lm = brute_force.random_lm(WORDS, np.random.default_rng(1))
    decoder = BeamDecoder(LETTERS, lm, LETTER_LEXICON)
    narrow = DecodingOptions(**{**WIDE, "beam": 4, "n_best": 1}, lm_weight=1.0, word_bonus=0.3)
    with_it = without = 0.0
    for seed in range(40):
        log_probs = random_posteriors(seed, 40, LETTERS.size, 1.0)
        with_it += decoder.decode(log_probs, narrow)[0].score
        without += decoder.decode(log_probs, replace(narrow, n_best=2))[0].score
    assert with_it > without + 5


@given(signals, st.booleans())
@settings(max_examples=30, deadline=None)
def test_a_beam_that_is_wide_enough_finds_the_best(
    signal: tuple[int, int, float], with_lexicon: bool
) -> None:
    seed, frames, sharpness = signal
    lm = brute_force.random_lm(WORDS, np.random.default_rng(seed))
    entries = LETTER_LEXICON if with_lexicon else None
    log_probs = random_posteriors(seed, frames, LETTERS.size, sharpness)
    options = DecodingOptions(beam=60, beam_threshold=50, lm_weight=0.5)
    best = BeamDecoder(LETTERS, lm, entries).decode(log_probs, options)[0]
    expected = brute_force.decode(log_probs, LETTERS, lm, entries, options)
    assert best.score == pytest.approx(max(expected.values()), abs=1e-4)


def test_a_narrow_beam_scores_no_more_than_there_is() -> None:
    lm = brute_force.random_lm(WORDS, np.random.default_rng(0))
    options = DecodingOptions(beam=2, beam_threshold=3.0, token_top_k=2, n_best=5)
    for seed in range(20):
        log_probs = random_posteriors(seed, 5, LETTERS.size, 1.0)
        expected = brute_force.decode(log_probs, LETTERS, lm, None, options)
        found = by_words(BeamDecoder(LETTERS, lm).decode(log_probs, options))
        assert all(score <= expected[words] + 1e-4 for words, score in found.items())


def long_posteriors(seed: int, frames: int = 400) -> np.ndarray:
    """Posteriors like a model's: mostly blank, with spikes of tokens."""
    log_probs = random_posteriors(seed, frames, LETTERS.size, 2.0)
    log_probs[np.random.default_rng(seed).random(frames) < 0.6, 0] += 12
    return log_probs - np.logaddexp.reduce(log_probs, axis=1, keepdims=True)


def test_threads_do_not_change_a_byte() -> None:
    lm = brute_force.random_lm(WORDS, np.random.default_rng(1))
    decoder = BeamDecoder(LETTERS, lm)
    signals = [long_posteriors(seed) for seed in range(12)]
    options = DecodingOptions(n_best=10, hotwords=(Hotword("BB AB"),))
    alone = [decoder.decode(log_probs, options) for log_probs in signals]
    assert len(alone[0]) == 10
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda log_probs: decoder.decode(log_probs, options), signals)) == alone


def test_runs_of_blanks_change_only_the_acoustic_score() -> None:
    lm = brute_force.random_lm(WORDS, np.random.default_rng(2))
    decoder = BeamDecoder(LETTERS, lm)
    spoken = long_posteriors(3, 60)
    silence = np.log(np.array([[1 - 3e-9, 1e-9, 1e-9, 1e-9]] * 50, dtype=np.float32))
    options = DecodingOptions(n_best=5)
    (first, *_), (second, *_) = (
        decoder.decode(np.concatenate([spoken[:30], pause, spoken[30:]]), options)
        for pause in (silence[:1], silence)
    )
    assert first.words == second.words
    assert first.score == pytest.approx(second.score, abs=1e-5)


@given(signals, st.floats(0.1, 2))
@settings(max_examples=20, deadline=None)
def test_posteriors_are_divided_by_the_priors(signal: tuple[int, int, float], weight: float) -> None:
    seed, frames, sharpness = signal
    log_probs = random_posteriors(seed, frames, LETTERS.size, sharpness)
    priors = np.array([0.7, 0.1, 0.15, 0.05])
    divided = np.exp(log_probs.astype(np.float64)) / priors**weight
    divided = np.log(divided / divided.sum(axis=1, keepdims=True)).reshape(-1, LETTERS.size)
    decoder = BeamDecoder(LETTERS)
    options = DecodingOptions(**WIDE, prior_weight=weight, priors=tuple(np.log(priors).tolist()))
    expected = decoder.decode(np.minimum(divided, 0), DecodingOptions(**WIDE))
    assert by_words(decoder.decode(log_probs, options)) == pytest.approx(by_words(expected), abs=1e-4)


def certain(tokenizer: Tokenizer, tokens: list[int]) -> np.ndarray:
    """Near-certain posteriors of these tokens, each followed by a blank."""
    log_probs = np.full((2 * len(tokens), tokenizer.size), np.log(1e-4), np.float32)
    log_probs[1::2, 0] = log_probs[np.arange(len(tokens)) * 2, tokens] = 0
    return log_probs


@pytest.mark.parametrize(("spaced", "text"), [("  A  BB ", "A BB"), (" ", ""), ("", "")])
def test_spaces_collapse(spaced: str, text: str) -> None:
    assert BeamDecoder(LETTERS).decode(certain(LETTERS, LETTERS.encode(spaced)))[0].text == text


def test_homophones_are_resolved_by_the_language_model() -> None:
    log_probs = certain(PHONES, [2])  # BB or B
    for seed in range(10):
        lm = brute_force.random_lm(("B", "BB"), np.random.default_rng(seed))
        likelier = max(("B", "BB"), key=lambda word: lm.score([word]))
        best = BeamDecoder(PHONES, lm, PHONE_LEXICON).decode(log_probs, DecodingOptions(lm_weight=1.0))[0]
        assert best.text == likelier
        other = {"B": "BB", "BB": "B"}[likelier]
        boosted = DecodingOptions(lm_weight=1.0, hotwords=(Hotword(other, 9.0),))
        assert BeamDecoder(PHONES, lm, PHONE_LEXICON).decode(log_probs, boosted)[0].text == other


def test_a_word_cut_short_is_left_out_where_the_vocabulary_is_closed() -> None:
    entries = lexicon(PHONES, ("AB", "AH B"), ("BAH", "B AH AH"))
    log_probs = certain(PHONES, PHONES.encode("AH B B AH"))
    assert BeamDecoder(PHONES, None, entries).decode(log_probs, DecodingOptions(beam=1))[0].text == "AB"


@pytest.mark.parametrize(
    ("hotword", "closed", "message"),
    [
        ("Ça va", False, "'Ça va': .*'Ç' in 'ÇA'"),
        ("AB 5", False, "'AB 5': .*'5' in '5'"),
        ("...", False, "no word"),
        ("AB BA", True, "'AB BA': .* lacks 'BA'"),
        (" ", True, "' ': .*no word"),
    ],
)
def test_hotwords_that_cannot_be_spelt(hotword: str, closed: bool, message: str) -> None:
    decoder = BeamDecoder(LETTERS, None, LETTER_LEXICON if closed else None)
    with pytest.raises(DecodingError, match=message):
        decoder.search(DecodingOptions(hotwords=(Hotword(hotword),)))


def test_hotwords_take_the_case_of_the_model() -> None:
    log_probs = certain(LETTERS, LETTERS.encode("BA"))
    log_probs[0, 2] = -0.5  # A is nearly as good as B
    plain = BeamDecoder(LETTERS).decode(log_probs, DecodingOptions())[0]
    boosted = BeamDecoder(LETTERS).decode(log_probs, DecodingOptions(hotwords=(Hotword("aa", 2.0),)))[0]
    assert (plain.text, boosted.text) == ("BA", "AA")


def test_a_language_model_in_another_case_is_refused() -> None:
    lm = brute_force.random_lm(("the", "of"), np.random.default_rng(0))
    likeliest = max(("the", "of"), key=lambda word: lm.arrays.log_probs[1 + lm.word_id(word)])
    with pytest.raises(DecodingError, match=rf"0 % of its words .*'{likeliest}'.*ABC.*same case"):
        BeamDecoder(Tokenizer(), lm)
    with pytest.raises(DecodingError, match=r"0 % of the lexicon's words .*same case"):
        BeamDecoder(LETTERS, lm, LETTER_LEXICON)


def test_a_lexicon_without_words_and_a_language_model_without() -> None:
    log_probs = certain(LETTERS, [2])
    assert BeamDecoder(LETTERS, None, lexicon(LETTERS)).decode(log_probs)[0].text == ""
    with pytest.raises(DecodingError, match="language model has no words"):
        BeamDecoder(LETTERS, brute_force.random_lm((), np.random.default_rng(0)))


def test_what_does_not_fit_is_refused() -> None:
    decoder, broken = BeamDecoder(LETTERS), certain(LETTERS, [2, 3])
    broken[3, 1] = np.nan
    for log_probs, message in ((broken[:, :3], "do not fit 4 tokens"), (broken, r"NaN \(first in frame 3\)")):
        with pytest.raises(DecodingError, match=message):
            decoder.decode(log_probs)
    for priors in ((), (-0.1, -2.0)):
        with pytest.raises(DecodingError, match=f"{len(priors)} priors do not fit 4 tokens; run asr tune"):
            decoder.search(DecodingOptions(prior_weight=0.5, priors=priors))
    with pytest.raises(DecodingError, match="need a lexicon"):
        BeamDecoder(PHONES)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"beam": 0}, "beam must be a whole number from 1, not 0"),
        ({"n_best": 0}, "n_best must be a whole number from 1, not 0"),
        ({"beam": 2.5}, "beam must be a whole number from 1, not 2.5"),
        ({"beam_threshold": 0.0}, "beam_threshold must be more than 0"),
        ({"lm_weight": float("nan")}, "lm_weight must be a number from 0"),
        ({"word_bonus": float("inf")}, "word_bonus must be a number"),
        ({"priors": (float("nan"),)}, "priors must be numbers"),
    ],
)
def test_impossible_options(setting: dict[str, Any], message: str) -> None:
    with pytest.raises(DecodingError, match=message):
        DecodingOptions(**setting)
    assert all(option.metadata["help"] for option in fields(DecodingOptions))
    with pytest.raises(DecodingError, match="'A': its boost must be a number"):
        Hotword("A", float("nan"))
