"""The acoustic model: log-mel features -> subsampling -> recurrent layers -> log-probabilities."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from asr.model.gru_layer import gru_layer

Cell = Literal["gru", "lstm", "rnn"]
Normalization = Literal["corpus", "utterance", "speech"]

CELLS: dict[Cell, type[nn.GRU | nn.LSTM | nn.RNN]] = {"gru": nn.GRU, "lstm": nn.LSTM, "rnn": nn.RNN}
CHANNELS = 32  # of both convolutions
CMN_FRAMES = 200  # weight of the training set's mean in "utterance" normalisation, in frames: 2 s
SPEECH_FRAMES = 100  # the same in "speech" normalisation, in frames of speech: 1 s
FLOOR = 12.0  # features are clipped this far below the speech level, in nats (52 dB)
LOWEST_LEVEL = -16.0  # lower bound of the speech level (about -85 dBFS); quieter input counts as silence

_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Architecture:
    """Shape of an AcousticModel.

    Args:
        vocabulary: Output classes, including the CTC blank.
        cell: Recurrent cell.
        layers: Number of recurrent layers.
        hidden: Units per layer and direction.
        bidirectional: Run a second recurrence backward in time in each layer.
        dropout: Dropout probability after the subsampling and after each layer.
        mels: Mel bins of the features.
        normalization: Features are normalised by the mean of the training set ("corpus"), of each utterance,
            or of each utterance's speech relative to its level.
    """

    vocabulary: int
    cell: Cell = "gru"
    layers: int = 3
    hidden: int = 256
    bidirectional: bool = True
    dropout: float = 0.1
    mels: int = 80
    normalization: Normalization = "corpus"

    @property
    def width(self) -> int:
        """Channels between layers, equal everywhere because of the residual connections."""
        return self.hidden * (2 if self.bidirectional else 1)


def migrate(values: dict[str, _Value]) -> dict[str, _Value]:
    """Rename the keys of an architecture or state_dict written before schema 2."""
    new: dict[str, Any] = {
        name.replace(".ahead.", ".forward_rnn.").replace(".back.", ".backward_rnn."): value
        for name, value in values.items()
    }
    if "cmn" in new:
        new["normalization"] = "utterance" if new.pop("cmn") else "corpus"
    return new


def padding_mask(lengths: Tensor, frames: int) -> Tensor:
    """`bool[B, frames]`, true for the frames within each utterance."""
    return torch.arange(frames, device=lengths.device) < lengths[:, None]


class AcousticModel(nn.Module):
    """Features `[B, T, mels]`, lengths `int64[B]` -> log-probabilities `float32[B, T', V]`, lengths.

    Normalisation, subsampling by 4, then for each layer x + dropout(recurrent(layer_norm(x))), and finally
    layer norm, linear, log-softmax. Token 0 is the blank. The buffers `mean` and `std` hold the statistics
    of the training set. Padding never influences a valid frame.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = a = architecture
        self.register_buffer("mean", torch.zeros(a.mels))
        self.register_buffer("std", torch.ones(a.mels))
        self.subsampling = Subsampling(a.mels, a.width)
        self.norms = nn.ModuleList(nn.LayerNorm(a.width) for _ in range(a.layers))
        self.recurrent = nn.ModuleList(
            RecurrentLayer(a.cell, a.width, a.hidden, a.bidirectional) for _ in range(a.layers)
        )
        self.dropout = Dropout(a.dropout)
        self.output_norm = nn.LayerNorm(a.width)
        self.output = nn.Linear(a.width, a.vocabulary)
        self.register_load_state_dict_pre_hook(_migrate_in_place)  # type: ignore[no-untyped-call]

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(self.normalize(features, lengths), lengths)

    def normalize(self, features: Tensor, lengths: Tensor, seen: Tensor | None = None) -> Tensor:
        """Return (features - mean) / std, zero beyond each length.

        For "utterance" and "speech" the mean is a maximum a posteriori estimate in which the training set's
        mean counts as CMN_FRAMES or SPEECH_FRAMES frames. `seen`, `bool[B, T]`, restricts the frames that
        enter the estimate, as in a stream that has only received a chunk.
        """
        valid = padding_mask(lengths, features.shape[1])[:, :, None]
        averaged = valid if seen is None else valid & seen[:, :, None]
        features, mean = features.float(), self.mean
        kind = self.architecture.normalization
        if kind == "utterance":
            total = ((features - mean) * averaged).sum(1, keepdim=True)
            mean = mean + total / (averaged.sum(1, keepdim=True) + CMN_FRAMES)
        elif kind == "speech":
            features, weight = relative_to_speech(features, averaged)
            total = (features * weight).sum(1, keepdim=True) + SPEECH_FRAMES * mean
            mean = total / (weight.sum(1, keepdim=True) + SPEECH_FRAMES)
        return (features - mean) / self.std * valid

    def encode(self, normalized: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of normalised features, and their lengths."""
        x, lengths = self.subsampling(normalized, lengths)
        x = self.dropout(x).transpose(0, 1).contiguous()
        for norm, layer in zip(self.norms, self.recurrent, strict=True):
            x = x + self.dropout(layer(norm(x), lengths))
        logits: Tensor = self.output(self.output_norm(x)).transpose(0, 1)
        return logits.float().log_softmax(dim=-1), lengths


def _migrate_in_place(module: nn.Module, state: dict[str, Any], *_: object) -> None:
    renamed = migrate(state)
    state.clear()
    state.update(renamed)


def relative_to_speech(features: Tensor, averaged: Tensor) -> tuple[Tensor, Tensor]:
    """Log-mel energies relative to the speech level, and a weight per frame: 1 for speech, 0 for pauses.

    A frame's energy is the mean of its mel bins in nats. The speech level is half the log of the mean
    squared energy: loud frames dominate it, so added silence hardly changes it. The weight rises around
    4 nats (17 dB) below the level. `[B, T, F]`, `bool[B, T, 1]` -> `[B, T, F]`, `[B, T, 1]`.
    """
    energy = features.mean(2, keepdim=True)
    squares = torch.logsumexp((2 * energy).masked_fill(~averaged, -1e4), dim=1, keepdim=True)
    level = 0.5 * (squares - averaged.sum(1, keepdim=True).clamp(min=1).log())
    level = level.clamp(min=LOWEST_LEVEL)
    weight = torch.sigmoid(1.5 * (energy - level + 4)) * averaged
    return (features - level).clamp(min=-FLOOR), weight


class Subsampling(nn.Module):
    """Two 3x3 convolutions with stride 2 in time and frequency, then a projection.

    Features `[B, T, F]`, lengths `int64[B]` -> `[B, T', output_size]`, lengths, with T' = ceil(T / 4). The
    padding is zeroed before each convolution because the kernel reaches one frame beyond the last.
    """

    def __init__(self, mels: int, output_size: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, CHANNELS, kernel_size=3, stride=2, padding=1)
        self.second = nn.Conv2d(CHANNELS, CHANNELS, kernel_size=3, stride=2, padding=1)
        self.projection = nn.Linear(CHANNELS * -(-mels // 4), output_size)
        # Four times as fast on a CPU.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @staticmethod
    def output_lengths(lengths: Tensor) -> Tensor:
        """Number of output frames for each number of input frames."""
        return _halve(_halve(lengths))

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x = features[:, None].contiguous(memory_format=torch.channels_last)
        for convolution in (self.first, self.second):
            x = x * padding_mask(lengths, x.shape[2])[:, None, :, None]
            x = torch.relu(convolution(x))
            lengths = _halve(lengths)
        x = x.transpose(1, 2).flatten(2)  # [B, T', C * F']
        return self.projection(x), lengths


def _halve(lengths: Tensor) -> Tensor:
    """Output length of a convolution with kernel 3, stride 2, padding 1: ceil(lengths / 2)."""
    return torch.div(lengths + 1, 2, rounding_mode="floor")


class Dropout(nn.Dropout):
    """nn.Dropout, on a CPU with a resolution of 1/256: one random byte per element, which is much faster."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p or x.device.type != "cpu":
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        level = round(256 * self.p)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= level
        return x * (kept.to(x.dtype) * (256 / (256 - level)))


class RecurrentLayer(nn.Module):
    """GRU, LSTM or tanh RNN layer: `[T, B, D]`, lengths `int64[B]` -> `[T, B, H]` (`2H` if bidirectional).

    The backward RNN reads each utterance reversed within its own length, so no valid frame depends on the
    padding, without PackedSequence. Output beyond a length is arbitrary.
    """

    def __init__(self, cell: Cell, input_size: int, hidden: int, bidirectional: bool) -> None:
        super().__init__()
        self.forward_rnn = CELLS[cell](input_size, hidden)
        self.backward_rnn = CELLS[cell](input_size, hidden) if bidirectional else None

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        if isinstance(self.forward_rnn, nn.GRU) and x.device.type == "cpu" and torch.is_grad_enabled():
            return self._train_gru(x, lengths)
        forward = run_rnn(self.forward_rnn, x)
        if self.backward_rnn is None:
            return forward
        index = reversal_index(lengths, len(x))[:, :, None]
        backward = run_rnn(self.backward_rnn, x.gather(0, index.expand_as(x)))
        return torch.cat([forward, backward.gather(0, index.expand_as(backward))], dim=-1)

    def _train_gru(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Compute the same as torch.nn.GRU, twice as fast including the gradient."""
        grus = [rnn for rnn in (self.forward_rnn, self.backward_rnn) if isinstance(rnn, nn.GRU)]
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else x.dtype
        padding = torch.arange(len(x))[:, None] >= lengths
        with torch.autocast("cpu", enabled=False):
            return gru_layer(grus, x, padding, dtype)


def reversal_index(lengths: Tensor, frames: int) -> Tensor:
    """`int64[frames, B]` that reverses each utterance within its length and leaves the padding in place."""
    t = torch.arange(frames, device=lengths.device)[:, None]
    return torch.where(t < lengths, lengths - 1 - t, t)


def run_rnn(rnn: nn.RNNBase, x: Tensor) -> Tensor:
    """`[T, B, D]` -> `[T, B, H]`, in the autocast type if autocast is on.

    Autocast itself would cast a GRU's weights for every frame on a CPU, and to float16 on CUDA.
    """
    device = x.device.type
    if not torch.is_autocast_enabled(device):
        output: Tensor = rnn(x)[0]
        return output
    dtype = torch.get_autocast_dtype(device)
    weights = [weight for direction in rnn.all_weights for weight in direction]
    with torch.autocast(device, enabled=False):
        return run_with_weights(rnn, x.to(dtype), cast_together(weights, dtype))


def run_with_weights(rnn: nn.RNNBase, x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Run `rnn` with other weights, in its own order and in the type of `x`, from a zero state."""
    state = x.new_zeros(1 + rnn.bidirectional, x.shape[not rnn.batch_first], rnn.hidden_size)
    states = (state, state) if rnn.mode == "LSTM" else state
    options = (rnn.bias, 1, 0.0, rnn.training, rnn.bidirectional, rnn.batch_first)
    output: Tensor = getattr(torch, rnn.mode.lower())(x, states, weights, *options)[0]
    return output


def cast_together(weights: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Cast a layer's weights into one block, matrices before biases, as cuDNN would copy them otherwise."""
    order = sorted(range(len(weights)), key=lambda i: weights[i].ndim, reverse=True)
    flat = torch.cat([weights[i].flatten() for i in order]).to(dtype)
    pieces = dict(zip(order, torch.split(flat, [weights[i].numel() for i in order]), strict=True))
    return [pieces[i].view_as(weight) for i, weight in enumerate(weights)]
