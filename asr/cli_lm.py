"""The `asr lm` commands."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from asr.console import check_output, stages
from asr.errors import AsrError

if TYPE_CHECKING:
    from asr.lm.estimate import Trained
    from asr.lm.ngram import NgramLM

_TEXT = "one sentence a line; plain, gzip, xz or bzip2; - for the standard input"


def add_lm(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `asr lm train|import|export|pack|score` to the parser of `asr`."""
    lm = commands.add_parser("lm", help="n-gram language models").add_subparsers(
        required=True, metavar="COMMAND"
    )
    command = lm.add_parser("train", help="estimate a model from texts (modified Kneser-Ney)")
    command.set_defaults(command=train)
    command.add_argument("texts", type=Path, nargs="+", metavar="TEXT", help=_TEXT)
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the model, as asr reads it")
    command.add_argument("--arpa", type=Path, metavar="FILE", help="also as ARPA; .gz and .xz are compressed")
    command.add_argument("--order", type=int, default=3, choices=range(1, 6), help="length of n-grams (3)")
    command.add_argument(
        "--prune",
        type=int,
        nargs="+",
        default=[],
        metavar="COUNT",
        help="leave out n-grams that occur so often or less: a number an order, the last for all that follow",
    )
    command.add_argument(
        "--entropy", type=float, default=0.0, metavar="X", help="entropy pruning, 1e-8 say, after --prune"
    )
    command.add_argument(
        "--vocab", metavar="N|FILE", help="only the N most frequent words, or the words of a file"
    )
    command.add_argument("--temp", type=Path, metavar="FOLDER", help="where temporary files go")

    command = lm.add_parser("import", help="an ARPA file to a model")
    command.set_defaults(command=import_arpa)
    command.add_argument("arpa", type=Path, help="plain, gzip, xz or bzip2; - for the standard input")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the model, as asr reads it")

    command = lm.add_parser("export", help="a model to an ARPA file")
    command.set_defaults(command=export)
    command.add_argument("lm", type=Path, help="as written by asr lm train or asr lm import")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help=".gz and .xz are compressed")

    command = lm.add_parser("pack", help="a model in little space, its weights rounded to 8 bits")
    command.set_defaults(command=pack)
    command.add_argument("lm", type=Path, help="as written by asr lm train or asr lm import")
    command.add_argument("--out", type=Path, required=True, metavar="FILE", help="the model, as asr reads it")
    command.add_argument("--entropy", type=float, default=0.0, metavar="X", help="entropy pruning first")

    command = lm.add_parser("score", help="perplexity and unknown words of texts")
    command.set_defaults(command=score)
    command.add_argument("lm", type=Path, help="as written by asr lm train or asr lm import")
    command.add_argument("texts", type=Path, nargs="+", metavar="TEXT", help=_TEXT)
    command.add_argument("--json", action="store_true", help="print one JSON object")


def train(options: argparse.Namespace) -> int:
    """`asr lm train TEXT... --out FILE`."""
    from asr.lm.arpa import write_arpa
    from asr.lm.estimate import LmOptions
    from asr.lm.estimate import train as estimate

    vocabulary = options.vocab
    if vocabulary is not None:
        vocabulary = int(vocabulary) if vocabulary.isdecimal() else Path(vocabulary)
    settings = LmOptions(options.order, tuple(options.prune), options.entropy, vocabulary, options.temp)
    if options.arpa == options.out:
        raise AsrError(f"{options.out}: --out and --arpa name the same file")
    for path in filter(None, (options.out, options.arpa)):
        check_output(path)
    with stages() as progress:
        trained = estimate(options.texts, settings, progress)
        progress("writing")
        trained.lm.save(options.out)
        if options.arpa:
            write_arpa(trained.lm, options.arpa)
    _report(trained)
    return 0


def import_arpa(options: argparse.Namespace) -> int:
    """`asr lm import ARPA --out FILE`."""
    from asr.lm.arpa import read_arpa

    check_output(options.out)
    with stages() as progress:
        progress("reading")
        lm = read_arpa(options.arpa)
        lm.save(options.out)
    print(_sizes(lm))
    return 0


def export(options: argparse.Namespace) -> int:
    """`asr lm export LM --out ARPA`."""
    from asr.lm import packed
    from asr.lm.arpa import write_arpa

    with stages() as progress:
        progress("writing")
        write_arpa(packed.load(options.lm), options.out)
    return 0


def pack(options: argparse.Namespace) -> int:
    """`asr lm pack LM --out FILE [--entropy X]`."""
    from rich.filesize import decimal

    from asr.lm import packed
    from asr.lm.estimate import prune

    check_output(options.out)
    lm = packed.load(options.lm)
    with stages() as progress:
        if options.entropy:
            progress("pruning")
            lm = prune(lm, options.entropy)
        progress("packing")
        packed.save(lm, options.out)
    before, after = (path.stat().st_size for path in (options.lm, options.out))
    print(f"{_sizes(lm)}: {decimal(after)} instead of {decimal(before)}")
    return 0


def score(options: argparse.Namespace) -> int:
    """`asr lm score LM TEXT...`."""
    from asr.lm import packed
    from asr.lm.perplexity import perplexity

    result = perplexity(packed.load(options.lm), options.texts)
    if options.json:
        print(result.to_json())
        return 0
    rate = f" ({100 * result.unknown_rate:.2f} %)" if result.words else ""
    print(f"{result.sentences} sentences, {result.words} words, {result.unknown} of them unknown{rate}")
    print(f"perplexity with unknown words    {result.perplexity:.2f}")
    print(f"perplexity without unknown words {result.known_perplexity:.2f}")
    if result.unknown == result.words > 0:
        print("the model knows none of these words; do they differ in case?")
    return 0


def _report(trained: "Trained") -> None:
    from asr.lm.estimate import FALLBACK

    print(_sizes(trained.lm))
    rows = zip(trained.counted, trained.lm.counts, trained.discounts, strict=True)
    for n, (counted, kept, discounts) in enumerate(rows, 1):
        steps = ", ".join(f"{value:.4f}" for value in discounts)
        note = (
            " (the usual ones: the text is too small or too regular to tell)" if discounts == FALLBACK else ""
        )
        print(f"  {n}-grams: {kept} of {counted}, discounts {steps}{note}")


def _sizes(lm: "NgramLM") -> str:
    sizes = (f"{count} {n}-grams" for n, count in enumerate(lm.counts[1:], 2))
    return ", ".join((f"{len(lm.vocabulary)} words", *sizes))
