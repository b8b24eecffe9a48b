"""How fast and how right is beam search, beside flashlight-text's and pyctcdecode's?

    python -m benchmarks.decoding --model BUNDLE --manifest MANIFEST --arpa FILE [--json]

All decode the same posteriors of real speech, made before anything is timed, with the same beam, beam
threshold, number of tokens looked at in a frame, LM weight and word bonus. Three tasks:

lexicon+lm  the LM's words only, the LM smeared over the trie: ours; flashlight's LexiconDecoder with KenLM
open        any spelling, no LM: ours; flashlight's LexiconFreeDecoder with its ZeroLM; pyctcdecode
tokens+lm   any spelling, an LM over tokens (--token-arpa): ours, by a lexicon in which each token is a word;
            flashlight's LexiconFreeDecoder with KenLM. The word bonus counts for neither
open+lm     any spelling, the word LM at word ends: ours; pyctcdecode with KenLM

RTF is seconds of decoding a second of speech, of one thread, the median of --rounds taken in turn after
a few utterances to warm up. pyctcdecode is slow at beam 500: give it a part of the manifest by
--utterances. A peer that is not installed is left out; to install them:

    pip install flashlight-text                                 # its wheels hold KenLM
    pip install kenlm                                           # from source: needs a C++ compiler
    pip install --no-deps pyctcdecode && pip install pygtrie    # it asks for numpy<2, but works with 2
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

    from asr.decoding.beam import DecodingOptions
    from asr.text import Tokenizer
    from benchmarks.decoders import Decoder

TASKS = ("lexicon+lm", "open", "tokens+lm", "open+lm")
BEAMS = (16, 50, 100, 500)
WARM_UP = 5


@dataclass(frozen=True)
class Speech:
    """Posteriors of each utterance, what was said, and how many seconds it is in all."""

    posteriors: "Sequence[np.ndarray]"
    references: Sequence[str]
    seconds: float


Makers = dict[str, "Callable[[DecodingOptions], Decoder]"]
"""By name of the decoder."""


def main() -> None:
    """Parse, measure, print."""
    arguments = parse()
    os.environ["OMP_NUM_THREADS"] = "1"
    from asr.decoding.beam import DecodingOptions
    from asr.model.bundle import read_config

    speech = load(arguments)
    if not arguments.json:
        print(f"{len(speech.references)} utterances, {speech.seconds:.0f} s\n\n{headline()}", flush=True)
    options = DecodingOptions(
        beam_threshold=arguments.beam_threshold,
        lm_weight=arguments.lm_weight,
        word_bonus=arguments.word_bonus,
    )
    rows = []
    for task in arguments.tasks:
        if task == "tokens+lm" and arguments.token_arpa is None:
            print(f"{task}: left out; it needs --token-arpa", file=sys.stderr)
            continue
        makers = decoders_for(task, read_config(arguments.model).tokenizer, arguments)
        for beam in arguments.beams:
            decoders = {name: make(replace(options, beam=beam)) for name, make in makers.items()}
            rows.append({"task": task, "beam": beam, **measure(decoders, speech, arguments.rounds)})
            if not arguments.json:
                print("\n".join(lines(rows[-1])), flush=True)
    if arguments.json:
        print(json.dumps({"seconds": speech.seconds, "options": asdict(options), "settings": rows}, indent=1))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a model bundle")
    parser.add_argument("--manifest", type=Path, required=True)
    parser.add_argument("--arpa", type=Path, required=True, help="a word LM")
    parser.add_argument("--token-arpa", type=Path, help="an LM over tokens, a space being a |")
    parser.add_argument("--utterances", type=int, help="so many, spread over the manifest, instead of all")
    parser.add_argument("--tasks", choices=TASKS, nargs="+", default=TASKS)
    parser.add_argument("--beams", type=int, nargs="+", default=BEAMS)
    parser.add_argument("--beam-threshold", type=float, default=14.0)
    parser.add_argument("--lm-weight", type=float, default=0.6, help="times ln p")
    parser.add_argument("--word-bonus", type=float, default=0.5)
    parser.add_argument("--best-path", action="store_true", help="flashlight without log_add, as torchaudio")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser.parse_args()


def load(arguments: argparse.Namespace) -> Speech:
    """Posteriors of a manifest, or of a part of it that is spread over it."""
    import numpy as np

    from asr import load_model, manifest

    utterances = manifest.read(arguments.manifest)
    if arguments.utterances:
        utterances = utterances[:: max(1, len(utterances) // arguments.utterances)][: arguments.utterances]
    model = load_model(arguments.model)
    return Speech(
        [np.ascontiguousarray(model.posteriors(u.audio_filepath), dtype=np.float32) for u in utterances],
        [u.text for u in utterances],
        sum(u.duration for u in utterances),
    )


def decoders_for(task: str, tokenizer: "Tokenizer", arguments: argparse.Namespace) -> Makers:
    """Ours, and the peers that can do the task and are installed."""
    from asr.decoding.beam import BeamDecoder
    from asr.decoding.lexicon import spell
    from asr.lm.arpa import read_arpa
    from asr.lm.ngram import SPECIAL
    from benchmarks.decoders import Flashlight, Pyctcdecode, ours, ours_by_tokens

    arpa, log_add = arguments.arpa, not arguments.best_path
    peers: dict[str, Callable[[], Any]]
    if task == "tokens+lm":
        by_tokens = ours_by_tokens(tokenizer, read_arpa(arguments.token_arpa))
        makers: Makers = {"ours": lambda options: by_tokens(replace(options, word_bonus=0.0))}
        peers = {"flashlight": lambda: Flashlight(tokenizer, None, arguments.token_arpa, log_add)}
        return _with_peers(task, makers, peers)
    if task == "open":
        decoder = BeamDecoder(tokenizer)
        peers = {
            "flashlight": lambda: Flashlight(tokenizer, log_add=log_add),
            "pyctcdecode": lambda: Pyctcdecode(tokenizer),
        }
    else:
        lm = read_arpa(arpa)
        words = list(lm.vocabulary)[len(SPECIAL) :]
        lexicon, _ = spell(lm.vocabulary, tokenizer)
        if task == "open+lm":
            decoder = BeamDecoder(tokenizer, lm)
            peers = {"pyctcdecode": lambda: Pyctcdecode(tokenizer, words, arpa)}
        else:
            decoder = BeamDecoder(tokenizer, lm, lexicon)
            peers = {"flashlight": lambda: Flashlight(tokenizer, lexicon, arpa, log_add)}
    # The peers have no bonus for words where they have no LM.
    makers = {
        "ours": lambda options: ours(decoder, replace(options, word_bonus=0.0) if task == "open" else options)
    }
    return _with_peers(task, makers, peers)


def _with_peers(task: str, makers: Makers, peers: "dict[str, Callable[[], Any]]") -> Makers:
    """Add the peers that are installed."""
    for name, make in peers.items():
        try:
            makers[name] = make().decoder
        except ImportError as error:
            print(f"{task}: without {name} ({' '.join(str(error).split())})", file=sys.stderr)
    return makers


def measure(decoders: "dict[str, Decoder]", speech: Speech, rounds: int) -> dict[str, Any]:
    """WER and RTF by decoder; how many times the first peer's speed is ours; what a second thread gives."""
    runs = {name: (decode, 1) for name, decode in decoders.items()}
    runs["ours, 2 threads"] = (decoders["ours"], 2)
    times: dict[str, list[float]] = {name: [] for name in runs}
    texts: dict[str, list[str]] = {}
    for decode in decoders.values():
        for log_probs in speech.posteriors[:WARM_UP]:
            decode(log_probs)
    for _ in range(rounds):
        for name, (decode, threads) in runs.items():
            start = time.perf_counter()
            texts[name] = run(decode, speech.posteriors, threads)
            times[name].append(time.perf_counter() - start)
    if texts["ours"] != texts["ours, 2 threads"]:
        sys.exit("ours with 2 threads says something else than with one")
    rtf = {name: statistics.median(taken) / speech.seconds for name, taken in times.items()}
    peers = [name for name in decoders if name != "ours"]
    return {
        **{name: {"wer": wer(speech.references, texts[name]), "rtf": rtf[name]} for name in decoders},
        "peer": peers[0] if peers else None,
        "speed_ratio": rtf[peers[0]] / rtf["ours"] if peers else None,
        "thread_ratio": rtf["ours"] / rtf["ours, 2 threads"],
    }


def run(decode: "Decoder", posteriors: "Sequence[np.ndarray]", threads: int) -> list[str]:
    """Decode all."""
    if threads == 1:
        return [decode(log_probs) for log_probs in posteriors]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(decode, posteriors))


def wer(references: Sequence[str], hypotheses: Sequence[str]) -> float:
    """Word error rate of the corpus, a fraction."""
    from asr.scoring.wer import score, total

    return total(score("", r, h).words for r, h in zip(references, hypotheses, strict=True)).rate


def headline() -> str:
    """Of the table that `lines` makes."""
    return f"{'task':12} {'beam':>5} {'decoder':12} {'WER %':>7} {'RTF':>9}"


def lines(row: dict[str, Any]) -> list[str]:
    """One setting: a line a decoder."""
    figures = {name: value for name, value in row.items() if isinstance(value, dict)}
    made = [
        f"{row['task']:12} {row['beam']:5} {name:12} {100 * value['wer']:7.2f} {value['rtf']:9.5f}"
        for name, value in figures.items()
    ]
    made[0] += f"   2 threads: {row['thread_ratio']:.2f} times as fast"
    for i, name in enumerate(list(figures)[1:], start=1):
        made[i] += f"   ours is {figures[name]['rtf'] / figures['ours']['rtf']:.2f} times as fast"
    return made


if __name__ == "__main__":
    main()
