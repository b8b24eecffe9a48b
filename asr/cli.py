"""The `asr` command: parses, calls, prints. Nothing heavy is imported before a command needs it."""

import argparse
import logging
import os
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib.metadata import version
from pathlib import Path

from asr.cli_decoding import MODEL, add_decoding, decoding_of, manifests, model_folder, positive
from asr.cli_evaluate import add_compare, add_evaluate
from asr.cli_lexicon import add_lexicon
from asr.cli_lm import add_lm
from asr.cli_model import add_export, add_info
from asr.cli_transcribe import add_transcribe
from asr.console import exit_code, open_output, print_error
from asr.errors import AsrError, TextError
from asr.text import ENGLISH


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns 0, 1 after errors that were named, 2 for wrong usage (or by SystemExit)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    open_output()
    return exit_code(lambda: _run(arguments))


def _run(arguments: list[str]) -> int:
    if arguments[:1] == ["train"]:  # its arguments are LightningCLI's
        return train(arguments[1:])
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


def prepare(options: argparse.Namespace) -> int:
    """`asr prepare librispeech|folder|digits`."""
    from asr.extra import require_train

    require_train()
    common = {"out": options.out, "speeds": options.speeds, "jobs": options.jobs}
    if options.source == "librispeech":
        from asr.data_prep import librispeech

        problems = librispeech.prepare(options.subset, options.corpus, url=options.url, **common)
    elif options.source == "folder":
        from asr.data_prep import folder

        problems = folder.prepare(options.folder, characters=options.characters, **common)
    else:
        from asr.data_prep import digits

        problems = digits.prepare(**common)
    return 0 if all(problem.copy_only for problem in problems) else 1


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
    _add_prepare(commands)
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
    add_lexicon(commands)
    add_compare(commands)
    add_transcribe(commands)
    add_export(commands)
    add_info(commands)
    return parser


def _add_prepare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    sources = commands.add_parser("prepare", help="a corpus to manifest and features").add_subparsers(
        dest="source", required=True, metavar="CORPUS"
    )
    librispeech = sources.add_parser("librispeech", help="download or use LibriSpeech")
    librispeech.add_argument("--subset", nargs="+", default=[], metavar="NAME", help="train-clean-100, ...")
    librispeech.add_argument(
        "--corpus", type=Path, help="a LibriSpeech tree that is there; nothing is downloaded"
    )
    librispeech.add_argument("--url", help="a mirror of https://www.openslr.org/resources")
    folder = sources.add_parser("folder", help="your own recordings")
    folder.add_argument(
        "folder", type=Path, help="a .csv, .tsv or .jsonl table, or recordings with a .txt beside each"
    )
    folder.add_argument("--characters", default=ENGLISH, help=f"the alphabet (default {ENGLISH!r})")
    digits = sources.add_parser("digits", help="spoken digits that ship with asr")
    for name, command in (("librispeech", librispeech), ("folder", folder), ("digits", digits)):
        command.set_defaults(command=prepare)
        command.add_argument(
            "--out", type=Path, default=Path("data", name), help=f"where to write (data/{name})"
        )
        command.add_argument(
            "--jobs", type=positive, default=os.cpu_count() or 1, help="processes (all cores)"
        )
        command.add_argument(
            "--speeds",
            type=float,
            nargs="+",
            default=[],
            metavar="X",
            help="add training copies at these speeds",
        )


if __name__ == "__main__":
    raise SystemExit(main())
