"""The textbook's first example learns, reproducibly."""

import pytest
import torch

from recipes.cells.sum_of_features import learn


@pytest.mark.parametrize("seed", [1, 2])
def test_the_sum_is_learnt(seed: int) -> None:
    outcome = learn(seed)
    assert outcome.predictions.shape == outcome.targets.shape == (100,)
    assert 25 < outcome.error_of_mean < 100  # the variance of a sum of 50 is 50
    # Over seeds 0 to 9 it lay between 0.3 % and 0.6 %.
    assert outcome.error < 0.02 * outcome.error_of_mean


def test_a_seed_gives_the_same_numbers() -> None:
    a, b, other = (learn(seed, sequences=64, epochs=1) for seed in (3, 3, 4))
    assert torch.equal(a.predictions, b.predictions) and a.error == b.error
    assert not torch.equal(a.predictions, other.predictions)
