"""What the commands say, and where."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from asr.errors import AsrError


def open_output(encoding: str | None = None) -> None:
    """Print what `encoding` lacks as an escape rather than fail; it defaults to what the user has set."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding or sys.stdout.encoding, errors="backslashreplace")


def complain(message: str) -> None:
    """One line on standard error."""
    print("asr:", message.replace("\n", "\\n"), file=sys.stderr)


def check_output(path: Path) -> None:
    """Find out now, not after the work."""
    if path.is_dir():
        raise AsrError(f"{path}: is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise AsrError(f"{path.parent}: nothing can be written here; name another folder")


@contextmanager
def stages() -> Iterator[Callable[[str], None]]:
    """Shows on a terminal what is done; silent in a pipe."""
    if not sys.stderr.isatty():
        yield lambda stage: None
        return
    from rich.console import Console

    with Console(stderr=True).status("") as status:
        yield status.update
