"""Steps whose gradients are not finite: skipped on the device, told by the host when it learns of them."""

import warnings
from collections import deque
from collections.abc import Iterable, Sequence

import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor

from asr.errors import TrainingError

MOST_SKIPPED = 3
"""Steps in a row that may be skipped before the run stops."""

_LAG = 2
"""Steps that a GPU may be behind before its verdict is waited for; the same on all ranks."""


def skip_unless_finite(optimizer: torch.optim.Optimizer, parameters: Iterable[Tensor], most: float) -> Tensor:
    """Clip the gradients' norm to `most` (0: not at all) -> 1.0 if it is not finite, else 0.0.

    The optimiser, a fused one, then changes nothing: it is told as a gradient scaler would tell it. Nothing
    here waits for the device.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if most:
        torch.nn.utils.clip_grads_with_norm_(parameters, most, norm)
    skipped = (~norm.isfinite()).float()
    optimizer.found_inf = skipped  # type: ignore[attr-defined]
    return skipped


class SkippedSteps:
    """Counts skipped steps, and names their utterances."""

    def __init__(self) -> None:
        self._pending: deque[tuple[int, Sequence[str], Tensor, torch.cuda.Event | None]] = deque()
        self._in_a_row = 0

    def add(self, step: int, ids: Sequence[str], losses: Tensor, skipped: Tensor) -> None:
        """Take in a step: its utterances, their losses `[B]`, and whether it was skipped.

        Warns of steps that were; raises TrainingError after MOST_SKIPPED in a row.
        """
        verdict = torch.cat([skipped[None], losses.detach().float()])
        if verdict.is_cuda:
            copy = torch.empty(verdict.shape, pin_memory=True).copy_(verdict, non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
            self._pending.append((step, ids, copy, done))
        else:
            self._pending.append((step, ids, verdict, None))
        while len(self._pending) > (_LAG if verdict.is_cuda else 0):
            self._look()

    def _look(self) -> None:
        step, ids, verdict, done = self._pending.popleft()
        if done:
            done.synchronize()
        if verdict[0] == 0:
            self._in_a_row = 0
            return
        self._in_a_row += 1
        bad = dict.fromkeys(id for id, loss in zip(ids, verdict[1:], strict=True) if not loss.isfinite())
        if bad:
            of = f"the loss of {', '.join(bad)}"
        elif torch.distributed.is_available() and torch.distributed.is_initialized():
            of = "a gradient, in a batch of this or another process,"
        else:
            of = f"a gradient, in the batch of {', '.join(ids)},"
        if self._in_a_row >= MOST_SKIPPED:
            raise TrainingError(
                f"{MOST_SKIPPED} steps in a row were not finite, at last step {step}: {of}; go on from the "
                "last checkpoint with --resume and a lower --model.learning_rate, or look at these recordings"
            )
        # Of several processes, only the one whose batch it was knows the names.
        (warnings.warn if bad else rank_zero_warn)(f"step {step} was skipped: {of} is not finite")
