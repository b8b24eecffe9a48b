"""Every utterance once an epoch, within the budget, the same number of batches always."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import TrainingError
from asr.training.data import BucketSampler

corpora = st.lists(st.integers(1, 3000), min_size=8, max_size=120)


def cost(sampler: BucketSampler, batch: list[int]) -> int:
    return int(max(sampler.bucketed[batch]) * len(batch))


@settings(deadline=None)
@given(corpora, st.integers(1, 3), st.integers(0, 5))
def test_each_utterance_once_over_all_ranks_and_the_same_number_of_steps(
    lengths: list[int], ranks: int, epoch: int
) -> None:
    samplers = [BucketSampler(lengths, 6000, rank=rank, ranks=ranks) for rank in range(ranks)]
    for sampler in samplers:
        sampler.set_epoch(epoch)
    batches = [list(sampler) for sampler in samplers]
    assert {len(b) for b in batches} == {len(sampler) for sampler in samplers}
    seen = sorted(index for rank in batches for batch in rank for index in batch)
    assert seen == list(range(len(lengths)))


@settings(deadline=None)
@given(st.lists(st.integers(1, 3000), min_size=40, max_size=200), st.integers(0, 5))
def test_no_batch_costs_more_than_the_budget(lengths: list[int], epoch: int) -> None:
    sampler = BucketSampler(lengths, 6000)
    sampler.set_epoch(epoch)
    for batch in sampler:
        assert cost(sampler, batch) <= 6000 or len(batch) == 1


def test_exact_batches_of_dummy_utterances() -> None:
    sampler = BucketSampler([100, 1000, 100, 1000, 100, 1000, 100, 5000], 2100)
    # The costliest first, alone since it is longer than the budget; three long ones do not fit together.
    assert [len(batch) for batch in sampler] == [1, 2, 1, 4]
    assert sorted(next(iter(sampler))) == [7]
    assert sorted(list(sampler)[3]) == [0, 2, 4, 6]


def test_an_odd_number_of_batches_is_made_even_for_two_ranks() -> None:
    lengths = [100] * 50  # at most 10 fit the budget: 5 batches, so one is halved
    sizes = sorted(len(b) for rank in range(2) for b in BucketSampler(lengths, 1070, rank=rank, ranks=2))
    assert sizes == [5, 5, 10, 10, 10, 10]
    with pytest.raises(TrainingError, match="2 utterances are too few for 3 processes"):
        BucketSampler([100, 100], 1070, ranks=3)


def test_epochs_differ_and_are_reproducible() -> None:
    lengths = [100 + 7 * i for i in range(60)]

    def epoch(number: int, seed: int = 0) -> list[list[int]]:
        sampler = BucketSampler(lengths, 3000, seed=seed)
        sampler.set_epoch(number)
        return list(sampler)

    assert epoch(3) == epoch(3)
    assert epoch(3) != epoch(4)
    assert epoch(3) != epoch(3, seed=1)


def test_going_on_in_mid_epoch_gives_what_is_left() -> None:
    lengths = [100 + 7 * i for i in range(60)]
    done = 0
    sampler = BucketSampler(lengths, 3000, skip=lambda: done)
    sampler.set_epoch(2)
    whole = list(sampler)
    done = 5
    assert list(sampler) == whole[5:]


def test_the_costliest_batch_comes_first_in_the_first_epoch() -> None:
    sampler = BucketSampler([50 + 13 * i for i in range(80)], 2500)
    costs = [cost(sampler, batch) for batch in sampler]
    assert costs[0] == max(costs)
    longest = [max(batch) for batch in sampler]
    assert longest[1:] not in (sorted(longest[1:]), sorted(longest[1:], reverse=True))


def test_the_ranks_of_a_step_have_nearly_equal_work() -> None:
    lengths = [200 + (i * 37) % 1500 for i in range(400)]
    samplers = [BucketSampler(lengths, 8000, rank=rank, ranks=2) for rank in range(2)]
    for sampler in samplers:
        sampler.set_epoch(1)
    ratios = [cost(sampler, a) / cost(sampler, b) for a, b in zip(*map(list, samplers), strict=True)]
    assert min(ratios) > 0.75 and max(ratios) < 1.33
