"""Posteriors -> words with times and confidences, with the decoder settings of a bundle and of the caller."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from asr.console import option
from asr.decoding.align import align_words
from asr.decoding.beam import GREEDY_TEMPERATURE, TEMPERATURE, BeamDecoder, DecodingOptions, bundle_options
from asr.decoding.hotwords import Hotword
from asr.decoding.lexicon import Lexicon, find_words, read_lexicon
from asr.decoding.spelling import spell_words
from asr.decoding.stream import AlignedBeamSearch, GreedySearch, LiveStream, Search, Stream
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
        self.loaded_with = options
        self.options = replace(bundle_options(folder, config.decoding), **options.settings)
        self._lexicon_path = options.lexicon or _present(folder / LEXICON)
        lm = options.lm or _present(folder / LM)
        self.lm: NgramLM | None = None
        self.beam: BeamDecoder | None = None
        if not options.greedy and (lm or self._lexicon_path or options.settings):
            self.lm = packed.load(lm) if lm else None
            self.beam = BeamDecoder(self.tokenizer, self.lm, self._lexicon)
            self.beam.search(self.options)  # raises now if the options do not fit
        self._beam_for = lru_cache(maxsize=4)(self._make_beam)
        # A language model changes how confidences relate to errors.
        key = TEMPERATURE if self.beam else GREEDY_TEMPERATURE
        self.temperature = float(config.decoding.get(key, 1.0))

    @cached_property
    def _lexicon(self) -> Lexicon | None:
        return read_lexicon(self._lexicon_path, self.tokenizer) if self._lexicon_path else None

    @property
    def characters(self) -> str | None:
        """Characters of the texts it writes; None for phones without a lexicon."""
        if isinstance(self.tokenizer.units, str):
            return self.tokenizer.units
        return self._lexicon.characters if self._lexicon else None

    def fit_hotwords(self, hotwords: Iterable[Hotword]) -> tuple[tuple[Hotword, ...], list[str]]:
        """Return hotwords in the words of the decoder, and a warning for each that cannot be spelt."""
        fitting, warnings = [], []
        for hotword in hotwords:
            try:
                words = spell_words(hotword.phrase, self.tokenizer, self._lexicon)
                fitting.append(replace(hotword, phrase=" ".join(word for word, _ in words)))
            except (TextError, DecodingError) as error:
                warnings.append(f"hotword {hotword.phrase!r} is left out: {error}")
        return tuple(fitting), warnings

    def stream(
        self, hotwords: Sequence[Hotword] = (), n_best: int = 1, pace: tuple[int, int] | None = None
    ) -> Stream:
        """Begin to decode a recording. Raises DecodingError, TextError for hotwords that cannot be spelt."""
        search = self._search(hotwords, n_best)
        return Stream(search, self.tokenizer, self.frame_seconds, self.temperature, pace)

    def live(self, hotwords: Sequence[Hotword], age: int, hold: int) -> LiveStream:
        """Begin to decode live speech, with parameters of LiveStream. Raises as `stream`."""
        search = self._search(hotwords, n_best=1)
        return LiveStream(search, self.tokenizer, self.frame_seconds, self.temperature, age, hold)

    def _search(self, hotwords: Sequence[Hotword], n_best: int) -> Search:
        if not (self.beam or hotwords or n_best > 1):
            return GreedySearch(self.tokenizer)
        options = replace(self.options, n_best=n_best, hotwords=tuple(hotwords))
        beam = self._beam_for(*self._new_words(hotwords))
        return AlignedBeamSearch(beam.search(options), self.tokenizer.separator)

    def _new_words(self, hotwords: Sequence[Hotword]) -> list[str]:
        """Words of hotwords that the lexicon lacks."""
        if self._lexicon is None:
            return []
        words = chain.from_iterable(find_words(hotword.phrase, self._lexicon) for hotword in hotwords)
        return [word for word in dict.fromkeys(words) if word not in self._lexicon.entries_of]

    def _make_beam(self, *new_words: str) -> BeamDecoder:
        """Beam search with more words; also for a greedy decoder, which has no hotwords and n-best lists."""
        if self._lexicon is None or not new_words:
            return self.beam or BeamDecoder(self.tokenizer, None, self._lexicon)
        spellings = spell_words(" ".join(new_words), self.tokenizer, self._lexicon)
        return BeamDecoder(self.tokenizer, self.lm, self._lexicon.with_words(spellings))

    def decode(self, log_probs: np.ndarray) -> Hypothesis:
        """Decode the posteriors `float[T, V]` of a whole recording."""
        stream = self.stream()
        stream.feed(log_probs)
        return stream.finish()

    def time(self, log_probs: np.ndarray, words: Sequence[tuple[str, Sequence[int]]]) -> tuple[Word, ...]:
        """Times and confidences of words with known tokens, by forced alignment. Raises DecodingError."""
        return align_words(log_probs, words, self.tokenizer.separator, self.frame_seconds, self.temperature)

    def spell(self, text: str) -> list[tuple[str, list[int]]]:
        """Words and tokens of a text; with phones, by the first spelling of each word in the lexicon.

        Raises TextError for characters without a token, DecodingError for words that cannot be spelt.
        """
        if self.tokenizer.separator is not None:
            return spell_words(text, self.tokenizer, None)
        if self._lexicon is None:
            raise DecodingError("a model of phones needs a lexicon to spell a text; give --lexicon")
        return spell_words(text, self.tokenizer, self._lexicon)


def _present(path: Path) -> Path | None:
    return path if path.exists() else None
