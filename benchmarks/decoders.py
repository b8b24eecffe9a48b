"""Our beam search and its peers, made alike: each is a function from posteriors to a text.

The peers' ways differ from ours, and from each other's, in what is made equal here:

- flashlight with a lexicon counts a word only when the space after it has come, and models need not write one
  at the end of a text. Its posteriors therefore get one more frame, which is a space for certain.
- flashlight weighs log10 probabilities of words against natural logs of tokens; its weight is multiplied by
  ln 10. pyctcdecode does that itself, but weighs its penalty for unknown words like the LM.

What is not made equal: flashlight drops a frame's tokens by rank, pyctcdecode by log-probability (at -5, its
default), ours by rank and by distance from the best, the beam threshold.
"""

import logging
import math
from collections.abc import Callable, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from asr.decoding.beam import BeamDecoder, DecodingOptions
from asr.decoding.lexicon import Lexicon
from asr.lm.ngram import NgramLM
from asr.text import BLANK, Tokenizer

Decoder = Callable[[np.ndarray], str]
"""`float32[T, V]` log-probabilities -> text."""

LN10 = math.log(10)
IMPOSSIBLE = -1e3
"""Log-probability of what is not a space in the frame put after flashlight's last one."""
NO_TOKEN = -1
"""In a path of flashlight's."""


def ours(decoder: BeamDecoder, options: DecodingOptions) -> Decoder:
    """What this package does."""
    return lambda log_probs: decoder.decode(log_probs, options)[0].text


def names_of(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Tokens as an LM over tokens writes them: a space is a |."""
    return tuple("|" if unit == " " else unit for unit in tokenizer.units)


def ours_by_tokens(tokenizer: Tokenizer, lm: NgramLM) -> Callable[[DecodingOptions], Decoder]:
    """What this package does with an LM over tokens: each of them is a word."""
    names = names_of(tokenizer)
    lexicon = Lexicon(names, np.arange(1, tokenizer.size, dtype=np.int32), np.arange(tokenizer.size))
    decoder = BeamDecoder(Tokenizer(names), lm, lexicon)

    def with_options(options: DecodingOptions) -> Decoder:
        def decode(log_probs: np.ndarray) -> str:
            spelt = "".join(word.text for word in decoder.decode(log_probs, options)[0].words)
            return " ".join(spelt.replace("|", " ").split())

        return decode

    return with_options


class Flashlight:
    """flashlight-text with a word LM and a lexicon, with an LM over tokens and no lexicon, or with neither.

    Raises ImportError where it is not installed. `log_add` sums alignments, as ours does; without it, which
    is how torchaudio calls it, the best one counts.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        lexicon: Lexicon | None = None,
        arpa: Path | None = None,
        log_add: bool = True,
    ) -> None:
        from flashlight.lib.text import decoder
        from flashlight.lib.text.dictionary import Dictionary

        self._api, self._tokenizer, self._log_add = decoder, tokenizer, log_add
        self._lexicon, self._trie, self._lm = lexicon, None, decoder.ZeroLM()
        if arpa is None:
            return
        from flashlight.lib.text.decoder.kenlm import KenLM

        if lexicon is None:
            self._lm = KenLM(str(arpa), Dictionary(["<blank>", *names_of(tokenizer)]))
            return
        self._unknown = len(lexicon)
        self._lm = KenLM(str(arpa), Dictionary([*lexicon.words, "<unk>"]))
        self._trie = decoder.Trie(tokenizer.size, tokenizer.separator)
        state = self._lm.start(False)
        for index in range(len(lexicon)):
            spelling = [*lexicon.spelling(index), tokenizer.separator]
            self._trie.insert(spelling, index, self._lm.score(state, index)[1])
        self._trie.smear(decoder.SmearingMode.MAX)

    def decoder(self, options: DecodingOptions) -> Decoder:
        """Decode with these options; not for two threads at a time."""
        search = self._search(options)

        def decode(log_probs: np.ndarray) -> str:
            frames = self._ended(log_probs)
            # Not `search.decode`, which would turn the whole beam into Python lists.
            search.decode_begin()
            search.decode_step(frames.ctypes.data, *frames.shape)
            search.decode_end()
            return self._text(search.get_best_hypothesis(0))

        return decode

    def n_best(self, log_probs: np.ndarray, options: DecodingOptions) -> list[tuple[str, float]]:
        """The texts that are left in the beam with their scores, the best first."""
        frames = self._ended(log_probs)
        hypotheses = self._search(options).decode(frames.ctypes.data, *frames.shape)
        return [(self._text(hypothesis), hypothesis.score) for hypothesis in hypotheses]

    def _search(self, options: DecodingOptions) -> Any:
        common = {
            "beam_size": options.beam,
            "beam_size_token": min(options.token_top_k, self._tokenizer.size),
            "beam_threshold": options.beam_threshold,
            "lm_weight": options.lm_weight * LN10,
            "sil_score": 0.0,
            "log_add": self._log_add,
            "criterion_type": self._api.CriterionType.CTC,
        }
        space = self._tokenizer.separator
        if self._lexicon is None:
            free = self._api.LexiconFreeDecoderOptions(**common)
            return self._api.LexiconFreeDecoder(free, self._lm, space, BLANK, [])
        bound = self._api.LexiconDecoderOptions(**common, word_score=options.word_bonus, unk_score=-math.inf)
        return self._api.LexiconDecoder(bound, self._trie, self._lm, space, BLANK, self._unknown, [], False)

    def _ended(self, log_probs: np.ndarray) -> np.ndarray:
        if self._lexicon is None:
            return log_probs
        frames = np.full((len(log_probs) + 1, log_probs.shape[1]), IMPOSSIBLE, dtype=np.float32)
        frames[:-1] = log_probs
        frames[-1, self._tokenizer.separator] = 0
        return frames

    def _text(self, hypothesis: Any) -> str:
        if self._lexicon is not None:
            return " ".join(self._lexicon.words[word] for word in hypothesis.words if word >= 0)
        path = [token for token, _ in groupby(hypothesis.tokens) if token not in (BLANK, NO_TOKEN)]
        return " ".join(self._tokenizer.decode(path).split())


class Pyctcdecode:
    """pyctcdecode, with a word LM or without one. Raises ImportError where it, or kenlm, is not installed."""

    def __init__(self, tokenizer: Tokenizer, words: Sequence[str] = (), arpa: Path | None = None) -> None:
        import pyctcdecode

        logging.getLogger("pyctcdecode").setLevel(logging.ERROR)
        if arpa is not None:
            import kenlm  # noqa: F401
        self._search = pyctcdecode.build_ctcdecoder(
            ["", *tokenizer.units], None if arpa is None else str(arpa), list(words) or None
        )

    def decoder(self, options: DecodingOptions) -> Decoder:
        """Decode with these options; they hold for all decoders of this object."""
        weight = float(options.lm_weight)
        offset = options.unknown_penalty / (weight * LN10) if weight else 0.0
        self._search.reset_params(alpha=weight, beta=float(options.word_bonus), unk_score_offset=offset)
        threshold = -options.beam_threshold

        def decode(log_probs: np.ndarray) -> str:
            text: str = self._search.decode(log_probs, options.beam, beam_prune_logp=threshold)
            return text

        return decode
