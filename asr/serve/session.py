"""The session object of OpenAI's realtime transcription: its updates, and the options that it stands for."""

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

from asr.inference.live import LiveOptions, LiveSession
from asr.inference.transcriber import Transcriber
from asr.serve import openai
from asr.serve.live import RATES, PcmReader, open_session
from asr.serve.openai import invalid

LOGPROBS = "item.input_audio_transcription.logprobs"
FORMATS = ("audio/pcm", "audio/pcmu", "audio/pcma")
DELAYS = {
    "minimal": (0.2, 0.2),
    "low": (0.4, 0.3),
    "medium": (0.4, 0.6),
    "high": (0.8, 1.0),
    "xhigh": (1.0, 2.0),
}
"""Chunk and look-ahead in seconds."""
PAUSES = (100, 10_000)
DEFAULTS: dict[str, Any] = {
    "type": "transcription",
    "object": "realtime.transcription_session",
    "audio": {
        "input": {
            "format": {"type": "audio/pcm", "rate": 24_000},
            "transcription": {"model": None, "language": None, "keywords": [], "delay": "medium"},
            "turn_detection": {
                "type": "server_vad",
                "threshold": 0.5,
                "prefix_padding_ms": 300,
                "silence_duration_ms": 500,
            },
        }
    },
    "include": None,
}


@dataclass(frozen=True)
class Server:
    """Settings that all sessions share.

    `name` is the only name of a model accepted, or None for any; `raw` texts have no punctuation.
    """

    model: Transcriber
    language: str = "en"
    name: str | None = None
    raw: bool = False


def open_live(session: dict[str, Any], server: Server) -> tuple[PcmReader, LiveSession]:
    """Begin to recognise. Raises ApiError for keywords that cannot be spelt."""
    given = session["audio"]["input"]
    turns, asked = given["turn_detection"], given["transcription"]
    chunk, ahead = DELAYS[asked["delay"]]
    pause = {"pause": turns["silence_duration_ms"] / 1000} if turns else {}
    options = LiveOptions(chunk=chunk, look_ahead=ahead, **pause)
    live = open_session(server.model, options, asked["keywords"], raw=server.raw)
    return PcmReader(given["format"]["type"], given["format"].get("rate", 8_000)), live


def read_session(given: Any, current: dict[str, Any], server: Server) -> dict[str, Any]:
    """The session after an update; what is not given stays. Raises ApiError; ignores unknown keys."""
    given = read_object(given, "session")
    session = deepcopy(current)
    if given.get("type", "transcription") != "transcription":
        raise invalid("session.type", "only sessions of type transcription are served")
    if "include" in given:
        session["include"] = _include(given["include"])
    asked = read_object(read_object(given.get("audio"), "audio").get("input"), "audio.input")
    found = session["audio"]["input"]
    if asked.get("format") is not None:
        found["format"] = _format(read_object(asked["format"], "format"))
    if asked.get("transcription") is not None:
        found["transcription"] |= _transcription(read_object(asked["transcription"], "transcription"), server)
    if "turn_detection" in asked:
        before = found["turn_detection"] or DEFAULTS["audio"]["input"]["turn_detection"]
        found["turn_detection"] = _turns(asked["turn_detection"], before)
    return session


def read_object(given: Any, name: str) -> dict[str, Any]:
    """A JSON object, or None for an empty one. Raises ApiError."""
    if not isinstance(given, dict | None):
        raise invalid(name, f"{name} is not a JSON object")
    return given or {}


def _include(given: Any) -> list[str] | None:
    if given is not None and (not isinstance(given, list) or any(name != LOGPROBS for name in given)):
        raise invalid("include", f"include is a list, of {LOGPROBS} only")
    return given or None


def _format(given: dict[str, Any]) -> dict[str, Any]:
    kind = openai.check_choice(given.get("type", "audio/pcm"), FORMATS, "format.type")
    if kind != "audio/pcm":
        return {"type": kind}
    return {"type": kind, "rate": int(_number(given, "rate", *RATES, 24_000))}


def _transcription(given: dict[str, Any], server: Server) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if given.get("model") is not None:
        found["model"] = openai.check_model(str(given["model"]), server.name)
    languages = _strings(given, "languages") or _strings({"language": [given.get("language")]}, "language")
    if languages:
        found["language"] = openai.check_language(languages, server.language)
    if "keywords" in given:
        found["keywords"] = list(openai.check_keywords(_strings(given, "keywords")))
    if given.get("delay") is not None:
        found["delay"] = openai.check_choice(given["delay"], tuple(DELAYS), "delay")
    return found


def _strings(given: dict[str, Any], name: str) -> list[str]:
    values = given.get(name) or []
    if not isinstance(values, list) or not all(isinstance(value, str | None) for value in values):
        raise invalid(name, f"{name} is not text")
    return [value for value in values if value]


def _turns(given: Any, before: dict[str, Any]) -> dict[str, Any] | None:
    if given is None:
        return None
    given = read_object(given, "turn_detection")
    openai.check_choice(given.get("type", "server_vad"), ("server_vad",), "turn_detection.type")
    limits = {"threshold": (0, 1), "prefix_padding_ms": (0, 10_000), "silence_duration_ms": PAUSES}
    return before | {name: _number(given, name, *limits[name], before[name]) for name in limits}


def _number(given: dict[str, Any], name: str, low: float, high: float, default: float) -> float:
    value = given.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise invalid(name, f"{name} is a number from {low} to {high}")
    return value
