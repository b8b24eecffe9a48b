"""Letter to sound: how a word that the dictionary lacks is probably spoken. Not used at run time."""

import random
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn

from asr.text import BLANK
from asr.data_prep.lexicon import LETTERS, Spelling






_SLOTS = 2
"""CTC frames a letter: X is K S, and the U of USE is Y UW."""

_HELD_OUT = 20
"""One word in so many is kept from the training of a check."""


@dataclass(frozen=True)
class LetterToSoundOptions:
    """Size and training of the network. `batch` words of one length make a step."""

    hidden: int = 192
    layers: int = 2
    dropout: float = 0.1
    epochs: int = 9
    batch: int = 256
    learning_rate: float = 4e-3
    seed: int = 0


class LetterToSound(nn.Module):
    """Bidirectional GRUs over the letters, CTC over the phones: `int64[B, T]` -> `[B, 2 T, 1 + phones]`.

    All words of a batch have the same length, so nothing is padded.
    """

    def __init__(self, phones: Sequence[str], options: LetterToSoundOptions) -> None:
        super().__init__()
        self.phones = tuple(phones)
        hidden = options.hidden
        self.embedding = nn.Embedding(len(LETTERS), hidden // 2)
        self.layers = nn.GRU(
            hidden // 2,
            hidden,
            options.layers,
            batch_first=True,
            bidirectional=True,
            dropout=options.dropout,
        )
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(2 * hidden, _SLOTS * (1 + len(phones)))

    def forward(self, letters: Tensor) -> Tensor:
        hidden, _ = self.layers(self.embedding(letters))
        logits: Tensor = self.head(self.dropout(hidden)).float()
        return logits.unflatten(-1, (_SLOTS, -1)).flatten(1, 2).log_softmax(-1)

    @torch.inference_mode()
    def spell(self, words: Sequence[str]) -> list[Spelling]:
        """The phones of each word, at least one. Words are made of LETTERS, none is empty."""
        self.eval()
        spellings: dict[str, Spelling] = {}
        for batch in _batches(words, 1024):
            log_probs = self(_encode(batch))
            best = log_probs.argmax(-1)
            best[:, 1:][best[:, 1:] == best[:, :-1]] = BLANK
            loudest = log_probs[..., 1:].amax(1).argmax(-1) + 1
            for word, frames, phone in zip(batch, best.tolist(), loudest.tolist(), strict=True):
                tokens = [token for token in frames if token != BLANK] or [phone]
                spellings[word] = tuple(self.phones[token - 1] for token in tokens)
        return [spellings[word] for word in words]


def train(
    examples: Sequence[tuple[str, Spelling]],
    options: LetterToSoundOptions,
    progress: Callable[[str], None] = lambda stage: None,
) -> LetterToSound:
    """Learn from words and how they are spoken; the same seed on the same machine gives the same network.

    A word with more phones than its letters have room for (AAA as TRIPLE A) is passed over.
    """
    torch.manual_seed(options.seed)
    shuffler = random.Random(options.seed)
    phones = sorted({phone for _, spelling in examples for phone in spelling})
    ids = {phone: index for index, phone in enumerate(phones, start=1)}
    known = {word: [ids[phone] for phone in spelling] for word, spelling in examples}
    words = [word for word, tokens in known.items() if _fits(word, tokens)]
    model = LetterToSound(phones, options)
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, options.learning_rate, total_steps=options.epochs * len(list(_batches(words, options.batch)))
    )
    for epoch in range(options.epochs):
        progress(f"letter to sound: epoch {epoch + 1} of {options.epochs}")
        shuffler.shuffle(words)
        batches = list(_batches(words, options.batch))
        shuffler.shuffle(batches)
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16):
                log_probs = model(_encode(batch))
            loss = _loss(log_probs, [known[word] for word in batch]) / options.batch
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return model


def _loss(log_probs: Tensor, targets: list[list[int]]) -> Tensor:
    lengths = torch.tensor([len(target) for target in targets])
    flat = torch.tensor([token for target in targets for token in target])
    frames = torch.full_like(lengths, log_probs.shape[1])
    return F.ctc_loss(log_probs.transpose(0, 1), flat, frames, lengths, BLANK, reduction="sum")


def _fits(word: str, tokens: Sequence[int]) -> bool:
    repeats = sum(a == b for a, b in zip(tokens, tokens[1:], strict=False))
    return len(tokens) + repeats <= _SLOTS * len(word)


def _batches(words: Sequence[str], size: int) -> Iterator[list[str]]:
    by_length: dict[int, list[str]] = {}
    for word in words:
        by_length.setdefault(len(word), []).append(word)
    for same in by_length.values():
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _encode(words: Sequence[str]) -> Tensor:
    return torch.tensor([[LETTERS.index(letter) for letter in word] for word in words])


def held_out(word: str) -> bool:
    return zlib.crc32(word.encode()) % _HELD_OUT == 0
