"""Compact, exact speech recognition: `asr.load_model("bundle").transcribe("talk.mp3").text`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from asr.decoding.hypothesis import Word
    from asr.inference.transcriber import Transcript, load_model, transcribe

__all__ = ["Transcript", "Word", "load_model", "transcribe"]


def __getattr__(name: str) -> Any:
    """Import the public names when they are first asked for, so that `import asr` costs nothing."""
    if name not in __all__:
        raise AttributeError(f"module 'asr' has no attribute {name!r}")
    from asr.inference import transcriber

    return getattr(transcriber, name)


def __dir__() -> list[str]:
    return sorted(__all__)
