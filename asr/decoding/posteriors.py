"""What every decoder checks first."""

import numpy as np

from asr.errors import DecodingError
from asr.text import Tokenizer

FLOOR = np.float32(-1e3)
"""Decoders take less for this, so that there is always a path."""

LOG_PROB_MAX = 1e-3
"""What rounding may make of a log-probability of 0."""


def check_posteriors(log_probs: np.ndarray, tokenizer: Tokenizer) -> None:
    """Raise DecodingError unless these are `float[T, V]` log-probabilities over the tokenizer's tokens."""
    if log_probs.ndim != 2 or log_probs.shape[1] != tokenizer.size:
        raise DecodingError(f"posteriors of shape {log_probs.shape} do not fit {tokenizer.size} tokens")
    if (broken := np.isnan(log_probs).any(axis=1)).any():
        frame = int(broken.argmax())
        raise DecodingError(f"posteriors hold NaN (first in frame {frame}); the model is damaged or diverged")
    if len(log_probs) and log_probs.max() > LOG_PROB_MAX:
        raise DecodingError(f"posteriors reach {log_probs.max():.3g}; log-probabilities are not above 0")
