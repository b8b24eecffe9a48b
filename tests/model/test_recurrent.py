"""The recurrent layers equal their equations, and padding does not exist for them."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from asr.model.acoustic import Cell, RecurrentLayer, cast_together, reversal_index

CELLS: list[Cell] = ["gru", "lstm", "rnn"]
KINDS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


def gru_cell(rnn: nn.GRU, x: Tensor, h: Tensor) -> Tensor:
    """One step in PyTorch's form: h = (1 - z) * candidate + z * h, reset after the matrix product."""
    w_r, w_z, w_n = rnn.weight_ih_l0.chunk(3)
    u_r, u_z, u_n = rnn.weight_hh_l0.chunk(3)
    b_r, b_z, b_n = rnn.bias_ih_l0.chunk(3)
    c_r, c_z, c_n = rnn.bias_hh_l0.chunk(3)
    reset = torch.sigmoid(x @ w_r.T + b_r + h @ u_r.T + c_r)
    update = torch.sigmoid(x @ w_z.T + b_z + h @ u_z.T + c_z)
    candidate = torch.tanh(x @ w_n.T + b_n + reset * (h @ u_n.T + c_n))
    return (1 - update) * candidate + update * h


def lstm_cell(rnn: nn.LSTM, x: Tensor, h: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    gates = x @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + h @ rnn.weight_hh_l0.T + rnn.bias_hh_l0
    i, f, g, o = gates.chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def run_reference(rnn: nn.RNNBase, x: Tensor) -> Tensor:
    """`[T, D]` of one utterance -> `[T, H]`, step by step."""
    h, c = torch.zeros(rnn.hidden_size), torch.zeros(rnn.hidden_size)
    outputs = []
    for frame in x:
        if isinstance(rnn, nn.GRU):
            h = gru_cell(rnn, frame, h)
        elif isinstance(rnn, nn.LSTM):
            h, c = lstm_cell(rnn, frame, h, c)
        else:
            product = frame @ rnn.weight_ih_l0.T + rnn.bias_ih_l0 + h @ rnn.weight_hh_l0.T + rnn.bias_hh_l0
            h = torch.tanh(product)
        outputs.append(h)
    return torch.stack(outputs)


def trained(layer: RecurrentLayer, x: Tensor, lengths: Tensor) -> RecurrentLayer:
    """A few steps of gradient descent, so that biases and gates have left their initial values."""
    optimizer = torch.optim.Adam(layer.parameters(), lr=0.05)
    for _ in range(5):
        optimizer.zero_grad()
        (layer(x, lengths) - 0.3).square().mean().backward()
        optimizer.step()
    return layer


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(13, 4, 6, generator=generator), torch.tensor([13, 1, 7, 12])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_trained_layer_equals_its_equations(
    cell: Cell, bidirectional: bool, batch: tuple[Tensor, Tensor]
) -> None:
    x, lengths = batch
    torch.manual_seed(1)
    layer = trained(RecurrentLayer(cell, 6, 5, bidirectional), x, lengths)
    with torch.no_grad():
        y = layer(x, lengths)
        for i, frames in enumerate(lengths.tolist()):
            row, output = x[:, i], y[:, i]
            expected = run_reference(layer.forward_rnn, row[:frames])
            if layer.backward_rnn is not None:
                back = run_reference(layer.backward_rnn, row[:frames].flip(0)).flip(0)
                expected = torch.cat([expected, back], dim=-1)
            torch.testing.assert_close(output[:frames], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["lstm", "rnn"])  # a GRU on a CPU: test_gru_layer.py
def test_autocast_casts_once_and_changes_nothing_else(
    cell: Cell, bidirectional: bool, batch: tuple[Tensor, Tensor]
) -> None:
    x, lengths = batch
    torch.manual_seed(4)
    layer = RecurrentLayer(cell, 6, 5, bidirectional)

    def plain(x: Tensor, lengths: Tensor) -> Tensor:
        """The same by PyTorch's modules, whose weights autocast casts."""
        reversal = reversal_index(lengths, 13)[:, :, None]
        outputs = [layer.forward_rnn(x)[0]]
        if layer.backward_rnn is not None:
            back = layer.backward_rnn(x.gather(0, reversal.expand_as(x)))[0]
            outputs.append(back.gather(0, reversal.expand_as(back)))
        return torch.cat(outputs, dim=-1)

    results = []
    for forward, cached in ((layer, False), (plain, True)):
        layer.zero_grad()
        inputs = x.bfloat16().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached):
            y = forward(inputs, lengths)
        y.float().square().sum().backward()
        results.append((y.detach(), inputs.grad, {n: p.grad for n, p in layer.named_parameters()}))
    assert results[0][0].dtype == torch.bfloat16
    torch.testing.assert_close(*results, atol=0, rtol=0)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(x, lengths).dtype == torch.bfloat16  # whatever comes in
        assert layer(x, lengths).isfinite().all()
    names = {
        f"{side}.{kind}_l0" for side in ("forward_rnn", "backward_rnn")[: 1 + bidirectional] for kind in KINDS
    }
    assert set(layer.state_dict()) == names


def test_cast_weights_lie_as_cudnn_wants_them() -> None:
    rnn = nn.LSTM(6, 5, bidirectional=True)
    weights = [weight for direction in rnn.all_weights for weight in direction]
    cast = cast_together(weights, torch.bfloat16)
    torch.testing.assert_close(cast, [w.bfloat16() for w in weights], atol=0, rtol=0)
    (storage,) = {w.untyped_storage().data_ptr() for w in cast}
    places = [(w.data_ptr() - storage) // 2 for w in cast]
    # Input and recurrent matrix ahead, both back; then the biases: cuDNN's order of a layer.
    assert places == [0, 120, 440, 460, 220, 340, 480, 500]


def test_reversal_is_its_own_inverse_and_leaves_padding_in_place() -> None:
    lengths = torch.tensor([5, 0, 2, 1])
    index = reversal_index(lengths, 5)
    assert index[:, 2].tolist() == [1, 0, 2, 3, 4]
    assert index.gather(0, index).T.tolist() == np.tile(np.arange(5), (4, 1)).tolist()
