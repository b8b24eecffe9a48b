"""Consistency regularisation: two views of an utterance should get the same posteriors.

CR-CTC, Yao et al., 2025 (arXiv 2410.05101).
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from asr.model.subsampling import padding_mask
from asr.training.data import Batch


def twice(batch: Batch) -> Batch:
    """Each utterance two times: the first views, and in the same order the second ones."""
    # Not by torch.cat, which autocast to bfloat16 refuses for float16.
    tensors = {k: v for k, v in batch._asdict().items() if isinstance(v, Tensor)}
    doubled = {k: v.repeat(2, *[1] * (v.ndim - 1)) for k, v in tensors.items()}
    return batch._replace(ids=batch.ids * 2, texts=batch.texts * 2, **doubled)


def divergence(log_probs: Tensor, lengths: Tensor) -> Tensor:
    """Sum over the utterances of a batch made by `twice` of KL(b || a) + KL(a || b), each summed over frames.

    `float[2B, T, V]` log-probabilities, a above b, and their lengths `int[2B]` -> a scalar. Each view is
    drawn to the other one as it is: no gradient goes through the target.
    """
    target = torch.cat(log_probs.detach().chunk(2)[::-1])
    kl = F.kl_div(log_probs, target, reduction="none", log_target=True).sum(dim=2)
    return (kl * padding_mask(lengths, kl.shape[1])).sum()
