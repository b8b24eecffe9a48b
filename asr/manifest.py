"""Manifests: one utterance a line, as JSON, with NeMo's key names."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.errors import ManifestError
from asr.files import atomic_write


@dataclass(frozen=True)
class Utterance:
    """A stretch of speech by one speaker: where its audio is, how long (seconds), what was said."""

    id: str
    audio_filepath: Path
    duration: float
    text: str
    speaker: str | None = None


def read(path: Path) -> list[Utterance]:
    """The utterances of a manifest; relative audio paths start at the manifest's folder.

    `id` defaults to the recording's path as it is written, without suffix: NeMo's manifests have no ids.
    Raises ManifestError with the line's number where a line is not JSON, lacks a key or repeats an id.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ManifestError(f"{path}: cannot read the manifest ({error.strerror})") from None
    except UnicodeDecodeError as error:
        raise ManifestError(f"{path}: the manifest is not UTF-8 (byte {error.start})") from None
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
            raise ManifestError(f"{path}:{number}: the id {utterance.id!r} stands twice; ids must be unique")
        utterances[utterance.id] = utterance
    if not utterances:
        raise ManifestError(f"{path}: the manifest holds no utterance")
    return list(utterances.values())


def _parse(row: Any, folder: Path) -> Utterance:
    if not isinstance(row, dict):
        raise ValueError("expected a JSON object a line")
    for key in ("audio_filepath", "duration", "text"):
        if key not in row:
            raise ValueError(f"the key {key!r} is missing")
    if not isinstance(row["text"], str) or not isinstance(row["audio_filepath"], str):
        raise ValueError("text and audio_filepath must be strings")
    if not row["audio_filepath"]:
        raise ValueError("the audio_filepath is empty")
    if row.get("offset"):
        raise ValueError("an offset into a longer recording is not supported; cut the recording first")
    identity, speaker = row.get("id"), row.get("speaker")
    if identity is None:
        identity = Path(row["audio_filepath"]).with_suffix("").as_posix()
    return Utterance(
        id=str(identity),
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
        raise ValueError(f"duration {value!r} is not a length in seconds")
    return seconds


def write(path: Path, utterances: Iterable[Utterance]) -> None:
    """Write a manifest whole or not at all."""
    with atomic_write(path) as file:
        for u in utterances:
            row = {
                "id": u.id,
                "audio_filepath": str(u.audio_filepath),
                "duration": u.duration,
                "text": u.text,
            }
            if u.speaker is not None:
                row["speaker"] = u.speaker
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
