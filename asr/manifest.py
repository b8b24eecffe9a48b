"""Manifests: one JSON object per utterance and line, with NeMo's keys."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asr.audio import ReadOptions
from asr.errors import ManifestError
from asr.files import atomic_write


@dataclass(frozen=True)
class Utterance:
    """Speech by one speaker: audio file, duration in seconds, transcript.

    `offset`: it is a part of a longer recording and begins at this second.
    `formatted` is the transcript with punctuation and case, if the corpus has it.
    """

    id: str
    audio_filepath: Path
    duration: float
    text: str
    speaker: str | None = None
    offset: float | None = None
    formatted: str | None = None

    @property
    def part(self) -> ReadOptions:
        """Options to read its part of the recording."""
        if self.offset is None:
            return ReadOptions(strict=True)
        return ReadOptions(start=self.offset, end=self.offset + self.duration, strict=True)


def read(path: Path) -> list[Utterance]:
    """Read a manifest; relative audio paths are resolved against its folder.

    `id` defaults to `default_id`, as NeMo's manifests have no ids. Raises ManifestError with the line number
    if a line is not JSON, lacks a key or repeats an id.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ManifestError(f"{path}: cannot read the manifest ({reason})") from None
    utterances: dict[str, Utterance] = {}
    for number, line in enumerate(content.split("\n"), start=1):  # splitlines() would also split strings
        if not line.strip():
            continue
        try:
            utterance = parse(json.loads(line), path.parent)
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{path}:{number}: {error}") from None
        if utterance.id in utterances:
            raise ManifestError(f"{path}:{number}: duplicate id {utterance.id!r}")
        utterances[utterance.id] = utterance
    if not utterances:
        raise ManifestError(f"{path}: empty manifest")
    return list(utterances.values())


def parse(row: Any, folder: Path) -> Utterance:
    """Convert a decoded line. Raises ValueError if it is no object or a value is missing or wrong."""
    if not isinstance(row, dict):
        raise ValueError("expected one JSON object per line")
    for key in ("audio_filepath", "text"):
        if not isinstance(row.get(key), str):
            raise ValueError(f"the key {key!r} is missing or not a string")
    if not row["audio_filepath"]:
        raise ValueError("audio_filepath is empty")
    name, speaker = row.get("id"), row.get("speaker")
    offset = None if row.get("offset") in (None, "") else _seconds(row, "offset")
    formatted = row.get("formatted")
    return Utterance(
        id=default_id(Path(row["audio_filepath"]), offset) if name is None else str(name),
        audio_filepath=folder / row["audio_filepath"],
        duration=_seconds(row, "duration"),
        text=row["text"],
        speaker=None if speaker is None else str(speaker),
        offset=offset,
        formatted=None if formatted is None else str(formatted),
    )


def default_id(path: Path, offset: float | None) -> str:
    """The path without suffix; `@SECONDS` tells parts of a recording apart."""
    return path.with_suffix("").as_posix() + (f"@{offset:g}" if offset else "")


def _seconds(row: dict[str, Any], key: str) -> float:
    value = row.get(key)
    try:
        seconds = math.nan if isinstance(value, bool) else float(row[key])
    except (KeyError, TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"{key} {value!r} is not a number of seconds")
    return seconds


def write(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest, completely or not at all."""
    with atomic_write(path) as file:
        for u in utterances:
            row = asdict(u) | {"audio_filepath": str(u.audio_filepath)}
            row = {key: value for key, value in row.items() if value is not None}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
