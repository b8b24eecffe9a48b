"""Bidirectional recurrent layer, exact under padding: speed against packing.

    python -m benchmarks.recurrence [--device cpu|cuda]

Forward and backward of one layer whose input is as wide as its output:

packed  nn.GRU or nn.LSTM on a PackedSequence, the peer
asr     RecurrentLayer: the backward RNN reads each utterance reversed

Both get the same batch: a bucket (5 %) of the training sampler with
LibriSpeech's durations, stretched for batches longer than its longest. Frames
are of 40 ms; times are medians of alternating rounds. "difference" is the
largest one between outputs in the batch and alone. In 16 bits, packed has
16-bit weights and no autocast, while asr casts its weights in each step, as in
training. float32 is TensorFloat-32 on CUDA where PyTorch allows it.
"""

from functools import partial
from itertools import product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from asr.frames import FrameGrid
from asr.model.acoustic import CELLS, Cell, RecurrentLayer, padding_mask
from benchmarks import new_parser, show, time_alternately

FRAME_RATE = round(1 / FrameGrid().frame_seconds)
"""Output frames per second."""

QUANTILES = (
    *(1.87, 4.07, 6.32, 8.63, 10.0, 11.34, 12.26, 12.73, 13.21, 13.63, 13.92),
    *(14.21, 14.49, 14.7, 14.93, 15.17, 15.37, 15.53, 15.78, 16.05, 17.27),
)
"""Durations in seconds of train-clean-5, a part of LibriSpeech's train-clean-100, in steps of 5 %."""

CHARACTERS = 14.6
"""Characters per second in train-clean-5."""

BUCKET = 1.05

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


class Padded(NamedTuple):
    """Input `[T, B, D]`, lengths `int64[B]` on the host, valid frames `bool[T, B, 1]`."""

    x: Tensor
    lengths: Tensor
    valid: Tensor


def padded(x: Tensor, lengths: Tensor) -> Padded:
    """Make a batch; `lengths` are on the host."""
    return Padded(x, lengths, padding_mask(lengths.to(x.device), len(x)).t()[:, :, None])


class Packed(nn.Module):
    """PyTorch's layer on packed sequences: `[T, B, D]` -> `[T, B, 2H]`."""

    def __init__(self, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, batch: Padded) -> Tensor:
        packed = pack_padded_sequence(batch.x, batch.lengths, enforce_sorted=False)
        with torch.autocast(batch.x.device.type, enabled=False):  # it takes float16 on CUDA in any case
            output: Tensor = pad_packed_sequence(self.rnn(packed)[0], total_length=len(batch.x))[0]
        return output


class Asr(nn.Module):
    """asr's layer: `[T, B, D]` -> `[T, B, 2H]`."""

    def __init__(self, cell: Cell, rnn: nn.RNNBase) -> None:
        super().__init__()
        self.layer = RecurrentLayer(cell, rnn.input_size, rnn.hidden_size, bidirectional=True)
        state = rnn.state_dict()
        for direction, end in ((self.layer.forward_rnn, ""), (self.layer.backward_rnn, "_reverse")):
            assert direction is not None
            direction.load_state_dict({name: state[name + end] for name in direction.state_dict()})

    def forward(self, batch: Padded) -> Tensor:
        output: Tensor = self.layer(batch.x, batch.lengths.to(batch.x.device))
        return output


def both_layers(cell: Cell, width: int, hidden: int, dtype: torch.dtype) -> dict[str, nn.Module]:
    """Make the two layers, with equal weights."""
    torch.manual_seed(0)
    rnn = CELLS[cell](width, hidden, bidirectional=True)
    return {"asr": Asr(cell, rnn), "packed": Packed(rnn).to(dtype)}


def bucket_lengths(frames: int, size: int) -> Tensor:
    """Lengths `int64[size]` of the utterances in a bucket whose longest has `frames` frames."""
    quantiles = FRAME_RATE * np.asarray(QUANTILES)
    quantiles *= max(1.0, frames / quantiles[-1])
    shares = np.linspace(0, 1, len(quantiles))
    low, high = np.interp([frames / BUCKET, frames], quantiles, shares)
    drawn = np.interp(np.random.default_rng(0).uniform(low, high, size), shares, quantiles)
    drawn[0] = frames
    return torch.from_numpy(np.ceil(drawn).astype(int)).clamp(max=frames)


def forward(layer: nn.Module, batch: Padded) -> Tensor:
    """Run a layer, under autocast if the input has 16 bits."""
    dtype = batch.x.dtype
    with torch.autocast(batch.x.device.type, dtype, enabled=dtype != torch.float32):
        output: Tensor = layer(batch)
        return output


def largest_difference(layer: nn.Module, batch: Padded, most: int = 4) -> float:
    """Largest difference between outputs in the batch and alone, over up to `most` utterances."""
    worst = 0.0
    together = forward(layer, batch).detach()
    for i in np.linspace(0, len(batch.lengths) - 1, most).astype(int):
        frames = int(batch.lengths[i])
        alone = forward(layer, padded(batch.x[:frames, i : i + 1], batch.lengths[i : i + 1])).detach()
        worst = max(worst, float((together[:frames, i] - alone[:, 0]).abs().max()))
    return worst


def step(layer: nn.Module, batch: Padded, gradient: Tensor) -> None:
    """Forward and backward."""
    layer.zero_grad()
    forward(layer, batch._replace(x=batch.x.detach().requires_grad_())).backward(gradient)


def synchronize(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(
    cell: Cell, hidden: int, size: int, frames: int, precision: str, device: torch.device, rounds: int
) -> dict[str, Any]:
    """One row of the table."""
    dtype = PRECISIONS[precision]
    layers = {name: layer.to(device) for name, layer in both_layers(cell, 2 * hidden, hidden, dtype).items()}
    generator = torch.Generator(device).manual_seed(1)
    x = torch.randn(frames, size, 2 * hidden, generator=generator, device=device).to(dtype)
    batch = padded(x, bucket_lengths(frames, size))
    gradient = torch.ones_like(x) * batch.valid
    steps = {name: partial(step, layer, batch, gradient) for name, layer in layers.items()}
    timings = time_alternately(steps, rounds, partial(synchronize, device))
    seconds = {name: timing.seconds for name, timing in timings.items()}
    return {
        "cell": cell,
        "hidden": hidden,
        "batch": size,
        "frames": frames,
        "precision": precision,
        "padding": 1 - float(batch.lengths.sum()) / (size * frames),
        "seconds": seconds,
        "ratio": seconds["packed"] / seconds["asr"],
        "difference": {name: largest_difference(layer, batch) for name, layer in layers.items()},
    }


def main() -> None:
    """Parse, measure, print."""
    parser = new_parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--cells", nargs="+", choices=["gru", "lstm"], default=["gru", "lstm"])
    parser.add_argument("--hidden", nargs="+", type=int, default=[256])
    parser.add_argument("--batches", nargs="+", type=int, default=[8, 32], help="utterances")
    parser.add_argument("--frames", nargs="+", type=int, default=[100, 250], help="of the longest")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=["float32", "bfloat16"])
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    rows = []
    if not arguments.json:
        print(f"{device_name(device)}\n\n{HEADER}")
    a = arguments
    for point in product(a.cells, a.hidden, a.batches, a.frames, a.precisions):
        rows.append(measure(*point, device, arguments.rounds))
        if not arguments.json:
            print(format_row(rows[-1]), flush=True)
    if arguments.json:
        show({"device": device_name(device), "rows": rows}, "", True)


def device_name(device: torch.device) -> str:
    """Name of the GPU, or the number of threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


HEADER = (
    f"{'':36}{'packed':>10}{'asr':>10}{'faster':>8}{'difference':>15}\n"
    f"{'cell':5}{'H':>5}{'B':>5}{'T':>5}  {'type':9}{'pad %':>5}"
    f"{'ms':>10}{'ms':>10}{'by':>8}{'packed':>8}{'asr':>7}"
)


def format_row(row: dict[str, Any]) -> str:
    """Format a row of the table."""
    line = f"{row['cell']:5}{row['hidden']:5}{row['batch']:5}{row['frames']:5}  {row['precision']:9}"
    packed, ours = (1000 * row["seconds"][name] for name in ("packed", "asr"))
    line += f"{100 * row['padding']:5.1f}{packed:10.1f}{ours:10.1f}{row['ratio']:8.2f}"
    return line + f"{row['difference']['packed']:8.0e}{row['difference']['asr']:7.0e}"


if __name__ == "__main__":
    main()
