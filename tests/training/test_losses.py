"""CTC-CRF against brute force, and CR-CTC's loss between two views."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from asr.errors import TrainingError
from asr.training.data import Batch
from asr.training.losses import consistency_loss, log_partition, log_prior_score, trigrams, two_views


def collapsed(path: tuple[int, ...]) -> list[int]:
    kept = [token for i, token in enumerate(path) if i == 0 or token != path[i - 1]]
    return [token for token in kept if token]


def brute_force(log_probs: Tensor, lm: Tensor) -> Tensor:
    """Every path, one by one."""
    frames, size = log_probs.shape
    scores = []
    for path in product(range(size), repeat=frames):
        tokens = [0, 0, *collapsed(path), 0]
        prior = sum(lm[tokens[i], tokens[i + 1], tokens[i + 2]].log() for i in range(len(tokens) - 2))
        scores.append(log_probs[range(frames), path].sum() + prior)
    return torch.stack(scores).logsumexp(0)


def example(seed: int, frames: int, size: int, sharpness: float) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    log_probs = (torch.randn(frames, size, generator=generator) * sharpness).log_softmax(-1)
    lm = (torch.randn(size, size, size, generator=generator) * 2).softmax(-1)
    return log_probs, lm


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6), st.integers(1, 5), st.integers(2, 4), st.sampled_from([0.1, 1.0, 10.0]))
def test_it_is_the_sum_over_all_paths(seed: int, frames: int, size: int, sharpness: float) -> None:
    log_probs, lm = example(seed, frames, size, sharpness)
    log_probs.requires_grad_()
    expected = brute_force(log_probs, lm)
    total = log_partition(log_probs[None], torch.tensor([frames]), lm)
    assert total.item() == pytest.approx(expected.item(), abs=1e-4)
    (wanted,) = torch.autograd.grad(expected, log_probs)
    (got,) = torch.autograd.grad(3 * total.sum(), log_probs)
    torch.testing.assert_close(got, 3 * wanted, rtol=1e-3, atol=1e-4)


def test_the_probabilities_of_all_token_sequences_sum_to_one() -> None:
    log_probs, lm = example(5, 4, 3, 2.0)
    texts = [text for length in range(5) for text in product((1, 2), repeat=length)]
    lengths = torch.tensor([len(text) for text in texts])
    targets = torch.tensor([[*text, *[1] * (4 - len(text))] for text in texts])
    frames, x = torch.full((len(texts),), 4), log_probs[None].expand(len(texts), -1, -1)
    ctc = F.ctc_loss(x.transpose(0, 1), targets, frames, lengths, reduction="none")
    log_posteriors = log_prior_score(lm, targets, lengths) - ctc - log_partition(x, frames, lm)
    assert log_posteriors.exp().sum().item() == pytest.approx(1, abs=1e-5)


def test_an_utterance_alone_and_padded_in_a_batch() -> None:
    log_probs, lm = example(1, 30, 5, 3.0)
    batch = torch.stack([log_probs, log_probs.roll(7, 0), log_probs.flip(0)]).requires_grad_()
    lengths = torch.tensor([30, 12, 1])
    totals = log_partition(batch, lengths, lm)
    totals.sum().backward()
    assert batch.grad is not None
    for i, length in enumerate(lengths.tolist()):
        alone = batch.detach()[i : i + 1, :length].requires_grad_()
        total = log_partition(alone, torch.tensor([length]), lm)
        total.sum().backward()
        torch.testing.assert_close(totals[i : i + 1], total)
        torch.testing.assert_close(batch.grad[i : i + 1, :length], alone.grad)
        assert not batch.grad[i, length:].any()


def test_long_utterances_and_certain_frames_stay_finite() -> None:
    log_probs, lm = example(2, 3000, 40, 60.0)
    log_probs = log_probs[None].requires_grad_()
    total = log_partition(log_probs, torch.tensor([3000]), lm)
    total.sum().backward()
    assert total.isfinite().all() and log_probs.grad is not None
    # Each frame emits one token or the blank.
    torch.testing.assert_close(log_probs.grad.sum(-1), torch.ones(1, 3000))


def test_a_constant_added_to_a_frame_is_added_to_the_sum() -> None:
    """So that what is trained does not depend on the normalisation of frames."""
    log_probs, lm = example(3, 20, 6, 2.0)
    lengths = torch.tensor([20])
    shifted = log_partition((log_probs + 0.5)[None], lengths, lm)
    torch.testing.assert_close(shifted, log_partition(log_probs[None], lengths, lm) + 10)


def test_the_trigrams_are_normalised_and_prefer_what_was_seen() -> None:
    lm = trigrams([[1, 2, 3], [1, 2, 1], [2, 2]], 4)
    np.testing.assert_allclose(lm.sum(-1), np.ones((4, 4)), rtol=1e-6)
    assert lm.min() > 0
    assert lm[0, 0, 1] > lm[0, 0, 2] > lm[0, 0, 3]  # how sentences begin: 1 twice, 2 once, 3 never
    assert lm[1, 2, 3] > lm[1, 2, 2]
    # By hand: of 11 tokens with the ends one is a 3; after 2 come 3, 1, 2, the end; after 1, 2 come 3, 1.
    one = (1 + 1) / (11 + 4)
    two = (1 + 4 * one) / (4 + 4)
    assert lm[1, 2, 3].item() == pytest.approx((1 + 2 * two) / (2 + 2))


def test_the_prior_of_tokens() -> None:
    _, lm = example(4, 1, 4, 1.0)
    prior = log_prior_score(lm, torch.tensor([[1, 3, 2], [2, 0, 0], [0, 0, 0]]), torch.tensor([3, 1, 0]))
    expected = [lm[0, 0, 1] * lm[0, 1, 3] * lm[1, 3, 2] * lm[3, 2, 0], lm[0, 0, 2] * lm[0, 2, 0], lm[0, 0, 0]]
    torch.testing.assert_close(prior, torch.stack(expected).log())


def test_too_many_tokens_are_refused() -> None:
    with pytest.raises(TrainingError, match=r"model\.crf: 500 tokens .*128"):
        trigrams([[1, 2]], 500)


def views(seed: int, utterances: int = 3, frames: int = 7, tokens: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2 * utterances, frames, tokens, generator=generator).log_softmax(-1)


def test_consistency_is_the_symmetric_divergence_over_valid_frames() -> None:
    log_probs, lengths = views(0), torch.tensor([7, 4, 1] * 2)
    expected = 0.0
    for i, length in enumerate((7, 4, 1)):
        a, b = (log_probs[j, :length].double().numpy() for j in (i, i + 3))
        expected += np.sum(np.exp(a) * (a - b)) + np.sum(np.exp(b) * (b - a))
    assert float(consistency_loss(log_probs, lengths)) == pytest.approx(expected, rel=1e-5)


def test_consistency_is_zero_for_equal_views_and_ignores_padding() -> None:
    one = views(1)[:3]
    assert float(consistency_loss(torch.cat([one, one]), torch.full((6,), 7))) == pytest.approx(0, abs=1e-5)
    both, lengths = views(2), torch.tensor([5, 4, 3] * 2)
    changed = both.clone()
    changed[:, 5:] = views(3)[:, 5:]
    assert torch.equal(consistency_loss(both, lengths), consistency_loss(changed, lengths))


def test_the_other_view_is_a_constant_target() -> None:
    logits = torch.randn(2, 4, 3, requires_grad=True)
    consistency_loss(logits.log_softmax(-1), torch.tensor([4, 4])).backward()
    a, b = logits.detach().softmax(-1)
    # The gradient of KL(b || a) with respect to the logits of a, with b constant: a - b.
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, torch.stack([a - b, b - a]))


def test_two_views_repeat_the_batch() -> None:
    batch = Batch(
        ids=["x", "y"],
        texts=["X", "Y"],
        features=torch.arange(12.0).reshape(2, 3, 2).half(),  # as they are stored
        lengths=torch.tensor([3, 2]),
        targets=torch.tensor([[1, 2], [3, 0]]),
        target_lengths=torch.tensor([2, 1]),
    )
    with torch.autocast("cpu", torch.bfloat16):
        double = two_views(batch)
    assert double.ids == ["x", "y", "x", "y"] and double.texts == ["X", "Y", "X", "Y"]
    assert torch.equal(double.features[2:], batch.features) and double.lengths.tolist() == [3, 2, 3, 2]
    assert double.targets.shape == (4, 2) and double.target_lengths.tolist() == [2, 1, 2, 1]
