"""The terminal: declaration of arguments, messages, exit codes, the progress bar."""

import io
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import MISSING, field
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Any

from asr.errors import AsrError

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

Update = Callable[..., None]
"""`update(stage, seconds=0.0, count=0)`: name the stage; add seconds of audio, or items, that are done."""


def option(help: str, default: Any = MISSING, **metadata: Any) -> Any:
    """Declare a field of an option dataclass with its help; asr.cli.add_flags documents other metadata."""
    return field(default=default, metadata={"help": help, **metadata})


announce_compilation = Event()
"""Set by the command line: the next compilation of inner loops by asr.jit is announced."""


def open_output(encoding: str | None = None) -> None:
    """Set the encoding of stdout (default: the user's); characters it lacks are printed as escapes."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding or sys.stdout.encoding, errors="backslashreplace")


def print_error(message: str) -> None:
    """Print one line to stderr."""
    print("asr:", message.replace("\n", "\\n"), file=sys.stderr)


def exit_code(work: Callable[[], int]) -> int:
    """Run a command and return its exit code; an error that the user can fix is printed as one line."""
    try:
        try:
            return work()
        except AsrError as error:
            print_error(str(error))
            return error.status
        finally:
            print(end="", flush=True)  # here, where a failure can still be handled
    except KeyboardInterrupt:
        print_error("interrupted")
        return 130
    except OSError as error:
        if error.filename is not None:
            print_error(f"{error.filename}: {error.strerror}")
            return 1
        if not isinstance(error, BrokenPipeError):  # the reader of our output has left, as `head` does
            print_error(f"{error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def check_output(path: Path) -> None:
    """Raise AsrError if the file `path` cannot be written: before the work, not after it."""
    if path.is_dir():
        raise AsrError(f"{path}: is a folder; name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise AsrError(f"{path.parent}: no permission to write there; name another folder")


def progress_bar(*columns: "ProgressColumn | str") -> "Progress":
    """Make a progress bar on stderr with `columns` after it, hidden if stderr is not a terminal.

    It disappears when done. Lines printed meanwhile stay above it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    return Progress(
        *("{task.description}", BarColumn(), *columns, TimeRemainingColumn()),
        console=console,
        transient=True,
        redirect_stdout=sys.stdout.isatty(),  # a pipe or a file is written to directly
        disable=not console.is_terminal,
    )


@contextmanager
def progress(
    stage: str = "", seconds: float | None = None, count: int | None = None, show: bool = True
) -> Iterator[Update]:
    """Show a bar for `seconds` of audio, or else `count` items. Any thread may call what is yielded."""
    if not (show and sys.stderr.isatty()):  # rich is slow to import
        yield lambda stage="", seconds=0.0, count=0: None
        return
    begin, audio, lock = time.monotonic(), 0.0, Lock()
    of = f" of {seconds / 60:.1f}" if seconds else ""

    def update(stage: str = "", seconds: float = 0.0, count: int = 0) -> None:
        nonlocal audio
        with lock:
            audio += seconds
            speed = audio / max(time.monotonic() - begin, 1e-3)
            done = f"{audio / 60:.1f}{of} min, {speed:.0f} x real time" if audio else ""
            bar.update(task, description=stage or None, advance=seconds if of else count, done=done)

    with progress_bar("{task.fields[done]}") as bar:
        task = bar.add_task(stage, total=seconds or count, done="")
        yield update
