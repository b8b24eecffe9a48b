"""Your own recordings: a table of them, or a folder with a .txt file beside each."""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr.errors import AudioError, PrepareError
from asr.manifest import Utterance
from asr.options import option
from asr.prepare import PrepareOptions, Problem, durations, prepare_part
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
    items = list(_read(source, exclude))
    if not items:
        raise PrepareError(f"{source}: no recordings")
    problems = [item for item in items if isinstance(item, Problem)]
    rows = [item for item in items if not isinstance(item, Problem)]
    utterances = []
    lengths = durations([utterance.audio_filepath for _, utterance in rows])
    for (name, u), length in zip(rows, lengths, strict=True):
        if isinstance(length, AudioError):
            problems.append(Problem(name, str(length)))
        elif u.duration and not math.isclose(u.duration, length, rel_tol=0.05, abs_tol=0.5):
            reason = f"duration given as {u.duration:g} s, but {u.audio_filepath} is {length:g} s long"
            problems.append(Problem(name, reason))
        else:
            utterances.append(replace(u, duration=length, text=normalize(u.text, characters)))
    return utterances, problems


def _read(source: Path, exclude: Path | None) -> Iterator[Item]:
    suffix = source.suffix.lower()
    if source.is_dir():
        yield from _read_folder(source, exclude)
    elif not source.exists():
        raise PrepareError(f"{source}: no such file or folder")
    elif suffix in DELIMITERS:
        yield from _read_table(source, DELIMITERS[suffix])
    elif suffix in JSON_LINES:
        yield from _read_json_lines(source)
    else:
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
    if delimiter == "\t":
        reader = csv.reader(_open(table), delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(_open(table), delimiter=delimiter, strict=True)
    try:
        keys = next(reader, [])
    except csv.Error as error:
        raise PrepareError(f"{table}:1: malformed line ({error})") from None
    for key in REQUIRED:
        if key not in keys:
            raise PrepareError(f"{table}: no column {key!r} in the first line, only {', '.join(keys)}")
    while True:
        first = reader.line_num + 1
        name = f"{table}:{first}"
        try:
            fields = next(reader, None)
        except csv.Error as error:
            last = f" to {reader.line_num}" if reader.line_num > first else ""
            yield Problem(name, f"malformed line{last} ({error})")
            continue
        if fields is None:
            return
        if fields and len(fields) != len(keys):
            yield Problem(name, f"malformed line ({len(fields)} fields, expected {len(keys)})")
        elif fields:
            yield _row(name, dict(zip(keys, fields, strict=True)), table.parent)


def _read_json_lines(path: Path) -> Iterator[Item]:
    for number, line in enumerate(_open(path), start=1):
        if not line.strip():
            continue
        name = f"{path}:{number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Problem(name, f"malformed line ({error})")
            continue
        if isinstance(row, dict):
            yield _row(name, row, path.parent)
        else:
            yield Problem(name, "malformed line (expected a JSON object)")


def _open(path: Path) -> io.StringIO:
    try:
        return io.StringIO(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise PrepareError(f"{path}: cannot read the table ({error})") from None


def _row(name: str, row: dict[str, Any], folder: Path) -> Item:
    for key in REQUIRED:
        if not isinstance(row.get(key), str):
            return Problem(name, f"the key {key!r} is missing or not a string")
    if not row["audio_filepath"]:
        return Problem(name, "audio_filepath is empty")
    if row.get("offset") not in (None, "", 0, 0.0, "0", "0.0"):
        return Problem(name, "offset into a longer recording is not supported; cut the recording first")
    try:
        duration = float(row.get("duration") or 0)
    except (TypeError, ValueError, OverflowError):
        duration = math.nan
    if not 0 <= duration < math.inf:
        return Problem(name, f"duration {row['duration']!r} is not a number of seconds")
    audio = folder / row["audio_filepath"]
    speaker = row.get("speaker")
    return name, Utterance(
        id=_id(audio, folder) if row.get("id") in (None, "") else str(row["id"]),
        audio_filepath=audio,
        duration=duration,
        text=row["text"],
        speaker=str(speaker) if speaker not in (None, "") else None,
    )
