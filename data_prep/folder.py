"""Your own recordings: a table of them, or a folder with a .txt file beside each."""

import csv
import io
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from asr import manifest
from asr.console import option
from asr.errors import PrepareError, UsageError
from asr.inference.inputs import SUFFIXES
from asr.manifest import Utterance
from asr.prepare import PrepareOptions, Problem, divide, measure, prepare_part
from asr.text import ENGLISH, normalize

DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = frozenset((".jsonl", ".json"))
REQUIRED = ("audio_filepath", "text")
KEYS = {"audio": "audio_filepath"} | {key: key for key in ("text", "id", "speaker", "duration", "offset")}
"""Names in `--columns` of the keys of a manifest."""

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
    columns: str = option(
        "names of a table's columns, such as audio=path,text=sentence,speaker=client_id for Common Voice's",
        "",
        metavar="KEY=NAME,...",
    )


def prepare(options: Options) -> list[Problem]:
    """Prepare a table or folder in `out`; return all problems.

    Raises PrepareError if `folder` is neither, or a table lacks a column.
    """
    utterances, problems = scan(options.folder, options.characters, options.out, options.columns)
    return prepare_part(
        options.out,
        utterances,
        problems,
        characters=options.characters,
        speeds=options.speeds,
        jobs=options.jobs,
    )


def scan(
    source: Path, characters: str = ENGLISH, exclude: Path | None = None, columns: str = ""
) -> tuple[list[Utterance], list[Problem]]:
    """Find the utterances of a table or folder; texts are normalised to the alphabet `characters`.

    An id defaults to the recording's path relative to the table or folder, without suffix. In a folder,
    hidden files and everything below `exclude` are ignored. `columns` renames those of a table.
    """
    rows, problems = divide(_read(source, exclude, _renamed(columns)))
    if not rows and not problems:
        raise PrepareError(f"{source}: no recordings")
    utterances, faults = measure(_without_common_folder(rows))
    return [_normalized(u, characters) for u in utterances], problems + faults


def _normalized(utterance: Utterance, characters: str) -> Utterance:
    """Normalise the text; what it was is kept as `formatted`, unless the table has that."""
    text = normalize(utterance.text, characters)
    original = utterance.text if utterance.text != text else None
    return replace(utterance, text=text, formatted=utterance.formatted or original)


def _renamed(columns: str) -> dict[str, str]:
    """Map names of columns to the keys of a manifest."""
    pairs = [item.partition("=")[::2] for item in columns.split(",") if item]
    for key, name in pairs:
        if key not in KEYS or not name:
            raise UsageError(f"--columns {columns}: expected KEY=NAME,... with the keys {', '.join(KEYS)}")
    return {name: KEYS[key] for key, name in pairs}


def _read(source: Path, exclude: Path | None, renamed: dict[str, str]) -> Iterator[Item]:
    suffix = source.suffix.lower()
    if source.is_dir():
        return _read_folder(source, exclude)
    if not source.exists():
        raise PrepareError(f"{source}: no such file or folder")
    if suffix in DELIMITERS:
        return _read_table(source, DELIMITERS[suffix], renamed)
    if suffix in JSON_LINES:
        return _read_json_lines(source, renamed)
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


def _relative(path: Path, folder: Path) -> Path:
    return path.relative_to(folder) if path.is_relative_to(folder) else path


def _id(path: Path, folder: Path) -> str:
    return manifest.default_id(_relative(path, folder), None)


def _without_common_folder(rows: list[tuple[str, Utterance]]) -> list[tuple[str, Utterance]]:
    """Shorten ids that are absolute paths, which differ between machines."""
    paths = {u.id for _, u in rows if Path(u.id).is_absolute()}
    top = os.path.commonpath([Path(path).parent for path in paths]) if paths else "/"
    return [(name, replace(u, id=os.path.relpath(u.id, top)) if u.id in paths else u) for name, u in rows]


def _read_table(table: Path, delimiter: str, renamed: dict[str, str]) -> Iterator[Item]:
    file = _open(table)
    header = file.readline()
    delimiter = ";" if delimiter not in header and ";" in header else delimiter  # where commas are decimal
    file.seek(0)
    reader = csv.reader(
        file,
        delimiter=delimiter,
        quoting=csv.QUOTE_NONE if delimiter == "\t" else csv.QUOTE_MINIMAL,
        strict=True,
    )
    try:
        keys = next(reader, [])
    except csv.Error as error:
        raise PrepareError(f"{table}:1: malformed line ({error})") from None
    names = {key: name for name, key in renamed.items()}
    for name in [*(names.get(key, key) for key in REQUIRED), *renamed]:
        if name not in keys:
            hint = "" if renamed else "; name it with --columns"
            raise PrepareError(f"{table}: no column {name!r} in the first line, only {', '.join(keys)}{hint}")
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
            yield _row(name, dict(zip(keys, fields, strict=True)), table.parent, renamed)


def _read_json_lines(path: Path, renamed: dict[str, str]) -> Iterator[Item]:
    for number, line in enumerate(_open(path), start=1):
        if number == 1 and line.strip() in ("[", "[{"):
            raise PrepareError(f"{path}: a JSON array; write one object per line")
        if line.strip():
            name = f"{path}:{number}"
            try:
                yield _row(name, json.loads(line), path.parent, renamed)
            except (ValueError, RecursionError) as error:
                yield Problem(name, f"malformed line ({error})")


def _open(path: Path) -> io.StringIO:
    try:
        return io.StringIO(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise PrepareError(f"{path}: cannot read the table ({error})") from None


def _row(name: str, row: Any, folder: Path, renamed: dict[str, str]) -> Item:
    """Convert a row; unlike in a manifest, duration, id and speaker may be empty.

    Recordings are beside the table, or in `clips` as those of Common Voice.
    """
    try:
        if not isinstance(row, dict):
            return name, manifest.parse(row, folder)
        row |= {key: row[column] for column, key in renamed.items() if column in row}
        filled = {key: value for key, value in row.items() if value not in (None, "") or key in REQUIRED}
        u = manifest.parse({"duration": 0.0, **filled}, folder)
        if "id" not in filled:
            u = replace(u, id=manifest.default_id(_relative(u.audio_filepath, folder), u.offset))
        clip = folder / "clips" / row["audio_filepath"]
        return name, replace(u, audio_filepath=clip) if not u.audio_filepath.exists() and clip.exists() else u
    except ValueError as error:
        return Problem(name, str(error))
