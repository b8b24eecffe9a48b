"""Batches of utterances of like length, within a budget of seconds."""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

import numpy as np
from torch.utils.data import Sampler

from asr.errors import TrainingError

_BUCKET_GROWTH = 1.05
"""Lengths within 5 % of each other count as alike."""


class BucketSampler(Sampler[list[int]]):
    """Yields lists of indices; each list, padded to its longest, costs at most `budget`.

    `lengths` and `budget` are in the same unit (frames, say); an utterance longer than the budget stands
    alone. Utterances are shuffled among those of like length, then cut into batches from short to long, so
    that the number of batches is the same every epoch. Order and composition depend on (`seed`, epoch)
    alone. All ranks do equally many steps, each on neighbours in length. In the first epoch the costliest
    batch comes first, so that a lack of memory shows at once. `skip()` is asked at the start of an epoch
    how many batches have been done already, for going on in mid-epoch.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        budget: int,
        *,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
        skip: Callable[[], int] = lambda: 0,
    ) -> None:
        # Rounding lengths up to the edge of their bucket makes each bucket's members interchangeable.
        exponents = np.ceil(np.log(np.asarray(lengths)) / np.log(_BUCKET_GROWTH))
        self.bucketed = np.ceil(_BUCKET_GROWTH**exponents)
        self.seed = seed
        self.rank = rank
        self.ranks = ranks
        self.skip = skip
        self.epoch = 0
        self.cuts = self._cut(np.sort(self.bucketed), budget)

    def __len__(self) -> int:
        return (len(self.cuts) - 1) // self.ranks

    def set_epoch(self, epoch: int) -> None:
        """Called by the trainer before each epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        yield from self.batches()[self.skip() :]

    def batches(self) -> list[list[int]]:
        """This rank's batches of the current epoch, in order."""
        generator = np.random.default_rng([self.seed, self.epoch])
        shuffled = generator.permutation(len(self.bucketed))
        order = shuffled[np.argsort(self.bucketed[shuffled], kind="stable")].tolist()
        batches = [order[start:end] for start, end in pairwise(self.cuts)]
        steps = [batches[i : i + self.ranks] for i in range(0, len(batches), self.ranks)]
        generator.shuffle(steps)
        if self.epoch == 0:
            costs = [self._cost(step[-1]) for step in steps]
            steps.insert(0, steps.pop(costs.index(max(costs))))
        return [step[self.rank] for step in steps]

    def _cost(self, batch: list[int]) -> float:
        return float(self.bucketed[batch].max()) * len(batch)

    def _cut(self, lengths: np.ndarray, budget: int) -> list[int]:
        """Where ascending `lengths` are cut so that each stretch fits the budget; every rank gets as many."""
        cuts = [0]
        for position, length in enumerate(lengths):
            if position > cuts[-1] and length * (position + 1 - cuts[-1]) > budget:
                cuts.append(position)
        cuts.append(len(lengths))
        while (len(cuts) - 1) % self.ranks:
            sizes = np.diff(cuts)
            fullest = int(sizes.argmax())
            if sizes[fullest] < 2:
                raise TrainingError(f"{len(lengths)} utterances are too few for {self.ranks} processes")
            cuts.insert(fullest + 1, cuts[fullest] + int(sizes[fullest]) // 2)
        return cuts
