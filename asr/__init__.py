"""Compact speech recognition: `asr.load_model("bundle").transcribe("talk.mp3").text`."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.decoding.types import Alternative, Word
    from asr.formatting.readable import LiveFormatter, format_text
    from asr.inference.decoder import LoadOptions
    from asr.inference.live import LiveOptions, LiveSession
    from asr.inference.transcriber import TranscribeOptions, Transcriber, load_model, transcribe
    from asr.inference.transcript import Segment, Transcript

# Before any module imports onnxruntime, whose Linux wheels else write a device id and look up a host.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {
    "asr.decoding.types": ("Alternative", "Word"),
    "asr.formatting.readable": ("LiveFormatter", "format_text"),
    "asr.inference.decoder": ("LoadOptions",),
    "asr.inference.live": ("LiveOptions", "LiveSession"),
    "asr.inference.transcriber": ("TranscribeOptions", "Transcriber", "load_model", "transcribe"),
    "asr.inference.transcript": ("Segment", "Transcript"),
}

__all__ = [
    "Alternative",
    "LiveFormatter",
    "LiveOptions",
    "LiveSession",
    "LoadOptions",
    "Segment",
    "TranscribeOptions",
]
__all__ += ["Transcriber", "Transcript", "Word", "format_text", "load_model", "transcribe"]


def __getattr__(name: str) -> Any:
    """Import public names on first use, so that `import asr` is cheap."""
    for module, names in _HOMES.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'asr' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
