"""Manifests: one JSON object per utterance and line, with NeMo's keys."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asr.errors import ManifestError
from asr.files import atomic_write


@dataclass(frozen=True)
class Utterance:
    """Speech by one speaker: audio file, duration in seconds, transcript."""

    id: str
    audio_filepath: Path
    duration: float
    text: str
    speaker: str | None = None


def read(path: Path) -> list[Utterance]:
    """Read a manifest; relative audio paths are resolved against its folder.

    `id` defaults to `audio_filepath` without suffix, as NeMo's manifests have no ids. Raises ManifestError
    with the line number if a line is not JSON, lacks a key or repeats an id.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the manifest ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: not UTF-8 (byte {error.start})") from None
    utterances: dict[str, Utterance] = {}
    for number, line in enumerate(content.split("\n"), start=1):  # splitlines() would also split strings
        if not line.strip():
            continue
        try:
            utterance = _parse(json.loads(line), path.parent)
        except json.JSONDecodeError as error:
            raise ManifestError(f"{path}:{number}: not JSON ({error.msg}, column {error.colno})") from None
        except (ValueError, RecursionError) as error:
            raise ManifestError(f"{path}:{number}: {error}") from None
        if utterance.id in utterances:
            raise ManifestError(f"{path}:{number}: duplicate id {utterance.id!r}")
        utterances[utterance.id] = utterance
    if not utterances:
        raise ManifestError(f"{path}: empty manifest")
    return list(utterances.values())


def _parse(row: Any, folder: Path) -> Utterance:
    if not isinstance(row, dict):
        raise ValueError("expected one JSON object per line")
    for key in ("audio_filepath", "duration", "text"):
        if key not in row:
            raise ValueError(f"the key {key!r} is missing")
    if not isinstance(row["text"], str) or not isinstance(row["audio_filepath"], str):
        raise ValueError("text and audio_filepath must be strings")
    if not row["audio_filepath"]:
        raise ValueError("audio_filepath is empty")
    if row.get("offset"):
        raise ValueError("offset into a longer recording is not supported; cut the recording first")
    name, speaker = row.get("id"), row.get("speaker")
    return Utterance(
        id=Path(row["audio_filepath"]).with_suffix("").as_posix() if name is None else str(name),
        audio_filepath=folder / row["audio_filepath"],
        duration=_seconds(row["duration"]),
        text=row["text"],
        speaker=None if speaker is None else str(speaker),
    )


def _seconds(value: Any) -> float:
    try:
        seconds = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError(f"duration {value!r} is not a number of seconds")
    return seconds


def write(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest, completely or not at all."""
    with atomic_write(path) as file:
        for u in utterances:
            row = asdict(u) | {"audio_filepath": str(u.audio_filepath)}
            if u.speaker is None:
                del row["speaker"]
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
