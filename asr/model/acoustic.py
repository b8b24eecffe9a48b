"""The acoustic model: log-mel features -> log-probabilities of tokens."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from asr.model.recurrent import Cell, RecurrentLayer
from asr.model.subsampling import Subsampling, padding_mask

CMN_FRAMES = 200
"""Feature frames that an utterance's mean needs to weigh as much as the training set's: 2 s."""

Normalization = Literal["corpus", "utterance", "speech"]

SPEECH_FRAMES = 100
"""Weight of the training set's mean, in frames of speech: 1 s."""

FLOOR = 12.0
"""Nats below the level of speech (52 dB) at which features are cut off, whatever the gain."""

LOWEST_LEVEL = -16.0
"""Level of speech at about -85 dBFS; what is quieter counts as silence."""


@dataclass(frozen=True)
class Architecture:
    """Shape of an AcousticModel: `vocabulary` counts the blank, `mels` the filter-bank channels;
    `normalization` is by the training set's mean alone, by each utterance's, or by that of its speech."""

    vocabulary: int
    cell: Cell = "gru"
    layers: int = 3
    hidden: int = 256
    bidirectional: bool = True
    dropout: float = 0.1
    mels: int = 80
    normalization: Normalization = "corpus"

    @classmethod
    def from_config(cls, values: dict[str, Any]) -> "Architecture":
        """Read a bundle's architecture, of this version or of one with `cmn`."""
        values = dict(values)
        if values.pop("cmn", False):
            values["normalization"] = "utterance"
        return cls(**values)

    @property
    def width(self) -> int:
        """Channels between layers, so that each layer's output can be added to its input."""
        return self.hidden * (2 if self.bidirectional else 1)


class AcousticModel(nn.Module):
    """Raw log-mel features `[B, T, mels]`, `int64[B]` lengths -> `float32[B, T', V]` log-probabilities and
    their lengths.

    Normalisation by the training set's mean and std (the buffers `mean` and `std`; with `cmn` see `centre`),
    subsampling by 4, then `layers` times x + dropout(recurrent(layer_norm(x))), layer norm, linear,
    log-softmax. Token 0 is the blank.
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

    def normalize(self, features: Tensor, lengths: Tensor, seen: Tensor | None = None) -> Tensor:
        """Normalised features, zero beyond each length: (features - mean) / std.

        With "utterance" or "speech" the mean is the maximum a posteriori estimate of the utterance's, to
        which the training set's counts as CMN_FRAMES or SPEECH_FRAMES frames: what a microphone, a room or
        a gain adds to all log-mel energies alike goes. `seen`, `bool[B, T]`, limits the frames that are
        averaged, as a short chunk of a stream does.
        """
        valid = padding_mask(lengths, features.shape[1])[:, :, None]
        averaged = valid if seen is None else valid & seen[:, :, None]
        features = features.float()
        kind = self.architecture.normalization
        if kind == "corpus":
            return (features - self.mean) / self.std * valid
        if kind == "utterance":
            total = ((features - self.mean) * averaged).sum(1, keepdim=True)
            mean = self.mean + total / (averaged.sum(1, keepdim=True) + CMN_FRAMES)
            return (features - mean) / self.std * valid
        relative, weight = relative_to_speech(features, averaged)
        total = (relative * weight).sum(1, keepdim=True) + SPEECH_FRAMES * self.mean
        mean = total / (weight.sum(1, keepdim=True) + SPEECH_FRAMES)
        return (relative - mean) / self.std * valid

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        return self.encode(self.normalize(features, lengths), lengths)

    def encode(self, normalized: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of normalised features, and their lengths."""
        x, lengths = self.subsampling(normalized, lengths)
        return self.emit(self.dropout(x), lengths), lengths

    def emit(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Recurrent and output layers: activations `[B, T', D]` -> `float32[B, T', V]`."""
        x = x.transpose(0, 1).contiguous()
        for norm, layer in zip(self.norms, self.recurrent, strict=True):
            x = x + self.dropout(layer(norm(x), lengths))
        logits: Tensor = self.output(self.output_norm(x)).transpose(0, 1)
        return logits.float().log_softmax(dim=-1)


class Dropout(nn.Dropout):
    """nn.Dropout; on a CPU in steps of 1/256, with a byte of randomness an element, which is far faster."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p or x.device.type != "cpu":
            return super().forward(x)
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64).random_(-(2**63), None)
        level = round(256 * self.p)
        kept = words.view(torch.uint8)[: x.numel()].view(x.shape) >= level
        return x * (kept.to(x.dtype) * (256 / (256 - level)))


def relative_to_speech(features: Tensor, averaged: Tensor) -> tuple[Tensor, Tensor]:
    """Log-mel energies relative to the level of the speech, cut off FLOOR below it, and each frame's weight.

    A frame's energy is the mean over its mel bins, in nats. The level is half the logarithm of the mean of
    the squared energies, which loud frames decide, so that added silence hardly counts. A frame's weight
    goes from 0 to 1 around 4 nats (17 dB) below the level. `[B, T, F]`, `bool[B, T, 1]` ->
    `[B, T, F]`, `[B, T, 1]`.
    """
    energy = features.mean(2, keepdim=True)
    squares = torch.logsumexp((2 * energy).masked_fill(~averaged, -1e4), dim=1, keepdim=True)
    level = 0.5 * (squares - averaged.sum(1, keepdim=True).clamp(min=1).log())
    level = level.clamp(min=LOWEST_LEVEL)
    weight = torch.sigmoid(1.5 * (energy - level + 4)) * averaged
    return (features - level).clamp(min=-FLOOR), weight
