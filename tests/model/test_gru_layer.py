"""The GRU layer for CPU training against torch.nn.GRU, forward and gradient."""

import pytest
import torch
from torch import Tensor

from asr.model.acoustic import RecurrentLayer, padding_mask, reversal_index, run_rnn


def layer_and_batch(bidirectional: bool, hidden: int = 5) -> tuple[RecurrentLayer, Tensor, Tensor, Tensor]:
    """A layer, inputs `[T, B, D]`, lengths and the mask of valid frames `[T, B, 1]`."""
    torch.manual_seed(0)
    layer = RecurrentLayer("gru", 6, hidden, bidirectional)
    lengths = torch.tensor([19, 4, 7, 1])
    valid = padding_mask(lengths, 19).T[:, :, None]
    return layer, torch.randn(19, 4, 6), lengths, valid


def by_torch(layer: RecurrentLayer, x: Tensor, lengths: Tensor) -> Tensor:
    """The layer by torch.nn.GRU in the type of its weights."""
    outputs = [run_rnn(layer.forward_rnn, x)]
    if layer.backward_rnn is not None:
        index = reversal_index(lengths, len(x))[:, :, None]
        backward = run_rnn(layer.backward_rnn, x.gather(0, index.expand_as(x)))
        outputs.append(backward.gather(0, index.expand_as(backward)))
    return torch.cat(outputs, dim=2)


def gradients(y: Tensor, x: Tensor, layer: RecurrentLayer) -> list[Tensor]:
    direction = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
    return list(torch.autograd.grad((y * direction.to(y.dtype)).sum(), [x, *layer.parameters()]))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_and_gradients_equal_torch_gru(bidirectional: bool) -> None:
    layer, x, lengths, valid = layer_and_batch(bidirectional)
    x.requires_grad_()
    mine = layer(x, lengths) * valid
    with torch.no_grad():  # inference goes another way
        torch.testing.assert_close(layer(x, lengths) * valid, mine)
    reference = by_torch(layer, x, lengths) * valid
    torch.testing.assert_close(mine, reference)
    for a, b in zip(gradients(mine, x, layer), gradients(reference, x, layer), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_bfloat16_is_as_near_to_float64_as_its_precision(bidirectional: bool) -> None:
    layer, x, lengths, valid = layer_and_batch(bidirectional, hidden=32)
    x.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x, lengths)
    assert y.dtype == torch.bfloat16
    mine = y * valid
    found = gradients(mine, x, layer)
    assert all(gradient.dtype == torch.float32 for gradient in found)
    layer.double()
    exact = x.detach().double().requires_grad_()
    reference = by_torch(layer, exact, lengths) * valid
    assert (mine.double() - reference).abs().max() < 0.03
    for a, b in zip(found, gradients(reference, exact, layer), strict=True):
        assert (a.double() - b).norm() < 0.03 * b.norm()


def test_the_gradient_passes_a_numerical_check() -> None:
    layer, x, lengths, valid = layer_and_batch(bidirectional=True, hidden=2)
    layer.double()
    x = x[:7, :3].double().requires_grad_()
    lengths = torch.tensor([7, 4, 1])
    weights = list(layer.parameters())
    assert torch.autograd.gradcheck(lambda *_: layer(x, lengths) * valid[:7, :3], [x, *weights])
