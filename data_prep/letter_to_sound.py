"""Letter to sound: guess the pronunciation of a word missing from the dictionary.

`python -m data_prep.letter_to_sound` trains the network that ships, which asr.decoding.spelling runs
without torch.
"""

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from rapidfuzz.distance import Levenshtein
from torch import Tensor, nn

from asr.decoding import spelling
from asr.decoding.spelling import FRAMES, LETTERS, Pronunciation, is_possessive
from asr.errors import PrepareError
from asr.files import atomic_write
from asr.text import BLANK, ctc_frames_needed
from data_prep.lexicon import Dictionary, find_dictionary, read_dictionary

Progress = Callable[[str], None]

_HELD_OUT = 20
"""One word in 20 is not trained on."""


@dataclass(frozen=True)
class LetterToSoundOptions:
    """Size and training of the network; `batch` words of equal length per step."""

    hidden: int = 192
    layers: int = 2
    dropout: float = 0.1
    epochs: int = 7
    batch: int = 256
    learning_rate: float = 4e-3
    seed: int = 0


SHIPPED = LetterToSoundOptions(hidden=128, epochs=5)
"""The network that ships: half as large as the default, and nearly as good."""


class LetterToSound(nn.Module):
    """Bidirectional GRU with two CTC frames per letter: `int64[B, T]` -> `float32[B, 2 T, 1 + phones]`.

    Returns log-probabilities. Words of a batch have equal length, so there is no padding.
    """

    def __init__(self, phones: Sequence[str], options: LetterToSoundOptions) -> None:
        super().__init__()
        self.phones = tuple(phones)
        size = options.hidden
        self.embedding = nn.Embedding(len(LETTERS), size // 2)
        self.layers = nn.GRU(
            size // 2, size, options.layers, batch_first=True, bidirectional=True, dropout=options.dropout
        )
        self.dropout = nn.Dropout(options.dropout)
        self.head = nn.Linear(2 * size, FRAMES * (1 + len(phones)))

    def forward(self, letters: Tensor) -> Tensor:
        hidden, _ = self.layers(self.embedding(letters))
        logits: Tensor = self.head(self.dropout(hidden)).float()
        return logits.reshape(len(letters), -1, 1 + len(self.phones)).log_softmax(-1)

    @torch.inference_mode()
    def pronounce(self, words: Sequence[str]) -> list[Pronunciation]:
        """Return the phones of each word, at least one. Words are non-empty and consist of LETTERS."""
        self.eval()
        pronunciations: dict[str, Pronunciation] = {}
        for batch in _batches(words, 1024):
            log_probs = self(_encode(batch))
            paths = log_probs.argmax(-1).tolist()
            best = (log_probs[:, :, BLANK + 1 :].amax(1).argmax(-1) + 1).tolist()
            for word, path, phone in zip(batch, paths, best, strict=True):
                tokens = [token for token, _ in groupby(path) if token != BLANK] or [phone]
                pronunciations[word] = tuple(self.phones[token - 1] for token in tokens)
        return [pronunciations[word] for word in words]


def train(
    dictionary: Dictionary,
    options: LetterToSoundOptions | None = None,
    progress: Progress = lambda stage: None,
) -> LetterToSound:
    """Train on the first pronunciation of each word; possessives are skipped, as they have a rule.

    Words with more phones than frames (AAA, spoken "triple A") are skipped. The same seed on the same machine
    gives the same network. Raises PrepareError if no word is left.
    """
    options = options or LetterToSoundOptions()
    phones = sorted({phone for ways in dictionary.values() for way in ways for phone in way})
    ids = {phone: index for index, phone in enumerate(phones, start=1)}
    targets = {w: [ids[p] for p in ways[0]] for w, ways in dictionary.items() if not is_possessive(w)}
    words = [word for word in targets if ctc_frames_needed(targets[word]) <= FRAMES * len(word)]
    if not words:
        raise PrepareError("the dictionary has no word to train letter to sound on; use a larger one")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = LetterToSound(phones, options)
        _fit(model, words, targets, options, progress)
    return model


def _fit(
    model: LetterToSound,
    words: list[str],
    targets: dict[str, list[int]],
    options: LetterToSoundOptions,
    progress: Progress,
) -> None:
    shuffler = random.Random(options.seed)
    steps = options.epochs * sum(1 for _ in _batches(words, options.batch))
    optimizer = torch.optim.AdamW(model.parameters(), options.learning_rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, options.learning_rate, total_steps=steps)
    cpu = torch.cpu.get_capabilities()
    native = bool(cpu.get("avx512_bf16") or cpu.get("amx_bf16"))  # bfloat16 is slow on other CPUs
    for epoch in range(options.epochs):
        progress(f"letter to sound: epoch {epoch + 1} of {options.epochs}")
        shuffler.shuffle(words)
        batches = list(_batches(words, options.batch))
        shuffler.shuffle(batches)
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=native):
                log_probs = model(_encode(batch))
            tokens = torch.tensor([token for word in batch for token in targets[word]])
            lengths = torch.tensor([len(targets[word]) for word in batch])
            frames = torch.full_like(lengths, log_probs.shape[1])
            loss = F.ctc_loss(log_probs.transpose(0, 1), tokens, frames, lengths, BLANK, reduction="sum")
            loss = loss / options.batch
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def _batches(words: Iterable[str], size: int) -> Iterator[list[str]]:
    """Yield batches of up to `size` words of equal length, in order."""
    by_length: dict[int, list[str]] = {}
    for word in words:
        by_length.setdefault(len(word), []).append(word)
    for same in by_length.values():
        yield from (same[start : start + size] for start in range(0, len(same), size))


def _encode(words: Sequence[str]) -> Tensor:
    """Encode words of equal length as `int64[B, T]`."""
    return torch.tensor([[LETTERS.index(letter) for letter in word] for word in words])


def save(model: LetterToSound, path: Path) -> None:
    """Write a network for asr.decoding.spelling: matrices as int8, with a scale for each row."""
    arrays = {"phones": np.array(model.phones)}
    for name, tensor in model.state_dict().items():
        arrays[name] = tensor.numpy().astype(np.float16)
        if tensor.dim() == 2:
            scales = tensor.abs().amax(1, keepdim=True).clamp(min=1e-9) / 127
            arrays[name] = (tensor / scales).round().to(torch.int8).numpy()
            arrays[f"{name} scale"] = scales.numpy()
    with atomic_write(path, "wb") as file:
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]


def split(dictionary: Dictionary) -> tuple[Dictionary, Dictionary]:
    """Split a dictionary into words to train on and held-out words, which are no possessives."""
    names = sorted(word for word in dictionary if not is_possessive(word))[::_HELD_OUT]
    held_out = {word: dictionary[word] for word in names}
    return {word: ways for word, ways in dictionary.items() if word not in held_out}, held_out


def error_rates(network: spelling.LetterToSound, dictionary: Dictionary) -> tuple[float, float]:
    """Shares of wrong words and of wrong phones against the nearest pronunciation of each word."""
    wrong = errors = length = 0
    for word, ways in dictionary.items():
        guess = network.pronounce(word)
        distance, phones = min((Levenshtein.distance(way, guess), len(way)) for way in ways)
        wrong, errors, length = wrong + (distance > 0), errors + distance, length + phones
    return wrong / len(dictionary), errors / length


def main(path: Path = spelling.DATA) -> None:
    """Train, write and test the network that ships."""
    training, held_out = split(read_dictionary(find_dictionary()))
    save(train(training, SHIPPED, print), path)
    words, phones = (f"{100 * rate:.2f} %" for rate in error_rates(spelling.LetterToSound(path), held_out))
    print(f"{path}: of {len(held_out)} held-out words {words} are wrong, of their phones {phones}")


if __name__ == "__main__":
    main()
