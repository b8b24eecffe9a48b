"""Recurrent layers that are exact under padding, without PackedSequence."""

from collections.abc import Callable, Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from asr.model.gru_layer import gru_layer

Cell = Literal["gru", "lstm", "rnn"]

CELLS: dict[Cell, type[nn.GRU | nn.LSTM | nn.RNN]] = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}

_OPERATORS: dict[str, Callable[..., tuple[Tensor, ...]]] = {
    "GRU": torch.gru,
    "LSTM": torch.lstm,
    "RNN_TANH": torch.rnn_tanh,
}


class RecurrentLayer(nn.Module):
    """One layer of GRU, LSTM or tanh RNN: `[T, B, D]` -> `[T, B, H]`, or `[T, B, 2H]` if bidirectional.

    The backward direction runs over each utterance from its own end, so that both directions meet the
    padding last or not at all, and no valid frame ever depends on it. Frames beyond an utterance's length
    hold arbitrary values.
    """

    def __init__(self, cell: Cell, input_size: int, hidden: int, bidirectional: bool) -> None:
        super().__init__()
        self.ahead = CELLS[cell](input_size, hidden)
        self.back = CELLS[cell](input_size, hidden) if bidirectional else None

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if isinstance(self.ahead, nn.GRU) and x.device.type == "cpu" and torch.is_grad_enabled():
            return self._train_gru(x, lengths)
        ahead = run(self.ahead, x)
        if self.back is None:
            return ahead
        reversal = reversal_index(lengths, len(x))
        back = run(self.back, _reorder(x, reversal))
        return torch.cat([ahead, _reorder(back, reversal)], dim=-1)

    def _train_gru(self, x: Tensor, lengths: Tensor) -> Tensor:
        """The same as torch.nn.GRU gives, twice as fast with its gradient."""
        grus = [rnn for rnn in (self.ahead, self.back) if isinstance(rnn, nn.GRU)]
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        padding = torch.arange(len(x))[:, None] >= lengths
        with torch.autocast("cpu", enabled=False):
            return gru_layer(grus, x, padding, dtype)


def run(rnn: nn.RNNBase, x: Tensor) -> Tensor:
    """`[T, B, D]` -> `[T, B, H]`; under autocast input, weights and state have its data type.

    Autocast itself would cast a GRU's weights at every frame on a CPU, unless it caches them, and to float16
    on CUDA, whatever type is asked for (AutocastRNN.cpp).
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        output: Tensor = rnn(x)[0]
        return output
    dtype = torch.get_autocast_dtype(device)
    weights = [weight for direction in rnn.all_weights for weight in direction]
    with torch.autocast(device, enabled=False):
        return recur(rnn, x.to(dtype), cast_together(weights, dtype))


def recur(rnn: nn.RNNBase, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """What `rnn` gives with these weights, in its order and of the data type of `x`, from a state of 0."""
    state = x.new_zeros(1 + rnn.bidirectional, x.shape[1], rnn.hidden_size)
    states = (state, state) if rnn.mode == "LSTM" else state
    options = (rnn.bias, 1, 0.0, rnn.training, rnn.bidirectional, rnn.batch_first)
    output: Tensor = _OPERATORS[rnn.mode](x, states, weights, *options)[0]
    return output


def cast_together(weights: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Weights of one layer, cast at once into one piece of memory.

    Matrices come first in it, then biases, as cuDNN lays them out: elsewhere they would be copied once more,
    with a warning. Gradients are in `dtype` until they have been summed over time; on a CPU, in bf16, those
    of recurrent weights then differ from float32's by 2 % of their norm on 325 frames.
    """
    order = sorted(range(len(weights)), key=lambda i: weights[i].ndim, reverse=True)
    flat = torch.cat([weights[i].flatten() for i in order]).to(dtype)
    pieces = dict(zip(order, torch.split(flat, [weights[i].numel() for i in order]), strict=True))
    return [pieces[i].view_as(weight) for i, weight in enumerate(weights)]


def reversal_index(lengths: Tensor, frames: int) -> Tensor:
    """`int64[frames, B]` that reverses each utterance within its length and leaves the padding in place."""
    t = torch.arange(frames, device=lengths.device)[:, None]
    return torch.where(t < lengths, lengths - 1 - t, t)


def _reorder(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(0, index[:, :, None].expand_as(x))
