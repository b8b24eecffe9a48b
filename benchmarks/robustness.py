"""What do noise and tempo do to the word errors, ours and a peer's?

    python -m benchmarks.robustness --model BUNDLE --manifest MANIFEST [--snr 20 10 5 0] [--noise NAME]
                                    [--tempo 0.8 1.25] [--utterances N] [--plot FILE.png] [--json]

The same waveforms go through our pipeline and through PocketSphinx 5 with its own US English model
(pip install 'pocketsphinx>=5,<6'), which starts afresh at each condition. It takes 16 bits and ours floats:
where noise takes a waveform beyond full scale, PocketSphinx gets it quieter by as much, not clipped.
With babble, the other utterances of the whole manifest talk. Conditions as of `asr evaluate`.
"""

import argparse
import json
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from asr import manifest
from asr.audio import SAMPLE_RATE
from asr.cli import add_flags
from asr.console import check_output
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
from benchmarks.transcribers import pocketsphinx
from benchmarks.transcription import spread


def main() -> None:
    """Parse, measure, print."""
    arguments = parse()
    if find_spec("pocketsphinx") is None:
        raise SystemExit("pocketsphinx is not installed; pip install 'pocketsphinx>=5,<6'")
    name = arguments.noise or "white"
    systems: dict[str, Robustness] = {}
    try:
        everything = manifest.read(arguments.manifest)
        utterances = spread(everything, arguments.utterances)
        asked = EvaluateOptions(tuple(arguments.snr), name, tuple(arguments.tempo), arguments.seed)
        noise = noise_for(asked, everything)
        if arguments.plot:
            check_plot()
            check_output(arguments.plot)
        model = load_model(arguments.model, arguments.threads, LoadOptions(greedy=arguments.greedy))
        systems["ours"] = evaluate_conditions(model, utterances, asked, noise)
        reports = {
            c: of_peer(utterances, c, noise, arguments.seed) for c in conditions(asked.snr, asked.tempo)
        }
    except AsrError as error:
        raise SystemExit(str(error)) from None
    systems["pocketsphinx"] = Robustness(reports, name, arguments.seed)
    if arguments.plot:
        plot(systems, arguments.plot)
    found = {system: result.to_dict() for system, result in systems.items()}
    print(json.dumps(found, indent=1) if arguments.json else table(systems))


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("exp/characters/bundle"))
    parser.add_argument("--manifest", type=Path, default=Path("data/librispeech/dev-excerpt/manifest.jsonl"))
    parser.add_argument("--utterances", type=int, default=40, help="so many, spread over the manifest")
    parser.add_argument("--threads", type=int, help="of ours (all)")
    parser.add_argument("--greedy", action="store_true", help="ours without a language model")
    parser.add_argument("--plot", type=Path, help="draw the word error rates")
    parser.add_argument("--json", action="store_true")
    add_flags(parser, EvaluateOptions)
    defaults = {"snr": [20.0, 10.0, 5.0, 0.0], "noise": None, "tempo": [0.8, 1.25], "seed": 0}
    return parser.parse_args(namespace=argparse.Namespace(**defaults))


def of_peer(utterances: Sequence[Utterance], condition: Condition, noise: Noise | None, seed: int) -> Report:
    """PocketSphinx under a condition, without confidences."""
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
    """`float32[samples]` -> `int16[samples]`, made quieter where it would be clipped."""
    peak = np.abs(waveform).max(initial=0.0)
    return np.round(waveform * (32_767 / max(1.0, peak))).astype(np.int16)


def table(systems: dict[str, Robustness]) -> str:
    """WER of each system, with its interval, a line a condition."""
    lines = [" " * 14 + "".join(f"{f'{name}: WER, %':>22}{'95 %':>16}" for name in systems)]
    for condition in next(iter(systems.values())).reports:
        line = f"{condition.name:14}"
        for result in systems.values():
            report = result.reports[condition]
            span = report.word_interval
            spread_of = f"{100 * span.low:.2f}-{100 * span.high:.2f}" if span else "n/a"
            line += f"{100 * report.words.rate:22.2f}{spread_of:>16}"
        lines.append(line)
    for name, result in systems.items():
        for condition, report in result.reports.items():
            lines += [f"{name}, {condition.name}: {p.id}: {p.reason}" for p in report.problems]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
