"""The `asr` command: the table of commands, and the flags of each, derived from option dataclasses.

Nothing heavy is imported before a command is chosen.
"""

import argparse
import math
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import MISSING, Field, fields
from functools import partial
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from asr import commands
from asr.console import announce_compilation, exit_code, open_output
from asr.errors import UsageError
from data_prep import CORPORA

Options = TypeVar("Options")


COMMANDS = {
    "Use a model": ("transcribe", "listen", "serve", "format", "align", "info", "export", "warm-up"),
    "Train a model": (*(f"prepare {name}" for name in CORPORA), "train", "tune"),
    "Measure a model": ("evaluate", "compare"),
    "Language models": ("lm train", "lm import", "lm export", "lm pack", "lm score"),
}
"""Functions of asr.commands; the docstring of each is its help, its parameters are dataclasses of options."""

GROUPS = {"prepare": "CORPUS", "lm": "COMMAND"}
"""Commands of two words, and how usage names the second."""

HOMES = {
    "TranscribeOptions": "asr.inference.transcriber",
    "LoadOptions": "asr.inference.decoder",
    "LiveOptions": "asr.inference.live",
    "ServeOptions": "asr.serve.options",
    "TuneOptions": "asr.scoring.tune",
    "EvaluateOptions": "asr.scoring.evaluate",
    "LmOptions": "asr.lm.estimate",
}
"""Modules of option dataclasses, imported when a command that takes them is chosen."""

_READING = ("start", "end", "track", "raw_rate", "raw_channels", "strict")
OMITTED = {
    "evaluate": {*_READING, "channel", "n_best", "raw", "numbers"},
    "listen": {*_READING, "channel", "n_best"},
    "tune": {"greedy"},
}
"""Fields of a command's options that are no arguments of it."""

EXAMPLES = """\
examples:
  asr transcribe talk.mp3                            print its text
  asr transcribe recordings --out texts              transcribe a folder to text files
  asr train recipes/digits/digits.yaml               train a model
  asr evaluate exp/digits/bundle data/digits/test    measure its word error rate

asr COMMAND --help explains the options of a command."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns its exit code: 0; 1 after errors, which were printed; 2 for wrong usage.

    Raises SystemExit as argparse does, for --help and for wrong usage.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    open_output()
    return exit_code(lambda: _run(given))


def _run(arguments: list[str]) -> int:
    if arguments[:1] in (["train"], ["tune"], ["prepare"]):
        # Before torch is imported: with spinning OpenMP threads, a busy machine takes 10 to 70 times as long.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if arguments[:1] == ["train"]:
        return commands.train(arguments[1:])  # LightningCLI parses them
    words = {name.split()[0] for names in COMMANDS.values() for name in names}
    if arguments and arguments[0] not in words and os.path.isfile(arguments[0]):  # noqa: PTH113 (any string)
        file = arguments[0]
        raise UsageError(f"{file}: a file, not a command; try asr transcribe {shlex.quote(file)}")
    given = vars(_parser(arguments).parse_args(arguments))
    if not given.get("quiet"):
        announce_compilation.set()
    try:
        return int(given["run"](*(read_flags(options, given) for options in given["options"])))
    finally:
        announce_compilation.clear()


def _parser(arguments: list[str]) -> argparse.ArgumentParser:
    """Build the parser: every command, but only the flags of the one that `arguments` begin with."""
    rows = [name for section in COMMANDS.values() for name in section]
    summaries = {f"prepare {name}": help for name, help in CORPORA.items()}
    own = (name for name in rows if name not in summaries)
    summaries |= {name: _summary(_function(name)) for name in own}
    overview = ["Speech recognition: log-mel features, bidirectional GRU, CTC."]
    for title, names in COMMANDS.items():
        overview += ["", f"{title}:", *(f"  {name:<20} {summaries[name]}" for name in names)]
    parser = argparse.ArgumentParser(
        "asr",
        usage="asr COMMAND ...",
        description="\n".join(overview),
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"asr {version('asr')}")
    top = parser.add_subparsers(prog="asr", required=True, metavar="COMMAND", help=argparse.SUPPRESS)
    groups = {
        name: top.add_parser(name).add_subparsers(prog=f"asr {name}", required=True, metavar=metavar)
        for name, metavar in GROUPS.items()
    }
    for name in rows:
        first, _, last = name.rpartition(" ")
        subparser = groups.get(first, top).add_parser(last, help=summaries[name])
        subparser.description = f"{summaries[name]}."
        if name.split() == arguments[: len(name.split())]:
            run, options = _find(name)
            subparser.set_defaults(run=run, options=options)
            for cls in options:
                group = subparser if cls is options[0] else subparser.add_argument_group(_summary(cls))
                add_flags(group, cls, OMITTED.get(name, ()))
    return parser


def _find(name: str) -> tuple[Callable[..., int], list[type]]:
    """Import a command: its function, and the dataclasses that it takes."""
    group, _, corpus = name.partition(" ")
    if group == "prepare":
        module = import_module(f"data_prep.{corpus.replace('-', '_')}")
        return partial(commands.prepare, module.prepare), [module.Options]
    run = _function(name)
    hints = [hint for parameter, hint in run.__annotations__.items() if parameter != "return"]
    return run, [getattr(import_module(HOMES[h]), h) if isinstance(h, str) else h for h in hints]


def _function(name: str) -> Callable[..., int]:
    run: Callable[..., int] = getattr(commands, re.sub("[ -]", "_", name))
    return run


def _summary(documented: Any) -> str:
    """The first sentence of a docstring, without full stop."""
    return (documented.__doc__ or "").partition("\n")[0].partition(". ")[0].rstrip(".")


def add_flags(
    target: "argparse._ActionsContainer", options: type, omitted: Collection[str] = (), defaults: bool = True
) -> None:
    """Add an argument for each field of a dataclass; show the `defaults` in its help.

    A field without default is required; what is not given is left out of the namespace. Metadata: `help`;
    `metavar`; `choices`; `least` and `most`, the range of a number; `positional`; `flag`, a name other than
    the field's; `repeat`, for a tuple with one value a flag; `hidden`, for no argument; `fields_of`, another
    dataclass whose fields are arguments, and those given the items of this mapping.
    """
    hints = get_type_hints(options)
    for field in fields(options):
        if "fields_of" in field.metadata:
            add_flags(target, field.metadata["fields_of"], omitted, defaults=False)
        elif field.name not in omitted and not field.metadata.get("hidden"):
            names, settings = _argument(field, hints[field.name])
            target.add_argument(*names, help=_help(field, defaults), **settings)


def read_flags(options: Callable[..., Options], namespace: dict[str, Any]) -> Options:
    """Make a dataclass from those of its fields that were given."""
    return options(**_given(options, namespace))


def _given(options: Any, namespace: dict[str, Any]) -> dict[str, Any]:
    given: dict[str, Any] = {}
    for field in fields(options):
        if "fields_of" in field.metadata:
            given[field.name] = _given(field.metadata["fields_of"], namespace)
        elif field.name in namespace and not field.metadata.get("hidden"):
            value = namespace[field.name]
            given[field.name] = tuple(value) if isinstance(value, list) else value
    return given


def _argument(field: "Field[Any]", hint: Any) -> tuple[list[str], dict[str, Any]]:
    """Names and settings for `add_argument`."""
    meta, required = field.metadata, field.default is MISSING
    settings: dict[str, Any] = {"default": argparse.SUPPRESS}
    if meta.get("positional"):
        names = [field.name]
        settings |= {} if required else {"nargs": "?"}
    else:
        names = [meta.get("flag", "--" + field.name.replace("_", "-"))]
        settings |= {"dest": field.name, "required": required}
    if hint is bool:
        return names, settings | {"action": "store_true"}
    kinds = [hint]
    if get_origin(hint) in (tuple, Union, UnionType):
        kinds = [kind for kind in get_args(hint) if kind not in (NoneType, Ellipsis)]
    if get_origin(hint) is tuple:
        settings |= {"action": "append"} if meta.get("repeat") else {"nargs": "+"}
    if choices := meta.get("choices") or (get_args(kinds[0]) if len(kinds) == 1 else ()):
        settings |= {"choices": choices, "type": type(choices[0])}
    else:
        settings["type"] = partial(_value, kinds, meta.get("least", -math.inf), meta.get("most", math.inf))
        if "dest" in settings:
            settings["metavar"] = _METAVARS.get(kinds[0])
    if "metavar" in meta:
        settings["metavar"] = meta["metavar"]
    return names, settings


_METAVARS = {int: "N", float: "X", Path: "FILE", str: "NAME"}
_KINDS = {int: "a whole number", float: "a number"}


def _help(field: "Field[Any]", show_default: bool) -> str:
    text, default = str(field.metadata["help"]), field.default
    if show_default and default not in (MISSING, None, False, ()):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text += f" (default: {shown})"
    return text.replace("%", "%%")


def _value(kinds: Sequence[Any], least: float, most: float, text: str) -> Any:
    """Parse an argument as the first of `kinds` that it fits. Raises ArgumentTypeError."""
    for kind in kinds:
        if kind in _KINDS:
            with suppress(ValueError):
                if least <= kind(text) <= most:
                    return kind(text)
        elif not (literals := get_args(kind)) or text in literals:
            return text if literals else kind(text)
    limits = "".join(f" {word} {n:g}" for word, n in (("from", least), ("to", most)) if math.isfinite(n))
    names = [_KINDS[kind] + limits if kind in _KINDS else " or ".join(get_args(kind)) for kind in kinds]
    raise argparse.ArgumentTypeError(f"{text!r} is not {' or '.join(names)}")


if __name__ == "__main__":
    raise SystemExit(main())
