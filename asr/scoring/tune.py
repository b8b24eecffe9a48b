"""Choosing the language model's weight and the word bonus on a development set."""

import math
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from rapidfuzz.distance import Levenshtein

from asr.decoding.beam import BeamDecoder, BeamHypothesis, BeamOptions
from asr.errors import AsrError
from asr.files import atomic_write
from asr.inference.decoder import GREEDY_TEMPERATURE, TEMPERATURE, Decoder, DecodingOptions
from asr.inference.engine import usable_cores
from asr.inference.transcriber import load_model
from asr.lm.ngram import NgramLM, score_words
from asr.lm.vocabulary import END
from asr.manifest import Utterance
from asr.model.bundle import LEXICON, LM, write_config
from asr.scoring.calibration import CrossFit, JudgedWord, cross_fit, judge
from asr.scoring.evaluate import read_all

N_BEST = 30
LIST_BEAM = 100
"""Widest beam of lists: their search does not recombine, so its time grows faster than what they tell."""
MOST_ROUNDS = 10
STEPS = 21
PRIOR_WEIGHTS = (0.0, 0.3, 0.6, 0.9)
WIDTHS = (0.4, 2.0)
"""How far lm_weight and word_bonus may go from the best so far in one step."""


@dataclass(frozen=True)
class Tuning:
    """`options` made `errors` word errors on `words` words; `trials` are those of each round of decoding."""

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


@dataclass(frozen=True)
class _Row:
    """A hypothesis, whatever the weights: ln p_ctc with boosts and penalties, ln p_lm, length, errors."""

    fixed: float
    lm: float
    words: int
    errors: int


def tune(development: Development, lm: NgramLM, options: BeamOptions) -> Tuning:
    """Search lm_weight and word_bonus for the fewest word errors, much as Och (2003) does.

    The weight of the priors is chosen before that. Decode to n-best lists, find what would be best on all
    lists so far, and decode again with that. The lists tell little of weights far from those that made them,
    so a step that fails halves the next ones' reach.
    """
    options = weigh_priors(development, options)
    of_lists = replace(options, beam=min(options.beam, LIST_BEAM), n_best=N_BEST)
    scorer = _Scorer(lm)
    spoken = [u.text.split() for u in development.utterances]
    lists: list[dict[str, _Row]] = [{} for _ in spoken]
    tried: dict[tuple[float, float], int] = {}
    best = weights = (options.lm_weight, options.word_bonus)
    reach = 1.0
    while weights not in tried and len(tried) < MOST_ROUNDS:
        of_lists = replace(of_lists, lm_weight=weights[0], word_bonus=weights[1])
        errors = 0
        for rows, words, hypotheses in zip(lists, spoken, development.decode(of_lists), strict=True):
            for hypothesis in hypotheses:
                rows[hypothesis.text] = scorer.row(hypothesis, words, of_lists)
            errors += rows[hypotheses[0].text].errors
        if tried and errors >= tried[best]:
            reach /= 2
        else:
            best = weights
        tried[weights] = errors
        weights = _best_weights(lists, best, reach)
    found = replace(options, lm_weight=best[0], word_bonus=best[1])
    trials = tuple((*weights, errors) for weights, errors in tried.items())
    # The search for one text, which recombines, finds better ones than that for lists.
    return Tuning(found, development.errors(found), sum(map(len, spoken)), trials)


def weigh_priors(development: Development, options: BeamOptions) -> BeamOptions:
    """Take the mean posteriors for priors, and of PRIOR_WEIGHTS the one with the fewest word errors."""
    posteriors = development.posteriors
    total = sum(np.exp(log_probs).sum(axis=0, dtype=np.float64) for log_probs in posteriors)
    mean = total / max(1, sum(map(len, posteriors)))
    priors = tuple(np.log(np.maximum(mean, 1e-6)).round(4).tolist())
    weighed = [replace(options, priors=priors, prior_weight=weight, n_best=1) for weight in PRIOR_WEIGHTS]
    return min(weighed, key=development.errors)


def cross_tune(development: Development, lm: NgramLM, options: BeamOptions) -> int | None:
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
    return sum(mine.errors(tune(other, lm, options).options) for mine, other in (halves, halves[::-1]))


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
    held_out = cross_tune(development, decoder.lm, decoder.options)
    tuning = tune(development, decoder.lm, decoder.options)
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


class _Scorer:
    """Takes hypotheses apart."""

    def __init__(self, lm: NgramLM) -> None:
        self._lm = lm
        self._ids = {word: index for index, word in enumerate(lm.words())}

    def row(self, hypothesis: BeamHypothesis, reference: list[str], options: BeamOptions) -> _Row:
        words = [word.text for word in hypothesis.words]
        ids = np.array([*(self._ids.get(word, 0) for word in words), END], dtype=np.int64)
        log_probs = np.empty(len(ids))
        score_words(self._lm.arrays, self._lm.begin_state, ids, log_probs)
        lm = math.log(10) * float(log_probs.sum())
        fixed = hypothesis.score - options.lm_weight * lm - options.word_bonus * len(words)
        return _Row(fixed, lm, len(words), Levenshtein.distance(reference, words))


def _best_weights(
    lists: Sequence[dict[str, _Row]], around: tuple[float, float], reach: float
) -> tuple[float, float]:
    """The weights near `around` with the fewest errors on the lists; of equals, those in their midst."""
    longest = max(map(len, lists))
    fixed = np.full((len(lists), longest), -np.inf)
    lm, words, errors = (np.zeros((len(lists), longest)) for _ in range(3))
    for i, rows in enumerate(lists):
        for j, row in enumerate(rows.values()):
            fixed[i, j], lm[i, j], words[i, j], errors[i, j] = row.fixed, row.lm, row.words, row.errors
    lm_weights, word_bonuses = (
        centre + reach * width * np.linspace(-1, 1, STEPS)
        for centre, width in zip(around, WIDTHS, strict=True)
    )
    lm_weights = np.maximum(lm_weights, 0)
    totals = np.empty((STEPS, STEPS))
    every = np.arange(len(lists))
    for a, lm_weight in enumerate(lm_weights):
        weighted = fixed + lm_weight * lm
        for b, word_bonus in enumerate(word_bonuses):
            totals[a, b] = errors[every, (weighted + word_bonus * words).argmax(axis=1)].sum()
    best = np.argwhere(totals == totals.min())
    a, b = best[np.abs(best - best.mean(axis=0)).sum(axis=1).argmin()]
    return round(float(lm_weights[a]), 2), round(float(word_bonuses[b]), 2)
