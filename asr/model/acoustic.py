"""The acoustic model: log-mel features -> log-probabilities of tokens."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from asr.model.recurrent import Cell, RecurrentLayer, reversal_index
from asr.model.subsampling import Subsampling, padding_mask

CMN_FRAMES = 200
"""Feature frames that an utterance's mean needs to weigh as much as the training set's: 2 s."""


@dataclass(frozen=True)
class Architecture:
    """Shape of an AcousticModel: `vocabulary` counts the blank, `mels` the filter-bank channels, `cmn` says
    whether each utterance's own mean is taken off."""

    vocabulary: int
    cell: Cell = "gru"
    layers: int = 3
    hidden: int = 256
    bidirectional: bool = True
    dropout: float = 0.1
    mels: int = 80
    cmn: bool = False

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
        self.dropout = nn.Dropout(a.dropout)
        self.output_norm = nn.LayerNorm(a.width)
        self.output = nn.Linear(a.width, a.vocabulary)

    def centre(self, features: Tensor, lengths: Tensor) -> Tensor:
        """The mean that is taken off, `[B or 1, 1, mels]`.

        With `cmn` the maximum a posteriori estimate of the utterance's, to which the training set's counts as
        CMN_FRAMES frames: what a microphone or room adds to all log-mel energies alike goes.
        """
        if not self.architecture.cmn:
            return self.mean[None, None]
        mask = padding_mask(lengths, features.shape[1])[:, :, None]
        total = ((features - self.mean) * mask).sum(1, keepdim=True)
        return self.mean + total / (lengths[:, None, None] + CMN_FRAMES)

    def normalize(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Mean taken off, divided by the training set's std; zero beyond each length."""
        mask = padding_mask(lengths, features.shape[1])[:, :, None]
        return (features - self.centre(features, lengths)) / self.std * mask

    def forward(self, features: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        x, lengths = self.subsampling(self.normalize(features, lengths), lengths)
        return self.emit(self.dropout(x), lengths), lengths

    def emit(self, x: Tensor, lengths: Tensor, first: int = 0) -> Tensor:
        """What the layers from number `first` on make of activations: `[B, T', D]` -> `float32[B, T', V]`."""
        reversal = reversal_index(lengths, x.shape[1])
        for norm, layer in list(zip(self.norms, self.recurrent, strict=True))[first:]:
            x = x + self.dropout(layer(norm(x), reversal))
        logits: Tensor = self.output(self.output_norm(x))
        return logits.float().log_softmax(dim=-1)
