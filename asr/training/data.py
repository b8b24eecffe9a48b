"""From prepared corpora to batches."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from asr import manifest
from asr.decoding.lexicon import read_lexicon
from asr.errors import TrainingError
from asr.features.logmel import LogMelConfig
from asr.features.store import Entry, FeatureStore
from asr.model.subsampling import Subsampling
from asr.text import ENGLISH, Tokenizer, ctc_frames_needed
from asr.training.resident import ResidentFeatures
from asr.training.sampler import BucketSampler


class Batch(NamedTuple):
    """Features `float16[B, T, F]` (0 beyond `lengths`), tokens `int64[B, L]` and their `target_lengths`.

    Where features are resident on the device, `starts` says where each utterance lies among them, until the
    batch is there.
    """

    ids: list[str]
    texts: list[str]
    features: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    starts: Tensor | None = None


class Item(NamedTuple):
    """One utterance at one speed."""

    store: FeatureStore
    entry: Entry
    text: str
    tokens: list[int]


class Spelling:
    """Turns words into the units that `lexicon` spells them in, by the first spelling of each."""

    def __init__(self, lexicon: Path, tokenizer: Tokenizer) -> None:
        self._lexicon, self._tokenizer = lexicon, tokenizer
        self._spellings = read_lexicon(lexicon, tokenizer).first_spellings()

    def __call__(self, text: str, folder: Path) -> str:
        """Raises TrainingError with the words that the lexicon lacks."""
        if lacking := sorted(set(text.split()) - self._spellings.keys()):
            raise TrainingError(f"{folder}: {self._lexicon} lacks {name_some(lacking)}; spell all its words")
        return self._tokenizer.decode(token for word in text.split() for token in self._spellings[word])


class SpeechDataset(Dataset[Batch]):
    """The utterances of prepared corpora at the given speeds; a list of positions gives a Batch.

    With a lexicon, the texts are those of each word's first spelling. Where they are to be `resident`, a
    batch comes without its features. Raises TrainingError, StoreError.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        tokenizer: Tokenizer,
        speeds: Sequence[float] = (1.0,),
        lexicon: Path | None = None,
        resident: bool = False,
    ) -> None:
        self.stores = [FeatureStore(folder) for folder in folders]
        self.resident = ResidentFeatures(self.stores, speeds) if resident else None
        self.items: list[Item] = []
        spelling = Spelling(lexicon, tokenizer) if lexicon else None
        for folder, store in zip(folders, self.stores, strict=True):
            prepared = {entry.speed for entry in store.entries.values()}
            if missing := sorted(set(speeds) - prepared):
                raise TrainingError(
                    f"{folder}: not prepared at speed {missing[0]}; run `asr prepare` with --speeds"
                )
            for utterance in manifest.read(folder / "manifest.jsonl"):
                text = spelling(utterance.text, folder) if spelling else utterance.text
                tokens = tokenizer.encode(text)
                if (utterance.id, 1.0) not in store.entries:
                    raise TrainingError(f"{folder}: no features of {utterance.id}; run `asr prepare` again")
                # A copy may be missing: played faster, the utterance was too short for its text.
                entries = (store.entries.get((utterance.id, speed)) for speed in speeds)
                self.items += [Item(store, entry, text, tokens) for entry in entries if entry]
        self._check_lengths()

    def _check_lengths(self) -> None:
        frames = Subsampling.output_lengths(torch.tensor(self.lengths)).tolist()
        needed = (ctc_frames_needed(item.tokens) for item in self.items)
        short = [item.entry.id for item, f, n in zip(self.items, frames, needed, strict=True) if n > f]
        if short:
            raise TrainingError(
                f"{len(short)} utterances have more labels than frames, so CTC cannot align them: "
                f"{name_some(short)}; take them out of the manifest"
            )

    @property
    def lengths(self) -> list[int]:
        """Feature frames of each item."""
        return [item.entry.frames for item in self.items]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, positions: list[int]) -> Batch:
        items = [self.items[position] for position in positions]
        lengths = torch.tensor([item.entry.frames for item in items])
        target_lengths = torch.tensor([len(item.tokens) for item in items])
        targets = torch.zeros(len(items), int(target_lengths.max()), dtype=torch.long)
        for target, item in zip(targets, items, strict=True):
            target[: len(item.tokens)] = torch.tensor(item.tokens)
        return Batch(
            ids=[item.entry.id for item in items],
            texts=[item.text for item in items],
            features=torch.zeros(0) if self.resident else self._features(items),
            lengths=lengths,
            targets=targets,
            target_lengths=target_lengths,
            starts=self._starts(items) if self.resident else None,
        )

    def to_device(self, batch: Batch, device: torch.device) -> Batch:
        """Take the features of a batch from where they are resident."""
        if self.resident is None or batch.starts is None:
            return batch
        features = self.resident.gather(batch.starts, batch.lengths, device)
        return batch._replace(features=features, starts=None)

    def _starts(self, items: Sequence[Item]) -> Tensor:
        assert self.resident is not None
        return torch.tensor([self.resident.row(item.store, item.entry) for item in items])

    @staticmethod
    def _features(items: Sequence[Item]) -> Tensor:
        longest = max(item.entry.frames for item in items)
        features = np.zeros((len(items), longest, items[0].store.config.mels), np.float16)
        for row, item in zip(features, items, strict=True):
            row[: item.entry.frames] = item.store.read(item.entry)
        return torch.from_numpy(features)

    def statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation `float32[F]` over all stores, weighted by their frames."""
        weights = np.array([sum(e.frames for e in s.entries.values() if e.speed == 1.0) for s in self.stores])
        means = np.stack([s.mean for s in self.stores]).astype(np.float64)
        squares = np.stack([s.std.astype(np.float64) ** 2 for s in self.stores]) + means**2
        mean = np.average(means, axis=0, weights=weights)
        std = np.sqrt(np.average(squares, axis=0, weights=weights) - mean**2)
        return mean.astype(np.float32), std.astype(np.float32)


def name_some(ids: Sequence[str], most: int = 5) -> str:
    """The first ids, and how many more there are."""
    more = f" and {len(ids) - most} more" if len(ids) > most else ""
    return ", ".join(ids[:most]) + more


class SpeechData(pl.LightningDataModule):
    """Prepared corpora for training and validation.

    Args:
        train: Folders made by `asr prepare` to train on.
        validation: Folders made by `asr prepare` to validate on; never augmented.
        batch_seconds: Most seconds of audio in a batch, padding included, on each device; with
            model.consistency, twice that is in its memory.
        speeds: Speeds of the training data to use; those other than 1.0 must have been prepared.
        units: What the model emits: the characters of an alphabet, or a list of phones. Token 0 is the CTC
            blank, token i+1 the i-th unit.
        lexicon: How words are spelt in units, for phones.
        resident: Keep all training features in the device's memory (1 GB for 17 hours).
        licence: Licence of the training data, for the model card.
        seed: Decides the order of the training data, taken from seed_everything.
    """

    def __init__(
        self,
        train: list[Path],
        validation: list[Path],
        batch_seconds: float = 300.0,
        speeds: list[float] = [1.0],  # noqa: B006 - jsonargparse shows it as the default
        units: str | list[str] = ENGLISH,
        lexicon: Path | None = None,
        resident: bool = False,
        licence: str = "unspecified",
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.train_folders = train
        self.validation_folders = validation
        self.batch_seconds = batch_seconds
        self.speeds = speeds
        self.tokenizer = Tokenizer(units if isinstance(units, str) else tuple(units))
        self.lexicon = lexicon
        self.resident = resident
        self.licence = licence
        self.seed = seed

    def setup(self, stage: str) -> None:
        """Open the stores; check that all fit together. Called by the trainer."""
        self.train_set = SpeechDataset(
            self.train_folders, self.tokenizer, self.speeds, self.lexicon, self.resident
        )
        self.validation_set = SpeechDataset(self.validation_folders, self.tokenizer, lexicon=self.lexicon)
        configs = {store.config for s in (self.train_set, self.validation_set) for store in s.stores}
        if len(configs) > 1:
            raise TrainingError("the feature stores differ in their LogMel settings; prepare them alike")
        self.log_mel: LogMelConfig = configs.pop()

    def _loader(self, dataset: SpeechDataset, sampler: BucketSampler) -> DataLoader[Batch]:
        # A batch is one gather from memory maps, so worker processes would only add latency. The loader's
        # own generator keeps it from drawing on the global one, which would break exact resuming.
        pin = torch.cuda.is_available()  # so that the host does not wait for the copy to the device
        generator = torch.Generator()
        return DataLoader(dataset, sampler=sampler, batch_size=None, generator=generator, pin_memory=pin)

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """Called by the trainer."""
        batch = self.train_set.to_device(batch, device)
        moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def train_dataloader(self) -> DataLoader[Batch]:
        """Shuffled batches of this rank; goes on in mid-epoch after a resume."""
        trainer = self.trainer
        assert trainer is not None
        sampler = BucketSampler(
            self.train_set.lengths,
            self._budget,
            seed=self.seed,
            rank=trainer.global_rank,
            ranks=trainer.world_size,
            skip=lambda: trainer.fit_loop.epoch_loop.batch_progress.current.ready,
        )
        return self._loader(self.train_set, sampler)

    def val_dataloader(self) -> DataLoader[Batch]:
        """All validation utterances, shared out over the ranks."""
        trainer = self.trainer
        assert trainer is not None
        lengths = self.validation_set.lengths
        sampler = BucketSampler(lengths, self._budget, rank=trainer.global_rank, ranks=trainer.world_size)
        return self._loader(self.validation_set, sampler)

    @property
    def _budget(self) -> int:
        return int(self.batch_seconds * self.log_mel.sample_rate / self.log_mel.hop)
