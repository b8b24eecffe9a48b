"""Beam search decoding: options, the decoder of a model with its LM and lexicon, and one search."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from asr.console import option
from asr.decoding import kernel
from asr.decoding.hotwords import Hotword, build_hotwords
from asr.decoding.kernel import NO_WORD, KernelOptions, Setup, State
from asr.decoding.lexicon import Lexicon, build_trie, spell
from asr.decoding.types import check_posteriors
from asr.errors import BundleError, DecodingError
from asr.lm.ngram import SPECIAL, UNKNOWN, NgramArrays, NgramLM, Vocabulary
from asr.text import Tokenizer

MIN_COVERAGE = 0.1
"""Least share of an LM's unigram probability that the model can spell, or of a lexicon's words in the LM."""

TEMPERATURE, GREEDY_TEMPERATURE = "temperature", "greedy_temperature"
"""Keys of config.json for confidence temperatures with and without beam search."""

_NO_LM = NgramArrays(  # log-probability 0 for every word
    words=np.array([0, 0, 1, 2], dtype=np.uint32),
    log_probs=np.zeros(4, dtype=np.float32),
    next_states=np.zeros(4, dtype=np.uint32),
    backoffs=np.zeros(1, dtype=np.float32),
    suffixes=np.zeros(1, dtype=np.uint32),
    first_children=np.array([1, 4], dtype=np.uint32),
)


@dataclass(frozen=True)
class DecodingOptions:
    """Beam search settings; all scores are natural logs.

    The score of a text is ln p_ctc + lm_weight ln p_lm + word_bonus words + unknown_penalty unknown words +
    hotword boosts. Raises DecodingError for values out of range.
    """

    beam: int = option("hypotheses kept after each frame", 50, least=1)
    beam_threshold: float = option("drop hypotheses and tokens this far below the frame's best", 14.0)
    token_top_k: int = option("most probable tokens considered per frame", 40, least=1)
    lm_weight: float = option("weight of the language model's log-probability", 0.6)
    word_bonus: float = option("added to the score for each word", 0.0)
    unknown_penalty: float = option("added for each word outside the language model", -6.0)
    prior_weight: float = option("divide posteriors by token priors to this power (Miao et al., 2015)", 0.0)
    priors: tuple[float, ...] = option("log prior of each token, blank first, by asr tune", (), hidden=True)
    hotwords: tuple[Hotword, ...] = option("words and phrases to boost", (), hidden=True)
    n_best: int = option("most hypotheses to return", 1, hidden=True)

    def __post_init__(self) -> None:
        for name in ("beam", "token_top_k", "n_best"):
            if type(value := getattr(self, name)) is not int or value < 1:
                raise DecodingError(f"{name} must be a whole number from 1, not {value}")
        for name in ("lm_weight", "word_bonus", "unknown_penalty", "prior_weight"):
            if not math.isfinite(value := getattr(self, name)) or (name.endswith("weight") and value < 0):
                raise DecodingError(
                    f"{name} must be a number{' from 0' * name.endswith('weight')}, not {value}"
                )
        if not self.beam_threshold > 0:
            raise DecodingError(f"beam_threshold must be more than 0, not {self.beam_threshold}")
        if not all(map(math.isfinite, self.priors)):
            raise DecodingError("priors must be numbers")


def bundle_options(folder: Path, decoding: Mapping[str, Any]) -> DecodingOptions:
    """Options from `BundleConfig.decoding`, as `asr tune` writes them. Raises BundleError."""
    settings = dict(decoding)
    for key in (TEMPERATURE, GREEDY_TEMPERATURE):
        value = settings.pop(key, 1.0)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise BundleError(f"{folder}: decoding.{key} must be a number above 0; run asr tune again")
    known = {option.name for option in fields(DecodingOptions)} - {"hotwords", "n_best"}
    for key in sorted(settings.keys() - known):
        raise BundleError(f"{folder}: unknown setting decoding.{key}; upgrade asr or run asr tune again")
    try:  # JSON has no tuples
        return DecodingOptions(**{**settings, "priors": tuple(settings.get("priors", ()))})
    except (DecodingError, TypeError) as error:
        raise BundleError(f"{folder}: decoding.{error}; run asr tune again") from None


@dataclass(frozen=True)
class DecodedWord:
    """A word and its tokens."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class BeamHypothesis:
    """Entry of an n-best list; `ctc_score` is ln p_ctc, `word_score` the rest of the score."""

    words: tuple[DecodedWord, ...]
    ctc_score: float
    word_score: float

    @property
    def text(self) -> str:
        """The words, joined by spaces."""
        return " ".join(word.text for word in self.words)

    @property
    def score(self) -> float:
        """Total, by which n-best lists are sorted."""
        return self.ctc_score + self.word_score


class BeamDecoder:
    """Decoder of one model's posteriors, with a language model, a lexicon, both or neither.

    A lexicon closes the vocabulary. Without one any spelling is possible, and the LM's words are preferred.
    Raises DecodingError if the LM or the lexicon does not fit the model.
    """

    def __init__(
        self, tokenizer: Tokenizer, lm: NgramLM | None = None, lexicon: Lexicon | None = None
    ) -> None:
        if lexicon is None and tokenizer.separator is None:
            raise DecodingError("tokens without a space among them, as phones, need a lexicon to make words")
        self.tokenizer = tokenizer
        self._lm, self._open = lm, lexicon is None
        self._arrays = lm.arrays if lm else _NO_LM
        self.begin_state = lm.begin_state if lm else 0  # LM state at the start of a sentence
        vocabulary = lm.vocabulary if lm else Vocabulary.of([])
        if lexicon is None:
            lexicon, ids = spell(vocabulary, tokenizer)
            self.several_spellings = False
        else:
            id_of = {**dict(zip(vocabulary, itertools.count())), **dict.fromkeys(SPECIAL, UNKNOWN)}
            ids = np.array([id_of.get(word, UNKNOWN) for word in lexicon.words], dtype=np.int64)
            self.several_spellings = len(set(lexicon.words)) < len(lexicon)
        self._lexicon, self._word_ids = lexicon, ids.astype(np.uint32)
        self._trie = build_trie(lexicon, self._unigrams(lm) if lm else np.zeros(len(lexicon)))
        self._homophones = int(np.diff(self._trie.nodes["first_entry"]).max(initial=1))
        self._graph = lru_cache(maxsize=8)(
            lambda hotwords: build_hotwords(hotwords, tokenizer, lexicon, self._open)
        )

    def decode(
        self, log_probs: np.ndarray, options: DecodingOptions = DecodingOptions()
    ) -> list[BeamHypothesis]:
        """Decode log-probabilities `float[T, V]` to the best hypotheses, best first. Raises DecodingError."""
        search = self.search(options)
        search.advance(log_probs)
        return search.finish()

    def search(self, options: DecodingOptions = DecodingOptions()) -> "BeamSearch":
        """Start a search that takes posteriors in pieces. Raises DecodingError for bad hotwords or priors."""
        if options.prior_weight and len(options.priors) != self.tokenizer.size:
            raise DecodingError(
                f"{len(options.priors)} priors do not fit {self.tokenizer.size} tokens; run asr tune first"
            )
        lm_weight = options.lm_weight * math.log(10) if self._lm else 0.0
        penalty = options.unknown_penalty if self._lm else 0.0
        kernel_options = KernelOptions(
            beam=options.beam,
            beam_threshold=float(options.beam_threshold),
            token_top_k=options.token_top_k,
            lm_weight=lm_weight,
            word_bonus=float(options.word_bonus),
            unknown_penalty=float(penalty),
            unknown_lookahead=lm_weight * float(self._arrays.log_probs[1]) + penalty,
            separator=-1 if self.tokenizer.separator is None else self.tokenizer.separator,
            open_vocabulary=self._open,
            homophones=self._homophones,
            recombine=options.n_best == 1,
        )
        graph = self._graph(options.hotwords)
        setup = Setup(self._trie, self._word_ids, self._arrays, graph, kernel_options)
        log_priors = options.prior_weight * np.array(options.priors, dtype=np.float32)
        return BeamSearch(self, setup, log_priors, options.n_best)

    def words(self, tokens: np.ndarray, entries: np.ndarray) -> tuple[DecodedWord, ...]:
        """Split tokens `int32[n]` into words where `entries` end them; an unfinished word is left out."""
        words, begin = [], 0
        for end in np.flatnonzero(entries != NO_WORD).tolist():
            spelling = tokens[begin : end + (self.tokenizer.separator is None)].tolist()
            known = entries[end] >= 0
            text = self._lexicon.words[entries[end]] if known else self.tokenizer.decode(spelling)
            words.append(DecodedWord(text, tuple(spelling)))
            begin = end + 1
        return tuple(words)

    def _unigrams(self, lm: NgramLM) -> np.ndarray:
        """The LM's log10 probability of each lexicon entry. Raises DecodingError if few are in both."""
        vocabulary = lm.vocabulary
        if len(vocabulary) == len(SPECIAL):
            raise DecodingError("the language model has no words")
        unigrams = self._arrays.log_probs[1 : 1 + len(vocabulary)].astype(np.float64)
        scores: np.ndarray = unigrams[self._word_ids]
        if self._open:
            words = unigrams[len(SPECIAL) :]
            covered = float(np.sum(10**scores) / np.sum(10**words))
            example = vocabulary[len(SPECIAL) + int(words.argmax())]
            cause = f"of its words (the likeliest is {example!r}) can be spelt in {self.tokenizer.units!r}"
        else:
            known = self._word_ids != UNKNOWN
            covered = float(known.mean()) if len(known) else 1.0
            cause = "of the lexicon's words are in it"
        if covered < MIN_COVERAGE:
            cause = f"{100 * covered:.0f} % {cause}; train it on text in the same case"
            raise DecodingError(f"the language model does not fit: {cause}")
        return scores


class BeamSearch:
    """One search of a decoder. `advance` it through all posteriors, then `finish`."""

    def __init__(self, decoder: BeamDecoder, setup: Setup, log_priors: np.ndarray, n_best: int) -> None:
        self._decoder, self._setup, self._log_priors, self._n_best = decoder, setup, log_priors, n_best
        self._state = kernel.start(decoder.begin_state)
        self._base = 0  # prefix of the committed words
        self._chosen = 0  # prefix of the last result of `best`
        self._peeked = np.zeros(0, dtype=np.int32), np.zeros(0, dtype=np.int32)  # tokens and entries

    def advance(self, log_probs: np.ndarray) -> None:
        """Process the next log-probabilities `float[T, V]`. Raises DecodingError as `check_posteriors`."""
        self._state = kernel.advance(self._prepare(log_probs), self._state, self._setup)

    def best(self, follow: bool = False) -> tuple[tuple[DecodedWord, ...], list[int]]:
        """The best words since the last `commit`, and the tokens of the unfinished word after them.

        With `follow`, those of a hypothesis that led to the last result of `peek`.
        """
        self._chosen = int(self._state.beam[0]["prefix"])
        if follow:
            self._chosen = kernel.follow(self._state, self._base, *self._peeked)
        return self._read(*self._path(self._state, self._chosen))

    def peek(self, log_probs: np.ndarray) -> tuple[tuple[DecodedWord, ...], list[int]]:
        """`best` after further log-probabilities, without processing them."""
        state = kernel.State(self._state.prefixes.copy(), self._state.size, self._state.beam.copy())
        state = kernel.advance(self._prepare(log_probs), state, self._setup)
        self._peeked = self._path(state, int(state.beam[0]["prefix"]))
        return self._read(*self._peeked)

    def spelt(self, tokens: list[int]) -> str:
        """Text of an unfinished word."""
        return self._decoder.tokenizer.decode(tokens)

    def settled(self) -> int:
        """Number of words of `best` that all hypotheses share."""
        node = kernel.shared(self._state, self._base, self._chosen)
        return int(np.sum(self._path(self._state, node)[1] != NO_WORD))

    def commit(self, words: int) -> None:
        """Make the first words of `best` final and forget them; drop the hypotheses with other words."""
        nodes = kernel.trace(self._state.prefixes, self._base, self._chosen)
        ends = nodes[self._state.prefixes["entry"][nodes] != NO_WORD]
        self._state = kernel.commit(self._state, int(ends[words - 1]) if words else self._base)
        self._base = 1 if words else self._base

    def restart(self) -> None:
        """Begin a new sentence."""
        self._state, self._base = kernel.start(self._decoder.begin_state), 0

    def finish(self) -> list[BeamHypothesis]:
        """End the text. Words are those since the last `commit`, best first; scores are of the whole text."""
        prefixes, ends, totals, scores = kernel.finish(self._state, self._setup)
        count = len(ends) if self._decoder.several_spellings else self._n_best
        merged: dict[tuple[str, ...], BeamHypothesis] = {}
        for end, total, score in zip(ends[:count], totals[:count], scores[:count], strict=True):
            nodes = kernel.trace(prefixes, self._base, end)
            words = self._decoder.words(prefixes["token"][nodes], prefixes["entry"][nodes])
            key = tuple(word.text for word in words)
            if key in merged:  # another spelling of the same words
                words, total = merged[key].words, kernel.log_add(merged[key].ctc_score, total)
            merged[key] = BeamHypothesis(words, float(total), float(score))
        return sorted(merged.values(), key=lambda h: -h.score)[: self._n_best]

    def _prepare(self, log_probs: np.ndarray) -> np.ndarray:
        check_posteriors(log_probs, self._decoder.tokenizer)
        if self._log_priors.any():
            log_probs = log_probs.astype(np.float32) - self._log_priors
            log_probs -= log_probs.max(axis=1, keepdims=True)
            log_probs -= np.log(np.exp(log_probs).sum(axis=1, keepdims=True))
        return np.ascontiguousarray(log_probs, dtype=np.float32)

    def _path(self, state: State, node: int) -> tuple[np.ndarray, np.ndarray]:
        """Tokens and entries from the last committed word to a prefix."""
        nodes = kernel.trace(state.prefixes, self._base, node)
        return state.prefixes["token"][nodes], state.prefixes["entry"][nodes]

    def _read(self, tokens: np.ndarray, entries: np.ndarray) -> tuple[tuple[DecodedWord, ...], list[int]]:
        """The words of a path, and the tokens of the unfinished word after them."""
        ended = int(np.flatnonzero(entries != NO_WORD).max(initial=-1)) + 1
        return self._decoder.words(tokens, entries), tokens[ended:].tolist()
