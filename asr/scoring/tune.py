"""Choosing the language model's weight and the word bonus on a development set."""

import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein

from asr.decoding.beam import BeamDecoder, BeamHypothesis
from asr.decoding.beam import DecodingOptions as BeamOptions
from asr.errors import AsrError
from asr.files import atomic_write
from asr.inference.decoder import GREEDY_TEMPERATURE, TEMPERATURE, Decoder, DecodingOptions
from asr.inference.engine import usable_cores
from asr.inference.transcriber import load_model
from asr.manifest import Utterance
from asr.model.bundle import LEXICON, LM, write_config
from asr.scoring.calibration import CrossFit, JudgedWord, cross_fit, judge
from asr.scoring.evaluate import read_all

PRIOR_WEIGHTS = (0.0, 0.3, 0.6, 0.9)
FIRST_STEPS = (0.4, 1.6)
"""How far lm_weight and word_bonus go from the best so far, at first."""
HALVINGS = 3
SEARCH_BEAM = 100
"""Widest beam of a trial; with wider ones each would take as much longer."""
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1))
"""A larger weight makes words dearer, which a larger bonus makes up for."""


@dataclass(frozen=True)
class Tuning:
    """`options` made `errors` word errors on `words` words; `trials` are lm_weight, word_bonus and the errors
    at a beam of at most SEARCH_BEAM."""

    options: BeamOptions
    errors: int
    words: int
    trials: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class Development:
    """What is tuned on: posteriors of utterances, what was said in them, by whom, and what decodes them."""

    decoder: BeamDecoder
    posteriors: Sequence[np.ndarray]
    utterances: Sequence[Utterance]
    threads: int = 1

    def part(self, indices: Sequence[int]) -> "Development":
        """Some of the utterances."""
        posteriors = [self.posteriors[i] for i in indices]
        return replace(self, posteriors=posteriors, utterances=[self.utterances[i] for i in indices])

    def decode(self, options: BeamOptions) -> Iterator[list[BeamHypothesis]]:
        """The hypotheses of each utterance."""
        return self.decoder.decode_all(self.posteriors, options, self.threads)

    def errors(self, options: BeamOptions) -> int:
        """Word errors of the best hypotheses."""
        return sum(
            Levenshtein.distance(u.text.split(), hypotheses[0].text.split())
            for u, hypotheses in zip(self.utterances, self.decode(options), strict=True)
        )


def tune(development: Development, options: BeamOptions) -> Tuning:
    """Search lm_weight and word_bonus for the fewest word errors: a pattern search (Hooke and Jeeves, 1961).

    The weight of the priors is chosen before that. Steps are halved where none leads to fewer errors. All is
    decoded anew for each trial: n-best lists would be cheaper, but their search does not recombine, and what
    is best for it is not best for the search for a single text.
    """
    narrow = weigh_priors(development, replace(options, beam=min(options.beam, SEARCH_BEAM)))
    tried: dict[tuple[float, float], int] = {}

    def errors(weights: tuple[float, float]) -> int:
        if weights not in tried:
            there = replace(narrow, lm_weight=weights[0], word_bonus=weights[1])
            tried[weights] = development.errors(there)
        return tried[weights]

    best, halved = (options.lm_weight, options.word_bonus), 0
    while halved <= HALVINGS:
        lm_step, bonus_step = (step / 2**halved for step in FIRST_STEPS)
        near = [
            (round(max(0.0, best[0] + a * lm_step), 3), round(best[1] + b * bonus_step, 3))
            for a, b in DIRECTIONS
        ]
        winner = min([best, *near], key=errors)  # of equals the first
        halved += winner == best
        best = winner
    found = replace(narrow, beam=options.beam, lm_weight=best[0], word_bonus=best[1])
    words = sum(len(u.text.split()) for u in development.utterances)
    return Tuning(
        found, development.errors(found), words, tuple((*weights, count) for weights, count in tried.items())
    )


def weigh_priors(development: Development, options: BeamOptions) -> BeamOptions:
    """Take the mean posteriors for priors, and of PRIOR_WEIGHTS the one with the fewest word errors."""
    posteriors = development.posteriors
    total = sum(np.exp(log_probs).sum(axis=0, dtype=np.float64) for log_probs in posteriors)
    mean = total / max(1, sum(map(len, posteriors)))
    priors = tuple(np.log(np.maximum(mean, 1e-6)).round(4).tolist())
    weighed = [replace(options, priors=priors, prior_weight=weight) for weight in PRIOR_WEIGHTS]
    return min(weighed, key=development.errors)


def cross_tune(development: Development, options: BeamOptions) -> int | None:
    """Word errors when each half of the speakers is decoded with what is best for the other half.

    None where there are fewer than two speakers.
    """
    speakers = [u.speaker or u.id for u in development.utterances]
    if len(set(speakers)) < 2:
        return None
    first = set(sorted(set(speakers))[::2])
    halves = [
        development.part([i for i, speaker in enumerate(speakers) if (speaker in first) == side])
        for side in (False, True)
    ]
    return sum(mine.errors(tune(other, options).options) for mine, other in (halves, halves[::-1]))


@dataclass(frozen=True)
class TunedBundle:
    """What `tune_bundle` wrote; the errors with weights tuned on other speakers (`cross_tune`); how good the
    confidences are, None where they cannot be fitted."""

    tuning: Tuning
    held_out_errors: int | None
    fit: CrossFit | None
    greedy_fit: CrossFit | None


def tune_bundle(
    bundle: Path, manifests: Sequence[Path], decoding: DecodingOptions, threads: int | None = None
) -> TunedBundle:
    """Tune a bundle on manifests: weight of its language model, word bonus, temperature of confidences.

    Language model and lexicon that are given go into the bundle with the weights. Raises AsrError.
    """
    model = load_model(bundle, threads, decoding)
    decoder = model.decoder
    if decoder.beam is None or decoder.lm is None:
        raise AsrError(f"{bundle}: has no language model to tune; give --lm FILE")
    utterances = read_all(manifests)
    posteriors = [model.posteriors(u.audio_filepath) for u in utterances]
    threads = threads or usable_cores()
    development = Development(decoder.beam, posteriors, utterances, threads)
    held_out = cross_tune(development, decoder.options)
    tuning = tune(development, decoder.options)
    settings = {
        key: value for key, value in asdict(tuning.options).items() if key not in ("hotwords", "n_best")
    }
    decoder.options = tuning.options
    fit = _fit(decoder, development)
    if fit is not None:
        settings[TEMPERATURE] = round(fit.temperature, 4)
    decoder.beam, greedy_fit = None, None
    if decoder.tokenizer.separator is not None:  # of phones, greedy decoding makes no words
        greedy_fit = _fit(decoder, development)
    if greedy_fit is not None:
        settings[GREEDY_TEMPERATURE] = round(greedy_fit.temperature, 4)
    for source, name in ((decoding.lm, LM), (decoding.lexicon, LEXICON)):
        if source is not None and source.resolve() != (bundle / name).resolve():
            with source.open("rb") as original, atomic_write(bundle / name, "wb") as target:
                shutil.copyfileobj(original, target)
    write_config(bundle, replace(model.config, decoding=settings))
    return TunedBundle(tuning, held_out, fit, greedy_fit)


def _fit(decoder: Decoder, development: Development) -> CrossFit | None:
    """The temperature of a decoder's confidences; None where there is only one speaker, or no error."""
    raw = copy(decoder)
    raw.temperature = 1.0
    judged: list[JudgedWord] = []
    with ThreadPoolExecutor(development.threads) as pool:
        decoded = pool.map(raw.decode, development.posteriors)
        for u, hypothesis in zip(development.utterances, decoded, strict=True):
            judged += judge(u.text, hypothesis.words, u.speaker or u.id)
    try:
        return cross_fit(judged)
    except AsrError:
        return None
