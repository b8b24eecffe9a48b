"""Transcripts as lines of output."""

import json
import os
from pathlib import Path

from asr.inference.transcriber import Transcript


def text_line(path: Path, transcript: Transcript, named: bool) -> str:
    """The text; `named` puts the file's name before it, as for one of several files."""
    return f"{_name(path)}: {transcript.text}" if named else transcript.text


def json_line(path: Path, transcript: Transcript) -> str:
    """One JSON object: file, duration, text, and words with start and end in seconds, to the millisecond."""
    words = [
        {
            "text": word.text,
            "start": round(word.start, 3),
            "end": round(word.end, 3),
            "confidence": round(word.confidence, 4),
        }
        for word in transcript.words
    ]
    row = {
        "file": _name(path),
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
        "words": words,
    }
    return json.dumps(row, ensure_ascii=False)


def word_table(transcript: Transcript) -> str:
    """A line a word, parted by tabs: start and end in seconds, confidence, text."""
    return "\n".join(
        f"{word.start:.2f}\t{word.end:.2f}\t{word.confidence:.3f}\t{word.text}" for word in transcript.words
    )


def _name(path: Path) -> str:
    """A name that can be printed, even where the file system's bytes are not UTF-8."""
    return os.fsencode(path).decode("utf-8", "replace")
