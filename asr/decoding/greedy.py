"""Greedy (best-path) CTC decoding, Graves et al. 2006, section 3.2."""

from itertools import groupby

import numpy as np

from asr.decoding.hypothesis import Hypothesis, Word
from asr.errors import DecodingError
from asr.text import BLANK, Tokenizer


def greedy(
    log_probs: np.ndarray, tokenizer: Tokenizer, frame_seconds: float, offset: float = 0.0
) -> Hypothesis:
    """Decode `float[T, V]` log-probabilities along the most probable path.

    A token lasts from its first to its last frame on the path, and its posterior is the peak over them;
    a word's confidence is the geometric mean of its tokens' posteriors. Word times are `offset` seconds
    plus frames of `frame_seconds`. Raises DecodingError on NaN or where V is not the vocabulary's size.
    """
    if log_probs.ndim != 2 or log_probs.shape[1] != tokenizer.size:
        raise DecodingError(f"posteriors of shape {log_probs.shape} do not fit {tokenizer.size} tokens")
    if len(log_probs) == 0:
        return Hypothesis("", (), 0.0)
    path = log_probs.argmax(axis=1)
    path_log_probs = log_probs.max(axis=1)
    if np.isnan(path_log_probs).any():
        frame = int(np.isnan(path_log_probs).argmax())
        raise DecodingError(f"posteriors hold NaN (first in frame {frame}); the model is damaged or diverged")
    starts = np.flatnonzero(np.concatenate(([True], path[1:] != path[:-1])))
    ends = np.append(starts[1:], len(path))
    peaks = np.maximum.reduceat(path_log_probs, starts)
    kept = path[starts] != BLANK

    text = tokenizer.decode(path[starts[kept]].tolist())
    words = []
    spelled = zip(text, starts[kept], ends[kept], peaks[kept], strict=True)
    for is_space, run in groupby(spelled, key=lambda token: token[0] == " "):
        if is_space:
            continue
        characters, first, last, log_posteriors = zip(*run, strict=True)
        words.append(
            Word(
                text="".join(characters),
                start=offset + float(first[0]) * frame_seconds,
                end=offset + float(last[-1]) * frame_seconds,
                confidence=min(1.0, float(np.exp(np.mean(log_posteriors)))),
            )
        )
    return Hypothesis(" ".join(word.text for word in words), tuple(words), float(path_log_probs.sum()))
