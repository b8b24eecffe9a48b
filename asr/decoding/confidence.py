"""How sure the model is of each word of a text that was aligned with its posteriors.

The probability of a word is that of its tokens, summed over all CTC alignments (Graves et al. 2006, section
4.1) within the frames between its neighbours' tokens, times the posterior peaks of the separators at its
sides: a word is right only if it also begins and ends there. Its confidence at temperature T is
p ** (1 / (n T)) for a word of n tokens, separators included. At T = 1 that is a geometric mean over tokens,
and no probability that the word is right; asr.scoring.calibration fits the T that makes it one.
"""

import numpy as np

from asr.jit import compiled


def word_confidences(
    log_probs: np.ndarray,
    tokens: np.ndarray,
    places: tuple[np.ndarray, np.ndarray, np.ndarray],
    words: np.ndarray,
    temperature: float = 1.0,
) -> np.ndarray:
    """Confidences `float64[W]` in [0, 1].

    Args:
        log_probs: `float32[T, V]`.
        tokens: `int64[L]`; `places` are their first frames, ends (both `int64[L]`) and log posterior peaks.
        words: `int64[W, 2]`, the first token of each word and the one after its last, in order. A token
            between two words, before the first or after the last one is a separator.
        temperature: Above 1 for a model that doubts itself too much, below 1 for one that does too little.
    """
    starts, ends, peaks = places
    means = np.empty(len(words))
    _score_words(log_probs, tokens, starts, ends, np.minimum(peaks, 0), words, means)
    confidences: np.ndarray = np.exp(np.minimum(means, 0) / temperature)
    return confidences


@compiled
def _score_words(
    log_probs: np.ndarray,
    tokens: np.ndarray,
    starts: np.ndarray,
    ends: np.ndarray,
    peaks: np.ndarray,
    words: np.ndarray,
    means: np.ndarray,
) -> None:
    """Write the log-probability a token of each word."""
    for i in range(len(words)):
        first, last = words[i]
        begin = ends[first - 1] if first > 0 else 0
        end = starts[last] if last < len(tokens) else len(log_probs)
        score, count = _forward(log_probs[begin:end], tokens[first:last]), last - first
        if first > (words[i - 1, 1] if i > 0 else 0):
            score, count = score + peaks[first - 1], count + 1
        if last < (words[i + 1, 0] if i + 1 < len(words) else len(tokens)):
            score, count = score + peaks[last], count + 1
        means[i] = score / count


@compiled
def _forward(log_probs: np.ndarray, tokens: np.ndarray) -> float:
    """Log-probability that the frames emit the tokens and nothing else. States are those of align.py."""
    row = np.full(2 * len(tokens) + 1, -np.inf)
    row[0] = 0.0
    for t in range(len(log_probs)):
        for s in range(min(2 * t + 1, len(row) - 1), -1, -1):
            total = row[s]
            if s >= 1:
                total = np.logaddexp(total, row[s - 1])
            if s >= 3 and s % 2 == 1 and tokens[s // 2] != tokens[s // 2 - 1]:
                total = np.logaddexp(total, row[s - 2])
            row[s] = total + log_probs[t, tokens[s // 2] if s % 2 == 1 else 0]
    return float(np.logaddexp(row[-1], row[-2]))
