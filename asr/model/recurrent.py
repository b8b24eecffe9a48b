"""Recurrent layers that are exact under padding, without PackedSequence."""

from typing import Literal

import torch
from torch import Tensor, nn

Cell = Literal["gru", "lstm", "rnn"]

_CELLS: dict[Cell, type[nn.GRU | nn.LSTM | nn.RNN]] = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}


class RecurrentLayer(nn.Module):
    """One layer of GRU, LSTM or tanh RNN: `[B, T, D]` -> `[B, T, H]`, or `[B, T, 2H]` if bidirectional.

    The backward direction runs forward over each utterance reversed within its own length (`reversal`),
    so both directions meet the padding last and no valid frame ever depends on it. Frames beyond an
    utterance's length hold arbitrary values.
    """

    def __init__(self, cell: Cell, input_size: int, hidden: int, bidirectional: bool) -> None:
        super().__init__()
        self.ahead = _CELLS[cell](input_size, hidden, batch_first=True)
        self.back = _CELLS[cell](input_size, hidden, batch_first=True) if bidirectional else None

    def forward(self, x: Tensor, reversal: Tensor) -> Tensor:
        ahead: Tensor = self.ahead(x)[0]
        if self.back is None:
            return ahead
        back: Tensor = self.back(_reorder(x, reversal))[0]
        return torch.cat([ahead, _reorder(back, reversal)], dim=-1)


def reversal_index(lengths: Tensor, frames: int) -> Tensor:
    """`int64[B, frames]` that reverses each utterance within its length and leaves the padding in place."""
    t = torch.arange(frames, device=lengths.device).expand(len(lengths), frames)
    return torch.where(t < lengths[:, None], lengths[:, None] - 1 - t, t)


def _reorder(x: Tensor, index: Tensor) -> Tensor:
    return x.gather(1, index[:, :, None].expand_as(x))
