"""Transcripts as text: what is printed, and a function for each format of file."""

import json as jsonlib
import os
from collections.abc import Callable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from asr.decoding.types import Word
from asr.inference.subtitles import Cue, cues
from asr.inference.transcript import Transcript


def txt(transcript: Transcript, name: Path) -> str:
    """One line of text; where channels were transcribed by themselves, `CHANNEL: TEXT` a segment."""
    if all(segment.channel is None for segment in transcript.segments):
        return transcript.text + "\n"
    return "".join(f"{segment.channel}: {segment.text}\n" for segment in transcript.segments)


def srt(transcript: Transcript, name: Path) -> str:
    """SubRip. It has no marks for channels; cues of two channels may overlap."""
    blocks = [
        f"{number}\n{_clock(cue.start, ',')} --> {_clock(cue.end, ',')}\n" + "\n".join(cue.lines)
        for number, cue in enumerate(cues(transcript), start=1)
    ]
    return "\n\n".join(blocks) + "\n"


def vtt(transcript: Transcript, name: Path) -> str:
    """WebVTT (https://www.w3.org/TR/webvtt1), with channels as voices."""
    blocks = [
        f"{_clock(cue.start, '.')} --> {_clock(cue.end, '.')}\n{_voice(cue)}" for cue in cues(transcript)
    ]
    return "\n\n".join(["WEBVTT", *blocks]) + "\n"


def json(transcript: Transcript, name: Path) -> str:
    """The object of `json_line`."""
    return json_line(name, transcript) + "\n"


def tsv(transcript: Transcript, name: Path) -> str:
    """A segment a line: start, end (whole milliseconds) and text, below a line with these names."""
    rows = [
        f"{round(1000 * segment.start)}\t{round(1000 * segment.end)}\t{segment.text}\n"
        for segment in transcript.segments
    ]
    return "start\tend\ttext\n" + "".join(rows)


FORMATS: dict[str, Callable[[Transcript, Path], str]] = {
    "txt": txt,
    "srt": srt,
    "vtt": vtt,
    "json": json,
    "tsv": tsv,
}
"""From the suffix of a file to what it holds, of a transcript of the recording `name`; ends in a newline."""


def text_line(path: Path, transcript: Transcript, named: bool) -> str:
    """The text; `named` puts the file's name before it, as for one of several files."""
    return f"{_name(path)}: {transcript.text}".replace("\n", "\\n") if named else transcript.text


def json_line(path: Path, transcript: Transcript) -> str:
    """One JSON object: file, duration, text, segments, words, and n_best where there are alternatives.

    Seconds to the millisecond. A segment has a channel where each was transcribed by itself.
    """
    words = [_words(segment.words) for segment in transcript.segments]
    row: dict[str, Any] = {
        "file": _name(path),
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "segments": [
            {
                "start": round(segment.start, 3),
                "end": round(segment.end, 3),
                "text": segment.text,
                **({} if segment.channel is None else {"channel": segment.channel}),
                "words": rows,
            }
            for segment, rows in zip(transcript.segments, words, strict=True)
        ],
        "words": list(chain.from_iterable(words)),
    }
    if transcript.n_best:
        row["n_best"] = [{"text": a.text, "score": round(a.score, 4)} for a in transcript.n_best]
    return jsonlib.dumps(row, ensure_ascii=False)


def word_table(transcript: Transcript) -> str:
    """A line a word, parted by tabs: start and end in seconds, confidence, text."""
    return "\n".join(
        f"{word.start:.2f}\t{word.end:.2f}\t{word.confidence:.3f}\t{word.text}" for word in transcript.words
    )


def _words(words: Sequence[Word]) -> list[dict[str, Any]]:
    return [
        {
            "text": word.text,
            "start": round(word.start, 3),
            "end": round(word.end, 3),
            "confidence": round(word.confidence, 4),
        }
        for word in words
    ]


def _voice(cue: Cue) -> str:
    text = "\n".join(cue.lines).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return text if cue.channel is None else f"<v Channel {cue.channel}>{text}"


def _clock(seconds: float, point: str) -> str:
    """HH:MM:SS, `point` and milliseconds."""
    minutes, milliseconds = divmod(round(1000 * seconds), 60_000)
    return f"{minutes // 60:02}:{minutes % 60:02}:{milliseconds // 1000:02}{point}{milliseconds % 1000:03}"


def _name(path: Path) -> str:
    """A name that can be printed, even where the file system's bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")
