"""Tune a bundle on a development set: LM weight, word bonus, token priors, confidence temperatures."""

import shutil
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rapidfuzz.distance import Levenshtein

from asr import audio
from asr.console import option
from asr.decoding.beam import GREEDY_TEMPERATURE, TEMPERATURE, BeamDecoder, DecodingOptions
from asr.errors import AsrError
from asr.files import atomic_write
from asr.inference.decoder import Decoder, LoadOptions
from asr.inference.engine import usable_cores
from asr.inference.transcriber import Transcriber, load_model
from asr.manifest import Utterance
from asr.model.bundle import LEXICON, LM, write_config
from asr.scoring.calibration import CrossFit, JudgedWord, cross_fit, judge
from asr.scoring.evaluate import Problem, normalized, other_form, read_all

FIRST_STEPS = (0.4, 1.6)
"""Initial steps in lm_weight and word_bonus."""
HALVINGS = 3
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, -1))
"""Diagonals go up or down in both: a larger weight makes words cost more, a larger bonus offsets that."""


@dataclass(frozen=True)
class TuneOptions:
    """Options of tuning."""

    threads: int | None = option("CPU cores to use, by default all", None, least=1)
    prior_weights: tuple[float, ...] = option("weights of the token priors to try", (0.0, 0.3, 0.6, 0.9))
    search_beam: int = option("widest beam while searching", 100, least=1)
    normalize: bool = option("normalize case and punctuation of the references to the model's", False)


class Tuning(NamedTuple):
    """The best options, their word errors on `words` words, and (lm_weight, word_bonus, errors) of trials."""

    options: DecodingOptions
    errors: int
    words: int
    trials: tuple[tuple[float, float, int], ...]


@dataclass(frozen=True)
class Development:
    """Development set: posteriors of utterances, the utterances, and the decoder to tune."""

    decoder: BeamDecoder
    posteriors: Sequence[np.ndarray]
    utterances: Sequence[Utterance]
    threads: int = 1

    def part(self, indices: Sequence[int]) -> "Development":
        """Subset of the utterances."""
        posteriors = [self.posteriors[i] for i in indices]
        return replace(self, posteriors=posteriors, utterances=[self.utterances[i] for i in indices])

    def errors(self, options: DecodingOptions) -> int:
        """Word errors of the best hypotheses."""
        with ThreadPoolExecutor(self.threads) as pool:
            decoded = pool.map(lambda log_probs: self.decoder.decode(log_probs, options), self.posteriors)
            return sum(
                Levenshtein.distance(u.text.split(), hypotheses[0].text.split())
                for u, hypotheses in zip(self.utterances, decoded, strict=True)
            )


def tune(development: Development, start: DecodingOptions, options: TuneOptions) -> Tuning:
    """Search the lm_weight and word_bonus with the fewest word errors (pattern search; Hooke & Jeeves 1961).

    The prior weight is chosen first. Steps are halved when none of them improves. Every trial decodes anew,
    as n-best search does not recombine prefixes, so that its best weights are others.
    """
    narrow = replace(start, beam=min(start.beam, options.search_beam), priors=_priors(development.posteriors))
    weighted = [replace(narrow, prior_weight=weight) for weight in options.prior_weights]
    narrow = min(weighted, key=development.errors)

    @cache
    def errors(lm_weight: float, word_bonus: float) -> int:
        trial = development.errors(replace(narrow, lm_weight=lm_weight, word_bonus=word_bonus))
        trials.append((lm_weight, word_bonus, trial))
        return trial

    trials: list[tuple[float, float, int]] = []
    best, halved = (start.lm_weight, start.word_bonus), 0
    while halved <= HALVINGS:
        lm_step, bonus_step = (step / 2**halved for step in FIRST_STEPS)
        near = [
            (round(max(0.0, best[0] + a * lm_step), 3), round(best[1] + b * bonus_step, 3))
            for a, b in DIRECTIONS
        ]
        winner = min([best, *near], key=lambda weights: errors(*weights))  # the first if equal
        halved += winner == best
        best = winner
    found = replace(narrow, beam=start.beam, lm_weight=best[0], word_bonus=best[1])
    words = sum(len(u.text.split()) for u in development.utterances)
    return Tuning(found, development.errors(found), words, tuple(trials))


def _priors(posteriors: Sequence[np.ndarray]) -> tuple[float, ...]:
    """Log of the mean posterior of each token."""
    total = sum(np.exp(log_probs).sum(axis=0, dtype=np.float64) for log_probs in posteriors)
    mean = total / max(1, sum(map(len, posteriors)))
    return tuple(np.log(np.maximum(mean, 1e-6)).round(4).tolist())


def cross_tune(development: Development, start: DecodingOptions, options: TuneOptions) -> int | None:
    """Word errors of each half of the speakers with options tuned on the other; None for one speaker."""
    speakers = [u.speaker or u.id for u in development.utterances]
    first = set(sorted(set(speakers))[::2])
    halves = [[i for i, s in enumerate(speakers) if (s in first) == side] for side in (False, True)]
    if not all(halves):
        return None
    a, b = map(development.part, halves)
    return sum(mine.errors(tune(other, start, options).options) for mine, other in ((a, b), (b, a)))


class TunedBundle(NamedTuple):
    """Result of `tune_bundle`, with the errors of `cross_tune`. A fit is None if it was not possible.

    `problems` are recordings that could not be read.
    """

    tuning: Tuning
    held_out_errors: int | None
    fit: CrossFit | None
    greedy_fit: CrossFit | None
    problems: Sequence[Problem] = ()


def tune_bundle(
    bundle: Path, manifests: Sequence[Path], decoding: LoadOptions, options: TuneOptions = TuneOptions()
) -> TunedBundle:
    """Tune a bundle on manifests and write the result into its config.json.

    A language model or lexicon in `decoding` is copied into the bundle. Raises AsrError.
    """
    model = load_model(bundle, options.threads, decoding)
    if model.decoder.beam is None or model.decoder.lm is None:
        raise AsrError(f"{bundle}: has no language model to tune; give --lm FILE")
    references = _references(read_all(manifests), model.decoder.characters, options)
    heard, problems = _hear(model, references)
    posteriors, utterances = zip(*heard, strict=True)
    development = Development(model.decoder.beam, posteriors, utterances, options.threads or usable_cores())
    held_out = cross_tune(development, model.decoder.options, options)
    tuning = tune(development, model.decoder.options, options)
    settings = asdict(tuning.options)
    del settings["hotwords"], settings["n_best"]
    raw = replace(model.config, decoding=settings)  # has no temperatures, so that they are 1

    def fit(decoding: LoadOptions) -> CrossFit | None:
        return _fit(Decoder(bundle, raw, model.decoder.frame_seconds, decoding), development)

    beam_fit, greedy_fit = fit(replace(decoding, settings=settings)), None
    if raw.tokenizer.separator is not None:  # greedy decoding of phones gives no words
        greedy_fit = fit(replace(decoding, greedy=True))
    fits = {TEMPERATURE: beam_fit, GREEDY_TEMPERATURE: greedy_fit}
    temperatures = {key: round(found.temperature, 4) for key, found in fits.items() if found}
    for source, name in ((decoding.lm, LM), (decoding.lexicon, LEXICON)):
        if source is not None and source.resolve() != (bundle / name).resolve():
            with source.open("rb") as original, atomic_write(bundle / name, "wb") as target:
                shutil.copyfileobj(original, target)
    write_config(bundle, replace(raw, decoding={**settings, **temperatures}))
    return TunedBundle(tuning, held_out, beam_fit, greedy_fit, problems)


def _references(
    utterances: Sequence[Utterance], characters: str | None, options: TuneOptions
) -> Sequence[Utterance]:
    """Utterances to tune on. Raises AsrError if the model cannot write their texts: trials would tie."""
    plain = normalized(utterances, characters)
    if not any(characters is None or set(w) <= set(characters) for u in plain for w in u.text.split()):
        raise AsrError("no reference holds a word that the model can write; name another manifest")
    if not options.normalize and (fault := other_form(utterances, characters)):
        raise AsrError(f"{fault}; give --normalize to make them alike")
    return plain if options.normalize else utterances


def _hear(
    model: Transcriber, utterances: Sequence[Utterance]
) -> tuple[list[tuple[np.ndarray, Utterance]], list[Problem]]:
    """Posteriors of the recordings that can be read. Raises AsrError if they hold no word."""
    heard, problems = [], []
    for utterance in utterances:
        try:
            samples = audio.read(utterance.audio_filepath, options=utterance.part)
            heard.append((model.posteriors(samples), utterance))
        except AsrError as error:
            problems.append(Problem(utterance.id, str(error)))
    if problems and not any(utterance.text.split() for _, utterance in heard):
        raise AsrError(problems[0].reason)
    return heard, problems


def _fit(decoder: Decoder, development: Development) -> CrossFit | None:
    """Temperature of a decoder's confidences; None with one speaker or without errors."""
    judged: list[JudgedWord] = []
    with ThreadPoolExecutor(development.threads) as pool:
        decoded = pool.map(decoder.decode, development.posteriors)
        for u, hypothesis in zip(development.utterances, decoded, strict=True):
            judged += judge(u.text, hypothesis.words, u.speaker or u.id)
    try:
        return cross_fit(judged)
    except AsrError:
        return None
