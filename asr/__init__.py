"""Compact speech recognition: `asr.load_model("bundle").transcribe("talk.mp3").text`."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.decoding.types import Alternative, Word
    from asr.inference.decoder import LoadOptions
    from asr.inference.transcriber import TranscribeOptions, Transcriber, load_model, transcribe
    from asr.inference.transcript import Segment, Transcript

# Before any module imports onnxruntime, whose Linux wheels else write a device id and look up a host.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "Alternative": "asr.decoding.types",
    "LoadOptions": "asr.inference.decoder",
    "Segment": "asr.inference.transcript",
    "TranscribeOptions": "asr.inference.transcriber",
    "Transcriber": "asr.inference.transcriber",
    "Transcript": "asr.inference.transcript",
    "Word": "asr.decoding.types",
    "load_model": "asr.inference.transcriber",
    "transcribe": "asr.inference.transcriber",
}

__all__ = [
    "Alternative",
    "LoadOptions",
    "Segment",
    "TranscribeOptions",
    "Transcriber",
    "Transcript",
    "Word",
    "load_model",
    "transcribe",
]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import asr` is cheap."""
    if name not in _HOMES:
        raise AttributeError(f"module 'asr' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
