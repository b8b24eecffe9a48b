import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.types import Word
from asr.errors import AsrError
from asr.scoring.calibration import JudgedWord, at_temperature, cross_fit, fit_temperature, judge, measure


def words(*pairs: tuple[float, bool], group: str = "") -> list[JudgedWord]:
    return [JudgedWord(confidence, correct, group) for confidence, correct in pairs]


def drawn(count: int, seed: int, group: str = "", exponent: float = 1.0) -> list[JudgedWord]:
    """Words with probability c of being correct and confidence c ** exponent."""
    random = np.random.default_rng(seed)
    truth = random.uniform(size=count)
    correct = random.uniform(size=count) < truth
    return [JudgedWord(float(c**exponent), bool(k), group) for c, k in zip(truth, correct, strict=True)]


def cross_entropy(judged: list[JudgedWord]) -> float:
    return -sum(math.log(w.confidence if w.correct else 1 - w.confidence) for w in judged)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "correct"),
    [
        ("THE CAT SAT", "THE CAT SAT", [True, True, True]),
        ("THE CAT SAT", "THE BAT SAT", [True, False, True]),
        ("THE CAT SAT", "THE OLD CAT SAT", [True, False, True, True]),
        ("THE CAT SAT", "SAT", [True]),
        ("  THE \t CAT ", "THE CAT", [True, True]),
        ("THE CAT", "", []),
        ("", "THE CAT", [False, False]),
        ("", "", []),
    ],
)
def test_judge(reference: str, hypothesis: str, correct: list[bool]) -> None:
    spoken = [Word(text, 0.0, 1.0, 0.25 * i) for i, text in enumerate(hypothesis.split())]
    judged = judge(reference, spoken, "anna")
    assert judged == [JudgedWord(0.25 * i, c, "anna") for i, c in enumerate(correct)]


def test_measure_by_hand() -> None:
    quality = measure(words((0.9, True), (0.8, False), (0.1, False), (0.2, True)), bins=2)
    # Upper bin: 1 of 2 correct, mean 0.85. Lower bin: 1 of 2 correct, mean 0.15.
    assert quality.calibration_error == pytest.approx((2 * 0.35 + 2 * 0.35) / 4)
    assert (quality.words, quality.accuracy, quality.confidence) == (4, 0.5, pytest.approx(0.5))
    entropy = -(math.log(0.9) + math.log(0.2) + math.log(0.9) + math.log(0.2))
    assert quality.cross_entropy == pytest.approx(1 - entropy / (4 * math.log(2)))


def test_extremes() -> None:
    constant = measure(words(*[(0.75, True)] * 3, (0.75, False)))
    assert (constant.cross_entropy, constant.calibration_error) == pytest.approx((0, 0))
    perfect = measure(words((1.0, True), (0.0, False)))
    assert perfect.cross_entropy == pytest.approx(1, abs=1e-6)
    assert perfect.calibration_error == 0
    worst = measure(words((0.0, True), (1.0, False)))
    assert worst.calibration_error == 1
    assert worst.cross_entropy == pytest.approx(1 + math.log(1e-7) / math.log(2))  # bad, not infinite
    # A confidence of 1 belongs to the last bin.
    assert measure(words((1.0, False), (0.9, True)), bins=2).calibration_error == pytest.approx(0.9 / 2)
    empty = measure([])
    assert empty.words == 0
    assert math.isnan(empty.accuracy) and math.isnan(empty.calibration_error)
    assert math.isnan(measure(words((0.9, True))).cross_entropy)
    assert measure(words((0.9, True))).calibration_error == pytest.approx(0.1)


@pytest.mark.parametrize("exponent", [0.2, 0.5, 1.0, 3.0])
def test_the_temperature_is_recovered(exponent: float) -> None:
    raw = drawn(8_000, seed=1, exponent=exponent)
    assert fit_temperature(raw) == pytest.approx(exponent, rel=0.05)
    assert (measure(raw).calibration_error > 0.1) == (exponent != 1)
    assert measure(at_temperature(raw, fit_temperature(raw))).calibration_error < 0.02


@given(
    st.lists(st.tuples(st.floats(0.02, 0.98), st.booleans()), min_size=2, max_size=20).filter(
        lambda pairs: len({correct for _, correct in pairs}) == 2
    )
)
def test_no_other_temperature_has_less_cross_entropy(pairs: list[tuple[float, bool]]) -> None:
    judged = words(*pairs)
    best = fit_temperature(judged)
    least = cross_entropy(at_temperature(judged, best))
    for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2):
        assert cross_entropy(at_temperature(judged, best * factor)) >= least - 1e-9


def test_fitting_survives_certainty() -> None:
    judged = words((1.0, False), (1.0, True), (0.0, True), (0.5, True))
    # Near certainty the derivative is T for the wrong word and the surprisal for the correct ones.
    assert fit_temperature(judged) == pytest.approx(math.log(1e7) + math.log(2), rel=1e-4)


def test_nothing_to_fit() -> None:
    all_correct, all_wrong = words((0.5, True), (0.6, True)), words((0.5, False))
    for judged, cause in (
        ([], "no words"),
        (all_correct, "2 words are correct"),
        (all_wrong, "1 words are wrong"),
    ):
        with pytest.raises(AsrError, match=f"cannot be calibrated: .*{cause}"):
            fit_temperature(judged)
    with pytest.raises(AsrError, match="two speakers"):
        cross_fit(drawn(50, 0, "anna"))


def test_cross_fit_measures_each_speaker_at_the_temperature_of_the_others() -> None:
    anna, bert = drawn(2_000, 2, "anna", exponent=0.5), drawn(2_000, 3, "bert", exponent=2.0)
    result = cross_fit([*anna, *bert])
    assert result.fold_temperatures == (fit_temperature(bert), fit_temperature(anna))
    held_out = [*at_temperature(anna, fit_temperature(bert)), *at_temperature(bert, fit_temperature(anna))]
    assert result.calibrated == measure(held_out)
    assert result.temperature == fit_temperature([*anna, *bert])


def test_cross_fit_in_folds_does_not_depend_on_the_order() -> None:
    judged = [word for i in range(7) for word in drawn(200, i, f"speaker {i}")]
    result, again = cross_fit(judged, folds=3), cross_fit(judged[::-1], folds=3)
    others = [word for word in judged if word.group not in ("speaker 0", "speaker 3", "speaker 6")]
    assert len(result.fold_temperatures) == 3 and result.fold_temperatures[0] == fit_temperature(others)
    assert again.fold_temperatures == pytest.approx(result.fold_temperatures)
    assert again.calibrated.cross_entropy == pytest.approx(result.calibrated.cross_entropy)
