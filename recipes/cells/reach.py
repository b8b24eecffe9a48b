"""How far back in time gradients reach through a recurrent stack."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor

from asr.model.acoustic import AcousticModel
from asr.model.recurrent import reversal_index

Stack = Callable[[Tensor], Tensor]
"""Inputs `[B, T, D]` -> log-probabilities `[B, T, V]`, causal in time."""


def gradient_norms(stack: Stack, inputs: Tensor, lags: int) -> Tensor:
    """`[N, lags + 1]` norms of d loss_t / d x_{t-k}, k = 0 to `lags`, for the N frames t >= `lags` of one
    utterance's inputs x `[T, D]`.

    loss_t = -log p_t(c_t), where c_t is the most probable token of frame t, the blank included. Every t has
    all its lags within the utterance, so that each lag is averaged over the same frames.
    """
    frames = torch.arange(lags, len(inputs))
    # The utterance once for each t, so that one backward pass keeps their gradients apart.
    copies = inputs.detach().expand(len(frames), -1, -1).clone().requires_grad_()
    log_probs = stack(copies)[torch.arange(len(frames)), frames]
    (gradient,) = torch.autograd.grad(-log_probs.max(dim=-1).values.sum(), copies)
    norms: Tensor = gradient.norm(dim=-1)  # [N, T]
    return norms.gather(1, frames[:, None] - torch.arange(lags + 1))


def shares(norms: Tensor) -> Tensor:
    """`[N, K]` norms -> `[K]`: at each lag the share of the frame's sum over lags, averaged over frames.

    The gradient of a frame's loss shrinks with the model's doubt, 1 - p; shares are free of that, so that
    sure and unsure models, and frames, count alike.
    """
    return (norms / norms.sum(dim=1, keepdim=True)).mean(dim=0)


def stack_of(model: AcousticModel) -> Stack:
    """What follows the subsampling, without dropout. The softmax keeps the inputs' precision: in float32 a
    sure frame's gradient would be rounded to nothing."""

    def stack(x: Tensor) -> Tensor:
        reversal = reversal_index(torch.full((len(x),), x.shape[1]), x.shape[1])
        for norm, layer in zip(model.norms, model.recurrent, strict=True):
            x = x + layer(norm(x), reversal)
        logits: Tensor = model.output(model.output_norm(x))
        return logits.log_softmax(dim=-1)

    return stack


def model_reach(model: AcousticModel, utterances: list[Tensor], lags: int) -> list[float]:
    """Shares of the gradient by lag in output frames (40 ms), averaged over `utterances`, log-mel `[T, F]`.

    x is what enters the recurrent layers; those utterances count that have more than `lags` frames of it.
    """
    model = copy.deepcopy(model).double().eval()
    means = []
    for features in utterances:
        lengths = torch.tensor([len(features)])
        with torch.no_grad():
            normal = model.normalize(features.double()[None], lengths)
            x, _ = model.subsampling(normal, lengths)
        if x.shape[1] > lags:
            means.append(shares(gradient_norms(stack_of(model), x[0], lags)))
    if not means:
        raise ValueError(f"no utterance has more than {lags} frames")
    return [float(share) for share in torch.stack(means).mean(dim=0)]
