"""Posteriors -> words with times and confidence, by what a bundle holds and what the user asks for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from asr.decoding.align import align_words
from asr.decoding.beam import BeamDecoder, DecodedWord
from asr.decoding.beam import DecodingOptions as BeamOptions
from asr.decoding.hotwords import Hotword
from asr.decoding.lexicon import Lexicon, known_form, read_lexicon, spellable
from asr.decoding.stream import AlignedBeamSearch, GreedySearch, Search, Stream
from asr.decoding.types import Hypothesis, Word
from asr.errors import BundleError, DecodingError, TextError
from asr.lm import packed
from asr.lm.ngram import NgramLM
from asr.model.bundle import LEXICON, LM, BundleConfig

TEMPERATURE = "temperature"
GREEDY_TEMPERATURE = "greedy_temperature"
"""Keys of a bundle's settings beside those of BeamOptions."""


@dataclass(frozen=True)
class DecodingOptions:
    """How to decode; what is None is as the bundle has it.

    Args:
        greedy: Take the most probable token of each frame, whatever else is there.
        lm: A language model, as `asr lm` writes it.
        lexicon: The only words that may come out, each with its spelling in tokens.
        beam: Settings of the beam search.
    """

    greedy: bool = False
    lm: Path | None = None
    lexicon: Path | None = None
    beam: BeamOptions | None = None


class Decoder:
    """Decodes the posteriors of the bundle in `folder`: by beam search where there is a language model, a
    lexicon, or settings of one, else greedily. Raises BundleError, DecodingError, LanguageModelError."""

    def __init__(
        self, folder: Path, config: BundleConfig, frame_seconds: float, options: DecodingOptions
    ) -> None:
        self.tokenizer = config.tokenizer
        self.frame_seconds = frame_seconds
        lm = options.lm or _present(folder / LM)
        self._lexicon_path = lexicon = options.lexicon or _present(folder / LEXICON)
        self.options = options.beam or beam_options(folder, config)
        self.beam: BeamDecoder | None = None
        self.lm: NgramLM | None = None
        if not options.greedy and (lm or lexicon or options.beam):
            self.lm = packed.load(lm) if lm else None
            self.beam = BeamDecoder(self.tokenizer, self.lm, self._lexicon)
            self.beam.search(self.options)  # which says what does not fit, before there is anything to decode
        # Confidences of texts that a language model had a hand in need another one.
        key = GREEDY_TEMPERATURE if self.beam is None else TEMPERATURE
        self.temperature = float(config.decoding.get(key, 1.0))

    @cached_property
    def _lexicon(self) -> Lexicon | None:
        return read_lexicon(self._lexicon_path, self.tokenizer) if self._lexicon_path else None

    @cached_property
    def _any_beam(self) -> BeamDecoder:
        """Beam search for what greedy decoding cannot do, hotwords and n-best lists."""
        return self.beam or BeamDecoder(self.tokenizer, None, self._lexicon)

    def stream(self, hotwords: tuple[Hotword, ...] = (), n_best: int = 1) -> Stream:
        """Begin to decode a recording, and listen for `hotwords` beside those of the options."""
        search: Search
        if self.beam is None and not hotwords and n_best == 1:
            search = GreedySearch(self.tokenizer)
        else:
            options = replace(self.options, n_best=n_best, hotwords=(*self.options.hotwords, *hotwords))
            search = AlignedBeamSearch(self._any_beam.search(options), self.tokenizer.separator)
        return Stream(search, self.tokenizer, self.frame_seconds, self.temperature)

    def decode(self, log_probs: np.ndarray, hotwords: tuple[Hotword, ...] = ()) -> Hypothesis:
        """Decode the posteriors `float[T, V]` of a whole recording."""
        stream = self.stream(hotwords)
        stream.feed(log_probs)
        return stream.finish()

    def time(self, log_probs: np.ndarray, words: Sequence[DecodedWord]) -> tuple[Word, ...]:
        """Times and confidences of words that were said, by forced alignment. Raises DecodingError."""
        spelt = [(word.text, word.tokens) for word in words]
        return align_words(
            log_probs, spelt, self.tokenizer.separator, self.frame_seconds, temperature=self.temperature
        )

    def spell(self, text: str) -> list[DecodedWord]:
        """A user's text in the model's tokens; with phones, each word's first spelling in the lexicon.

        Raises TextError on what cannot be spelt, DecodingError on words that the lexicon lacks.
        """
        if self.tokenizer.separator is not None:
            words = spellable(text, self.tokenizer).split()
            return [DecodedWord(word, tuple(self.tokenizer.encode(word))) for word in words]
        if self._lexicon is None:
            raise DecodingError("a model of phones needs a lexicon to spell a text; give --lexicon")
        spellings = self._lexicon.first_spellings()
        words = [known_form(word, spellings) for word in text.split()]
        if not words:
            raise TextError("there is no word in it; give what is said")
        return [DecodedWord(word, tuple(spellings[word])) for word in words]


def beam_options(folder: Path, config: BundleConfig) -> BeamOptions:
    """The beam search as `asr tune` has set it for this bundle. Raises BundleError on settings unknown."""
    settings: dict[str, Any] = dict(config.decoding)
    for key in (TEMPERATURE, GREEDY_TEMPERATURE):
        value = settings.pop(key, 1.0)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise BundleError(f"{folder}: decoding.{key} must be a number above 0; run asr tune again")
    if isinstance(settings.get("priors"), list):  # JSON has no tuples
        settings["priors"] = tuple(settings["priors"])
    known = {field.name for field in fields(BeamOptions)} - {"hotwords", "n_best"}
    if unknown := sorted(set(settings) - known):
        raise BundleError(
            f"{folder}: unknown setting decoding.{unknown[0]}; upgrade asr or run asr tune again"
        )
    try:
        return BeamOptions(**settings)
    except (DecodingError, TypeError) as error:
        raise BundleError(f"{folder}: decoding.{error}; run asr tune again") from None


def _present(path: Path) -> Path | None:
    return path if path.exists() else None
