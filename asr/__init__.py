"""Compact, exact speech recognition: `asr.load_model("bundle").transcribe("talk.mp3").text`."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.decoding.types import Alternative, Word
    from asr.inference.transcriber import Transcriber, load_model, transcribe
    from asr.inference.transcript import Segment, Transcript

_HOMES = {
    "Alternative": "asr.decoding.types",
    "Segment": "asr.inference.transcript",
    "Transcriber": "asr.inference.transcriber",
    "Transcript": "asr.inference.transcript",
    "Word": "asr.decoding.types",
    "load_model": "asr.inference.transcriber",
    "transcribe": "asr.inference.transcriber",
}

__all__ = ["Alternative", "Segment", "Transcriber", "Transcript", "Word", "load_model", "transcribe"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first asked for, so that `import asr` costs nothing."""
    if name not in _HOMES:
        raise AttributeError(f"module 'asr' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
