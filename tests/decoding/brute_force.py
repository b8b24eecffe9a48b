"""Decoding by definition: all alignments and all their readings as words."""

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from asr.decoding.beam import DecodingOptions
from asr.decoding.lexicon import Lexicon
from asr.lm.ngram import SPECIAL, UNKNOWN, NgramBuilder, NgramLM, Vocabulary
from asr.text import Tokenizer

Words = tuple[str, ...]


def collapse(path: Sequence[int]) -> tuple[int, ...]:
    return tuple(token for token, _ in itertools.groupby(path) if token != 0)


def random_posteriors(seed: int, frames: int, size: int, scale: float = 3.0) -> np.ndarray:
    """Log-softmax of noise, `float32[frames, size]`."""
    logits = scale * np.random.default_rng(seed).standard_normal((frames, size))
    return (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)


def readings(tokens: tuple[int, ...], tokenizer: Tokenizer, lexicon: Lexicon | None) -> set[Words]:
    """All word sequences that a token sequence spells."""
    if tokenizer.separator is None:
        return set(_segmentations(tokens, lexicon))
    spelt = [
        tuple(run)
        for space, run in itertools.groupby(tokens, lambda t: t == tokenizer.separator)
        if not space
    ]
    if lexicon is None:
        return {tuple(tokenizer.decode(word) for word in spelt)}
    choices = [
        [lexicon.words[i] for i in range(len(lexicon)) if tuple(lexicon.spelling(i)) == word]
        for word in spelt
    ]
    return set(itertools.product(*choices))


def _segmentations(tokens: tuple[int, ...], lexicon: Lexicon) -> Iterator[Words]:
    if not tokens:
        yield ()
    for i in range(len(lexicon)):
        spelling = tuple(lexicon.spelling(i))
        if tokens[: len(spelling)] == spelling:
            for rest in _segmentations(tokens[len(spelling) :], lexicon):
                yield (lexicon.words[i], *rest)


def word_score(words: Words, lm: NgramLM | None, options: DecodingOptions) -> float:
    """Score of a text besides ln p_ctc."""
    score = options.word_bonus * len(words)
    if lm is not None:
        score += options.lm_weight * math.log(10) * lm.score(words)
        score += options.unknown_penalty * sum(lm.word_id(word) == UNKNOWN for word in words)
    for hotword in options.hotwords:
        phrase = tuple(hotword.phrase.split())
        said = sum(words[i : i + len(phrase)] == phrase for i in range(len(words)))
        score += said * hotword.boost * sum(map(len, phrase))
    return score


def decode(
    log_probs: np.ndarray,
    tokenizer: Tokenizer,
    lm: NgramLM | None,
    lexicon: Lexicon | None,
    options: DecodingOptions,
) -> dict[Words, float]:
    """Scores of all word sequences."""
    totals: dict[Words, float] = {}
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        log_prob = float(sum(row[token] for row, token in zip(log_probs.astype(float), path, strict=True)))
        for words in readings(collapse(path), tokenizer, lexicon):
            totals[words] = np.logaddexp(totals.get(words, -np.inf), log_prob)
    return {words: total + word_score(words, lm, options) for words, total in totals.items()}


def random_lm(words: Sequence[str], rng: np.random.Generator) -> NgramLM:
    """A bigram model with half of all bigrams; its scores are not normalised, which decoders ignore."""
    vocabulary = Vocabulary.of(words)
    size = len(vocabulary)
    pairs = [(a, b) for a in range(size) for b in range(size) if rng.random() < 0.5]
    builder = NgramBuilder([size, len(pairs)])
    builder.add(
        np.zeros(size, np.uint32),
        np.arange(size, dtype=np.uint32),
        -3 * rng.random(size).astype(np.float32),
        -rng.random(size).astype(np.float32),
    )
    builder.add(
        np.array([1 + a for a, _ in pairs], np.uint32),
        np.array([b for _, b in pairs], np.uint32),
        -3 * rng.random(len(pairs)).astype(np.float32),
    )
    assert list(vocabulary)[: len(SPECIAL)] == list(SPECIAL)
    return builder.finish(vocabulary)
