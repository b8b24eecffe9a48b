"""Fields of option dataclasses, which are arguments of commands and settings of the API alike."""

from dataclasses import MISSING, field
from typing import Any


def option(help: str, default: Any = MISSING, **metadata: Any) -> Any:
    """Declare a field with its help; asr.cli.add_flags documents the other metadata."""
    return field(default=default, metadata={"help": help, **metadata})
