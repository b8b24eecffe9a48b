"""What a preparation shows: everything on stderr, progress bars on a terminal only."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn


def open_console() -> Console:
    """Plain lines on stderr, neither wrapped nor coloured nor searched for markup."""
    return Console(stderr=True, soft_wrap=True, highlight=False, markup=False, emoji=False)


def progress_bar(console: Console, *columns: ProgressColumn) -> Progress:
    """A bar with `columns` behind it that vanishes at the end; silent where stderr is not a terminal."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
