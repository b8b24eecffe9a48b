"""WER in noise, at other rates and levels, in silence, against PocketSphinx.

    python -m benchmarks.robustness [--model box] [--manifest FILE]
                                    [--snr 20 10 5 0] [--noise white]
                                    [--tempo 0.8 1.25] [--level -60 -25 65]
                                    [--silence 15] [--plot FILE.png]

The conditions are those of `asr evaluate`; both systems get the same samples.
PocketSphinx 5 (pip install 'pocketsphinx>=5,<6') uses its own US English model
and starts afresh in each condition, as it adapts. It takes 16-bit samples:
what exceeds full scale is attenuated for it. A level of 65 dBFS is that of
-25 dBFS in floats in the range of int16.
Babble is made of the other utterances of the manifest.
"""

import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from asr.errors import AsrError
from asr.inference.decoder import LoadOptions
from asr.inference.transcriber import load_model
from asr.manifest import Utterance
from asr.scoring.conditions import (
    Condition,
    Noise,
    Robustness,
    apply_condition,
    conditions,
    evaluate_conditions,
    noise_for,
)
from asr.scoring.evaluate import EvaluateOptions, Problem, Report, summarize
from asr.scoring.report import check_plot, plot
from asr.scoring.wer import score
from benchmarks import SAMPLE_RATE, add_corpus, bundle_path, new_parser, read_utterances, show, spread
from benchmarks.transcription import pocketsphinx


def main() -> None:
    """Parse, measure, print."""
    parser = new_parser(__doc__)
    add_corpus(parser, utterances=40)
    parser.add_argument("--threads", type=int, help="for asr (default: all cores)")
    parser.add_argument("--greedy", action="store_true", help="asr without a language model")
    parser.add_argument("--snr", type=float, nargs="*", default=[20.0, 10.0, 5.0, 0.0], help="in dB")
    parser.add_argument("--noise", help="white (default), babble, or a folder of recordings")
    parser.add_argument("--tempo", type=float, nargs="*", default=[0.8, 1.25])
    parser.add_argument("--level", type=float, nargs="*", default=[-60.0, -25.0, 65.0], help="RMS in dBFS")
    parser.add_argument("--silence", type=float, nargs="*", default=[15.0], help="seconds on both sides")
    parser.add_argument("--seed", type=int, default=0, help="of the noise")
    parser.add_argument("--plot", type=Path, metavar="FILE.png")
    arguments = parser.parse_args()
    if find_spec("pocketsphinx") is None:
        raise SystemExit("the peer is not installed; pip install 'pocketsphinx>=5,<6'")
    everything, bundle = read_utterances(arguments.manifest), bundle_path(arguments.model)
    utterances = spread(everything, arguments.utterances)
    try:
        options = EvaluateOptions(
            tuple(arguments.snr),
            arguments.noise,
            tuple(arguments.tempo),
            tuple(arguments.level),
            tuple(arguments.silence),
            arguments.seed,
        )
        noise = noise_for(options, everything)
        if arguments.plot:
            check_plot()
        model = load_model(bundle, arguments.threads, LoadOptions(greedy=arguments.greedy))
        ours = evaluate_conditions(model, utterances, options, noise)
        peer = {c: evaluate_peer(utterances, c, noise, options.seed) for c in conditions(options)}
    except AsrError as error:
        raise SystemExit(str(error)) from None
    systems = {"asr": ours, "pocketsphinx": Robustness(peer, ours.noise, ours.seed)}
    if arguments.plot:
        plot(systems, arguments.plot)
    found = {system: result.to_dict() for system, result in systems.items()}
    show(found, table(systems), arguments.json)


def evaluate_peer(
    utterances: Sequence[Utterance], condition: Condition, noise: Noise | None, seed: int
) -> Report:
    """Evaluate PocketSphinx in one condition, without confidences."""
    recognise = pocketsphinx()
    scores, problems, samples = [], [], 0
    begin = time.perf_counter()
    for u in utterances:
        try:
            waveform = np.concatenate([b[:, 0] for b in apply_condition(u, condition, noise, seed).blocks])
        except AsrError as error:
            problems.append(Problem(u.id, str(error)))
            continue
        samples += len(waveform)
        scores.append(score(u.id, u.text, recognise(to_int16(waveform)), u.speaker))
    return summarize(scores, problems, (), samples / SAMPLE_RATE, time.perf_counter() - begin)


def to_int16(waveform: np.ndarray) -> np.ndarray:
    """Convert `float32[samples]` to int16, attenuated if it would clip."""
    peak = np.abs(waveform).max(initial=0.0)
    return np.round(waveform * (32_767 / max(1.0, peak))).astype(np.int16)


def table(systems: dict[str, Robustness]) -> str:
    """Format WER and 95 % interval in % as one line per condition, with the ratio of the WERs."""
    widths = {name: len(name) + 9 for name in systems}
    lines = [
        f"{'':12}" + "".join(f"{n + ' WER %':>{w}}{'95 %':>12}" for n, w in widths.items()) + f"{'ratio':>7}"
    ]
    for condition in systems["asr"].reports:
        line = f"{condition.name:12}"
        for name, result in systems.items():
            report = result.reports[condition]
            span = report.word_interval
            interval = f"{100 * span.low:.1f}-{100 * span.high:.1f}" if span else "n/a"
            line += f"{100 * report.words.rate:{widths[name]}.2f}{interval:>12}"
        ours, peer = (result.reports[condition].words.rate for result in systems.values())
        lines.append(line + (f"{peer / ours:7.2f}" if ours else f"{'n/a':>7}"))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
