import math
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from asr.errors import LanguageModelError
from asr.lm.ngram import NgramLM
from asr.lm.pruning import prune
from asr.lm.train import LmOptions, train
from tests.lm import plain
from tests.lm.plain import FIXTURES, Model, Ngram
from tests.lm.test_ngram import build


@pytest.fixture(scope="module")
def lm() -> NgramLM:
    """A model of six sentences."""
    return train([FIXTURES / "tiny.txt"], LmOptions(3)).lm


def loss(model: Model, gram: Ngram) -> float:
    """Factor less one by which the perplexity grows without the n-gram, summed over all words.

    That is the relative entropy of the two distributions after the context, weighed by how likely it is.
    """
    context = gram[:-1]
    words = [g[0] for g in model if len(g) == 1 and g != ("<s>",)]
    weight = 1.0
    for i, word in enumerate(context):
        weight *= 10 ** model[("</s>",)][0] if word == "<s>" else 10 ** model[context[: i + 1]][0]
    seen = [g[-1] for g in model if g[:-1] == context and g != gram]
    before = {word: 10 ** plain.score(model, context, word) for word in words}
    shorter = {word: 10 ** plain.score(model, context[1:], word) for word in words}
    left = (1 - sum(before[w] for w in seen)) / (1 - sum(shorter[w] for w in seen))
    after = {word: before[word] if word in seen else left * shorter[word] for word in words}
    return math.expm1(weight * sum(before[w] * math.log(before[w] / after[w]) for w in words))


@pytest.mark.parametrize("threshold", [1e-4, 1e-3, 3e-3, 1e-2, 1.0])
def test_prunes_what_costs_less_than_the_threshold(lm: NgramLM, threshold: float) -> None:
    model, pruned = plain.of_lm(lm), plain.of_lm(prune(lm, threshold))
    expected = set(model)
    for n in (3, 2):
        prefixes = {gram[:-1] for gram in expected}
        losses = {gram: loss(model, gram) for gram in model if len(gram) == n and gram not in prefixes}
        assert all(abs(value / threshold - 1) > 1e-3 for value in losses.values()), "too close to tell"
        expected -= {gram for gram, value in losses.items() if value < threshold}
    assert set(pruned) == expected
    assert {gram: pruned[gram][0] for gram in pruned} == {gram: model[gram][0] for gram in pruned}
    for context, total in plain.sums(pruned):
        assert total == pytest.approx(1, abs=1e-5), context


def test_thresholds_keep_less_and_less(lm: NgramLM) -> None:
    kept = [set(plain.of_lm(prune(lm, threshold))) for threshold in (0, 1e-4, 1e-3, 1e-2, 1)]
    assert kept[0] == set(plain.of_lm(lm))
    assert all(a > b for a, b in pairwise(kept))
    assert len(kept[-1]) == lm.counts[0]


def test_nothing_pruned_nothing_changed(lm: NgramLM) -> None:
    same = prune(lm, 0)
    assert same.words() == lm.words()
    for name, ours, theirs in zip(lm.arrays._fields, lm.arrays, same.arrays, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 if name == "backoffs" else 0)


def test_states_follow_what_is_left(lm: NgramLM) -> None:
    """The arrays are those of a model built from the n-grams that are left."""
    pruned = prune(lm, 3e-3)
    again = build(plain.of_lm(pruned))
    for ours, theirs in zip(pruned.arrays, again.arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_unigrams_alone(tmp_path: Path) -> None:
    lm = train([FIXTURES / "tiny.txt"], LmOptions(1)).lm
    assert plain.of_lm(prune(lm, 1.0)) == plain.of_lm(lm)


@pytest.mark.parametrize("threshold", [-1.0, math.nan, math.inf])
def test_wrong_threshold(lm: NgramLM, threshold: float) -> None:
    with pytest.raises(LanguageModelError, match=f"^entropy threshold {threshold}: must be 0 or more"):
        prune(lm, threshold)
