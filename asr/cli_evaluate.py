"""The commands `asr evaluate` and `asr compare`."""

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from asr.cli_decoding import add_decoding, decoding_of, manifests, model_folder, transcribing_of
from asr.console import check_output, open_output
from asr.errors import UsageError

if TYPE_CHECKING:
    from asr.scoring.conditions import Condition, Robustness
    from asr.scoring.evaluate import EvaluateOptions

_MOST_DECIBELS = 100.0
_SLOWEST, _FASTEST = 0.5, 2.0
"""What change_tempo does well."""


def add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `asr evaluate` to the parser of `asr`."""
    command = commands.add_parser("evaluate", help="word and character error rates of a model")
    command.set_defaults(command=evaluate)
    command.add_argument("model", type=model_folder, help="model bundle, or box for the one that ships")
    command.add_argument(
        "manifests", type=Path, nargs="+", help="manifest.jsonl, or the folder that holds it"
    )
    command.add_argument("--json", action="store_true", help="print one JSON object")
    command.add_argument(
        "--details",
        type=Path,
        metavar="FILE",
        help="write one JSON line an utterance; of each condition but clean beside it (d.snr-20.jsonl)",
    )
    add_conditions(command)
    add_decoding(command)


def add_conditions(parser: argparse.ArgumentParser) -> None:
    """Add --snr, --noise, --tempo, --seed and --plot."""
    group = parser.add_argument_group("conditions", "evaluate as it is, and under each of these by itself")
    group.add_argument(
        "--snr",
        type=_decibels,
        nargs="+",
        default=[],
        metavar="DB",
        help="with noise so far below the speech",
    )
    group.add_argument(
        "--noise", metavar="NAME", help="white (the default), babble, or a folder of recordings"
    )
    group.add_argument(
        "--tempo", type=_tempo, nargs="+", default=[], metavar="X", help="so many times as fast, 0.5 to 2"
    )
    group.add_argument("--seed", type=_seed, default=0, metavar="N", help="of the noise (0)")
    group.add_argument("--plot", type=Path, metavar="FILE.png", help="draw the word error rates")


def add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `asr compare` to the parser of `asr`."""
    command = commands.add_parser("compare", help="which of two models is better, and how surely")
    command.set_defaults(command=compare)
    command.add_argument("a", type=Path, help="what asr evaluate --details wrote for one model")
    command.add_argument("b", type=Path, help="and for another, on the same utterances")


def evaluate(options: argparse.Namespace) -> int:
    """`asr evaluate MODEL MANIFEST...`."""
    from asr.scoring.evaluate import EvaluateOptions

    asked = EvaluateOptions(tuple(options.snr), options.noise, tuple(options.tempo), options.seed)
    if options.snr or options.tempo:
        return _evaluate_conditions(options, asked)
    if options.plot:
        raise UsageError("--plot draws word error rates against conditions; give --snr or --tempo")
    from asr.inference.transcriber import load_model
    from asr.scoring import evaluate, report, wer

    model = load_model(options.model, options.threads, decoding_of(options))
    result = evaluate.evaluate(
        model, manifests(options.manifests), progress=True, options=transcribing_of(options)
    )
    try:
        if options.details:
            wer.write_details(options.details, result.scores)
    finally:
        if options.json:
            open_output("utf-8")
            print(result.to_json())
        else:
            report.print_report(result)
    return 1 if result.problems else 0


def _evaluate_conditions(options: argparse.Namespace, asked: "EvaluateOptions") -> int:
    from asr.inference.transcriber import load_model
    from asr.scoring import conditions, evaluate, report

    utterances = evaluate.read_all(manifests(options.manifests))
    noise = conditions.noise_for(asked, utterances)  # what is missing is said before the work, not after it
    if options.plot:
        report.check_plot()
        check_output(options.plot)
    model = load_model(options.model, options.threads, decoding_of(options))
    result = conditions.evaluate_conditions(
        model, utterances, asked, noise, progress=True, transcribing=transcribing_of(options)
    )
    try:
        _write(options, result)
    finally:
        if options.json:
            open_output("utf-8")
            print(result.to_json())
        else:
            report.print_robustness(result)
    return 1 if any(found.problems for found in result.reports.values()) else 0


def _write(options: argparse.Namespace, result: "Robustness") -> None:
    from asr.scoring import report, wer

    if options.details:
        for condition, found in result.reports.items():
            wer.write_details(_details(options.details, condition), found.scores)
    if options.plot:
        report.plot({options.model.name: result}, options.plot)


def _details(path: Path, condition: "Condition") -> Path:
    """A file a condition, with the same ids, so that `asr compare` takes any two of them."""
    if condition.snr is not None:
        return path.with_name(f"{path.stem}.snr-{condition.snr:g}{path.suffix}")
    if condition.tempo != 1:
        return path.with_name(f"{path.stem}.tempo-{condition.tempo:g}{path.suffix}")
    return path


def compare(options: argparse.Namespace) -> int:
    """`asr compare A B`: two files of `asr evaluate --details`, utterance by utterance."""
    from asr.scoring import bootstrap, wer

    a, b = (wer.read_details(path) for path in (options.a, options.b))
    result = bootstrap.compare(a, b)
    print(
        f"WER of B minus WER of A: {100 * result.difference:+.2f} points, 95 % interval "
        f"{100 * result.low:+.2f} to {100 * result.high:+.2f}; B is better in "
        f"{100 * result.improvement:.1f} % of the bootstrap's replicates"
    )
    return 0


def _decibels(text: str) -> float:
    return _number(text, -_MOST_DECIBELS, _MOST_DECIBELS, "a number of decibels")


def _tempo(text: str) -> float:
    return _number(text, _SLOWEST, _FASTEST, "a tempo")


def _number(text: str, least: float, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is not {what} from {least:g} to {most:g}")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0")
    return int(text)
