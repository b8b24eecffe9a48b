"""Posteriors -> words with times and confidences, with the decoder settings of a bundle and of the caller."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from asr.console import option
from asr.decoding.align import align_words
from asr.decoding.beam import GREEDY_TEMPERATURE, TEMPERATURE, BeamDecoder, DecodingOptions, bundle_options
from asr.decoding.hotwords import Hotword
from asr.decoding.lexicon import Lexicon, known_form, read_lexicon, spellable
from asr.decoding.stream import AlignedBeamSearch, GreedySearch, Search, Stream
from asr.decoding.types import Hypothesis, Word
from asr.errors import DecodingError, TextError
from asr.lm import packed
from asr.lm.ngram import NgramLM
from asr.model.bundle import LEXICON, LM, BundleConfig


@dataclass(frozen=True)
class LoadOptions:
    """Decoder options of a loaded model; the default is what the bundle has.

    `settings` overrides fields of DecodingOptions by name; any of them selects beam search.
    """

    greedy: bool = option("greedy decoding: no beam search, no LM", False)
    lm: Path | None = option("language model, as written by asr lm", None)
    lexicon: Path | None = option("restrict output to these words: lines of WORD<tab>T O K E N S", None)
    settings: Mapping[str, Any] = field(default_factory=dict, metadata={"fields_of": DecodingOptions})


class Decoder:
    """Decoder of the bundle in `folder`: beam search with a language model, a lexicon or settings of one,
    else greedy. Raises BundleError, DecodingError, LanguageModelError."""

    def __init__(
        self, folder: Path, config: BundleConfig, frame_seconds: float, options: LoadOptions = LoadOptions()
    ) -> None:
        self.tokenizer = config.tokenizer
        self.frame_seconds = frame_seconds
        self.options = replace(bundle_options(folder, config.decoding), **options.settings)
        self._lexicon_path = options.lexicon or _present(folder / LEXICON)
        lm = options.lm or _present(folder / LM)
        self.lm: NgramLM | None = None
        self.beam: BeamDecoder | None = None
        if not options.greedy and (lm or self._lexicon_path or options.settings):
            self.lm = packed.load(lm) if lm else None
            self.beam = BeamDecoder(self.tokenizer, self.lm, self._lexicon)
            self.beam.search(self.options)  # raises now if the options do not fit
        # A language model changes how confidences relate to errors.
        key = TEMPERATURE if self.beam else GREEDY_TEMPERATURE
        self.temperature = float(config.decoding.get(key, 1.0))

    @cached_property
    def _lexicon(self) -> Lexicon | None:
        return read_lexicon(self._lexicon_path, self.tokenizer) if self._lexicon_path else None

    @cached_property
    def _any_beam(self) -> BeamDecoder:
        """Beam search even for a greedy decoder, which has no hotwords and n-best lists."""
        return self.beam or BeamDecoder(self.tokenizer, None, self._lexicon)

    def stream(
        self, hotwords: Sequence[Hotword] = (), n_best: int = 1, pace: tuple[int, int] | None = None
    ) -> Stream:
        """Begin to decode a recording. Raises DecodingError for hotwords that cannot be spelt."""
        search: Search = GreedySearch(self.tokenizer)
        if self.beam or hotwords or n_best > 1:
            options = replace(self.options, n_best=n_best, hotwords=tuple(hotwords))
            search = AlignedBeamSearch(self._any_beam.search(options), self.tokenizer.separator)
        return Stream(search, self.tokenizer, self.frame_seconds, self.temperature, pace)

    def decode(self, log_probs: np.ndarray) -> Hypothesis:
        """Decode the posteriors `float[T, V]` of a whole recording."""
        stream = self.stream()
        stream.feed(log_probs)
        return stream.finish()

    def time(self, log_probs: np.ndarray, words: Sequence[tuple[str, Sequence[int]]]) -> tuple[Word, ...]:
        """Times and confidences of words with known tokens, by forced alignment. Raises DecodingError."""
        return align_words(log_probs, words, self.tokenizer.separator, self.frame_seconds, self.temperature)

    def spell(self, text: str) -> list[tuple[str, Sequence[int]]]:
        """Words and tokens of a text; with phones, by the first spelling of each word in the lexicon.

        Raises TextError for characters without a token, DecodingError for words not in the lexicon.
        """
        if self.tokenizer.separator is not None:
            words = spellable(text, self.tokenizer).split()
            return [(word, self.tokenizer.encode(word)) for word in words]
        if self._lexicon is None:
            raise DecodingError("a model of phones needs a lexicon to spell a text; give --lexicon")
        if not text.split():
            raise TextError("there is no word in it; give what is said")
        spellings = self._lexicon.first_spellings()
        words = [known_form(word, spellings) for word in text.split()]
        return [(word, spellings[word]) for word in words]


def _present(path: Path) -> Path | None:
    return path if path.exists() else None
