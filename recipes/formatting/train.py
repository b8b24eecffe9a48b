"""Train the tagger on prepared prose, and export it as ONNX with int8 weights.

python -m recipes.formatting.train --config recipes/formatting/formatting.yaml
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.cli import LightningCLI
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from asr.formatting.marks import MARKS, SENTENCE_END
from asr.formatting.pauses import BUCKETS, UNKNOWN, Pauses
from asr.formatting.vocabulary import BEGIN, END, Vocabulary
from asr.model.acoustic import Dropout, RecurrentLayer
from asr.training.module import OptimizerConfig

CASES = 3
IGNORED = 255  # label of the positions that are no words


@dataclass(frozen=True)
class Shape:
    """Shape of a Tagger.

    Args:
        embedding: Size of the vector of a word.
        hidden: GRU units per layer and direction.
        layers: Bidirectional GRU layers.
        dropout: Dropout probability of the embeddings and after each layer.
    """

    embedding: int = 96
    hidden: int = 128
    layers: int = 2
    dropout: float = 0.1


class Tagger(nn.Module):
    """Word ids and pauses `int64[B, T]`, lengths -> logits of marks and cases `float32[T, B, 8 + 3]`."""

    def __init__(self, vocabulary: int, shape: Shape) -> None:
        super().__init__()
        width = 2 * shape.hidden
        self.words = nn.Embedding(vocabulary, shape.embedding)
        self.pauses = nn.Embedding(BUCKETS, shape.embedding)
        nn.init.normal_(self.words.weight, std=0.5)
        nn.init.normal_(self.pauses.weight, std=0.5)
        self.recurrent = nn.ModuleList(
            RecurrentLayer("gru", width if i else shape.embedding, shape.hidden, True)
            for i in range(shape.layers)
        )
        self.dropout = Dropout(shape.dropout)
        self.output = nn.Linear(width, len(MARKS) + CASES)

    def forward(self, words: Tensor, pauses: Tensor, lengths: Tensor) -> Tensor:
        x = self.dropout(self.words(words.T) + self.pauses(pauses.T))
        for i, layer in enumerate(self.recurrent):
            y = self.dropout(layer(x, lengths))
            x = x + y if i else y
        logits: Tensor = self.output(x)
        return logits.float()


def load_tagger(checkpoint: Path) -> Tagger:
    """Load the tagger of a checkpoint, whose shape the weights tell."""
    state = torch.load(checkpoint, map_location="cpu", weights_only=True)["state_dict"]
    weights = {name.removeprefix("tagger."): value for name, value in state.items()}
    size, embedding = weights["words.weight"].shape
    layers = sum(name.endswith("forward_rnn.weight_hh_l0") for name in weights)
    hidden = weights["recurrent.0.forward_rnn.weight_hh_l0"].shape[1]
    model = Tagger(size, Shape(embedding, hidden, layers))
    model.load_state_dict(weights)
    return model.eval()


class Batch(NamedTuple):
    """Windows of text: `int64[B, T]`, lengths `int64[B]`; labels are IGNORED where there is no word."""

    words: Tensor
    pauses: Tensor
    marks: Tensor
    cases: Tensor
    lengths: Tensor


@dataclass(frozen=True)
class WindowConfig:
    """Windows of a text to train on.

    Args:
        words: Words of a window at most.
        batch: Windows of a batch.
        from_start: Share that starts with a sentence, and knows it.
        to_end: Share that ends with a sentence, and knows it.
        pauses: Share with simulated pauses.
        unknown: Share of the words that are taken for unknown, by their last letters.
    """

    words: int = 94
    batch: int = 128
    from_start: float = 0.5
    to_end: float = 0.5
    pauses: float = 0.5
    unknown: float = 0.02


class Windows(Dataset[Batch]):
    """Random windows of a prepared text: item i of an epoch is always the same batch."""

    def __init__(
        self,
        path: Path,
        vocabulary: Vocabulary,
        config: WindowConfig,
        pauses: Pauses | None,
        batches: int,
        seed: int,
    ) -> None:
        with np.load(path) as file:
            self.words, self.marks, self.cases = (file[name] for name in ("words", "marks", "cases"))
        self.config, self.pauses, self.batches, self.seed = config, pauses, batches, seed
        ends = np.isin(self.marks, [i for i, mark in enumerate(MARKS) if mark in SENTENCE_END])
        ends[:-1] &= self.cases[1:] > 0  # "Never!" she cried
        self.ends = np.flatnonzero(ends) + 1
        buckets = [0, 1, *(vocabulary.bucket(form.lower()) for form in vocabulary.forms)]
        self.buckets = np.array([*buckets, *range(len(buckets), vocabulary.size)], np.int32)

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, index: int) -> Batch:
        rng, c = np.random.default_rng([self.seed, index]), self.config
        shape = c.batch, c.words + 2
        words, pauses = np.full(shape, END), np.full(shape, UNKNOWN)
        marks, cases = np.full(shape, IGNORED), np.full(shape, IGNORED)
        lengths = np.zeros(c.batch, np.int64)
        for row in range(c.batch):
            first, last, starts, stops = self._draw(rng)
            at = slice(int(starts), int(starts) + last - first)
            words[row, 0] = BEGIN
            words[row, at] = self.words[first:last]
            marks[row, at], cases[row, at] = self.marks[first:last], self.cases[first:last]
            if self.pauses and rng.random() < c.pauses:
                pauses[row, at] = self.pauses.draw(rng, self.marks[first:last])
                pauses[row, at.stop - 1] = UNKNOWN
            lengths[row] = at.stop + stops
        swapped = (rng.random(shape) < c.unknown) & (marks != IGNORED)
        words[swapped] = self.buckets[words[swapped]]
        longest = lengths.max()
        grids = (
            torch.from_numpy(grid[:, :longest].astype(np.int64)) for grid in (words, pauses, marks, cases)
        )
        return Batch(*grids, torch.from_numpy(lengths))

    def _draw(self, rng: np.random.Generator) -> tuple[int, int, bool, bool]:
        """First word, end, and whether these are the start and the end of a sentence, and known to be."""
        c, total = self.config, len(self.words)
        starts = rng.random() < c.from_start
        first = int(self.ends[rng.integers(len(self.ends) - 1)] if starts else rng.integers(total - c.words))
        last = min(first + c.words, total)
        if rng.random() < c.to_end:
            inside = self.ends[slice(*np.searchsorted(self.ends, [first + 1, last + 1]))]
            if len(inside):
                return first, int(inside[-1] if rng.random() < 0.5 else rng.choice(inside)), starts, True
        return first, last, starts, False


class Prose(pl.LightningDataModule):
    """Prepared prose.

    Args:
        folder: Written by recipes.formatting.prepare.
        windows: Windows to train on.
        pauses: Distributions of pauses, as written by recipes.formatting.pauses; none leaves pauses unknown.
        batches: Batches of an epoch.
        validation: Batches of the validation.
    """

    def __init__(
        self,
        folder: Path,
        windows: WindowConfig = WindowConfig(),
        pauses: Path | None = None,
        batches: int = 500,
        validation: int = 16,
    ) -> None:
        super().__init__()
        self.folder, self.windows, self.batches, self.validation = folder, windows, batches, validation
        self.pauses = Pauses.read(pauses) if pauses else None
        self.vocabulary = Vocabulary.read(folder / "words.txt")

    def train_dataloader(self) -> DataLoader[Batch]:
        epoch = self.trainer.current_epoch if self.trainer else 0
        return self._load("train", self.batches, 1 + epoch)

    def val_dataloader(self) -> DataLoader[Batch]:
        return self._load("valid", self.validation, 0)

    def _load(self, part: str, batches: int, seed: int) -> DataLoader[Batch]:
        path = self.folder / f"{part}.npz"
        return DataLoader(
            Windows(path, self.vocabulary, self.windows, self.pauses, batches, seed), batch_size=None
        )


class TaggerModule(pl.LightningModule):
    """A tagger with its loss and its optimiser.

    Args:
        vocabulary: Number of word ids, set from the data.
        shape: The network.
        optimizer: Learning rate and its schedule.
        init: Checkpoint of an earlier stage to start from.
    """

    def __init__(
        self,
        vocabulary: int = 0,
        shape: Shape = Shape(),
        optimizer: OptimizerConfig = OptimizerConfig(),  # noqa: B008 - frozen
        init: Path | None = None,
    ) -> None:
        super().__init__()
        self.tagger = Tagger(vocabulary, shape)
        self.optimizer_config = optimizer
        if init is not None:
            self.load_state_dict(torch.load(init, map_location="cpu", weights_only=True)["state_dict"])

    def configure_optimizers(self) -> Any:
        c, total = self.optimizer_config, int(self.trainer.estimated_stepping_batches)
        optimizer = torch.optim.AdamW(self.parameters(), c.learning_rate, weight_decay=c.weight_decay)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: c.share_of_peak(step, total))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": rate, "interval": "step"}}

    def losses(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """Mean nats per word of marks and of cases, and the logits of the words `[N, 8 + 3]`."""
        logits = self.tagger(batch.words, batch.pauses, batch.lengths).transpose(0, 1)
        words = batch.marks != IGNORED
        logits, marks, cases = logits[words], batch.marks[words], batch.cases[words]
        mark_loss = nn.functional.cross_entropy(logits[:, : len(MARKS)], marks)
        return mark_loss, nn.functional.cross_entropy(logits[:, len(MARKS) :], cases), logits

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss in nats per word."""
        marks, cases, _ = self.losses(batch)
        self.log_dict({"marks": marks.detach(), "cases": cases.detach()}, batch_size=1)
        return marks + cases

    def on_validation_epoch_start(self) -> None:
        self._counts = np.zeros((3, len(MARKS)), np.int64)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        marks, cases, logits = self.losses(batch)
        words = batch.marks != IGNORED
        found, right = logits[:, : len(MARKS)].argmax(1).numpy(), batch.marks[words].numpy()
        for row, values in enumerate((found, right, right[found == right])):
            self._counts[row] += np.bincount(values, minlength=len(MARKS))
        wrong = (logits[:, len(MARKS) :].argmax(1) != batch.cases[words]).float().mean()
        self.log_dict({"val_loss": marks + cases, "val_case_errors": wrong}, batch_size=1)

    def on_validation_epoch_end(self) -> None:
        guessed, right, hits = self._counts
        f1 = 2 * hits / np.maximum(1, guessed + right)
        shown = "  ".join(f"{mark} {value:.3f}" for mark, value in zip(MARKS, f1, strict=True) if mark)
        metrics = self.trainer.callback_metrics
        print(
            f"epoch {self.current_epoch}  step {self.global_step}  marks {metrics.get('marks', 0):.4f}  "
            f"cases {metrics.get('cases', 0):.4f}  F1 {shown}",
            flush=True,
        )


class TrainCLI(LightningCLI):
    """Lightning's command line with a CSV log and the last checkpoint."""

    def add_arguments_to_parser(self, parser: Any) -> None:
        parser.link_arguments(
            "data", "model.vocabulary", lambda data: data.vocabulary.size, apply_on="instantiate"
        )

    def instantiate_trainer(self, **kwargs: Any) -> pl.Trainer:
        root = Path(self.config_init["trainer"]["default_root_dir"])
        self.trainer_defaults["callbacks"] = [ModelCheckpoint(root, "last", enable_version_counter=False)]
        return super().instantiate_trainer(logger=CSVLogger(root, "logs"), **kwargs)


def train(arguments: list[str]) -> Path:
    """Train; continues from `last.ckpt` if there is one. Returns the last checkpoint."""
    cli = TrainCLI(
        TaggerModule,
        Prose,
        run=False,
        args=arguments,
        seed_everything_default=0,
        trainer_defaults={
            "accelerator": "cpu",
            "devices": 1,
            "num_sanity_val_steps": 0,
            "reload_dataloaders_every_n_epochs": 1,
            "enable_progress_bar": False,
            "enable_model_summary": False,
        },
    )
    last = Path(cli.trainer.default_root_dir) / "last.ckpt"
    cli.trainer.fit(cli.model, cli.datamodule, ckpt_path=last if last.exists() else None, weights_only=True)
    return last


if __name__ == "__main__":
    print(train(sys.argv[1:]))
