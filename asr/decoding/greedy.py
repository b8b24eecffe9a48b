"""Greedy (best-path) CTC decoding (Graves et al. 2006, section 3.2)."""

from itertools import groupby

import numpy as np

from asr.decoding.align import NO_ALIGNMENT, AlignedTokens, Alignment, Span, time_words
from asr.decoding.types import Hypothesis, check_posteriors
from asr.text import BLANK, Tokenizer


def greedy(log_probs: np.ndarray, tokenizer: Tokenizer, frame_seconds: float) -> Hypothesis:
    """Decode log-probabilities `float[T, V]` along the most probable path.

    Times and confidences are those of `time_words`. Raises DecodingError as `check_posteriors`.
    """
    check_posteriors(log_probs, tokenizer)
    aligned = best_words(log_probs, tokenizer)
    return Hypothesis(time_words(log_probs, aligned, frame_seconds), aligned.alignment.score)


def best_words(log_probs: np.ndarray, tokenizer: Tokenizer) -> AlignedTokens:
    """Tokens and words of the most probable path through `float[T, V]`.

    With named units (phones), each token is a word.
    """
    if len(log_probs) == 0:
        return AlignedTokens([], [], NO_ALIGNMENT)
    path, path_log_probs = log_probs.argmax(axis=1), log_probs.max(axis=1)
    starts = np.flatnonzero(np.concatenate(([True], path[1:] != path[:-1])))
    ends = np.append(starts[1:], len(path))
    peaks = np.maximum.reduceat(path_log_probs, starts)
    kept = path[starts] != BLANK
    alignment = Alignment(starts[kept], ends[kept], peaks[kept], float(path_log_probs.sum()))
    tokens: list[int] = path[starts[kept]].tolist()
    if not isinstance(tokenizer.units, str):
        return AlignedTokens(
            tokens, [(tokenizer.decode([k]), i, i + 1) for i, k in enumerate(tokens)], alignment
        )
    spans: list[Span] = []
    for is_space, run in groupby(enumerate(tokens), key=lambda item: item[1] == tokenizer.separator):
        if not is_space:
            indices = [index for index, _ in run]
            first, last = indices[0], indices[-1] + 1
            spans.append((tokenizer.decode(tokens[first:last]), first, last))
    return AlignedTokens(tokens, spans, alignment)
