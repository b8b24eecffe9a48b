"""The `asr` command: parses, calls, prints. Nothing heavy is imported before a command needs it."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import MISSING, fields
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import NoneType
from typing import Any, get_args, get_origin, get_type_hints

from asr.cli_decoding import MODEL, add_decoding, decoding_of, manifests, model_folder, positive
from asr.cli_evaluate import add_compare, add_evaluate
from asr.cli_lm import add_lm
from asr.cli_model import add_export, add_info
from asr.cli_transcribe import add_transcribe
from asr.console import exit_code, open_output, print_error
from asr.errors import AsrError, TextError


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 after errors that were named, 2 for wrong usage (or by SystemExit)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_output()
    return exit_code(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["train"]:  # its arguments are LightningCLI's
        return train(arguments[1:])
    if arguments[:1] == ["prepare"]:
        return prepare(arguments[1:])
    options = _parser().parse_args(arguments)
    with _compilation_notice(arguments[0]):
        return int(options.command(options))


def _compilation_notice(command: str) -> AbstractContextManager[None]:
    """Explain the wait on a terminal when numba compiles for the first time."""
    if command not in ("transcribe", "evaluate", "tune", "align", "lm") or not sys.stderr.isatty():
        return nullcontext()
    from asr.jit import on_first_compilation

    return on_first_compilation(
        lambda: print_error("compiling the decoder, once on this machine; it may take a minute")
    )


def train(arguments: list[str]) -> int:
    """`asr train RECIPE.yaml [--resume | --resume=auto] [--trainer.max_epochs=3 ...]`."""
    resume = None if "--resume=auto" in arguments else "--resume" in arguments
    arguments = [argument for argument in arguments if argument not in ("--resume", "--resume=auto")]
    if arguments and not arguments[0].startswith("-"):
        if not Path(arguments[0]).is_file():
            raise AsrError(f"{arguments[0]}: no such recipe; see the folder recipes/")
        arguments.insert(0, "--config")
    from asr.extra import require_train

    require_train()
    # Set before torch is imported: spinning threads slow a busy machine down 10 to 70 times.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    from asr.training import run

    _quieten_lightning()
    bundle = run.train(arguments, resume, use_all_cores=True)
    if bundle is not None:
        print(f"model bundle: {bundle}")
    return 0


def _quieten_lightning() -> None:
    """Hide messages of Lightning, once it is imported, and jsonargparse that require no action."""
    for library in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(library).setLevel(logging.WARNING)
    os.environ.setdefault("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for message in (
        ".*isinstance.treespec, LeafSpec.* is deprecated.*",
        ".*args parameter is intended to run from within Python.*",
        ".*Checkpoint directory .* exists.*",
        ".*recommended to use .self.log.*sync_dist=True.*",  # already reduced
        ".*does not have many workers.*",  # a batch is one gather; see SpeechData._loader
        ".*your dataloader is not resumable.*",  # it is: BucketSampler.skip
        ".*smaller than the logging interval.*",
        ".*Experiment logs directory .* exists and is not empty.*",
    ):
        warnings.filterwarnings("ignore", message)


def prepare(arguments: list[str]) -> int:
    """`asr prepare NAME ...`, by the module data_prep.NAME."""
    parser = argparse.ArgumentParser("asr prepare", description="Prepare a corpus, a lexicon or a text.")
    names = parser.add_subparsers(dest="name", required=True, metavar="CORPUS")
    module: Any = None
    for name, text in import_module("data_prep").CORPORA.items():
        command = names.add_parser(name, help=text)
        if arguments[:1] == [name]:
            module = import_module(f"data_prep.{name.replace('-', '_')}")
            _add_options(command, module.Options)
    given = vars(parser.parse_args(arguments))
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    options = module.Options(**{field.name: given[field.name] for field in fields(module.Options)})
    from asr.prepare import PrepareOptions

    if isinstance(options, PrepareOptions):
        from asr.extra import require_train

        require_train()
    problems = module.prepare(options)
    return 0 if all(problem.speed != 1.0 for problem in problems) else 1


def _add_options(parser: argparse.ArgumentParser, options: type) -> None:
    """Add a flag for each field of a dataclass; metadata: help, metavar, positional, least (1)."""
    hints = get_type_hints(options)
    for field in fields(options):
        many = get_origin(hints[field.name]) is tuple
        kinds = [kind for kind in get_args(hints[field.name]) if kind not in (NoneType, ...)]
        settings: dict[str, Any] = {
            "type": positive if field.metadata.get("least") else (kinds or [hints[field.name]])[0],
            "help": field.metadata["help"],
            **({"metavar": field.metadata["metavar"]} if "metavar" in field.metadata else {}),
            **({"nargs": "+"} if many else {}),
        }
        if field.metadata.get("positional"):
            parser.add_argument(field.name, **settings)
            continue
        settings |= {"required": True} if field.default is MISSING else {"default": field.default}
        parser.add_argument(f"--{field.name.replace('_', '-')}", **settings)


def tune(options: argparse.Namespace) -> int:
    """`asr tune MODEL MANIFEST... [--lm FILE]`."""
    from asr.scoring import report, tune

    tuned = tune.tune_bundle(
        options.model,
        manifests(options.manifests),
        decoding_of(options),
        tune.TuneOptions(threads=options.threads),
    )
    for lm_weight, word_bonus, errors in tuned.tuning.trials:
        print(f"language model weight {lm_weight:.2f}, word bonus {word_bonus:.2f}: {errors} word errors")
    words = max(1, tuned.tuning.words)
    print(f"WER {100 * tuned.tuning.errors / words:.2f} % on {words} words; written to {options.model}")
    if tuned.held_out_errors is not None:
        rate = tuned.held_out_errors / words
        print(
            f"WER {100 * rate:.2f} % with weights tuned on half of the speakers for the other half, in turn"
        )
    for name, fit in (("beam search", tuned.fit), ("greedy", tuned.greedy_fit)):
        if fit is not None:
            print(f"{name}: temperature {fit.temperature:.3f}; at that of the other speakers, in turn,")
            print("  " + report.quality_line(fit.calibrated))
    return 0


def align(options: argparse.Namespace) -> int:
    """`asr align AUDIO TEXT --model BUNDLE`."""
    from asr.inference import transcriber, writers
    from asr.inference.decoder import LoadOptions

    text = _text(options.text)
    decoding = LoadOptions(greedy=True, lexicon=options.lexicon)
    transcript = transcriber.load_model(options.model, options.threads, decoding).align(options.audio, text)
    if options.json:
        open_output("utf-8")
        print(writers.json_line(options.audio, transcript))
    else:
        print(writers.word_table(transcript))
    return 0


def _text(argument: str) -> str:
    """A text, or what is in the file of that name."""
    path = Path(argument)
    if os.path.isfile(argument):  # noqa: PTH113 (Path.is_file() fails where a text is too long for a name)
        try:
            return path.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise TextError(f"{argument}: not UTF-8 (byte {error.start})") from None
    if len(argument.split()) == 1 and (path.suffix or path.name != argument):
        raise TextError(f"{argument}: no such file; give a text, or a file that holds it")
    return argument


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("asr", description="Speech recognition: log-mel features, BiGRU, CTC.")
    parser.add_argument("--version", action="version", version=f"asr {version('asr')}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    commands.add_parser("prepare", help="corpora, lexicons and texts; see asr prepare --help", add_help=False)
    commands.add_parser("train", help="train a model by a recipe; see asr train --help", add_help=False)
    add_evaluate(commands)

    command = commands.add_parser("tune", help="weight of a language model, by a development set")
    command.set_defaults(command=tune)
    command.add_argument("model", type=Path, help="model bundle; language model and weights are put into it")
    command.add_argument(
        "manifests",
        type=Path,
        nargs="+",
        help="manifest.jsonl, or the folder that holds it; not the test set",
    )
    add_decoding(command, greedy=False)

    command = commands.add_parser("align", help="when each word of a known text is said")
    command.set_defaults(command=align)
    command.add_argument("audio", type=Path, help="a recording")
    command.add_argument("text", help="what is said in it, or a file that holds it")
    command.add_argument("--model", type=model_folder, default="box", help=MODEL)
    command.add_argument(
        "--lexicon", type=Path, metavar="FILE", help="spellings, where the model's units are phones"
    )
    command.add_argument("--json", action="store_true", help="one JSON object")
    command.add_argument("--threads", type=positive, help="cores to use (all)")

    add_lm(commands)
    add_compare(commands)
    add_transcribe(commands)
    add_export(commands)
    add_info(commands)
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
