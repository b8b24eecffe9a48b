"""OpenAI's audio API as pure functions: form fields -> task, transcript -> answer, errors, events.

Shapes: https://github.com/openai/openai-openapi, checked with the openai package.
"""

import json
import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from asr.decoding.types import Word
from asr.errors import AsrError, AudioError, AudioTooLongError, UnsupportedAudioError
from asr.inference import writers
from asr.inference.transcript import Segment, Transcript

FORMATS = ("json", "text", "srt", "verbose_json", "vtt")
MEDIA_TYPES = {"text": "text/plain", "srt": "application/x-subrip", "vtt": "text/vtt"}
FILES = ("txt", "srt", "vtt", "json")
"""Files that `include[]=files` returns, with the content that `asr transcribe --format` writes."""
GRANULARITIES = ("word", "segment")
LANGUAGES = {"en": "english"}
MOST_KEYWORDS, LONGEST_KEYWORD = 100, 200

_TYPES = {401: "authentication_error", 429: "rate_limit_error"}


class ApiError(Exception):
    """An answer other than a transcript. `retry` is seconds after which it may succeed."""

    def __init__(
        self, status: int, code: str, message: str, param: str | None = None, retry: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.param, self.retry = status, code, param, retry

    def body(self) -> dict[str, Any]:
        """The JSON object that clients read."""
        kind = "server_error" if self.status >= 500 else _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": str(self), "type": kind, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        """Headers that say whether to retry: clients send a recording three times on any other 5xx."""
        if self.retry is not None:
            return {"retry-after": str(self.retry)}
        return {"x-should-retry": "false"}


def invalid(param: str, message: str) -> ApiError:
    """A field that cannot be used."""
    return ApiError(400, "invalid_value", message, param)


def as_api_error(error: Exception) -> ApiError:
    """Convert an error of a transcription; status 500 if the client did not cause it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, AudioTooLongError):
        return ApiError(413, "audio_too_long", str(error), "file")
    if isinstance(error, UnsupportedAudioError):
        return ApiError(415, "unsupported_format", str(error), "file")
    if isinstance(error, AudioError):
        return ApiError(400, "invalid_audio", str(error), "file")
    message = str(error) if isinstance(error, AsrError) else "the server failed; its log says why"
    return ApiError(500, "server_error", message)


@dataclass(frozen=True)
class Task:
    """Fields of a request."""

    format: str = "json"
    stream: bool = False
    keywords: tuple[str, ...] = ()
    granularities: tuple[str, ...] = ("segment",)
    logprobs: bool = False
    files: bool = False
    language: str = "en"
    name: str = "audio"


def read_task(
    fields: Iterable[tuple[str, str]], language: str = "en", model: str | None = None, name: str = "audio"
) -> Task:
    """Read the fields of a form. Raises ApiError for those that would change the answer and are not known.

    Ignored: `prompt`, `temperature`, `chunking_strategy`, and what other servers added. `model` is the only
    name accepted, or None for any.
    """
    given: dict[str, list[str]] = {}
    for field, value in fields:
        if field.startswith("known_speaker"):
            raise invalid(field, f"{field}: this server does not tell speakers apart; leave it out")
        given.setdefault(re.sub(r"\[\d*\]$", "", field), []).append(value)
    check_model(_last(given, "model", model or ""), model)
    included = _include(given.get("include", []))
    task = Task(
        format=check_choice(_last(given, "response_format", "json"), FORMATS, "response_format"),
        stream=_flag(_last(given, "stream", "false")),
        keywords=check_keywords(given.get("keywords", [])),
        granularities=_granularities(given.get("timestamp_granularities", [])),
        logprobs="logprobs" in included,
        files="files" in included,
        name=name,
        language=check_language(given.get("languages") or [_last(given, "language", language)], language),
    )
    if task.stream and task.format not in ("json", "text"):
        raise invalid("stream", f"stream sends text; with response_format {task.format} leave it out")
    if included and task.format != "json":
        raise invalid("include", f"include[]={included[0]} needs response_format json")
    return task


def check_model(asked: str, model: str | None) -> str:
    """The name of a model. Raises ApiError unless it is `model`, or that is None."""
    if model is not None and asked != model:
        raise ApiError(404, "model_not_found", f"no model {_shown(asked)}; this server has {model}", "model")
    return asked


def _last(given: Mapping[str, Sequence[str]], name: str, default: str) -> str:
    return next((value for value in reversed(given.get(name, ())) if value.strip()), default).strip()


def _shown(value: str) -> str:
    """A value of the client's in a message."""
    return repr(value if len(value) <= 100 else f"{value[:100]}…")


def check_choice(value: Any, known: Sequence[str], param: str) -> str:
    """A value that must be one of several. Raises ApiError."""
    if value not in known:
        raise invalid(param, f"{param} {_shown(str(value))} is not known; use one of {', '.join(known)}")
    return str(value)


def _flag(value: str) -> bool:
    if value.lower() not in ("true", "false", "1", "0"):
        raise invalid("stream", f"stream is {_shown(value)}; send true or false")
    return value.lower() in ("true", "1")


def check_keywords(values: Sequence[str]) -> tuple[str, ...]:
    """Words to favour. Raises ApiError if they are too many or too long."""
    words = tuple(value.strip() for value in values if value.strip())
    if len(words) > MOST_KEYWORDS or any(len(word) > LONGEST_KEYWORD for word in words):
        raise invalid(
            "keywords", f"keywords: at most {MOST_KEYWORDS}, each of at most {LONGEST_KEYWORD} characters"
        )
    return words


def _granularities(values: Sequence[str]) -> tuple[str, ...]:
    names = re.findall(r"\w+", " ".join(values))  # clients also send lists in commas or JSON
    for name in names:
        check_choice(name, GRANULARITIES, "timestamp_granularities")
    return tuple(names) or ("segment",)


def _include(values: Sequence[str]) -> Sequence[str]:
    names = re.findall(r"[\w.]+", " ".join(values))
    for name in names:
        check_choice(name, ("logprobs", "files"), "include")
    return names


def check_language(asked: Sequence[str], language: str) -> str:
    """Check the languages asked for: a code, with a region or not, or an English name."""
    known = {language, LANGUAGES.get(language, language), "auto"}
    if not any(re.split("[-_]", value.strip().lower())[0] in known for value in asked):
        raise ApiError(
            400,
            "unsupported_language",
            f"language {_shown(', '.join(asked))}: this server's model is for {language}",
            "language",
        )
    return language


# --------------------------------------------------------------------------------------------- answers


def render(transcript: Transcript, task: Task) -> tuple[str, str]:
    """Content and media type of an answer that is sent as a whole."""
    if task.format in MEDIA_TYPES:
        write = writers.FORMATS["txt" if task.format == "text" else task.format]
        return write(transcript, Path("audio")), MEDIA_TYPES[task.format]
    make = _verbose if task.format == "verbose_json" else _plain
    return json.dumps(make(transcript, task), ensure_ascii=False), "application/json"


def _plain(transcript: Transcript, task: Task) -> dict[str, Any]:
    answer = {"text": transcript.text, **_doubts(transcript), "usage": _usage(transcript)}
    if task.files:
        path = Path(task.name)
        answer["files"] = {kind: writers.FORMATS[kind](transcript, path) for kind in FILES}
    return answer | ({"logprobs": logprobs(transcript.words)} if task.logprobs else {})


def _verbose(transcript: Transcript, task: Task) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "task": "transcribe",
        "language": LANGUAGES.get(task.language, task.language),
        "duration": round(transcript.duration, 3),
        "text": transcript.text,
    }
    if "segment" in task.granularities:
        answer["segments"] = [_segment(number, part) for number, part in enumerate(transcript.segments)]
    if "word" in task.granularities:
        answer["words"] = [word_entry(word) for word in transcript.words]
    return {**answer, **_doubts(transcript), "usage": _usage(transcript)}


def _segment(number: int, segment: Segment) -> dict[str, Any]:
    """All ten keys of the reference: strict clients need them."""
    text = segment.text.encode()
    return {
        "id": number,
        "seek": 0,
        "start": round(segment.start, 3),
        "end": round(segment.end, 3),
        "text": segment.text,
        "tokens": [],
        "temperature": 0.0,
        "avg_logprob": round(sum(map(_logprob, segment.words)) / len(segment.words), 4),
        "compression_ratio": round(len(text) / len(zlib.compress(text)), 4),  # as Whisper has it
        "no_speech_prob": 0.0,
    }


def word_entry(word: Word) -> dict[str, Any]:
    """A word with its times and confidence."""
    start, end, confidence = round(word.start, 3), round(word.end, 3), round(word.confidence, 4)
    return {"word": word.text, "start": start, "end": end, "confidence": confidence}


def _logprob(word: Word) -> float:
    return math.log(max(word.confidence, 1e-9))


def logprobs(words: Sequence[Word], first: bool = True) -> list[dict[str, Any]]:
    """One entry a word; joined, their tokens are the text. `first`: of the text."""
    texts = [word.text if first and not i else f" {word.text}" for i, word in enumerate(words)]
    return [
        {"token": text, "bytes": list(text.encode()), "logprob": round(_logprob(word), 4)}
        for text, word in zip(texts, words, strict=True)
    ]


def _usage(transcript: Transcript) -> dict[str, Any]:
    return {"type": "duration", "seconds": math.ceil(transcript.duration)}


def _doubts(transcript: Transcript) -> dict[str, Any]:
    """Keys of our own, which clients pass through: what is missing of the recording, and why to doubt it."""
    found = {"incomplete": transcript.incomplete, "warnings": list(transcript.warnings)}
    return {key: value for key, value in found.items() if value}


# -------------------------------------------------------------------------------------- server-sent events


def event(content: Mapping[str, Any]) -> bytes:
    """One server-sent event."""
    return f"data: {json.dumps(content, ensure_ascii=False)}\n\n".encode()


KEEP_ALIVE = b": keep-alive\n\n"


def delta(words: Sequence[Word], first: bool, task: Task) -> dict[str, Any]:
    """Words that are final; `first` of the text. Joined, the deltas are the text."""
    text = " ".join(word.text for word in words)
    content = {"type": "transcript.text.delta", "delta": text if first else f" {text}"}
    return content | ({"logprobs": logprobs(words, first)} if task.logprobs else {})


def done(transcript: Transcript, task: Task) -> dict[str, Any]:
    """The last event."""
    return {"type": "transcript.text.done", **_plain(transcript, task)}


# ----------------------------------------------------------------------------------------------- models


def model_entry(name: str, created: int) -> dict[str, Any]:
    """An entry of `GET /v1/models`."""
    return {"id": name, "object": "model", "created": created, "owned_by": "asr"}
