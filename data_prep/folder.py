"""Your own recordings: a table of them, or a folder with a .txt file beside each."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr import manifest
from asr.console import option
from asr.errors import PrepareError
from asr.manifest import Utterance
from asr.prepare import PrepareOptions, Problem, divide, measure, prepare_part
from asr.text import ENGLISH, normalize

SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au"))
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = frozenset((".jsonl", ".json"))
REQUIRED = ("audio_filepath", "text")

Item = tuple[str, Utterance] | Problem
"""An utterance with the name for its problems (table line or id), or a problem."""


@dataclass(frozen=True, kw_only=True)
class Options(PrepareOptions):
    """Options of `asr prepare folder`."""

    folder: Path = option(
        "a .csv, .tsv or .jsonl table, or recordings with a .txt beside each", positional=True
    )
    out: Path = option("output folder", Path("data/folder"), metavar="FOLDER")
    characters: str = option("the alphabet", ENGLISH, metavar="CHARACTERS")


def prepare(options: Options) -> list[Problem]:
    """Prepare a table or folder in `out`; return all problems.

    Raises PrepareError if `folder` is neither, or a table lacks a column.
    """
    utterances, problems = scan(options.folder, options.characters, exclude=options.out)
    return prepare_part(
        options.out,
        utterances,
        problems,
        characters=options.characters,
        speeds=options.speeds,
        jobs=options.jobs,
    )


def scan(
    source: Path, characters: str = ENGLISH, exclude: Path | None = None
) -> tuple[list[Utterance], list[Problem]]:
    """Find the utterances of a table or folder; texts are normalised to the alphabet `characters`.

    An id defaults to the recording's path relative to the table or folder, without suffix. In a folder,
    hidden files and everything below `exclude` are ignored.
    """
    rows, problems = divide(_read(source, exclude))
    if not rows and not problems:
        raise PrepareError(f"{source}: no recordings")
    utterances, faults = measure(rows)
    return [replace(u, text=normalize(u.text, characters)) for u in utterances], problems + faults


def _read(source: Path, exclude: Path | None) -> Iterator[Item]:
    suffix = source.suffix.lower()
    if source.is_dir():
        return _read_folder(source, exclude)
    if not source.exists():
        raise PrepareError(f"{source}: no such file or folder")
    if suffix in DELIMITERS:
        return _read_table(source, DELIMITERS[suffix])
    if suffix in JSON_LINES:
        return _read_json_lines(source)
    raise PrepareError(f"{source}: expected a folder or a .csv, .tsv or .jsonl file")


def _read_folder(folder: Path, exclude: Path | None) -> Iterator[Item]:
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (exclude and path.absolute().is_relative_to(exclude.absolute()))
    ]
    recordings = [path for path in files if path.suffix.lower() in SUFFIXES]
    texts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
    recorded = {path.with_suffix("") for path in recordings}
    for path in recordings:
        name = _id(path, folder)
        transcript = texts.get(path.with_suffix(""))
        if transcript is None:
            yield Problem(name, f"audio without transcript: no {path.with_suffix('.txt').name} beside {path}")
            continue
        try:
            yield name, Utterance(name, path, 0.0, transcript.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError) as error:
            yield Problem(name, f"{transcript}: cannot read the transcript ({error})")
    for stem, path in texts.items():
        if stem not in recorded:
            yield Problem(_id(path, folder), f"transcript without audio: no recording beside {path}")


def _id(path: Path, folder: Path) -> str:
    path = path.with_suffix("")
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _read_table(table: Path, delimiter: str) -> Iterator[Item]:
    reader = csv.reader(
        _open(table),
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        keys = next(reader, [])
    except csv.Error as error:
        raise PrepareError(f"{table}:1: malformed line ({error})") from None
    for key in REQUIRED:
        if key not in keys:
            raise PrepareError(f"{table}: no column {key!r} in the first line, only {', '.join(keys)}")
    while True:
        name = f"{table}:{reader.line_num + 1}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            yield Problem(name, f"malformed line ({error})")
            continue
        if fields is None:
            return
        if fields and len(fields) != len(keys):
            yield Problem(name, f"malformed line ({len(fields)} fields, expected {len(keys)})")
        elif fields:
            yield _row(name, dict(zip(keys, fields, strict=True)), table.parent)


def _read_json_lines(path: Path) -> Iterator[Item]:
    for number, line in enumerate(_open(path), start=1):
        if line.strip():
            name = f"{path}:{number}"
            try:
                yield _row(name, json.loads(line), path.parent)
            except (ValueError, RecursionError) as error:
                yield Problem(name, f"malformed line ({error})")


def _open(path: Path) -> io.StringIO:
    try:
        return io.StringIO(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise PrepareError(f"{path}: cannot read the table ({error})") from None


def _row(name: str, row: Any, folder: Path) -> Item:
    """Convert a row; unlike in a manifest, duration, id and speaker may be empty."""
    try:
        if isinstance(row, dict):
            path = row.get("audio_filepath")
            filled = {key: value for key, value in row.items() if value not in (None, "") or key in REQUIRED}
            row = {"duration": 0.0, "id": _id(folder / str(path), folder), **filled}
        return name, manifest.parse(row, folder)
    except ValueError as error:
        return Problem(name, str(error))
