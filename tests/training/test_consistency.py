"""CR-CTC's divergence between two views."""

import numpy as np
import pytest
import torch

from asr.training.consistency import divergence, twice
from asr.training.data import Batch


def views(seed: int, utterances: int = 3, frames: int = 7, tokens: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * utterances, frames, tokens, generator=generator).log_softmax(-1)


def test_it_is_the_symmetric_divergence_over_valid_frames() -> None:
    log_probs, lengths = views(0), torch.tensor([7, 4, 1] * 2)
    expected = 0.0
    for i, length in enumerate((7, 4, 1)):
        a, b = (log_probs[j, :length].double().numpy() for j in (i, i + 3))
        expected += np.sum(np.exp(a) * (a - b)) + np.sum(np.exp(b) * (b - a))
    assert float(divergence(log_probs, lengths)) == pytest.approx(expected, rel=1e-5)


def test_equal_views_differ_in_nothing_and_padding_counts_for_nothing() -> None:
    one = views(1)[:3]
    assert float(divergence(torch.cat([one, one]), torch.full((6,), 7))) == pytest.approx(0, abs=1e-5)
    both, lengths = views(2), torch.tensor([5, 4, 3] * 2)
    changed = both.clone()
    changed[:, 5:] = views(3)[:, 5:]
    assert torch.equal(divergence(both, lengths), divergence(changed, lengths))


def test_each_view_is_drawn_to_the_other_as_it_stands() -> None:
    logits = torch.randn(2, 4, 3, requires_grad=True)
    divergence(logits.log_softmax(-1), torch.tensor([4, 4])).backward()
    a, b = logits.detach().softmax(-1)
    # The gradient of KL(b || a) by the logits of a, were b a constant: a - b.
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.stack([a - b, b - a]))


def test_each_utterance_comes_twice() -> None:
    batch = Batch(
        ids=["x", "y"],
        texts=["X", "Y"],
        features=torch.arange(12.0).reshape(2, 3, 2).half(),  # as they are stored
        lengths=torch.tensor([3, 2]),
        targets=torch.tensor([[1, 2], [3, 0]]),
        target_lengths=torch.tensor([2, 1]),
    )
    with torch.autocast("cpu", torch.bfloat16):
        double = twice(batch)
    assert double.ids == ["x", "y", "x", "y"] and double.texts == ["X", "Y", "X", "Y"]
    assert torch.equal(double.features[2:], batch.features) and double.lengths.tolist() == [3, 2, 3, 2]
    assert double.targets.shape == (4, 2) and double.target_lengths.tolist() == [2, 1, 2, 1]
