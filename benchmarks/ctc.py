"""CTC loss and gradient in float32: PyTorch's kernel against cuDNN's.

    python -m benchmarks.ctc [--device cpu|cuda] [--batches 128 512]

native  F.ctc_loss, which training uses
cudnn   cuDNN's kernel (CUDA only; at most 255 labels), called directly, as
        F.ctc_loss takes it only for utterances of equal length with targets on
        the host

A batch is one bucket of the training sampler: up to 15 s, 25 frames per
second, 14.6 labels per second for 32 tokens and a third of that for more.
Medians of alternating rounds. "sync" is yes if a step makes the host wait for
the device; "loss" and "gradient" are the largest differences from native.
"""

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.text import BLANK
from benchmarks import new_parser, show, time_alternately
from benchmarks.recurrence import CHARACTERS, FRAME_RATE, bucket_lengths, device_name, synchronize

SECONDS = 15


class Work(NamedTuple):
    """Logits `[B, T, V]`, lengths, targets `[B, L]` and their lengths, all on the device."""

    logits: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor


def make_work(vocabulary: int, size: int, device: torch.device) -> Work:
    """Random logits and targets."""
    torch.manual_seed(0)
    lengths = bucket_lengths(SECONDS * FRAME_RATE, size)
    rate = CHARACTERS / FRAME_RATE * (1 if vocabulary <= 32 else 1 / 3)
    counts = (rate * lengths).long()
    targets = torch.randint(1, vocabulary, (size, int(counts.max())))
    logits = torch.randn(size, int(lengths.max()), vocabulary, device=device)
    return Work(logits, lengths.to(device), targets.to(device), counts.to(device))


def native(work: Work) -> Tensor:
    """Losses `float32[B]` by PyTorch's kernel."""
    log_probs = work.logits.log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_probs, work.targets, work.lengths, work.target_lengths, BLANK, reduction="none")


def cudnn(work: Work, flat_targets: Tensor) -> Tensor:
    """Losses `float32[B]` by cuDNN's kernel; `flat_targets` are concatenated."""
    log_probs = work.logits.log_softmax(-1).transpose(0, 1).contiguous()
    lengths, counts = work.lengths.int(), work.target_lengths.int()
    losses: Tensor = torch._cudnn_ctc_loss(log_probs, flat_targets, lengths, counts, BLANK, True, False)[0]
    return losses


def both_ways(loss: Callable[[Work], Tensor], work: Work) -> tuple[Tensor, Tensor]:
    """Losses, and the gradient of the logits."""
    logits = work.logits.detach().requires_grad_()
    losses = loss(work._replace(logits=logits))
    losses.sum().backward()
    assert logits.grad is not None
    return losses.detach(), logits.grad


def synchronizes(loss: Callable[[Work], Tensor], work: Work) -> bool:
    """Return True if the host waits for the device during a step."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        both_ways(loss, work)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def measure(vocabulary: int, size: int, device: torch.device, rounds: int) -> list[dict[str, Any]]:
    """One row per kernel; the row of one that cannot run has its error."""
    work = make_work(vocabulary, size, device)
    kernels: dict[str, Callable[[Work], Tensor]] = {"native": native}
    if device.type == "cuda":
        pairs = zip(work.targets, work.target_lengths.tolist(), strict=True)
        kernels["cudnn"] = partial(cudnn, flat_targets=torch.cat([t[:n] for t, n in pairs]).int())
    expected = both_ways(native, work)
    rows: dict[str, dict[str, Any]] = {}
    for name, kernel in kernels.items():
        row = rows[name] = {"vocabulary": vocabulary, "batch": size, "kernel": name}
        try:
            actual = both_ways(kernel, work)
            keys = ("loss", "gradient")
            row |= {k: float((a - b).abs().max()) for k, a, b in zip(keys, actual, expected, strict=True)}
            row["sync"] = device.type == "cuda" and synchronizes(kernel, work)
        except RuntimeError as error:
            row["error"] = str(error).splitlines()[0]
    steps = {n: partial(both_ways, kernels[n], work) for n, row in rows.items() if "error" not in row}
    timings = time_alternately(steps, rounds, partial(synchronize, device))
    for name, timing in timings.items():
        rows[name] |= {"seconds": timing.seconds, "ratio": timings["native"].seconds / timing.seconds}
    return list(rows.values())


def main() -> None:
    """Parse, measure, print."""
    parser = new_parser(__doc__)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[32, 256, 1024])
    parser.add_argument("--batches", nargs="+", type=int, help="utterances (128 512; on a CPU 32)")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    batches = arguments.batches or ([32] if arguments.device == "cpu" else [128, 512])
    points = product(arguments.vocabularies, batches)
    rows = [row for point in points for row in measure(*point, device, arguments.rounds)]
    show({"device": device_name(device), "rows": rows}, table(device, rows), arguments.json)


def table(device: torch.device, rows: list[dict[str, Any]]) -> str:
    """Format the rows as lines of text."""
    lines = [device_name(device) + "; the peer, cuDNN, needs --device cuda" * (device.type == "cpu")]
    lines.append(f"{'V':>5}{'B':>5} {'kernel':8}{'ms':>8}{'x native':>10}{'loss':>10}{'gradient':>10}  sync")
    for row in rows:
        line = f"{row['vocabulary']:5}{row['batch']:5} {row['kernel']:8}"
        if "error" in row:
            lines.append(f"{line} {row['error']}"[:79])
            continue
        line += f"{1000 * row['seconds']:8.1f}{row['ratio']:10.2f}{row['loss']:10.1e}{row['gradient']:10.1e}"
        lines.append(line + ("  yes" if row["sync"] else "  no"))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
