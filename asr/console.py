"""What the commands say, and where."""

import io
import sys


def open_output(encoding: str | None = None) -> None:
    """Print what `encoding` lacks as an escape rather than fail; it defaults to what the user has set."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding=encoding or sys.stdout.encoding, errors="backslashreplace")


def complain(message: str) -> None:
    """One line on standard error."""
    print("asr:", message.replace("\n", "\\n"), file=sys.stderr)
