"""The layers that the benchmark compares compute the same function."""

import pytest
import torch
from torch import Tensor, nn

from asr.model.acoustic import Cell
from benchmarks.recurrence import both_layers, bucket_lengths, measure, padded

LENGTHS = torch.tensor([13, 1, 7, 12])


def both_ways(layer: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Valid output, gradient of the input, gradients of the weights by nn.RNNBase's names."""
    x = x.clone().requires_grad_()
    batch = padded(x, LENGTHS)
    y = layer(batch) * batch.valid
    (y * torch.linspace(-1, 1, y.shape[2])).square().sum().backward()
    gradients = {
        name.split(".")[-1] + "_reverse" * (".backward_rnn." in name): parameter.grad
        for name, parameter in layer.named_parameters()
    }
    return y.detach(), x.grad, gradients


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_both_layers_are_equal(cell: Cell) -> None:
    torch.manual_seed(1)
    x = torch.randn(13, 4, 6)
    layers = both_layers(cell, 6, 5, torch.float32)
    expected = both_ways(layers["packed"], x)
    torch.testing.assert_close(both_ways(layers["asr"], x), expected, atol=1e-6, rtol=1e-5)


def test_lengths_are_from_one_bucket() -> None:
    for frames in (100, 350, 600):
        lengths = bucket_lengths(frames, 200)
        assert lengths[0] == frames == lengths.max()
        assert lengths.min() >= frames / 1.05 and len(set(lengths.tolist())) > 3


def test_a_row_is_complete() -> None:
    row = measure("gru", 8, 3, 30, "bfloat16", torch.device("cpu"), rounds=1)
    assert row["ratio"] == row["seconds"]["packed"] / row["seconds"]["asr"] > 0
    assert all(value < 0.05 for value in row["difference"].values())
