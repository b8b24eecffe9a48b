"""Training losses: CTC, consistency regularisation between two views (CR-CTC), and CTC-CRF.

CTC-CRF (Xiang & Ou, ICASSP 2019) normalises CTC over whole token sequences instead of frame by frame; it is
lattice-free MMI (Povey et al., 2016) with CTC's topology. With CTC's P(w | x) and a trigram model P(w),

    -log p(w | x) = -log [P(w | x) P(w)] + log sum_v [P(v | x) P(v)],

so the model learns to tell the reference from whatever else the trigrams allow, which matches decoding with a
language model.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.errors import TrainingError
from asr.model.acoustic import padding_mask
from asr.text import BLANK
from asr.training.data import Batch

MOST_TOKENS = 128  # the table of trigrams takes 4 * V**3 bytes


def ctc_losses(batch: Batch, log_probs: Tensor, lengths: Tensor) -> Tensor:
    """CTC loss of each utterance in nats, `float32[B]`, of log-probabilities `float32[B, T, V]`."""
    with torch.autocast(log_probs.device.type, enabled=False):
        return F.ctc_loss(
            log_probs.transpose(0, 1), batch.targets, lengths, batch.target_lengths, BLANK, reduction="none"
        )


def two_views(batch: Batch) -> Batch:
    """Repeat a batch: all first views, then all second views in the same order."""
    # Not torch.cat, which rejects float16 under autocast to bfloat16.
    tensors = {k: v for k, v in batch._asdict().items() if isinstance(v, Tensor)}
    doubled = {k: v.repeat(2, *[1] * (v.ndim - 1)) for k, v in tensors.items()}
    return batch._replace(ids=batch.ids * 2, texts=batch.texts * 2, **doubled)


def consistency_loss(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Sum of KL(b || a) + KL(a || b) over frames, each towards the other view, detached (arXiv 2410.05101).

    `float[2B, T, V]` log-probabilities of a batch from `two_views`, lengths `int[2B]` -> scalar.
    """
    target = torch.cat(log_probs.detach().chunk(2)[::-1])
    kl = F.kl_div(log_probs, target, reduction="none", log_target=True).sum(dim=2)
    return (kl * padding_mask(lengths, kl.shape[1])).sum()


def trigrams(sequences: Iterable[Sequence[int]], size: int) -> Tensor:
    """Estimate P(c | a, b) at `[a, b, c]`, `float32[size, size, size]`, with Witten-Bell smoothing (1991).

    The blank marks both ends of a sequence. Raises TrainingError if the vocabulary exceeds MOST_TOKENS.
    """
    if size > MOST_TOKENS:
        raise TrainingError(f"model.crf: {size} tokens exceed the limit of {MOST_TOKENS}; set model.crf to 0")
    ends = torch.tensor([BLANK])
    counts = torch.zeros(size**3, dtype=torch.float64)
    for sequence in sequences:
        tokens = torch.cat([ends, ends, torch.tensor(sequence, dtype=torch.long), ends])
        codes = (tokens[:-2] * size + tokens[1:-1]) * size + tokens[2:]
        counts += torch.bincount(codes, minlength=size**3)
    three = counts.view(size, size, size)
    two = three.sum(0)
    one = (two.sum(0) + 1) / (two.sum() + size)
    return _interpolated(three, _interpolated(two, one)).float()


def _interpolated(counts: Tensor, shorter: Tensor) -> Tensor:
    kinds = (counts > 0).sum(-1, keepdim=True).clamp(min=1)  # of tokens seen after a history
    return (counts + kinds * shorter) / (counts.sum(-1, keepdim=True) + kinds)


def log_prior_score(trigrams: Tensor, targets: Tensor, target_lengths: Tensor) -> Tensor:
    """log P(w) of tokens `int64[B, L]`, `float32[B]`."""
    ends = targets.new_full((len(targets), 1), BLANK)
    valid = padding_mask(target_lengths, targets.shape[1])
    tokens = torch.cat([ends, ends, targets * valid, ends], dim=1)
    log_probs = trigrams[tokens[:, :-2], tokens[:, 1:-1], tokens[:, 2:]].log()
    return (log_probs * padding_mask(target_lengths + 1, log_probs.shape[1])).sum(1)


def log_partition(log_probs: Tensor, lengths: Tensor, trigrams: Tensor) -> Tensor:
    """log sum_v [P(v | x) P(v)] over all sequences, from CTC's `float32[B, T, V]` and P(c | a, b)."""
    with torch.autocast(log_probs.device.type, enabled=False):
        result: Tensor = _LogPartition.apply(log_probs.float(), lengths, trigrams)  # type: ignore[no-untyped-call]
    return result


class _Chain:
    """Transitions between states: the last two tokens, a then b, and whether the frame was a blank.

    `token` and `blank` are `[b, B, a]`, so that the sum over histories is one batched matrix product.
    """

    def __init__(self, trigrams: Tensor) -> None:
        by_last = trigrams.transpose(0, 1)  # [b, a, c]
        self.end = by_last[:, :, BLANK].unsqueeze(1)
        self.other = by_last.clone()
        self.other[:, :, BLANK] = 0
        self.again = self.other.diagonal(dim1=0, dim2=2).T.unsqueeze(1).clone()  # P(b | a, b): after a blank
        self.other.diagonal(dim1=0, dim2=2).zero_()
        self.reverse = self.other.transpose(1, 2).contiguous()

    def forward(self, token: Tensor, blank: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Advance by a frame of probabilities `[V, B, 1]`."""
        both = token + blank
        moved = torch.bmm(both, self.other)  # [b, B, c]
        moved.diagonal(dim1=0, dim2=2).add_((blank * self.again).sum(2).T)
        return probs * (token + moved.transpose(0, 2)), probs[BLANK] * both

    def backward(self, token: Tensor, blank: Tensor, probs: Tensor) -> tuple[Tensor, Tensor]:
        """Step back over a frame of probabilities `[V, B, 1]`."""
        stays, blank = probs * token, probs[BLANK] * blank
        moved = stays.transpose(0, 2).contiguous()  # [b, B, c]
        both = torch.bmm(moved, self.reverse) + blank
        return stays + both, both + moved.diagonal(dim1=0, dim2=2).T.unsqueeze(2) * self.again


class _LogPartition(torch.autograd.Function):
    """Forward-backward algorithm, rescaled to a sum of 1 in each frame."""

    @staticmethod
    def forward(ctx: Any, log_probs: Tensor, lengths: Tensor, trigrams: Tensor) -> Tensor:
        chain = _Chain(trigrams)
        valid = padding_mask(lengths, log_probs.shape[1])
        # Certain blanks beyond an utterance's length leave the sum unchanged.
        certain = torch.zeros_like(log_probs[0, 0])
        certain[BLANK] = 1
        peaks = log_probs.amax(2, keepdim=True)
        probs = torch.where(valid[:, :, None], (log_probs - peaks).exp(), certain)
        probs = probs.permute(1, 2, 0).unsqueeze(3).contiguous()  # [T, V, B, 1]
        token, blank = chain.end.new_zeros(2, len(chain.end), len(log_probs), len(chain.end))
        blank[BLANK, :, BLANK] = 1
        states, sums = [], []
        for frame in probs:
            token, blank = chain.forward(token, blank, frame)
            scale = token.sum((0, 2)) + blank.sum((0, 2))
            token, blank = token / scale[:, None], blank / scale[:, None]
            if ctx.needs_input_grad[0]:
                states.append((token, blank))
            sums.append(scale)
        ends: Tensor = ((token + blank) * chain.end).sum((0, 2))
        ctx.chain, ctx.states = chain, states
        ctx.save_for_backward(probs, valid)
        return ends.log() + torch.stack(sums).log().sum(0) + (peaks.squeeze(2) * valid).sum(1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        probs, valid = ctx.saved_tensors
        token = blank = ctx.chain.end.expand_as(ctx.states[0][0])
        occupied = torch.empty_like(probs.squeeze(3))
        for t in reversed(range(len(probs))):
            forward_token, forward_blank = ctx.states[t]
            occupied[t] = (forward_token * token).sum(2)
            occupied[t, BLANK] = (forward_blank * blank).sum((0, 2))
            token, blank = ctx.chain.backward(token, blank, probs[t])
            scale = blank.sum((0, 2))[:, None]
            token, blank = token / scale, blank / scale
        posteriors = (occupied / occupied.sum(1, keepdim=True)).permute(2, 0, 1)
        return posteriors * valid[:, :, None] * gradients[0][:, None, None], None, None
