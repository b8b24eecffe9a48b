"""Training speed against packed sequences, and where the time goes.

    python -m benchmarks.training [--device cpu|cuda] [--cell gru|lstm]
                                  [--processes 1]

The same model on the same synthetic corpus, with LibriSpeech's durations:

asr     data module, sampler and LightningModule under Lightning's trainer, in
        bf16, or in float32 on a CPU that only emulates bf16
packed  nn.GRU or nn.LSTM on packed sequences, shuffled batches of a fixed
        number of utterances, float32: what common PyTorch examples do

Both train with SpecAugment and AdamW. The figure is the median time of an
epoch, without the first; the two do not alternate. With --processes, so many
train asr, each with its share of the batch: on a CPU with one thread each, on
CUDA with one GPU each; packed stays one process.

Shares by part are of forward and backward on one batch of median length, each
part alone. "waiting for data" is measured by the trainer of the first process.
MFU is the model's floating-point operations, three times those of the forward
pass, over what a product of large matrices reaches in the same run (times the
GPUs).
"""

import argparse
import json
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning.profilers import SimpleProfiler
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

from asr import manifest
from asr.features.logmel import LogMelConfig
from asr.features.store import Entry, Summary, shard_path, write_meta
from asr.frames import FrameGrid
from asr.model.acoustic import CELLS, AcousticModel, Architecture, Cell, Subsampling
from asr.text import Tokenizer
from asr.training.augment import SpecAugmentConfig, spec_augment
from asr.training.callbacks import WeightAverage
from asr.training.data import Batch, SpeechData, SpeechDataset
from asr.training.losses import ctc_losses
from asr.training.module import CTCModule
from asr.training.run import cpu_has_bfloat16
from benchmarks import new_parser, show, time_alternately
from benchmarks.recurrence import CHARACTERS, QUANTILES, device_name, synchronize


def main() -> None:
    """Parse, measure, print."""
    parser = new_parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--cell", choices=["gru", "lstm"], default="gru")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch-seconds", type=float, help="of audio in a step (CPU 240, GPU 2400)")
    parser.add_argument("--hours", type=float, help="of the corpus (CPU 0.5, GPU 10)")
    parser.add_argument("--epochs", type=int, default=3, help="timed, after one of warm-up")
    parser.add_argument("--processes", type=int, default=1, help="that train asr together")
    arguments = parser.parse_args()
    gpu = arguments.device == "cuda"
    arguments.batch_seconds = arguments.batch_seconds or (2400.0 if gpu else 240.0)
    arguments.hours = arguments.hours or (10.0 if gpu else 0.5)
    with tempfile.TemporaryDirectory() as name:
        write_corpus(Path(name) / "train", arguments.hours)
        write_corpus(Path(name) / "validation", 20 / 3600, seed=1)
        result = measure(arguments, Path(name))
    show(result, table(result), arguments.json)


def write_corpus(folder: Path, hours: float, seed: int = 0) -> None:
    """Write the manifest and features of so many hours of noise; there are no audio files."""
    generator = np.random.default_rng(seed)
    mels = LogMelConfig().mels
    count = max(2, round(3600 * hours / np.mean(QUANTILES)))
    durations = np.interp(generator.random(count), np.linspace(0, 1, len(QUANTILES)), QUANTILES)
    frames = (durations / FrameGrid().hop_seconds).astype(int)
    starts = np.concatenate(([0], frames.cumsum()))
    utterances, entries = [], []
    for i, duration in enumerate(durations.tolist()):
        letters = generator.choice(list("ETAOIN SHRDLU"), int(duration * CHARACTERS))
        text = " ".join("".join(letters).split()) or "A"
        utterances.append(manifest.Utterance(f"noise-{i}", folder / f"{i}.flac", duration, text))
        entries.append(Entry(f"noise-{i}", 1.0, 0, int(starts[i]), int(frames[i])))
    folder.mkdir(parents=True)
    shard = shard_path(folder, 0)
    np.save(shard, generator.standard_normal((int(starts[-1]), mels), np.float32).astype(np.float16))
    manifest.write(folder / "manifest.jsonl", utterances)
    (folder / "index.jsonl").write_text("".join(json.dumps(asdict(entry)) + "\n" for entry in entries))
    shards = {shard.name: shard.stat().st_size}
    write_meta(folder, Summary(count, int(starts[-1]), [0.0] * mels, [1.0] * mels, [1.0], shards))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures."""
    device = torch.device(arguments.device)
    dataset = SpeechDataset([folder / "train"], Tokenizer())
    hours = sum(dataset.lengths) * FrameGrid().hop_seconds / 3600
    size = max(1, round(arguments.batch_seconds / (3600 * hours / len(dataset))))
    seconds, waited = train_asr(arguments, folder)
    packed = train_packed(new_module(arguments), dataset, size, arguments.epochs, device)
    batch = dataset[typical(dataset, arguments.batch_seconds)]
    module = new_module(arguments)
    peak = matrix_peak(device) * (arguments.processes if device.type == "cuda" else 1)
    operations = 3 * forward_operations(module.model) * 3600 * hours / FrameGrid().frame_seconds
    return {
        "device": device_name(device),
        "cell": arguments.cell,
        "processes": arguments.processes,
        "type": str(training_type(device)).removeprefix("torch."),
        "parameters": sum(p.numel() for p in module.parameters()),
        "asr_xrt": 3600 * hours / seconds,
        "packed_xrt": 3600 * hours / packed,
        "ratio": packed / seconds,
        "data_wait_share": waited,
        "parts": parts(module.to(device), batch, device),
        "mfu": operations / seconds / peak,
        "peak_tflops": peak / 1e12,
    }


def training_type(device: torch.device) -> torch.dtype:
    """Type of asr's matrix products in training."""
    return torch.bfloat16 if device.type == "cuda" or cpu_has_bfloat16() else torch.float32


def new_module(arguments: argparse.Namespace) -> CTCModule:
    """Module with the same weights each time."""
    torch.manual_seed(0)
    return CTCModule(Architecture(Tokenizer().size, arguments.cell, arguments.layers, arguments.hidden))


class QuietProfiler(SimpleProfiler):
    """Profiler that prints no summary."""

    def summary(self) -> str:
        """Return nothing."""
        return ""


class Clock(pl.Callback):
    """Writes the seconds of each epoch, and those of waiting for batches, to a file.

    A file, because spawned processes cannot return them.
    """

    def __init__(self, path: Path, device: str) -> None:
        self.path, self.device = path, device
        self.epochs: list[float] = []
        self.waits: list[float] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Settings of each process."""
        quieten()
        if trainer.world_size > 1 and self.device == "cpu":
            torch.set_num_threads(1)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock when all processes are ready."""
        self._wait_for_all(trainer, pl_module)
        fetches(trainer).clear()
        self._begin = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock when all processes are ready."""
        self._wait_for_all(trainer, pl_module)
        self.epochs.append(time.perf_counter() - self._begin)
        self.waits.append(sum(fetches(trainer)))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the file."""
        if trainer.is_global_zero:
            self.path.write_text(json.dumps({"epochs": self.epochs, "waits": self.waits}))

    def _wait_for_all(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        synchronize(pl_module.device)
        trainer.strategy.barrier()


def fetches(trainer: pl.Trainer) -> list[float]:
    """Seconds of waiting for each batch, from the trainer's profiler."""
    assert isinstance(trainer.profiler, SimpleProfiler)
    return trainer.profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]


def quieten() -> None:
    """Hide the trainer's notices."""
    warnings.filterwarnings("ignore", ".*LeafSpec.*|.*does not have many workers.*")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)


def train_asr(arguments: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Median seconds of an epoch, and the share of waiting for data."""
    quieten()
    data = SpeechData([folder / "train"], [folder / "validation"], batch_seconds=arguments.batch_seconds)
    trainer = pl.Trainer(
        accelerator=arguments.device,
        devices=arguments.processes,
        strategy="ddp_spawn" if arguments.processes > 1 else "auto",
        precision="32-true"
        if training_type(torch.device(arguments.device)) == torch.float32
        else "bf16-mixed",
        max_epochs=1 + arguments.epochs,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        profiler=QuietProfiler(),
        callbacks=[WeightAverage(), Clock(folder / "clock.json", arguments.device)],
    )
    trainer.fit(new_module(arguments), data)
    clock = json.loads((folder / "clock.json").read_text())
    epochs, waits = clock["epochs"][1:], clock["waits"][1:]
    return statistics.median(epochs), sum(waits) / sum(epochs)


class PackedLayer(nn.Module):
    """Bidirectional layer on packed sequences, in place of a RecurrentLayer.

    `[T, B, D]`, lengths -> `[T, B, 2H]`. `host_lengths` `int64[B]` are set for each batch, as the examples
    have them on the host.
    """

    host_lengths: Tensor

    def __init__(self, cell: Cell, width: int, hidden: int) -> None:
        super().__init__()
        self.rnn = CELLS[cell](width, hidden, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = pack_padded_sequence(x, self.host_lengths, enforce_sorted=False)
        output: Tensor = pad_packed_sequence(self.rnn(packed)[0], total_length=len(x))[0]
        return output


def train_packed(
    module: CTCModule, dataset: SpeechDataset, size: int, epochs: int, device: torch.device
) -> float:
    """Median seconds of an epoch with packed layers, in batches of `size` utterances."""
    a = module.model.architecture
    layers = [PackedLayer(a.cell, a.width, a.hidden) for _ in range(a.layers)]
    module.model.recurrent = nn.ModuleList(layers)
    module.to(device).train()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    positions: Any = range(len(dataset))  # stands for a map-style dataset of items
    loader = DataLoader(
        positions, size, shuffle=True, collate_fn=dataset.__getitem__, pin_memory=device.type == "cuda"
    )

    def epoch() -> None:
        for batch in loader:
            for layer in layers:
                layer.host_lengths = Subsampling.output_lengths(batch.lengths)
            batch = move_data_to_device(batch, device)
            losses, _, _ = module.losses(batch, augmented(module.model, batch))
            optimizer.zero_grad()
            (losses.sum() / batch.target_lengths.sum()).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()

    return time_on(device, epoch, epochs)


def augmented(model: AcousticModel, batch: Batch) -> Tensor:
    """Normalised features with SpecAugment."""
    return spec_augment(SpecAugmentConfig(), model.normalize(batch.features, batch.lengths), batch.lengths)


def time_on(device: torch.device, work: Callable[[], object], rounds: int = 5) -> float:
    """Median seconds of a function on the device, after one call of warm-up."""
    return time_alternately({"": work}, rounds, partial(synchronize, device))[""].seconds


def parts(module: CTCModule, batch: Batch, device: torch.device) -> dict[str, float]:
    """Share of each part in the time of a step."""
    batch = move_data_to_device(batch, device)
    model = module.model.train()
    x, lengths = model.subsampling(model.normalize(batch.features, batch.lengths), batch.lengths)
    x = x.detach().requires_grad_()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3, fused=True)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def subsampling() -> Tensor:
        return model.subsampling(augmented(model, batch), batch.lengths)[0]

    def recurrent() -> Tensor:
        y = x.transpose(0, 1)
        for norm, layer in zip(model.norms, model.recurrent, strict=True):
            y = y + layer(norm(y), lengths)
        return y

    def ctc() -> Tensor:
        log_probs = model.output(model.output_norm(x)).float().log_softmax(-1)
        return ctc_losses(batch, log_probs, lengths)

    def update() -> None:
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()

    work = {"subsampling": subsampling, "recurrent": recurrent, "ctc": ctc}
    times = {name: time_on(device, partial(both_ways, part, device)) for name, part in work.items()}
    times["optimiser"] = time_on(device, update)
    total = sum(times.values())
    return {name: seconds / total for name, seconds in times.items()}


def both_ways(part: Callable[[], Tensor], device: torch.device) -> None:
    """Forward, in the types of training, and backward."""
    with torch.autocast(device.type, torch.bfloat16, enabled=training_type(device) == torch.bfloat16):
        output = part()
    output.float().sum().backward()


def forward_operations(model: AcousticModel) -> float:
    """Floating-point operations of the matrix products per output frame (40 ms)."""
    a = model.architecture
    channels, bands = model.subsampling.first.out_channels, -(-a.mels // 4)
    convolutions = 9 * channels * (2 * 2 * bands) + 9 * channels * channels * bands
    recurrent = sum(p.numel() for p in model.recurrent.parameters() if p.ndim > 1)
    return 2.0 * (convolutions + channels * bands * a.width + recurrent + a.width * a.vocabulary)


def matrix_peak(device: torch.device) -> float:
    """Floating-point operations per second of a large matrix product in the type of training."""
    n = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(n, n, device=device, dtype=training_type(device)) for _ in range(2))
    return 2.0 * n**3 / time_on(device, partial(torch.mm, a, b))


def typical(dataset: SpeechDataset, batch_seconds: float) -> list[int]:
    """Positions of a batch of utterances around the median length."""
    order = sorted(range(len(dataset)), key=dataset.lengths.__getitem__)
    median = dataset.lengths[order[len(order) // 2]] * FrameGrid().hop_seconds
    count = max(1, round(batch_seconds / median))
    first = max(0, len(order) // 2 - count // 2)
    return order[first : first + count]


def table(result: dict[str, Any]) -> str:
    """Format the figures as lines of text."""
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in result["parts"].items())
    processes = f"{result['processes']} process" + "es" * (result["processes"] > 1)
    return "\n".join(
        (
            f"{result['device']}; {result['cell']}, {result['parameters'] / 1e6:.1f} M parameters",
            f"{'asr':8}{result['asr_xrt']:10.0f} x real time, {result['type']}, {processes}",
            f"{'packed':8}{result['packed_xrt']:10.0f} x real time, float32, 1 process",
            f"{'ratio':8}{result['ratio']:10.2f}",
            "",
            f"waiting for data: {100 * result['data_wait_share']:.2f} %",
            f"time by part: {shares}",
            f"MFU {100 * result['mfu']:.1f} % of {result['peak_tflops']:.2f} TFLOP/s",
        )
    )


if __name__ == "__main__":
    main()
