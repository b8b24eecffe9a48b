"""The `asr export` and `asr info` commands."""

import argparse
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from asr.cli_decoding import MODEL, manifests, model_folder, positive
from asr.console import open_output, print_error
from asr.errors import AsrError


def add_export(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `asr export` to the parser of `asr`."""
    command = commands.add_parser("export", help="a model with smaller weights")
    command.set_defaults(command=export)
    command.add_argument("bundle", type=Path, help="model bundle, as written by asr train")
    command.add_argument(
        "--weights", required=True, choices=["int8", "float16"], help="a quarter or half the size of float32"
    )
    command.add_argument("--out", type=Path, metavar="FOLDER", help="the new bundle (BUNDLE-int8, say)")
    command.add_argument("--with-torch", action="store_true", help="and the weights to train on with")
    command.add_argument(
        "--manifest",
        type=Path,
        nargs="+",
        default=[],
        metavar="MANIFEST",
        help="measure the WER of both bundles on these",
    )
    command.add_argument("--threads", type=positive, help="cores to use (all)")


def add_info(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `asr info` to the parser of `asr`."""
    command = commands.add_parser("info", help="what is in a model bundle, and whether it is whole")
    command.set_defaults(command=info)
    command.add_argument("bundle", type=model_folder, nargs="?", default="box", help=MODEL)
    command.add_argument("--json", action="store_true", help="print one JSON object")


def export(options: argparse.Namespace) -> int:
    """`asr export BUNDLE --weights int8|float16 [--out FOLDER] [--with-torch] [--manifest MANIFEST...]`."""
    try:
        from asr.model.compress import compress_bundle
    except ModuleNotFoundError as error:
        if error.name != "onnx":
            raise
        raise AsrError("onnx is not installed; asr export needs pip install onnx") from None
    if options.with_torch and find_spec("safetensors") is None:
        raise AsrError("safetensors is not installed; --with-torch needs pip install safetensors")
    from rich.filesize import decimal

    bundle = options.bundle
    out = options.out or bundle.with_name(f"{bundle.resolve().name}-{options.weights}")
    problems: list[str] = []
    measure = _measurement(options, problems) if options.manifest else None
    compress_bundle(bundle, out, options.weights, measure, with_torch=options.with_torch)
    before, after = (_model_bytes(folder) for folder in (bundle, out))
    share = f"{100 * after / before:.0f} % of {decimal(before)}"
    print(f"{out}: model.onnx has {decimal(after)}, {share}")
    if measure is None:
        print("WER was not measured; name a development set with --manifest")
    for problem in dict.fromkeys(problems):  # most are those of both bundles
        print_error(problem)
    return 1 if problems else 0


def info(options: argparse.Namespace) -> int:
    """`asr info BUNDLE`."""
    from asr.model.info import read_info

    found = read_info(options.bundle)
    if options.json:
        open_output("utf-8")
    print(found.to_json() if options.json else found.to_text())
    return 0


def _measurement(options: argparse.Namespace, problems: list[str]) -> Callable[[Path], dict[str, Any]]:
    """A function that prints and returns the WER of the bundle and of a compressed one; what could not be
    scored is added to `problems`."""
    from asr.inference.transcriber import load_model
    from asr.scoring.bootstrap import compare
    from asr.scoring.evaluate import evaluate

    chosen = manifests(options.manifest)

    def measure(compressed: Path) -> dict[str, Any]:
        bundles = {"float32": options.bundle, options.weights: compressed}
        reports = {
            weights: evaluate(load_model(folder, options.threads), chosen, progress=True)
            for weights, folder in bundles.items()
        }
        for weights, report in reports.items():
            words = report.words
            if not words.length:
                raise AsrError(f"{_names(chosen)}: no word to score; name another manifest")
            print(f"WER with {weights} weights: {100 * words.rate:.2f} % ({words.errors} of {words.length})")
            problems.extend(f"{p.id}: {p.reason}" for p in report.problems)
        before, after = reports.values()
        change = compare(before.scores, after.scores)
        print(
            f"difference: {100 * change.difference:+.2f} points, "
            f"95 % interval {100 * change.low:+.2f} to {100 * change.high:+.2f}"
        )
        name = _names(chosen)
        return {f"{name}, {weights} weights": round(r.words.rate, 6) for weights, r in reports.items()}

    return measure


def _names(manifests: Sequence[Path]) -> str:
    """Of a manifest with the usual name, that of its folder."""
    return " + ".join(
        path.resolve().parent.name if path.name == "manifest.jsonl" else path.stem for path in manifests
    )


def _model_bytes(folder: Path) -> int:
    from asr.model.bundle import ONNX

    return (folder / ONNX).stat().st_size
