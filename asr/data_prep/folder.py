"""A user's own recordings: a table of them, or a folder with a text beside each."""

import csv
import io
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from asr.data_prep.common import durations, prepare_part
from asr.errors import AudioError, PrepareError
from asr.features.extraction import Problem
from asr.manifest import Utterance
from asr.text import ENGLISH, normalize

SUFFIXES = frozenset((".wav", ".flac", ".ogg", ".opus", ".mp3", ".aif", ".aiff", ".au"))
DELIMITERS = {".csv": ",", ".tsv": "\t"}
JSON_LINES = frozenset((".jsonl", ".json"))
REQUIRED = ("audio_filepath", "text")

Item = tuple[str, Utterance] | Problem
"""An utterance with the name that its problems go by (line of a table or id), or a problem."""


def prepare(
    source: Path,
    out: Path,
    characters: str = ENGLISH,
    speeds: Sequence[float] = (),
    jobs: int = 1,
) -> list[Problem]:
    """Prepare a table (.csv, .tsv, .jsonl) or a folder in `out`; return all problems.

    Texts are brought to the alphabet `characters` by `text.normalize`. Raises PrepareError where `source`
    is neither, or a table lacks a column.
    """
    utterances, problems = scan(source, characters, leave_out=out)
    return prepare_part(out, utterances, problems, characters=characters, speeds=speeds, jobs=jobs)


def scan(
    source: Path, characters: str = ENGLISH, leave_out: Path | None = None
) -> tuple[list[Utterance], list[Problem]]:
    """The utterances of a table or a folder, and what is wrong with it.

    An id that is not given is the recording's path, seen from the table or the folder, without suffix.
    In a folder, hidden files and what lies below `leave_out` do not count.
    """
    items = list(_read(source, leave_out))
    problems = [item for item in items if isinstance(item, Problem)]
    rows = [item for item in items if not isinstance(item, Problem)]
    utterances = []
    lengths = durations([utterance.audio_filepath for _, utterance in rows])
    for (name, utterance), length in zip(rows, lengths, strict=True):
        if isinstance(length, AudioError):
            problems.append(Problem(name, str(length)))
        elif utterance.duration and not math.isclose(utterance.duration, length, rel_tol=0.05, abs_tol=0.5):
            stated = f"the duration is given as {utterance.duration:g} s"
            problems.append(Problem(name, f"{stated}, but {utterance.audio_filepath} lasts {length:g} s"))
        else:
            text = normalize(utterance.text, characters)
            utterances.append(replace(utterance, duration=length, text=text))
    if not items:
        raise PrepareError(f"{source}: no recording is there")
    return utterances, problems


def _read(source: Path, leave_out: Path | None) -> Iterator[Item]:
    suffix = source.suffix.lower()
    if source.is_dir():
        yield from _read_folder(source, leave_out)
    elif not source.exists():
        raise PrepareError(f"{source}: no such file or folder")
    elif suffix in DELIMITERS:
        yield from _read_table(source, DELIMITERS[suffix])
    elif suffix in JSON_LINES:
        yield from _read_json_lines(source)
    else:
        raise PrepareError(f"{source}: expected a folder or a .csv, .tsv or .jsonl file")


def _read_folder(folder: Path, leave_out: Path | None) -> Iterator[Item]:
    left_out = leave_out and leave_out.absolute()
    files = [
        path
        for path in sorted(folder.rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and not (left_out is not None and path.absolute().is_relative_to(left_out))
    ]
    recordings = [path for path in files if path.suffix.lower() in SUFFIXES]
    texts = {path.with_suffix(""): path for path in files if path.suffix.lower() == ".txt"}
    heard = {path.with_suffix("") for path in recordings}
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
        if stem not in heard:
            yield Problem(_id(path, folder), f"transcript without audio: no recording beside {path}")


def _id(path: Path, folder: Path) -> str:
    path = path.with_suffix("")
    return (path.relative_to(folder) if path.is_relative_to(folder) else path).as_posix()


def _read_table(table: Path, delimiter: str) -> Iterator[Item]:
    if delimiter == "\t":
        reader = csv.reader(_lines(table), delimiter="\t", quoting=csv.QUOTE_NONE)
    else:
        reader = csv.reader(_lines(table), delimiter=delimiter, strict=True)
    try:
        keys = next(reader, [])
    except csv.Error as error:
        raise PrepareError(f"{table}:1: broken line ({error})") from None
    for key in REQUIRED:
        if key not in keys:
            raise PrepareError(f"{table}: no column {key!r} in the first line, which has {', '.join(keys)}")
    while True:
        first = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            last = f" to {reader.line_num}" if reader.line_num > first else ""
            yield Problem(f"{table}:{first}", f"broken line{last} ({error})")
            continue
        if fields is None:
            return
        if fields and len(fields) != len(keys):
            yield Problem(f"{table}:{first}", f"broken line ({len(fields)} fields, expected {len(keys)})")
        elif fields:
            yield _row(f"{table}:{first}", dict(zip(keys, fields, strict=True)), table.parent)


def _read_json_lines(path: Path) -> Iterator[Item]:
    for number, line in enumerate(_lines(path), start=1):
        name = f"{path}:{number}"
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield Problem(name, f"broken line ({error})")
            continue
        if isinstance(row, dict):
            yield _row(name, row, path.parent)
        else:
            yield Problem(name, "broken line (expected a JSON object)")


def _lines(path: Path) -> io.StringIO:
    try:
        return io.StringIO(path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise PrepareError(f"{path}: cannot read the table ({error})") from None


def _row(name: str, row: dict[str, Any], folder: Path) -> Item:
    for key in REQUIRED:
        if not isinstance(row.get(key), str):
            return Problem(name, f"the key {key!r} is missing or not a string")
    if not row["audio_filepath"]:
        return Problem(name, "the audio_filepath is empty")
    if row.get("offset") not in (None, "", 0, 0.0, "0", "0.0"):
        return Problem(name, "an offset into a longer recording is not supported; cut the recording first")
    try:
        duration = float(row.get("duration") or 0)
    except (TypeError, ValueError, OverflowError):
        duration = math.nan
    if not 0 <= duration < math.inf:
        return Problem(name, f"duration {row['duration']!r} is not a length in seconds")
    audio = folder / row["audio_filepath"]
    speaker = row.get("speaker")
    return name, Utterance(
        id=_id(audio, folder) if row.get("id") in (None, "") else str(row["id"]),
        audio_filepath=audio,
        duration=duration,
        text=row["text"],
        speaker=str(speaker) if speaker not in (None, "") else None,
    )
