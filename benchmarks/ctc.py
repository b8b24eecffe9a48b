"""Which CTC kernel is fastest, in float32, forward and backward from the logits?

    python -m benchmarks.ctc [--device cpu|cuda] [--batches 128 512] [--json]

native   PyTorch's own, which training uses
cudnn    cuDNN's (CUDA only; at most 255 labels), called directly: F.ctc_loss takes it only for utterances of
         equal length, with their targets on the host

Batches are of one bucket of the sampler, 15 s at most, 25 frames a second, with 14.6 labels a second for 32
tokens and a third of that for more. Medians, the kernels taking turns. `waits` tells whether the host waits
for the device within the step, by torch.cuda.set_sync_debug_mode; `difference` is the greatest one of a loss
in nats from native's, `gradient` that of a gradient. On a CPU there is native alone.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.text import BLANK
from benchmarks.recurrence import FRAME_RATE, bucket_lengths, name_of, synchronize
from benchmarks.synthetic import CHARACTERS

SECONDS = 15


class Work(NamedTuple):
    """Logits `[B, T, V]`, lengths, targets `[B, L]` and their lengths, all on the device."""

    logits: Tensor
    lengths: Tensor
    targets: Tensor
    target_lengths: Tensor


def make_work(vocabulary: int, size: int, device: torch.device) -> Work:
    """Noise."""
    torch.manual_seed(0)
    lengths = bucket_lengths(SECONDS * FRAME_RATE, size)
    rate = CHARACTERS / FRAME_RATE * (1 if vocabulary <= 32 else 1 / 3)
    counts = (rate * lengths).long()
    targets = torch.randint(1, vocabulary, (size, int(counts.max())))
    logits = torch.randn(size, int(lengths.max()), vocabulary, device=device)
    return Work(logits, lengths.to(device), targets.to(device), counts.to(device))


def native(work: Work) -> Tensor:
    """Nats `[B]`."""
    log_probs = work.logits.log_softmax(-1).transpose(0, 1)
    return F.ctc_loss(log_probs, work.targets, work.lengths, work.target_lengths, BLANK, reduction="none")


def cudnn(work: Work, flat_targets: Tensor) -> Tensor:
    """Nats `[B]`; targets lie end to end."""
    log_probs = work.logits.log_softmax(-1).transpose(0, 1).contiguous()
    lengths, counts = work.lengths.int(), work.target_lengths.int()
    losses: Tensor = torch._cudnn_ctc_loss(log_probs, flat_targets, lengths, counts, BLANK, True, False)[0]
    return losses


def both_ways(loss: Callable[[Work], Tensor], work: Work) -> tuple[Tensor, Tensor]:
    """Losses and the gradient of the logits."""
    logits = work.logits.detach().requires_grad_()
    losses = loss(work._replace(logits=logits))
    losses.sum().backward()
    assert logits.grad is not None
    return losses.detach(), logits.grad


def waits(loss: Callable[[Work], Tensor], work: Work) -> bool:
    """Whether the host waits for the device."""
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
    """A row a kernel; one that cannot run says why."""
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
            names = ("difference", "gradient")
            row |= {n: float((a - b).abs().max()) for n, a, b in zip(names, actual, expected, strict=True)}
            row |= {"waits": waits(kernel, work)} if device.type == "cuda" else {}
        except RuntimeError as error:
            row["error"] = str(error).splitlines()[0]
    times: dict[str, list[float]] = {name: [] for name, row in rows.items() if "error" not in row}
    for _ in range(rounds):
        for name, taken in times.items():
            synchronize(device)
            begin = time.perf_counter()
            both_ways(kernels[name], work)
            synchronize(device)
            taken.append(time.perf_counter() - begin)
    for name, taken in times.items():
        rows[name]["seconds"] = statistics.median(taken)
    return list(rows.values())


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--vocabularies", nargs="+", type=int, default=[32, 256, 1024])
    parser.add_argument("--batches", nargs="+", type=int, help="utterances (128 512; on a CPU 32)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    batches = arguments.batches or ([32] if arguments.device == "cpu" else [128, 512])
    points = product(arguments.vocabularies, batches)
    rows = [row for point in points for row in measure(*point, device, arguments.rounds)]
    if arguments.json:
        print(json.dumps({"device": name_of(device), "rows": rows}, indent=1))
        return
    print(name_of(device) + ("; cuDNN's CTC needs CUDA" if device.type == "cpu" else ""))
    for row in rows:
        figures = (f"{key} {value:.3g}" for key, value in row.items() if isinstance(value, float))
        print(row["kernel"], f"V {row['vocabulary']}", f"B {row['batch']}", *figures, row.get("error", ""))
        if "waits" in row:
            print("  the host waits" if row["waits"] else "  the host does not wait")


if __name__ == "__main__":
    main()
