"""How fast is training, beside what the common PyTorch examples do, and where does the time go?

    python -m benchmarks.training [--device cpu|cuda] [--cell gru|lstm] [--hidden 256] [--layers 3]
                                  [--batch-seconds 240] [--processes 1] [--compile]

The same model is trained on the same synthetic corpus, whose utterances have the lengths of LibriSpeech's:

ours     asr's data module, sampler and LightningModule under Lightning's trainer, in bf16 (as `asr train`,
         in float32 on a CPU that only emulates bf16)
packed   nn.GRU or nn.LSTM on packed sequences, batches of a fixed number of utterances from a shuffled
         loader, float32

Each epoch is timed, the first is left out as a warm-up, and the median of the others is taken; ours and
packed do not alternate. Both train for real, with SpecAugment and AdamW.

With --processes, so many train ours, each with its share of the batch's seconds, so that the batch of a step
is as large as with one: on a CPU with one thread each (gloo), on CUDA with one GPU each. The first process
times an epoch between barriers, and it is an epoch of the whole corpus. packed stays one process, on a CPU
with all threads, on CUDA with one GPU. With --compile (CUDA only), torch.compile takes ours' subsampling.

Shares by part are those of the parts alone, forward and backward, on one batch of median length (median of
five), by one process. `data_wait_share` is the time that the trainer waits for batches (in the first
process, by its profiler); `loader_xrt` how fast one thread of the host makes them. `mfu` is the model's
floating-point operations a second, three times those of the forward pass, over what a product of large
matrices of ours' type reaches on this device (times the GPUs) in the same run. `projection` is arithmetic:
epochs of 100 and 960 hours at the speed of ours.
"""

import argparse
import json
import logging
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from lightning_fabric.utilities import move_data_to_device
from pytorch_lightning.profilers import SimpleProfiler
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader

from asr.frames import FrameGrid
from asr.model.acoustic import CELLS, AcousticModel, Architecture, Cell, Subsampling
from asr.text import Tokenizer
from asr.training.augment import SpecAugmentConfig, spec_augment
from asr.training.callbacks import WeightAverage
from asr.training.data import Batch, SpeechData, SpeechDataset
from asr.training.losses import ctc_losses
from asr.training.module import CTCModule
from asr.training.run import cpu_has_bfloat16
from benchmarks.synthetic import write_corpus


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--cell", choices=["gru", "lstm"], default="gru")
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--batch-seconds", type=float, default=240.0)
    parser.add_argument("--hours", type=float, default=0.5, help="of the corpus; more for a GPU")
    parser.add_argument("--epochs", type=int, default=3, help="timed, after one to warm up")
    parser.add_argument("--packed-batch", type=int, help="utterances (as many as --batch-seconds holds)")
    parser.add_argument("--processes", type=int, default=1, help="that train ours together")
    parser.add_argument("--compile", action="store_true", help="the subsampling of ours; CUDA only")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    if arguments.compile and arguments.device == "cpu":
        # Backward through the bfloat16 convolutions, with sizes that vary, fails a check of strides there.
        parser.error("--compile: on a CPU, torch 2.11 cannot run what it compiles; use --device cuda")
    with tempfile.TemporaryDirectory() as name:
        write_corpus(Path(name) / "train", arguments.hours)
        write_corpus(Path(name) / "validation", 20 / 3600, seed=1)
        result = measure(arguments, Path(name))
    print(json.dumps(result, indent=1) if arguments.json else table(result))


def measure(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All figures."""
    device = torch.device(arguments.device)
    dataset = SpeechDataset([folder / "train"], Tokenizer())
    hours = sum(dataset.lengths) / 360_000
    size = arguments.packed_batch or round(arguments.batch_seconds / (3600 * hours / len(dataset)))
    seconds, waited = train_ours(arguments, folder)
    packed = train_packed(new_module(arguments), dataset, size, arguments.epochs, device)
    batch = dataset[typical(dataset, arguments.batch_seconds)]
    rate = hours / seconds
    peak = matrix_peak(device) * (arguments.processes if device.type == "cuda" else 1)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {os.cpu_count()} cores",
        "cell": arguments.cell,
        "processes": arguments.processes,
        "type": str(ours_type(device)).removeprefix("torch."),
        "compiled": arguments.compile,
        "parameters": sum(p.numel() for p in new_module(arguments).parameters()),
        "ours.audio_hours_per_second": rate,
        "packed.audio_hours_per_second": hours / packed,
        "ratio": packed / seconds,
        "data_wait_share": waited,
        "mfu": 3
        * forward_operations(new_module(arguments).model)
        * 3600
        / FrameGrid().frame_seconds
        * rate
        / peak,
        "peak_tflops": peak / 1e12,
        "loader_xrt": loader_speed(dataset, arguments.batch_seconds),
        "parts": parts(compiled(new_module(arguments), arguments).to(device), batch, device),
        "projection": {f"{h} hours: seconds an epoch": h / rate for h in (100, 960)},
    }


def ours_type(device: torch.device) -> torch.dtype:
    """Of the matrix products."""
    return torch.bfloat16 if device.type == "cuda" or cpu_has_bfloat16() else torch.float32


def new_module(arguments: argparse.Namespace) -> CTCModule:
    """The same weights each time."""
    torch.manual_seed(0)
    return CTCModule(Architecture(Tokenizer().size, arguments.cell, arguments.layers, arguments.hidden))


def compiled(module: CTCModule, arguments: argparse.Namespace) -> CTCModule:
    """In place, so that names stay; for any batch and number of frames."""
    if arguments.compile:
        module.model.subsampling.compile(dynamic=True)
    return module


class Timer(SimpleProfiler):
    """Says nothing at its end."""

    def summary(self) -> str:
        """Nothing."""
        return ""


class Clock(pl.Callback):
    """Seconds of each epoch between barriers, and of the first process's waiting for batches -> a file, for
    the processes are spawned ones."""

    def __init__(self, path: Path, arguments: argparse.Namespace) -> None:
        self.path = path
        self.arguments = arguments
        self.epochs: list[float] = []
        self.waits: list[float] = []

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """What each process sets for itself."""
        quieten()
        if trainer.world_size > 1 and self.arguments.device == "cpu":
            torch.set_num_threads(1)
        assert isinstance(pl_module, CTCModule)
        compiled(pl_module, self.arguments)

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start."""
        self._wait_for_all(trainer, pl_module)
        fetches(trainer).clear()
        self._begin = time.perf_counter()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop."""
        self._wait_for_all(trainer, pl_module)
        self.epochs.append(time.perf_counter() - self._begin)
        self.waits.append(sum(fetches(trainer)))

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Tell."""
        if trainer.is_global_zero:
            self.path.write_text(json.dumps({"epochs": self.epochs, "waits": self.waits}))

    def _wait_for_all(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        synchronize(pl_module.device)
        trainer.strategy.barrier()


def fetches(trainer: pl.Trainer) -> list[float]:
    """Seconds that the trainer waited for each batch, as its profiler notes them."""
    assert isinstance(trainer.profiler, SimpleProfiler)
    return trainer.profiler.recorded_durations["[_TrainingEpochLoop].train_dataloader_next"]


def quieten() -> None:
    """Hide what the trainer says of itself."""
    warnings.filterwarnings("ignore", ".*LeafSpec.*|.*does not have many workers.*")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)


def train_ours(arguments: argparse.Namespace, folder: Path) -> tuple[float, float]:
    """Median seconds of an epoch, and the share of it that went into waiting for data."""
    quieten()
    data = SpeechData(
        [folder / "train"],
        [folder / "validation"],
        batch_seconds=arguments.batch_seconds,
    )
    trainer = pl.Trainer(
        accelerator=arguments.device,
        devices=arguments.processes,
        strategy="ddp_spawn" if arguments.processes > 1 else "auto",
        precision="bf16-mixed" if ours_type(torch.device(arguments.device)) == torch.bfloat16 else "32-true",
        max_epochs=1 + arguments.epochs,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        use_distributed_sampler=False,
        gradient_clip_val=1.0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        profiler=Timer(),
        callbacks=[WeightAverage(), Clock(folder / "clock.json", arguments)],
    )
    trainer.fit(new_module(arguments), data)
    clock = json.loads((folder / "clock.json").read_text())
    epochs, waits = clock["epochs"][1:], clock["waits"][1:]
    return statistics.median(epochs), sum(waits) / sum(epochs)


class PackedLayer(nn.Module):
    """A bidirectional layer on packed sequences, in the place of a RecurrentLayer.

    The examples know the lengths `int64[B]` on the host, once a batch; `lengths` is set to them."""

    lengths: Tensor

    def __init__(self, cell: Cell, width: int, hidden: int) -> None:
        super().__init__()
        self.rnn = CELLS[cell](width, hidden, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """`[T, B, D]` -> `[T, B, 2H]`."""
        packed = pack_padded_sequence(x, self.lengths, enforce_sorted=False)
        output: Tensor = pad_packed_sequence(self.rnn(packed)[0], total_length=len(x))[0]
        return output


def train_packed(
    module: CTCModule, dataset: SpeechDataset, size: int, epochs: int, device: torch.device
) -> float:
    """Median seconds of an epoch."""
    a = module.model.architecture
    layers = [PackedLayer(a.cell, a.width, a.hidden) for _ in range(a.layers)]
    module.model.recurrent = nn.ModuleList(layers)
    module.to(device).train()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3)
    loader = DataLoader(
        range(len(dataset)),  # type: ignore[arg-type]  # positions stand for a map-style dataset of items
        size,
        shuffle=True,
        collate_fn=dataset.__getitem__,
        pin_memory=device.type == "cuda",
    )
    seconds = []
    for _ in range(1 + epochs):
        synchronize(device)
        begin = time.perf_counter()
        for batch in loader:
            for layer in layers:
                layer.lengths = Subsampling.output_lengths(batch.lengths)
            batch = move_data_to_device(batch, device)
            losses, _, _ = module.losses(batch, masked(module.model, batch))
            optimizer.zero_grad()
            (losses.sum() / batch.target_lengths.sum()).backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
        synchronize(device)
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds[1:])


def parts(module: CTCModule, batch: Batch, device: torch.device) -> dict[str, float]:
    """Share of a step's time by part."""
    batch = move_data_to_device(batch, device)
    model = module.model.train()
    x, lengths = model.subsampling(model.normalize(batch.features, batch.lengths), batch.lengths)
    x = x.detach().requires_grad_()
    optimizer = torch.optim.AdamW(module.parameters(), 1e-3, fused=True)
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)

    def features() -> Tensor:
        return model.subsampling(masked(model, batch), batch.lengths)[0]

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

    work = {"features": features, "rnn": recurrent, "ctc": ctc}
    times = {name: median_time(partial(both_ways, part, device), device) for name, part in work.items()}
    times["optimiser"] = median_time(update, device)
    total = sum(times.values())
    return {name: seconds / total for name, seconds in times.items()}


def masked(model: AcousticModel, batch: Batch) -> Tensor:
    """Normalised features with SpecAugment."""
    return spec_augment(SpecAugmentConfig(), model.normalize(batch.features, batch.lengths), batch.lengths)


def both_ways(part: Callable[[], Tensor], device: torch.device) -> None:
    """Forward, in bf16 where ours has it and autocast takes it, and backward."""
    with torch.autocast(device.type, torch.bfloat16, enabled=ours_type(device) == torch.bfloat16):
        output = part()
    output.float().sum().backward()


def median_time(work: Callable[[], None], device: torch.device, rounds: int = 5) -> float:
    """Seconds, after two calls to warm up."""
    times = []
    for _ in range(2 + rounds):
        synchronize(device)
        begin = time.perf_counter()
        work()
        synchronize(device)
        times.append(time.perf_counter() - begin)
    return statistics.median(times[2:])


def forward_operations(model: AcousticModel) -> float:
    """Floating-point operations of the matrix products, an output frame (40 ms)."""
    a = model.architecture
    channels, bands = model.subsampling.first.out_channels, -(-a.mels // 4)
    convolutions = 9 * channels * (2 * 2 * bands) + 9 * channels * channels * bands
    recurrent = sum(p.numel() for p in model.recurrent.parameters() if p.ndim > 1)
    return 2.0 * (convolutions + channels * bands * a.width + recurrent + a.width * a.vocabulary)


def matrix_peak(device: torch.device) -> float:
    """Floating-point operations a second of a large product."""
    n = 8192 if device.type == "cuda" else 2048
    a, b = (torch.randn(n, n, device=device, dtype=ours_type(device)) for _ in range(2))
    return 2.0 * n**3 / median_time(lambda: torch.mm(a, b), device)  # type: ignore[arg-type, return-value]


def loader_speed(dataset: SpeechDataset, batch_seconds: float) -> float:
    """Seconds of audio a second that one thread puts into batches."""
    positions = typical(dataset, batch_seconds)
    seconds = sum(dataset.lengths[i] for i in positions) * FrameGrid().hop_seconds
    return seconds / median_time(lambda: dataset[positions] and None, torch.device("cpu"))


def typical(dataset: SpeechDataset, batch_seconds: float) -> list[int]:
    """A batch of utterances about the median length."""
    order = sorted(range(len(dataset)), key=dataset.lengths.__getitem__)
    count = round(batch_seconds * 100 / dataset.lengths[order[len(order) // 2]])
    first = max(0, len(order) // 2 - count // 2)
    return order[first : first + count]


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def table(result: dict[str, Any]) -> str:
    """The result as lines of text."""
    ours, packed = (result[f"{name}.audio_hours_per_second"] for name in ("ours", "packed"))
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in result["parts"].items())
    projection = ", ".join(f"{name} {seconds:.0f}" for name, seconds in result["projection"].items())
    return "\n".join(
        (
            f"{result['device']}, {result['parameters'] / 1e6:.1f} M parameters, {result['cell']}; ours by "
            f"{result['processes']} process{'es' * (result['processes'] > 1)} in {result['type']}"
            f"{', subsampling compiled' * result['compiled']}",
            f"ours    {ours:.4f} hours of audio a second ({3600 * ours:.0f} x real time)",
            f"packed  {packed:.4f} hours of audio a second ({3600 * packed:.0f} x real time)",
            f"ratio   {result['ratio']:.2f}",
            f"waiting for data {100 * result['data_wait_share']:.2f} %; one thread loads "
            f"{result['loader_xrt']:.0f} x real time",
            f"time by part: {shares}",
            f"{100 * result['mfu']:.1f} % of {result['peak_tflops']:.2f} TFLOP/s",
            f"projection: {projection}",
        )
    )


if __name__ == "__main__":
    main()
