"""Prepared corpora -> batches of utterances of similar length."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from asr import manifest
from asr.decoding.lexicon import read_lexicon
from asr.errors import TrainingError
from asr.features.logmel import LogMelConfig
from asr.features.store import Entry, FeatureStore
from asr.model.acoustic import Subsampling, relative_to_speech
from asr.text import ENGLISH, Tokenizer, ctc_frames_needed

BUCKET_GROWTH = 1.05  # lengths within 5 % of each other share a bucket


class Batch(NamedTuple):
    """Features `float16[B, T, F]` (0 beyond `lengths`), tokens `int64[B, L]` and their `target_lengths`."""

    ids: list[str]
    texts: list[str]
    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor


class Item(NamedTuple):
    """An utterance at one speed."""

    store: FeatureStore
    entry: Entry
    text: str
    tokens: list[int]


class SpeechDataset(Dataset[Batch]):
    """Utterances of prepared corpora at the given speeds; indexed by a list of positions, it returns a Batch.

    Words are replaced by their first pronunciation in `lexicon`. Raises TrainingError or StoreError.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        tokenizer: Tokenizer,
        speeds: Sequence[float] = (1.0,),
        lexicon: Path | None = None,
    ) -> None:
        self.stores = [FeatureStore(folder) for folder in folders]
        self.items: list[Item] = []
        spellings = read_lexicon(lexicon, tokenizer).first_spellings() if lexicon else None
        for folder, store in zip(folders, self.stores, strict=True):
            prepared = {entry.speed for entry in store.entries.values()}
            if missing := sorted(set(speeds) - prepared):
                raise TrainingError(f"{folder}: not prepared at speed {missing[0]}; see asr prepare --speeds")
            for utterance in manifest.read(folder / "manifest.jsonl"):
                text = utterance.text
                if spellings is not None:
                    if lacking := sorted(set(text.split()) - spellings.keys()):
                        raise TrainingError(f"{folder}: {lexicon} lacks {name_some(lacking)}; add them to it")
                    text = tokenizer.decode(token for word in text.split() for token in spellings[word])
                tokens = tokenizer.encode(text)
                if (utterance.id, 1.0) not in store.entries:
                    raise TrainingError(f"{folder}: no features of {utterance.id}; run `asr prepare` again")
                # Fast copies too short for their text are missing.
                entries = (store.entries.get((utterance.id, speed)) for speed in speeds)
                self.items += [Item(store, entry, text, tokens) for entry in entries if entry]
        self._check_lengths()

    def _check_lengths(self) -> None:
        frames = Subsampling.output_lengths(torch.tensor(self.lengths)).tolist()
        items = zip(self.items, frames, strict=True)
        short = [item.entry.id for item, count in items if ctc_frames_needed(item.tokens) > count]
        if short:
            raise TrainingError(
                f"{len(short)} utterances have more labels than frames, so CTC cannot align them: "
                f"{name_some(short)}; take them out of the manifest"
            )

    @property
    def lengths(self) -> list[int]:
        return [item.entry.frames for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, positions: list[int]) -> Batch:
        items = [self.items[position] for position in positions]
        longest = max(item.entry.frames for item in items)
        features = np.zeros((len(items), longest, items[0].store.config.mels), np.float16)
        targets = torch.zeros(len(items), max(len(item.tokens) for item in items), dtype=torch.long)
        for row, target, item in zip(features, targets, items, strict=True):
            row[: item.entry.frames] = item.store.read(item.entry)
            target[: len(item.tokens)] = torch.tensor(item.tokens)
        return Batch(
            ids=[item.entry.id for item in items],
            texts=[item.text for item in items],
            features=torch.from_numpy(features),
            lengths=torch.tensor([item.entry.frames for item in items]),
            targets=targets,
            target_lengths=torch.tensor([len(item.tokens) for item in items]),
        )

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation `float32[F]` over all stores, weighted by frames."""
        weights = [sum(e.frames for e in s.entries.values() if e.speed == 1.0) for s in self.stores]
        means = np.stack([s.mean for s in self.stores]).astype(np.float64)
        squares = np.stack([s.std.astype(np.float64) ** 2 for s in self.stores]) + means**2
        mean = np.average(means, axis=0, weights=weights)
        std = np.sqrt(np.average(squares, axis=0, weights=weights) - mean**2)
        return mean.astype(np.float32), std.astype(np.float32)

    def speech_statistics(self, most: int = 1000) -> tuple[np.ndarray, np.ndarray]:
        """Mean over speech and deviation from each utterance's own, `float32[F]`, relative to its level."""
        mels = self.stores[0].config.mels
        sums, squares = torch.zeros(2, mels, dtype=torch.float64)
        weights, frames = 0.0, 0
        for item in self.items[:: max(1, len(self.items) // most)]:
            features = torch.from_numpy(item.store.read(item.entry).astype(np.float32))[None]
            every = torch.ones(1, features.shape[1], 1, dtype=torch.bool)
            relative, weight = relative_to_speech(features, every)
            own = (relative * weight).sum(1) / weight.sum(1).clamp(min=1)
            sums += (relative * weight).sum(1)[0].double()
            squares += (relative - own).square().sum(1)[0].double()
            weights, frames = weights + float(weight.sum()), frames + features.shape[1]
        return (sums / weights).float().numpy(), (squares / frames).sqrt().float().numpy()


def name_some(ids: Sequence[str], most: int = 5) -> str:
    """The first ids, and the number of others."""
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more


class BucketSampler(Sampler[list[int]]):
    """Lists of indices; each list, padded to its longest utterance, costs at most `budget`.

    `lengths` and `budget` share a unit (frames, say); a longer utterance is a batch of its own. Utterances
    are shuffled within their bucket and cut into batches from short to long, so all epochs have the same
    number of batches, and each step has batches of neighbouring lengths on all ranks. The order depends only
    on `seed` and the epoch. The first epoch starts with the most expensive batch, so that running out of
    memory shows at once. `skip()` returns the number of batches already done in this epoch, for resuming.
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
        # Rounded up to the edge of their bucket, all members of a bucket are interchangeable.
        exponents = np.ceil(np.log(np.asarray(lengths)) / np.log(BUCKET_GROWTH))
        self.bucketed = np.ceil(BUCKET_GROWTH**exponents)
        self.seed, self.rank, self.ranks, self.skip = seed, rank, ranks, skip
        self.epoch = 0
        self.cuts = self._cut(np.sort(self.bucketed), budget)

    def __len__(self) -> int:
        return (len(self.cuts) - 1) // self.ranks

    def set_epoch(self, epoch: int) -> None:
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
            costs = [float(self.bucketed[step[-1]].max()) * len(step[-1]) for step in steps]
            steps.insert(0, steps.pop(costs.index(max(costs))))
        return [step[self.rank] for step in steps]

    def _cut(self, lengths: np.ndarray, budget: int) -> list[int]:
        """Cut ascending `lengths` into stretches that fit the budget, a multiple of the number of ranks."""
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


class SpeechData(pl.LightningDataModule):
    """Prepared corpora for training and validation.

    Args:
        train: Folders written by `asr prepare` to train on.
        validation: Folders written by `asr prepare` to validate on; never augmented.
        batch_seconds: Most seconds of audio in a training step, padding included, divided among the
            processes; model.consistency doubles the memory it takes.
        speeds: Speeds of the training data to use; those other than 1.0 must have been prepared.
        units: Output units of the model: the characters of an alphabet, or a list of phones. Token 0 is the
            CTC blank, token i+1 the i-th unit.
        lexicon: Pronunciations, if the units are phones.
        licence: Licence of the training data, for the model card.
        seed: Seed of the order of the training data, set from seed_everything.
    """

    def __init__(
        self,
        train: list[Path],
        validation: list[Path],
        batch_seconds: float = 300.0,
        speeds: list[float] = [1.0],  # noqa: B006 - shown as the default by jsonargparse
        units: str | list[str] = ENGLISH,
        lexicon: Path | None = None,
        licence: str = "unspecified",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train_folders, self.validation_folders = train, validation
        self.batch_seconds, self.speeds = batch_seconds, speeds
        self.tokenizer = Tokenizer(units if isinstance(units, str) else tuple(units))
        self.lexicon, self.licence, self.seed = lexicon, licence, seed

    def setup(self, stage: str) -> None:
        """Open the stores and check that they are consistent."""
        if hasattr(self, "log_mel"):
            return
        self.train_set = SpeechDataset(self.train_folders, self.tokenizer, self.speeds, self.lexicon)
        self.validation_set = SpeechDataset(self.validation_folders, self.tokenizer, lexicon=self.lexicon)
        if not self.train_set.items:
            raise TrainingError("data.train: no utterances; name folders written by `asr prepare`")
        if self.validation_set.items and not any(item.tokens for item in self.validation_set.items):
            raise TrainingError("data.validation: no words to recognise; leave it empty, or add utterances")
        configs = {store.config for store in self.train_set.stores + self.validation_set.stores}
        if len(configs) > 1:
            raise TrainingError("the feature stores differ in their LogMel settings; prepare them alike")
        self.log_mel: LogMelConfig = configs.pop()

    @cached_property
    def batches(self) -> str:
        """Hash of what the order of the training batches depends on."""
        assert self.trainer is not None
        entries = [(item.entry.id, item.entry.speed, item.entry.frames) for item in self.train_set.items]
        known = repr((self.seed, self.batch_seconds, self.trainer.world_size, entries))
        return hashlib.sha256(known.encode()).hexdigest()

    def state_dict(self) -> dict[str, Any]:
        """State that resuming compares."""
        return {"units": self.tokenizer.units, "batches": self.batches}

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of this rank, from the middle of an epoch after a resume."""
        assert self.trainer is not None
        progress = self.trainer.fit_loop.epoch_loop.batch_progress
        return self._loader(self.train_set, self.seed, lambda: progress.current.ready)

    def val_dataloader(self) -> DataLoader[Batch] | list[Any]:
        """All validation utterances, distributed over the ranks."""
        if not self.validation_set.items:
            return []
        return self._loader(self.validation_set, 0, lambda: 0)

    def _loader(self, dataset: SpeechDataset, seed: int, skip: Callable[[], int]) -> DataLoader[Batch]:
        trainer = self.trainer
        assert trainer is not None
        budget = int(self.batch_seconds * self.log_mel.sample_rate / self.log_mel.hop / trainer.world_size)
        rank, ranks = trainer.global_rank, trainer.world_size
        sampler = BucketSampler(dataset.lengths, budget, seed=seed, rank=rank, ranks=ranks, skip=skip)
        # No workers: a batch is one gather from memory maps. The loader's own generator keeps it from drawing
        # on the global one, which would break exact resuming.
        options: Any = {"pin_memory": torch.cuda.is_available(), "generator": torch.Generator()}
        return DataLoader(dataset, sampler=sampler, batch_size=None, **options)
