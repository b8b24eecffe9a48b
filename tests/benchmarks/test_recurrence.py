"""The ways that the benchmark compares are the same function."""

import pytest
import torch
from torch import Tensor, nn

from asr.model.acoustic import Cell
from benchmarks.recurrence import Saturated, bucket_lengths, four_ways, greatest_difference, measure, padded

LENGTHS = torch.tensor([13, 1, 7, 12])


def both_ways(module: nn.Module, x: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Output on what is valid, gradient of the input, gradients of the weights by nn.RNNBase's names."""
    x = x.clone().requires_grad_()
    batch = padded(x, LENGTHS)
    y = module(batch) * batch.valid[:, :, None]
    (y * torch.linspace(-1, 1, y.shape[2])).square().sum().backward()
    gradients = {
        name.split(".")[-1] + "_reverse" * (".backward_rnn." in name): parameter.grad
        for name, parameter in module.named_parameters()
    }
    return y.detach(), x.grad, gradients


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_all_that_know_padding_equal_packing(cell: Cell) -> None:
    torch.manual_seed(1)
    x = torch.randn(4, 13, 6)
    ways = four_ways(cell, 6, 5, torch.float32)
    expected = both_ways(ways["packed"], x)
    for name in ("reversed", "saturated"):
        torch.testing.assert_close(both_ways(ways[name], x), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_padding_changes_nothing_in_a_saturated_layer(cell: Cell, dtype: torch.dtype) -> None:
    torch.manual_seed(2)
    batch = padded((3 * torch.randn(4, 13, 6)).to(dtype), LENGTHS)
    way = four_ways(cell, 6, 5, dtype)["saturated"]
    assert greatest_difference(way, batch) <= 1e-6 * (1 if dtype == torch.float32 else 1e4)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_large_weight_stays(cell: Cell) -> None:
    way = four_ways(cell, 6, 5, torch.float32)["saturated"]
    assert isinstance(way, Saturated)
    before = way.column.clone()
    optimizer = torch.optim.AdamW(way.parameters(), lr=0.1, weight_decay=0.5)
    for _ in range(3):
        both_ways(way, torch.randn(4, 13, 6))
        optimizer.step()
    assert torch.equal(way.column, before) and before.abs().max() == 1e4
    assert "column" not in dict(way.named_parameters())


def test_lengths_are_of_one_bucket() -> None:
    for frames in (100, 350, 600):
        lengths = bucket_lengths(frames, 200)
        assert lengths[0] == frames == lengths.max()
        assert lengths.min() >= frames / 1.05 and len(set(lengths.tolist())) > 3


def test_a_row_is_whole() -> None:
    row = measure("gru", 8, 3, 30, "bfloat16", torch.device("cpu"), rounds=1)
    assert row["faster"]["packed"] == 1 and min(row["seconds"].values()) > 0
    assert all(value < 0.05 for value in row["difference"].values())
