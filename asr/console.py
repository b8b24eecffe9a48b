"""What the commands say, and where."""

import io
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from asr.errors import AsrError

if TYPE_CHECKING:  # slow to import
    from rich.progress import Progress, ProgressColumn


def open_output(encoding: str | None = None) -> None:
    """Print what `encoding` lacks as an escape rather than fail; it defaults to what the user has set."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding or sys.stdout.encoding, errors="backslashreplace")


def print_error(message: str) -> None:
    """One line on standard error."""
    print("asr:", message.replace("\n", "\\n"), file=sys.stderr)


def exit_code(work: Callable[[], int]) -> int:
    """Do what a command does; what a user can mend is said in one line. Returns its exit status."""
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
        if not isinstance(error, BrokenPipeError):  # then the reader of our output has left, as `head` does
            print_error(f"{error.strerror or error}")
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


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


def progress_bar(*columns: "ProgressColumn | str") -> "Progress":
    """Create a progress bar on stderr with `columns` after it, hidden unless stderr is a terminal.

    It disappears when done. Lines printed to stderr meanwhile appear above it.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    return Progress(
        *("{task.description}", BarColumn(), *columns, TimeRemainingColumn()),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
