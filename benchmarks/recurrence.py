"""Which way of being exact under padding costs a recurrent layer least?

    python -m benchmarks.recurrence [--device cpu|cuda] [--full] [--json]

Forward and backward of one bidirectional layer, whose input is as wide as its output, in four ways:

packed      nn.GRU or nn.LSTM on a packed sequence
reversed    asr's layer: two calls, the second on each utterance reversed within its length
saturated   one bidirectional call with a channel that is 1 on padding and closes the gates there by a large
            frozen weight (GRU: update gate 1; LSTM: input gate 0, forget gate 1), so that the state stays
even        one bidirectional call on utterances that all have the batch's greatest length: no padding

The first three get the same batch: utterances of one bucket of the sampler (5 %), with the lengths of
LibriSpeech's, which are stretched for batches longer than its longest. Frames are of 40 ms. `faster` is the
speed beside packed's, in valid frames a second; times are medians after a step to warm up, the ways taking
turns. `difference` is the greatest one between an output in the batch and alone, over some utterances, in
the same run; even has no padding, so that its difference is rounding alone. In 16 bits, packed and even
have 16-bit weights and no autocast, while the others cast theirs in every step, as in training; float32 is
what PyTorch makes of it (on CUDA: TensorFloat-32). PyTorch lets cuDNN keep weights on the chip (persistent
kernels) only for some unpacked input: up to 128 units, and LSTMs of one direction in float16 in batches of
up to 128.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr.frames import FrameGrid
from asr.model.acoustic import CELLS, Cell, RecurrentLayer, cast_together, padding_mask, run_with_weights
from benchmarks.synthetic import QUANTILES

FRAME_RATE = round(1 / FrameGrid().frame_seconds)
"""Frames a second after subsampling."""

_BUCKET = 1.05
_LARGE = 1e4
"""A sigmoid of this is 1 in every data type, whatever is added to it, and float16 can hold it."""

_CHANNELS = 8
"""Channels added for padding; all but one are 0, but matrix products like multiples of 8."""

_PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Padded(NamedTuple):
    """Input `[B, T, D]`, lengths `int64[B]` on the host, and the mask `bool[B, T]` of valid frames."""

    x: Tensor
    lengths: Tensor
    valid: Tensor


def padded(x: Tensor, lengths: Tensor) -> Padded:
    """A batch; lengths are on the host."""
    return Padded(x, lengths, padding_mask(lengths.to(x.device), x.shape[1]))


class Packed(nn.Module):
    """PyTorch's layer on packed sequences."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, batch: Padded) -> Tensor:
        """`[B, T, 2H]`."""
        packed = pack_padded_sequence(batch.x, batch.lengths, batch_first=True, enforce_sorted=False)
        frames = batch.x.shape[1]
        with torch.autocast(
            batch.x.device.type, enabled=False
        ):  # which takes float16 on CUDA, whatever is asked
            output: Tensor = pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=frames)[
                0
            ]
        return output


class Reversed(nn.Module):
    """asr's layer."""

    def __init__(self, cell: Cell, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.layer = RecurrentLayer(cell, rnn.input_size, rnn.hidden_size, bidirectional=True)
        state = rnn.state_dict()
        for direction, end in ((self.layer.forward_rnn, ""), (self.layer.backward_rnn, "_reverse")):
            assert direction is not None
            direction.load_state_dict({name: state[name + end] for name in direction.state_dict()})

    def forward(self, batch: Padded) -> Tensor:
        """`[B, T, 2H]`."""
        output: Tensor = self.layer(batch.x.transpose(0, 1), batch.lengths.to(batch.x.device))
        return output.transpose(0, 1)


class Saturated(nn.Module):
    """One call for both directions. Padding precedes the utterance for the backward one, whose state is 0
    then and stays 0; what follows it does not matter to the forward one."""

    column: Tensor

    def __init__(self, cell: Cell, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn
        signs = {"gru": (0, 1, 0), "lstm": (-1, 1, 0, 0)}[cell]  # PyTorch's gates: r z n, i f g o
        column = torch.zeros(len(signs) * rnn.hidden_size, _CHANNELS)
        column[:, 0] = _LARGE * torch.tensor(signs).repeat_interleave(rnn.hidden_size)
        # A buffer, so that neither gradients nor weight decay reach it.
        self.register_buffer("column", column)

    def forward(self, batch: Padded) -> Tensor:
        """`[B, T, 2H]`."""
        device, dtype = batch.x.device.type, batch.x.dtype
        padding = F.pad(~batch.valid[:, :, None], (0, _CHANNELS - 1)).to(dtype)
        weights = [weight for direction in self.rnn.all_weights for weight in direction]
        for i in (0, len(weights) // 2):
            weights[i] = torch.cat([weights[i], self.column], dim=1)
        with torch.autocast(device, enabled=False):
            return run_with_weights(self.rnn, torch.cat([batch.x, padding], 2), cast_together(weights, dtype))


class Even(nn.Module):
    """PyTorch's layer on a batch without padding."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, batch: Padded) -> Tensor:
        """`[B, T, 2H]`."""
        with torch.autocast(batch.x.device.type, enabled=False):
            output: Tensor = self.rnn(batch.x)[0]
        return output


def four_ways(cell: Cell, width: int, hidden: int, dtype: torch.dtype) -> dict[str, nn.Module]:
    """The same weights in all."""

    def rnn() -> nn.RNNBase:
        torch.manual_seed(0)
        return CELLS[cell](width, hidden, batch_first=True, bidirectional=True)

    return {
        "packed": Packed(rnn()).to(dtype),
        "reversed": Reversed(cell, rnn()),
        "saturated": Saturated(cell, rnn()),
        "even": Even(rnn()).to(dtype),
    }


def bucket_lengths(frames: int, size: int) -> Tensor:
    """`int64[size]`: lengths of utterances of one bucket, of which the longest has so many frames."""
    quantiles = FRAME_RATE * np.asarray(QUANTILES)
    quantiles *= max(1.0, frames / quantiles[-1])
    shares = np.linspace(0, 1, len(quantiles))
    low, high = np.interp([frames / _BUCKET, frames], quantiles, shares)
    drawn = np.interp(np.random.default_rng(0).uniform(low, high, size), shares, quantiles)
    drawn[0] = frames
    return torch.from_numpy(np.ceil(drawn).astype(int)).clamp(max=frames)


def forward(module: nn.Module, batch: Padded) -> Tensor:
    """Under autocast to the type of the input, where that has 16 bits."""
    dtype = batch.x.dtype
    with torch.autocast(batch.x.device.type, dtype, enabled=dtype != torch.float32):
        output: Tensor = module(batch)
        return output


def greatest_difference(module: nn.Module, batch: Padded, most: int = 4) -> float:
    """Between outputs in the batch and alone, of up to `most` utterances."""
    worst = 0.0
    with torch.no_grad():
        together = forward(module, batch)
        for i in np.linspace(0, len(batch.x) - 1, most).astype(int):
            frames = int(batch.lengths[i])
            alone = forward(module, padded(batch.x[i : i + 1, :frames], batch.lengths[i : i + 1]))
            worst = max(worst, float((together[i, :frames] - alone[0]).abs().max()))
    return worst


def step(module: nn.Module, batch: Padded) -> float:
    """Seconds of forward and backward; nothing on padding reaches the loss."""
    gradient = torch.ones_like(batch.x) * batch.valid[:, :, None]
    module.zero_grad()
    x = batch.x.detach().requires_grad_()
    synchronize(x.device)
    begin = time.perf_counter()
    forward(module, batch._replace(x=x)).backward(gradient)
    synchronize(x.device)
    return time.perf_counter() - begin


def synchronize(device: torch.device) -> None:
    """Wait until the device has done its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(
    cell: Cell, hidden: int, size: int, frames: int, precision: str, device: torch.device, rounds: int
) -> dict[str, Any]:
    """One row."""
    dtype = _PRECISIONS[precision]
    ways = {name: way.to(device) for name, way in four_ways(cell, 2 * hidden, hidden, dtype).items()}
    generator = torch.Generator(device).manual_seed(1)
    x = torch.randn(size, frames, 2 * hidden, generator=generator, device=device).to(dtype)
    bucket, even = padded(x, bucket_lengths(frames, size)), padded(x, torch.full((size,), frames))
    batches = {name: even if name == "even" else bucket for name in ways}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(1 + rounds):
        for name, way in ways.items():
            times[name].append(step(way, batches[name]))
    speeds = {
        name: int(batches[name].lengths.sum()) / statistics.median(taken[1:]) for name, taken in times.items()
    }
    return {
        "cell": cell,
        "hidden": hidden,
        "batch": size,
        "frames": frames,
        "precision": precision,
        "padding": 1 - float(bucket.lengths.sum()) / (size * frames),
        "seconds": {name: statistics.median(taken[1:]) for name, taken in times.items()},
        "faster": {name: speed / speeds["packed"] for name, speed in speeds.items()},
        "difference": {name: greatest_difference(way, batches[name]) for name, way in ways.items()},
    }


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--full", action="store_true", help="the larger grid, for a GPU")
    parser.add_argument("--cells", nargs="+", choices=["gru", "lstm"], default=["gru", "lstm"])
    parser.add_argument("--hidden", nargs="+", type=int)
    parser.add_argument("--batches", nargs="+", type=int, help="utterances")
    parser.add_argument("--frames", nargs="+", type=int, help="of the longest utterance")
    parser.add_argument("--precisions", nargs="+", choices=_PRECISIONS, default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    hidden = arguments.hidden or ([256, 384, 512, 768] if arguments.full else [256])
    batches = arguments.batches or ([8, 32, 128, 512] if arguments.full else [8, 32])
    frames = arguments.frames or ([100, 300, 600] if arguments.full else [100, 250])
    device = torch.device(arguments.device)
    rows = []
    if not arguments.json:
        print(heading(device))
    for point in product(arguments.cells, hidden, batches, frames, arguments.precisions):
        rows.append(measure(*point, device, arguments.rounds))
        if not arguments.json:
            print(line(rows[-1]), flush=True)
    if arguments.json:
        print(json.dumps({"device": name_of(device), "rows": rows}, indent=1))


def name_of(device: torch.device) -> str:
    """The machine."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def heading(device: torch.device) -> str:
    """Head of the table, in Markdown."""
    columns: Sequence[str] = (
        *("cell", "H", "B", "T", "precision", "padding", "packed, ms", "reversed, faster by"),
        *("saturated", "even", "difference: packed", "reversed", "saturated", "even"),
    )
    return f"{name_of(device)}\n\n| {' | '.join(columns)} |\n|{'---|' * len(columns)}"


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    faster, difference = row["faster"], row["difference"]
    cells = [str(row[key]) for key in ("cell", "hidden", "batch", "frames", "precision")]
    cells += [f"{100 * row['padding']:.1f} %", f"{1000 * row['seconds']['packed']:.1f}"]
    cells += [f"{faster[name]:.2f}" for name in ("reversed", "saturated", "even")]
    cells += [f"{difference[name]:.0e}" for name in ("packed", "reversed", "saturated", "even")]
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
