"""Beam search with lexicon and n-gram LM: speed and WER against flashlight.

    python -m benchmarks.decoding [--model box] [--manifest FILE]

asr         BeamDecoder; "2 threads" is the gain from a second thread
flashlight  its LexiconDecoder with KenLM (pip install flashlight-text), which
            sums alignments, as asr does

Both get the same posteriors, computed beforehand, the words and the LM of the
bundle (characters without a lexicon: the LM's words), and its settings, but for
--beams. One thread; medians of --rounds alternating rounds after one of
warm-up. Differences that remain:

- flashlight accepts a word when the space after it has been emitted, which
  models need not do at the end: it gets one more frame with a certain space.
- With phones there is no space, and flashlight has no repetition of a word's
  last phone in the next frame, which costs it accuracy.
- flashlight drops tokens by rank, asr by rank and by the beam threshold.

The digits corpus is synthetic speech, on which the WER of box is high; give
--manifest for the WER on real recordings.
"""

import json
import math
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from asr.decoding.beam import BeamDecoder, DecodingOptions
from asr.decoding.lexicon import Lexicon, read_lexicon, spell
from asr.inference.transcriber import load_model
from asr.lm import packed
from asr.lm.arpa import write_arpa
from asr.lm.ngram import NgramLM
from asr.model.bundle import LEXICON, LM
from asr.text import BLANK, Tokenizer
from benchmarks import add_corpus, bundle_path, new_parser, read_utterances, time_alternately, word_counts

BEAMS = (50, 200, 800)
LN10 = math.log(10)

IMPOSSIBLE = -1e3
"""Log-probability in frames and columns that are added for flashlight."""

MOST_HOMOPHONES = 6
"""Words with one spelling that flashlight accepts."""

Decode = Callable[[np.ndarray], str]
"""`float32[T, V]` log-probabilities -> text."""


@dataclass(frozen=True)
class Speech:
    """Posteriors `float32[T, V]` and text of each utterance; duration and frames of all."""

    posteriors: Sequence[np.ndarray]
    references: Sequence[str]
    seconds: float

    @property
    def frames(self) -> int:
        """Frames of all utterances."""
        return sum(map(len, self.posteriors))


def main() -> None:
    """Parse, measure, print."""
    parser = new_parser(__doc__)
    add_corpus(parser, utterances=60)
    parser.add_argument("--beams", type=int, nargs="+", default=BEAMS)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    utterances = read_utterances(arguments.manifest, arguments.utterances)
    bundle = bundle_path(arguments.model)
    model = load_model(bundle)
    tokenizer = model.config.tokenizer
    lm, lexicon = load(bundle, tokenizer)
    posteriors = [np.ascontiguousarray(model.posteriors(u.audio_filepath), np.float32) for u in utterances]
    speech = Speech(posteriors, [u.text for u in utterances], sum(u.duration for u in utterances))
    ours = BeamDecoder(tokenizer, lm, lexicon)
    peer = make_peer(tokenizer, lm, lexicon)
    rows = []
    if not arguments.json:
        print(f"{len(utterances)} utterances, {speech.seconds:.0f} s\n\n{HEADER}", flush=True)
    for beam in arguments.beams:
        options = replace(model.decoder.options, beam=beam)
        decoders: dict[str, Decode] = {"asr": partial(decode, ours, options)}
        if peer:
            decoders["flashlight"] = peer.decoder(options)
        rows.append({"beam": beam, **measure(decoders, speech, arguments.rounds)})
        if not arguments.json:
            print(format_row(rows[-1]), flush=True)
    if arguments.json:
        found = {"seconds": speech.seconds, "options": asdict(model.decoder.options), "settings": rows}
        print(json.dumps(found, indent=1))


def load(bundle: Path, tokenizer: Tokenizer) -> tuple[NgramLM, Lexicon]:
    """Load the LM of a bundle, and its lexicon or else the LM's words. Exits without an LM."""
    if not (bundle / LM).exists():
        raise SystemExit(f"{bundle}: no language model; make one by `asr lm train`, or use --model box")
    lm = packed.load(bundle / LM)
    if (bundle / LEXICON).exists():
        return lm, read_lexicon(bundle / LEXICON, tokenizer)
    return lm, spell(lm.vocabulary, tokenizer)[0]


def make_peer(tokenizer: Tokenizer, lm: NgramLM, lexicon: Lexicon) -> "Flashlight | None":
    """Flashlight with the same LM, or None if it is not installed."""
    try:
        with tempfile.TemporaryDirectory() as name:
            write_arpa(lm, Path(name) / "lm.arpa")
            return Flashlight(tokenizer, lexicon, Path(name) / "lm.arpa")
    except ImportError:
        print("the peer is not installed; pip install flashlight-text", file=sys.stderr)
        return None


def decode(decoder: BeamDecoder, options: DecodingOptions, log_probs: np.ndarray) -> str:
    """Best text by asr's decoder."""
    return decoder.decode(log_probs, options)[0].text


def measure(decoders: dict[str, Decode], speech: Speech, rounds: int) -> dict[str, Any]:
    """WER, RTF, time per frame and ratio to asr by decoder; gain from a second thread."""
    texts: dict[str, list[str]] = {}

    def work(name: str, decode: Decode, threads: int) -> None:
        with ThreadPoolExecutor(threads) as pool:
            results = pool.map(decode, speech.posteriors) if threads > 1 else map(decode, speech.posteriors)
            texts[name] = list(results)

    runs = {name: partial(work, name, decode, 1) for name, decode in decoders.items()}
    runs["2 threads"] = partial(work, "2 threads", decoders["asr"], 2)
    seconds = {name: timing.seconds for name, timing in time_alternately(runs, rounds).items()}
    if texts["asr"] != texts["2 threads"]:
        sys.exit("asr decodes other texts with 2 threads than with one")
    found = {
        name: {
            "wer": 100 * word_counts(zip(speech.references, texts[name], strict=True)).rate,
            "rtf": seconds[name] / speech.seconds,
            "us_per_frame": 1e6 * seconds[name] / speech.frames,
            "ratio": seconds[name] / seconds["asr"],
        }
        for name in decoders
    }
    return {"decoders": found, "thread_ratio": seconds["asr"] / seconds["2 threads"]}


HEADER = (
    f"{'beam':>5}  {'decoder':12}{'WER %':>7}{'RTF':>9}{'us/frame':>10}{'asr faster by':>15}{'2 threads':>11}"
)


def format_row(row: dict[str, Any]) -> str:
    """Format the figures for one beam, one line per decoder."""
    lines = []
    for name, found in row["decoders"].items():
        line = (
            f"{row['beam']:5}  {name:12}{found['wer']:7.2f}{found['rtf']:9.5f}{found['us_per_frame']:10.1f}"
        )
        lines.append(line + (f"{row['thread_ratio']:26.2f}" if name == "asr" else f"{found['ratio']:15.2f}"))
    return "\n".join(lines)


class Flashlight:
    """flashlight-text with a lexicon and an LM. Raises ImportError if it is not installed."""

    def __init__(self, tokenizer: Tokenizer, lexicon: Lexicon, arpa: Path) -> None:
        from flashlight.lib.text import decoder
        from flashlight.lib.text.decoder.kenlm import KenLM
        from flashlight.lib.text.dictionary import Dictionary

        self._api, self._tokenizer = decoder, tokenizer
        # Without a separator, a column is added for the silence token that flashlight needs.
        self._silence = tokenizer.size if tokenizer.separator is None else tokenizer.separator
        self._words = list(dict.fromkeys(lexicon.words))
        self._lm = KenLM(str(arpa), Dictionary([*self._words, "<unk>"]))
        self._trie = decoder.Trie(tokenizer.size + 1, self._silence)
        ids = {word: index for index, word in enumerate(self._words)}
        ending = [] if tokenizer.separator is None else [tokenizer.separator]
        state = self._lm.start(False)
        homophones: Counter[tuple[int, ...]] = Counter()
        for entry, word in enumerate(lexicon.words):
            spelling = (*lexicon.spelling(entry), *ending)
            homophones[spelling] += 1
            if homophones[spelling] <= MOST_HOMOPHONES:
                self._trie.insert(list(spelling), ids[word], self._lm.score(state, ids[word])[1])
        self._trie.smear(decoder.SmearingMode.MAX)

    def decoder(self, options: DecodingOptions) -> Decode:
        """Decoder with these options; not thread-safe."""
        search = self._search(options)

        def decode(log_probs: np.ndarray) -> str:
            frames = self._extended(log_probs)
            # search.decode would convert the whole beam to Python lists.
            search.decode_begin()
            search.decode_step(frames.ctypes.data, *frames.shape)
            search.decode_end()
            return self._text(search.get_best_hypothesis(0))

        return decode

    def n_best(self, log_probs: np.ndarray, options: DecodingOptions) -> list[tuple[str, float]]:
        """Texts and scores of the final beam, best first."""
        frames = self._extended(log_probs)
        hypotheses = self._search(options).decode(frames.ctypes.data, *frames.shape)
        return [(self._text(hypothesis), hypothesis.score) for hypothesis in hypotheses]

    def _search(self, options: DecodingOptions) -> Any:
        settings = self._api.LexiconDecoderOptions(
            beam_size=options.beam,
            beam_size_token=min(options.token_top_k, self._tokenizer.size),
            beam_threshold=options.beam_threshold,
            lm_weight=options.lm_weight * LN10,  # its LM scores are log10
            word_score=options.word_bonus,
            unk_score=-math.inf,
            sil_score=0.0,
            log_add=True,
            criterion_type=self._api.CriterionType.CTC,
        )
        unknown = len(self._words)
        return self._api.LexiconDecoder(
            settings, self._trie, self._lm, self._silence, BLANK, unknown, [], False
        )

    def _extended(self, log_probs: np.ndarray) -> np.ndarray:
        """Append the last frame, or the column of the silence token."""
        count, size = log_probs.shape
        spaced = self._tokenizer.separator is not None
        frames = np.full((count + spaced, size + (not spaced)), IMPOSSIBLE, dtype=np.float32)
        frames[:count, :size] = log_probs
        if spaced:
            frames[-1, self._silence] = 0
        return frames

    def _text(self, hypothesis: Any) -> str:
        return " ".join(self._words[word] for word in hypothesis.words if word >= 0)


if __name__ == "__main__":
    main()
