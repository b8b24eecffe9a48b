"""Teaches a model of characters to spell from text alone, with sounds put together from real speech.

    python -m recipes.librispeech.spelling --model box --train data/librispeech/train-clean-5 \
        --text text.txt --out exp/spelling/text

Five hours of speech hold some 7,000 different words, too few to learn English spelling from; text is
plentiful. So the layers of a model of phones (--model) are kept as they are, and new ones on top read their
activations and write characters. They learn from training speech, and from sentences of the text (one a
line, in capitals), put together from pieces of the activations of training speech: of up to three words, as
they were said there, else of the phones that a lexicon spells a word with (see unit_selection). That is
injection of unpaired text (as in JOIST, arXiv 2210.07353).

OUT is an ordinary bundle, which `asr train --model.init` can train on as a whole. What must not be in the
text, recipes.librispeech.held_out takes out. A run that was cut off goes on from OUT.ckpt. Two cores:
OMP_NUM_THREADS=1 and `python -m torch.distributed.run --standalone --nproc-per-node 2 -m` for `python -m`;
each process listens for itself then, and a step is of twice as many frames.
"""

import argparse
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.utils.rnn import pad_sequence

from asr.cli_decoding import positive
from asr.console import status_of
from asr.decoding.lexicon import read_lexicon
from asr.errors import AsrError
from asr.features.logmel import LogMelConfig
from asr.files import atomic_write
from asr.model import bundle
from asr.model.acoustic import AcousticModel
from asr.model.export import load_acoustic_model, save_bundle, take_weights
from asr.text import Tokenizer
from asr.training.data import Batch, SpeechDataset
from asr.training.module import ctc_losses, mean_over_ranks, share_of_peak
from asr.training.noise import AdditiveNoise, NoiseConfig
from asr.training.run import cpu_has_bfloat16
from asr.training.sampler import BucketSampler
from asr.training.vocal_tract import VocalTract, VocalTractConfig
from recipes.librispeech.unit_selection import CHARACTERS, CHOICE, MOST_FRAMES, Bank, Example

SPEEDS = (0.9, 1.0, 1.1)
"""The training speech is heard once at each."""

VOICES = VocalTractConfig(1, 0.8, 1.25)
NOISE = NoiseConfig(1, 5, 25)
"""With these a model is about as often wrong on what it was trained on as it is on other speakers."""

DROPOUT = 0.1
"""Less than box has: of the text no sentence is likely to come twice."""

HEARD_FRAMES = 12_000
"""Of 10 ms in a batch that is listened to."""

WORDS = 24
"""Most words of a sentence that are taken."""

POOL = 400
"""Sentences that are made at a time, to be put together with those of like length."""

MOST_REFUSED = 1000
"""Sentences in a row that cannot be spoken, before the text is given up."""

NOT_SPOKEN = "{}: no sentence in words of the lexicon; they are to be in capitals, one a line"

STEPS_SAVED = 500
"""Every so many steps the state is written to OUT.ckpt."""


def listen(model: AcousticModel, dataset: SpeechDataset, lexicon: Mapping[str, list[int]]) -> Bank:
    """Cut the activations of training speech into pieces.

    Utterances with a word that is not in the lexicon, or too many phones for their frames, are heard, but not
    cut. Phrases that leave no choice are forgotten.
    """
    voices = VocalTract(VOICES, dataset.stores[0].config)
    noise = AdditiveNoise(NOISE, dataset.stores[0].config)
    bank = Bank()
    for positions in BucketSampler(dataset.lengths, HEARD_FRAMES).batches():
        batch = dataset[positions]
        clear = hear(model, batch.features, batch.lengths)  # phones are found here
        changed = hear(model, noise(voices(batch.features), batch.lengths), batch.lengths)
        for text, (_, log_probs), (frames, _) in zip(batch.texts, clear, changed, strict=True):
            bank.utterances.append(Example(frames, CHARACTERS.encode(text)))
            if all(word in lexicon for word in text.split()):
                bank.cut(frames, log_probs, [lexicon[word] for word in text.split()])
    bank.phrases = {words: said for words, said in bank.phrases.items() if len(said) >= CHOICE}
    return bank


@torch.inference_mode()
def hear(model: AcousticModel, features: Tensor, lengths: Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """Of each utterance the last layer's activations `float16[T, D]` and the log-probabilities `[T, V]`."""
    said: list[Tensor] = []
    hook = model.output_norm.register_forward_pre_hook(lambda _, inputs: said.append(inputs[0]))
    with hook, torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
        log_probs, lengths = model(features, lengths)
    rows = zip(said[0].half(), log_probs, lengths, strict=True)
    return [(x[:length].numpy(), row[:length].numpy()) for x, row, length in rows]


def read(
    text: Path, lexicon: Mapping[str, list[int]], bank: Bank, chooser: random.Random
) -> Iterator[Example]:
    """Sentences from anywhere in the text, for ever, without those that hold a word the lexicon lacks.

    Raises AsrError if a thousand in a row will not do.
    """
    size = text.stat().st_size
    refused = 0
    with text.open("rb") as file:
        while refused < MOST_REFUSED:
            file.seek(chooser.randrange(size))
            file.readline()  # the rest of a line
            if not (line := file.readline()):
                file.seek(0)
                line = file.readline()
            words = line.decode(errors="replace").split()
            start = chooser.randrange(max(1, len(words) - WORDS + 1))
            example = bank.example(words[start : start + WORDS], lexicon, chooser)
            refused = 0 if example else refused + 1
            if example:
                yield example
    raise AsrError(NOT_SPOKEN.format(text))


def rehearse(utterances: Sequence[Example], chooser: random.Random) -> Iterator[Example]:
    """Utterances of the training speech, for ever."""
    while True:
        yield from chooser.sample(utterances, len(utterances))


def batches(examples: Iterator[Example], chooser: random.Random) -> Iterator[list[Example]]:
    """Examples of like length, MOST_FRAMES with their padding."""
    while True:
        pool = [next(examples) for _ in range(POOL)]
        cuts = BucketSampler(
            [len(example.frames) for example in pool], MOST_FRAMES, seed=chooser.getrandbits(30)
        )
        cuts.set_epoch(1)  # which does not begin with the costliest
        yield from ([pool[i] for i in positions] for positions in cuts.batches())


def fit(
    model: AcousticModel,
    kept: int,
    sources: Mapping[str, Iterator[list[Example]]],
    arguments: argparse.Namespace,
    chooser: random.Random,
    state: dict[str, Any],
) -> None:
    """Train the layers from number `kept` on, from `state`, printing this process's losses as it goes."""
    upper = nn.ModuleList([*model.norms[kept:], *model.recurrent[kept:], model.output_norm, model.output])
    steps = arguments.steps
    optimizer = torch.optim.AdamW(upper.parameters(), arguments.learning_rate, fused=True)
    share = partial(share_of_peak, warmup_steps=steps // 20, total_steps=steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
    parts = {"upper": upper, "optimizer": optimizer, "schedule": schedule}
    if state["step"]:
        for name, part in parts.items():
            part.load_state_dict(state[name])
    rank, ranks = rank_and_ranks()
    # Other sentences and dropout in each process, and after each stop.
    seed = 1 + state["step"] * ranks + rank
    torch.manual_seed(seed)
    chooser.seed(seed)
    losses: dict[str, list[float]] = {name: [] for name in sources}
    for step in range(state["step"] + 1, steps + 1):
        source = "speech" if chooser.random() < arguments.spoken else "text"
        loss = loss_of(model, collate(next(sources[source])), kept)
        descend(loss, list(upper.parameters()), optimizer)
        schedule.step()
        losses[source].append(loss.item())
        if rank == 0 and (step % 100 == 0 or step == steps):
            means = ", ".join(f"{name} {np.mean(values):.3f}" for name, values in losses.items() if values)
            print(f"step {step}: nats a character: {means}", flush=True)
            losses = {name: [] for name in sources}
        if rank == 0 and step % STEPS_SAVED == 0:
            states = {name: part.state_dict() for name, part in parts.items()}
            with atomic_write(checkpoint_of(arguments.out), "wb") as file:
                torch.save({"step": step, "settings": settings_of(arguments), **states}, file)


def loss_of(model: AcousticModel, batch: Batch, kept: int) -> Tensor:
    """Nats a character that the layers from number `kept` on lose."""
    with torch.autocast("cpu", torch.bfloat16, enabled=cpu_has_bfloat16()):
        log_probs = model.emit(batch.features, batch.lengths, kept)
    return ctc_losses(batch, log_probs, batch.lengths).sum() / batch.target_lengths.sum()


def descend(loss: Tensor, weights: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> None:
    """A step down the gradient, which is the mean of the processes'."""
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    for weight in weights:
        assert weight.grad is not None
        weight.grad = mean_over_ranks(weight.grad)
    nn.utils.clip_grad_norm_(weights, 1.0)
    optimizer.step()


def rank_and_ranks() -> tuple[int, int]:
    """This process's number and how many there are."""
    return (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)


def checkpoint_of(out: Path) -> Path:
    """Where the state of a run that is to write the bundle `out` lies."""
    return out.with_name(f"{out.name}.ckpt")


def settings_of(arguments: argparse.Namespace) -> dict[str, str]:
    """What must stay the same when a run goes on."""
    return {name: str(value) for name, value in vars(arguments).items() if name != "out"}


def saved_state(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a run left behind, step 0 if there was none. Raises AsrError for a file that is no such thing, or
    for other settings."""
    path = checkpoint_of(arguments.out)
    if not path.exists():
        return {"step": 0}
    try:
        state: dict[str, Any] = torch.load(path)
        theirs = state["settings"]
    except OSError:
        raise
    except Exception as error:  # torch raises whatever its file formats do
        raise AsrError(f"{path}: not the state of such a run; delete it to start anew") from error
    for name, value in settings_of(arguments).items():
        if theirs[name] != value:
            flag = name.replace("_", "-")
            raise AsrError(
                f"{path}: of a run with --{flag} {theirs[name]}; give that, or delete it to start anew"
            )
    return state


def collate(examples: Sequence[Example]) -> Batch:
    """Examples as one Batch whose features are activations."""
    frames = [torch.from_numpy(example.frames).float() for example in examples]
    tokens = [torch.tensor(example.tokens) for example in examples]
    return Batch(
        ids=[],
        texts=[],
        features=pad_sequence(frames, batch_first=True),
        lengths=torch.tensor([len(x) for x in frames]),
        targets=pad_sequence(tokens, batch_first=True),
        target_lengths=torch.tensor([len(x) for x in tokens]),
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", required=True, help="a bundle of phones with its lexicon")
    parser.add_argument("--train", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--text", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="BUNDLE")
    parser.add_argument(
        "--lexicon", type=Path, metavar="FILE", help="spells more words in the model's phones"
    )
    parser.add_argument("--layers", type=positive, default=2, help="new ones (2)")
    parser.add_argument("--steps", type=positive, default=3500, help="(3500)")
    parser.add_argument("--spoken", type=float, default=0.25, help="share of the steps on speech (0.25)")
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="peak (0.002)")
    arguments = parser.parse_args(argv)
    return status_of(lambda: teach(arguments))


def teach(arguments: argparse.Namespace) -> int:
    """All of it; 0. Raises AsrError and OSError, most of them before anything is listened to."""
    if distributed.is_torchelastic_launched():
        distributed.init_process_group("gloo")
    first = rank_and_ranks()[0] == 0
    bundle.check_replaceable(arguments.out)
    state = saved_state(arguments)
    folder = bundle.locate(arguments.model)
    config = bundle.read_config(folder)
    if isinstance(config.characters, str):
        raise AsrError(f"{folder}: a model of characters; name one of phones")
    lexicon = spellings(folder, config.tokenizer, arguments.lexicon)
    check_text(arguments.text, lexicon)
    dataset = SpeechDataset([arguments.train], CHARACTERS, SPEEDS)
    if dataset.stores[0].config != (log_mel := LogMelConfig(**config.log_mel)):
        raise AsrError(f"{arguments.train}: its features are not made as those of {folder}; prepare it anew")

    torch.manual_seed(1)
    phones = load_acoustic_model(folder)
    kept = phones.architecture.layers
    bank = listen(phones, dataset, lexicon)
    if first:
        cut = sum(len(found) for key, found in bank.phones.items() if len(key) == 1)
        print(
            f"{len(bank.utterances)} utterances heard, {cut} phones, {len(bank.phrases)} phrases", flush=True
        )
        if state["step"]:
            print(f"going on after step {state['step']}", flush=True)
    torch.manual_seed(1)  # new layers alike in all processes
    model = AcousticModel(
        replace(
            phones.architecture,
            vocabulary=CHARACTERS.size,
            layers=kept + arguments.layers,
            dropout=DROPOUT,
        )
    )
    take_weights(model, folder)
    chooser = random.Random()  # seeded where training begins
    sources = {
        "speech": batches(rehearse(bank.utterances, chooser), chooser),
        "text": batches(read(arguments.text, lexicon, bank, chooser), chooser),
    }
    fit(model, kept, sources, arguments, chooser, state)
    if first:
        save_bundle(
            arguments.out,
            model,
            log_mel,
            characters=CHARACTERS.units,
            training_data=f"{config.training_data}; {arguments.train.name}, {arguments.text.name}",
            licence=config.licence,
        )
        checkpoint_of(arguments.out).unlink(missing_ok=True)
    return 0


def spellings(folder: Path, phones: Tokenizer, more: Path | None) -> dict[str, list[int]]:
    """The words of letters that a model's own lexicon spells, and others that `more` spells."""
    found: dict[str, list[int]] = {}
    for file in [*([more] if more else []), folder / bundle.LEXICON]:
        found |= read_lexicon(file, phones).first_spellings()
    return {word: spelling for word, spelling in found.items() if not CHARACTERS.unknown(word)}


def check_text(text: Path, lexicon: Mapping[str, list[int]]) -> None:
    """Raises AsrError where there is no text to read, or none of the lexicon's words where it begins."""
    with text.open("rb") as file:
        if not text.is_file():
            raise AsrError(f"{text}: a file is needed, to read from anywhere in it")
        words = [
            word for line in islice(file, MOST_REFUSED) for word in line.decode(errors="replace").split()
        ]
    if not words:
        raise AsrError(f"{text}: there is nothing in it")
    if not any(word in lexicon for word in words):
        raise AsrError(NOT_SPOKEN.format(text))


if __name__ == "__main__":
    raise SystemExit(main())
