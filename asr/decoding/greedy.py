"""Greedy (best-path) CTC decoding, Graves et al. 2006, section 3.2."""

from itertools import groupby

import numpy as np

from asr.decoding.align import Alignment, Span, time_words
from asr.decoding.hypothesis import Hypothesis
from asr.decoding.posteriors import check_posteriors
from asr.text import BLANK, Tokenizer


def greedy(
    log_probs: np.ndarray, tokenizer: Tokenizer, frame_seconds: float, temperature: float = 1.0
) -> Hypothesis:
    """Decode `float[T, V]` log-probabilities along the most probable path.

    A token lasts from its first to its last frame on the path. Named units, as phones, are
    words by themselves. Word times are in frames of `frame_seconds`; for confidences see
    asr.decoding.confidence. Raises DecodingError on NaN or where V is not the vocabulary's size.
    """
    check_posteriors(log_probs, tokenizer)
    tokens, alignment = best_path(log_probs)
    spans = word_spans(tokens, tokenizer)
    words = time_words(log_probs, tokens, alignment, spans, frame_seconds, temperature=temperature)
    return Hypothesis(words, alignment.score)


def best_path(log_probs: np.ndarray) -> tuple[list[int], Alignment]:
    """The tokens on the path of the most probable token of each frame `float[T, V]`, and where they lie."""
    if len(log_probs) == 0:
        nothing = np.zeros(0, dtype=np.int64)
        return [], Alignment(nothing, nothing, np.zeros(0), 0.0)
    path = log_probs.argmax(axis=1)
    path_log_probs = log_probs.max(axis=1)
    starts = np.flatnonzero(np.concatenate(([True], path[1:] != path[:-1])))
    ends = np.append(starts[1:], len(path))
    peaks = np.maximum.reduceat(path_log_probs, starts)
    kept = path[starts] != BLANK
    alignment = Alignment(starts[kept], ends[kept], peaks[kept], float(path_log_probs.sum()))
    return path[starts[kept]].tolist(), alignment


def word_spans(tokens: list[int], tokenizer: Tokenizer) -> list[Span]:
    """The words that tokens make: those between separators, or each one by itself where they are names."""
    if not isinstance(tokenizer.units, str):
        return [(tokenizer.decode([token]), i, i + 1) for i, token in enumerate(tokens)]
    spans = []
    for is_space, run in groupby(enumerate(tokens), key=lambda place: place[1] == tokenizer.separator):
        if not is_space:
            places = [place for place, _ in run]
            spans.append((tokenizer.decode(tokens[places[0] : places[-1] + 1]), places[0], places[-1] + 1))
    return spans
