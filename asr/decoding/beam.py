"""Beam search decoding: its options, its models put together, threads, n-best lists."""

import itertools
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np

from asr.decoding import search
from asr.decoding.candidates import log_add
from asr.decoding.hotwords import WORD_END, Hotword, HotwordGraph, Pattern, build_hotwords
from asr.decoding.lexicon import Lexicon, spell, spellable
from asr.decoding.posteriors import check_posteriors
from asr.decoding.prefixes import NO_WORD, KernelOptions, Models, prune, trace
from asr.decoding.trie import build_trie
from asr.errors import DecodingError, TextError
from asr.lm.ngram import SPECIAL, UNKNOWN, NgramArrays, NgramLM, Vocabulary
from asr.text import Tokenizer

LEAST_COVERAGE = 0.1
"""Share of an LM's unigram probability that the model's characters must be able to spell, or of a lexicon's
words that the LM must know."""

MOST_SPELLINGS = 64
"""Spellings of a hotword phrase that are listened for."""

_LN10 = math.log(10)

_NO_LM = NgramArrays(
    words=np.array([0, 0, 1, 2], dtype=np.uint32),
    log_probs=np.zeros(4, dtype=np.float32),
    next_states=np.zeros(4, dtype=np.uint32),
    backoffs=np.zeros(1, dtype=np.float32),
    suffixes=np.zeros(1, dtype=np.uint32),
    first_children=np.array([1, 4], dtype=np.uint32),
)
"""Says 0 of everything."""


@dataclass(frozen=True)
class BeamOptions:
    """A text's score is ln p_ctc + lm_weight ln p_lm + word_bonus words + unknown_penalty unknown + boosts.

    Args:
        beam: Hypotheses kept after each frame.
        beam_threshold: A hypothesis that is this far (natural log) below the best is dropped, and so is a
            token that is this far below its frame's best.
        token_top_k: Most tokens looked at in a frame.
        lm_weight: Weight of the language model's log-probability.
        word_bonus: Added for each word.
        unknown_penalty: Added for each word that the language model lacks, beside its probability of one.
        prior_weight: Before all else, each frame's posteriors are divided by priors ** prior_weight, and
            made to sum to one again: what is likely anyway, the blank above all, need not be heard to come
            out (Miao et al., 2015).
        priors: ln of each token's prior probability, the blank first; empty if there are none.
        hotwords: Words and phrases to listen for.
        n_best: Hypotheses returned, at most.
    """

    beam: int = 50
    beam_threshold: float = 14.0
    token_top_k: int = 40
    lm_weight: float = 0.6
    word_bonus: float = 0.0
    unknown_penalty: float = -6.0
    prior_weight: float = 0.0
    priors: tuple[float, ...] = ()
    hotwords: tuple[Hotword, ...] = ()
    n_best: int = 1

    def __post_init__(self) -> None:
        for name in ("beam", "token_top_k", "n_best"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise DecodingError(f"{name} must be a whole number from 1, not {getattr(self, name)}")
        if not self.beam_threshold > 0:
            raise DecodingError(f"beam_threshold must be more than 0, not {self.beam_threshold}")
        for name in ("lm_weight", "prior_weight"):
            if not getattr(self, name) >= 0:
                raise DecodingError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not all(map(math.isfinite, self.priors)):
            raise DecodingError("priors must be numbers")
        for name in ("lm_weight", "word_bonus", "unknown_penalty", "prior_weight"):
            if not math.isfinite(getattr(self, name)):
                raise DecodingError(f"{name} must be a number, not {getattr(self, name)}")


@dataclass(frozen=True)
class DecodedWord:
    """A decoded word, and the tokens that it was decoded from."""

    text: str
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class BeamHypothesis:
    """An entry of an n-best list: `ctc_score` is ln p_ctc, `word_score` the rest of the score."""

    words: tuple[DecodedWord, ...]
    ctc_score: float
    word_score: float

    @property
    def text(self) -> str:
        """The words, with a space between."""
        return " ".join(word.text for word in self.words)

    @property
    def score(self) -> float:
        """What the n-best list is sorted by."""
        return self.ctc_score + self.word_score


class BeamDecoder:
    """Decodes the posteriors of one model with a language model, a lexicon, both or neither.

    With a lexicon only its words come out; without, any spelling can, though the LM's words are preferred.
    Raises DecodingError where the LM or the lexicon does not fit the model.
    """

    def __init__(
        self, tokenizer: Tokenizer, lm: NgramLM | None = None, lexicon: Lexicon | None = None
    ) -> None:
        if lexicon is None and tokenizer.separator is None:
            raise DecodingError("tokens without a space among them, as phones, need a lexicon to make words")
        self.tokenizer = tokenizer
        self._lm = lm
        self._open = lexicon is None
        vocabulary = Vocabulary.of([]) if lm is None else lm.vocabulary
        if lexicon is None:
            self._lexicon, ids = spell(vocabulary, tokenizer)
            self.several_spellings = False
        else:
            self._lexicon, ids = lexicon, _find(lexicon.words, vocabulary)
            self.several_spellings = len(set(lexicon.words)) < len(lexicon)
        self._word_ids = ids.astype(np.uint32)
        self._trie = build_trie(self._lexicon, self._unigrams())
        self._graph = lru_cache(maxsize=8)(self._hotwords)
        self._homophones = int(np.diff(self._trie.nodes["first_entry"]).max(initial=1))

    def decode(self, log_probs: np.ndarray, options: BeamOptions = BeamOptions()) -> list[BeamHypothesis]:
        """Decode `float[T, V]` log-probabilities -> the best hypotheses, the best first.

        Raises DecodingError on NaN, where V is not the vocabulary's size, and for hotwords that none can say.
        """
        search = self.search(options)
        search.advance(log_probs)
        return search.finish()

    def search(self, options: BeamOptions = BeamOptions()) -> "BeamSearch":
        """Begin a search whose posteriors come in pieces.

        Raises DecodingError for hotwords that none can say, and priors that are missing or do not fit.
        """
        models = Models(self._trie, self._word_ids, self._arrays, self._graph(options.hotwords))
        begin_state = self._lm.begin_state if self._lm else 0
        return BeamSearch(self, models, self._kernel_options(options), begin_state, options)

    def decode_all(
        self,
        posteriors: Iterable[np.ndarray],
        options: BeamOptions = BeamOptions(),
        threads: int = 1,
    ) -> Iterator[list[BeamHypothesis]]:
        """Decode many utterances, on several cores; what comes out does not depend on `threads`."""
        if threads == 1:
            yield from (self.decode(log_probs, options) for log_probs in posteriors)
            return
        with ThreadPoolExecutor(threads) as pool:
            yield from pool.map(lambda log_probs: self.decode(log_probs, options), posteriors)

    @property
    def _arrays(self) -> NgramArrays:
        return _NO_LM if self._lm is None else self._lm.arrays

    def _unigrams(self) -> np.ndarray:
        """The LM's log10 probability by entry of the lexicon. Raises DecodingError."""
        if self._lm is None:
            return np.zeros(len(self._lexicon))
        vocabulary = self._lm.vocabulary
        unigrams = self._lm.arrays.log_probs[1 : 1 + len(vocabulary)].astype(np.float64)
        self._check_coverage(unigrams, vocabulary)
        scores: np.ndarray = unigrams[self._word_ids]
        return scores

    def _check_coverage(self, unigrams: np.ndarray, vocabulary: Vocabulary) -> None:
        words = slice(len(SPECIAL), None)
        if len(vocabulary) == len(SPECIAL):
            raise DecodingError("the language model holds no words")
        if self._open:
            likeliest = vocabulary[len(SPECIAL) + int(unigrams[words].argmax())]
            covered = float(np.sum(10 ** unigrams[self._word_ids]) / np.sum(10 ** unigrams[words]))
            trouble = (
                f"{100 * covered:.0f} % of its words can be spelt in the model's characters (it says "
                f"{likeliest!r}, the model writes {self.tokenizer.units!r})"
            )
        else:
            known = self._word_ids != UNKNOWN
            covered = float(np.mean(known)) if len(known) else 1.0
            missing = self._lexicon.words[int(known.argmin())] if len(known) else ""
            trouble = f"it knows {100 * covered:.0f} % of the lexicon's words (not {missing!r}, say)"
        if covered < LEAST_COVERAGE:
            raise DecodingError(
                f"the language model does not fit: {trouble}; make it of text in the same case"
            )

    def _kernel_options(self, options: BeamOptions) -> KernelOptions:
        lm_weight = options.lm_weight * _LN10 if self._lm else 0.0
        penalty = options.unknown_penalty if self._lm else 0.0
        return KernelOptions(
            beam=options.beam,
            beam_threshold=float(options.beam_threshold),
            token_top_k=options.token_top_k,
            lm_weight=lm_weight,
            word_bonus=float(options.word_bonus),
            unknown_penalty=float(penalty),
            unknown_ahead=lm_weight * float(self._arrays.log_probs[1]) + penalty,
            separator=-1 if self.tokenizer.separator is None else self.tokenizer.separator,
            open_vocabulary=self._open,
            homophones=self._homophones,
            recombine=options.n_best == 1,
        )

    def words(self, tokens: np.ndarray, entries: np.ndarray) -> tuple[DecodedWord, ...]:
        """Cut tokens `int32[n]` into words where `entries` end them; one under way at the end is left out."""
        words = []
        begin = 0
        for end in np.flatnonzero(entries != NO_WORD).tolist():
            spelling = tokens[begin : end + (self.tokenizer.separator is None)].tolist()
            entry = entries[end]
            text = self._lexicon.words[entry] if entry >= 0 else self.tokenizer.decode(spelling)
            words.append(DecodedWord(text, tuple(spelling)))
            begin = end + 1
        return tuple(words)

    @cached_property
    def _entries_of(self) -> dict[str, list[int]]:
        entries: dict[str, list[int]] = {}
        for index, word in enumerate(self._lexicon.words):
            entries.setdefault(word, []).append(index)
        return entries

    def _hotwords(self, hotwords: Sequence[Hotword]) -> HotwordGraph:
        """Words are told by their spelling where any spelling can come out, else by their entries."""
        word_ends = np.full(len(self._lexicon), WORD_END, dtype=np.int32)
        patterns: list[Pattern] = []
        symbols = self.tokenizer.size
        if self._open:
            for hotword in hotwords:
                try:
                    phrase = spellable(hotword.phrase, self.tokenizer).split()
                except TextError as error:
                    raise DecodingError(f"hotword {hotword.phrase!r}: {error}") from None
                spelling = [token for word in phrase for token in (*self.tokenizer.encode(word), WORD_END)]
                patterns.append(Pattern(tuple(spelling), hotword.boost * sum(map(len, phrase))))
            return build_hotwords(patterns, symbols, word_ends)
        symbol_of: dict[str, int] = {}
        for hotword in hotwords:
            phrase = self._known(hotword)
            for word in phrase:
                symbol_of.setdefault(word, symbols + len(symbol_of))
                word_ends[self._entries_of[word]] = symbol_of[word]
            spellings = [
                sorted({(*self._lexicon.spelling(e), symbol_of[word]) for e in self._entries_of[word]})
                for word in phrase
            ]
            for parts in itertools.islice(itertools.product(*spellings), MOST_SPELLINGS):
                symbols_of_phrase = tuple(itertools.chain.from_iterable(parts))
                patterns.append(Pattern(symbols_of_phrase, hotword.boost * sum(map(len, phrase))))
        return build_hotwords(patterns, symbols + len(symbol_of), word_ends)

    def _known(self, hotword: Hotword) -> list[str]:
        try:
            phrase = [known_form(word, self._entries_of) for word in hotword.phrase.split()]
        except DecodingError as error:
            raise DecodingError(f"hotword {hotword.phrase!r}: {error}") from None
        if not phrase:
            raise DecodingError(f"hotword {hotword.phrase!r} is empty")
        return phrase


def _find(words: Iterable[str], vocabulary: Vocabulary) -> np.ndarray:
    """The ids of words, UNKNOWN where the vocabulary lacks one."""
    ids = dict(zip(vocabulary, itertools.count()))
    ids.update(dict.fromkeys(SPECIAL, UNKNOWN))
    return np.array([ids.get(word, UNKNOWN) for word in words], dtype=np.int64)


class BeamSearch:
    """A search under way, begun by `BeamDecoder.search`."""

    def __init__(
        self,
        decoder: BeamDecoder,
        models: Models,
        kernel_options: KernelOptions,
        begin_state: int,
        options: BeamOptions,
    ) -> None:
        self._decoder, self._models, self._kernel_options = decoder, models, kernel_options
        self._n_best = options.n_best
        self._discount = options.prior_weight * np.array(options.priors, dtype=np.float32)
        if options.prior_weight and not options.priors:
            raise DecodingError("there are no priors to weigh; run asr tune first")
        if self._discount.any() and len(self._discount) != decoder.tokenizer.size:
            raise DecodingError(f"{len(self._discount)} priors do not fit {decoder.tokenizer.size} tokens")
        self._prefixes, self._count, self._beam = search.start(begin_state)
        self._base = 0

    def advance(self, log_probs: np.ndarray) -> None:
        """Take in the next posteriors, `float[T, V]`. Raises DecodingError as `BeamDecoder.decode`."""
        check_posteriors(log_probs, self._decoder.tokenizer)
        if self._discount.any():
            log_probs = divide(log_probs, self._discount)
        frames = np.ascontiguousarray(log_probs, dtype=np.float32)
        self._prefixes, self._count, self._beam = search.advance(
            frames, self._prefixes, self._count, self._beam, self._models, self._kernel_options
        )

    def best(self) -> tuple[tuple[DecodedWord, ...], list[int]]:
        """The best text so far, since the last `keep`: whole words, and the tokens of one under way."""
        nodes = self._best_nodes()
        tokens, entries = self._prefixes["token"][nodes], self._prefixes["entry"][nodes]
        ended = int(np.flatnonzero(entries != NO_WORD).max(initial=-1)) + 1
        return self._decoder.words(tokens, entries), tokens[ended:].tolist()

    def keep(self, words: int) -> None:
        """Make the first words of `best` final: what has others is dropped, and they are forgotten."""
        nodes = self._best_nodes()
        ends = nodes[self._prefixes["entry"][nodes] != NO_WORD]
        base = int(ends[words - 1]) if words else self._base
        self._prefixes, self._count, self._beam = prune(self._prefixes, self._count, self._beam, base)
        self._base = 1 if words else self._base

    def finish(self) -> list[BeamHypothesis]:
        """End the text: the best hypotheses since the last `keep`, the best first; scores are of all."""
        prefixes, ends, totals, scores = search.finish(
            self._prefixes, self._count, self._beam, self._models, self._kernel_options
        )
        count = len(ends) if self._decoder.several_spellings else self._n_best
        merged: dict[tuple[str, ...], BeamHypothesis] = {}
        for end, total, score in zip(ends[:count], totals[:count], scores[:count], strict=True):
            nodes = trace(prefixes, self._base, end)
            words = self._decoder.words(prefixes["token"][nodes], prefixes["entry"][nodes])
            key = tuple(word.text for word in words)
            if key in merged:
                words, total = merged[key].words, log_add(merged[key].ctc_score, total)
            merged[key] = BeamHypothesis(words, float(total), float(score))
        return sorted(merged.values(), key=lambda h: -h.score)[: self._n_best]

    def _best_nodes(self) -> np.ndarray:
        nodes: np.ndarray = trace(self._prefixes, self._base, self._beam[0]["prefix"])
        return nodes


def divide(log_probs: np.ndarray, discount: np.ndarray) -> np.ndarray:
    """Log-probabilities `float[T, V]` less `float[V]`, each frame summing to one again."""
    scaled = log_probs.astype(np.float32) - discount
    scaled -= scaled.max(axis=1, keepdims=True)
    scaled -= np.log(np.exp(scaled).sum(axis=1, keepdims=True))
    return scaled


def known_form(word: str, lexicon: Container[str]) -> str:
    """The word as a lexicon has it: as it stands, or in upper or lower case. Raises DecodingError."""
    for form in (word, word.upper(), word.lower()):
        if form in lexicon:
            return form
    raise DecodingError(f"the lexicon lacks {word!r}")
