"""Transcripts as text: output on a terminal, and one function per file format."""

import json as jsonlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from asr.decoding.types import Word
from asr.inference.subtitles import Cue, cues
from asr.inference.transcript import Segment, Transcript


def txt(transcript: Transcript, name: Path) -> str:
    """A line per paragraph, or `CHANNEL: TEXT` per segment if channels were transcribed separately."""
    if all(segment.channel is None for segment in transcript.segments):
        return "\n".join(transcript.paragraphs) + "\n"
    return "".join(f"{segment.channel}: {segment.text}\n" for segment in transcript.segments)


def srt(transcript: Transcript, name: Path) -> str:
    """SubRip, which has no channels: cues of two channels may overlap."""
    return "\n".join(srt_cue(cue, number) for number, cue in enumerate(cues(transcript), start=1)) or "\n"


def srt_cue(cue: Cue, number: int) -> str:
    """One cue of a SubRip file, without the empty line after it."""
    times = f"{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}"
    return "\n".join([str(number), times, *cue.lines]) + "\n"


def vtt(transcript: Transcript, name: Path) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1); channels become voices."""
    blocks = [
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_voice(cue)}" for cue in cues(transcript)
    ]
    return "\n\n".join(["WEBVTT", *blocks]) + "\n"


def json(transcript: Transcript, name: Path) -> str:
    """The object of `json_line`."""
    return json_line(name, transcript) + "\n"


def tsv(transcript: Transcript, name: Path) -> str:
    """Columns start, end (milliseconds) and text, with a header; one row per segment."""
    rows = ((round(1000 * s.start), round(1000 * s.end), s.text) for s in transcript.segments)
    return "".join("\t".join(map(str, row)) + "\n" for row in (("start", "end", "text"), *rows))


FORMATS: dict[str, Callable[[Transcript, Path], str]] = {f.__name__: f for f in (txt, srt, vtt, json, tsv)}
"""Writers by file suffix: transcript and path of the recording -> content, which ends in a newline."""


def text_line(path: Path, transcript: Transcript, named: bool) -> str:
    """The text, a line per paragraph; if `named`, `FILE: TEXT` in one line."""
    if named:
        return f"{_name(path)}: {transcript.text}".replace("\n", "\\n")
    return "\n".join(transcript.paragraphs)


def json_line(path: Path, transcript: Transcript) -> str:
    """One JSON object: file, duration, text, segments, words; incomplete and n_best if there are any.

    Times are in seconds, to the millisecond. A segment has a channel if channels were transcribed separately.
    """
    segments = [_segment(segment) for segment in transcript.segments]
    row: dict[str, Any] = {
        "file": _name(path),
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "segments": segments,
        "words": [word for segment in segments for word in segment["words"]],
    }
    if transcript.incomplete:
        row["incomplete"] = transcript.incomplete
    if transcript.n_best:
        row["n_best"] = [{"text": a.text, "score": round(a.score, 4)} for a in transcript.n_best]
    return jsonlib.dumps(row, ensure_ascii=False)


def word_table(transcript: Transcript) -> str:
    """Tab-separated start and end in seconds, confidence and text; one row per word."""
    rows = (f"{w.start:.2f}\t{w.end:.2f}\t{w.confidence:.3f}\t{w.text}" for w in transcript.words)
    return "\n".join(rows)


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        **({} if segment.channel is None else {"channel": segment.channel}),
        "words": [_word(word) for word in segment.words],
    }


def _word(word: Word) -> dict[str, Any]:
    start, end, confidence = round(word.start, 3), round(word.end, 3), round(word.confidence, 4)
    return {"text": word.text, "start": start, "end": end, "confidence": confidence}


def _voice(cue: Cue) -> str:
    text = "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text if cue.channel is None else f"<v Channel {cue.channel}>{text}"


def _clock(seconds: float, point: str) -> str:
    """Format as HH:MM:SS, `point`, milliseconds."""
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _name(path: Path) -> str:
    """A printable name, even if the file system's bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")
