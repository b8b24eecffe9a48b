"""How loops are compiled, by numba."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba import njit
from numba.core.event import Event, Listener, install_listener


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function when it is first called, and keep it for other processes where that is possible."""
    return _compile(function)


def kernel(function: Callable[..., Any]) -> Any:
    """The same for an inner loop that allocates nothing: there, references to arrays are not counted.

    To count them took half of the time of beam search.
    """
    return _compile(function, _nrt=False)


def _compile(function: Callable[..., Any], **options: bool) -> Any:
    try:
        return njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's can be written to
        return njit(nogil=True, **options)(function)


class _Notice(Listener):  # type: ignore[misc]  # numba has no types
    def __init__(self, notify: Callable[[], None]) -> None:
        self._notify: Callable[[], None] | None = notify

    def on_start(self, event: Event) -> None:
        notify, self._notify = self._notify, None
        if notify:
            notify()

    def on_end(self, event: Event) -> None:
        pass


@contextmanager
def on_first_compilation(notify: Callable[[], None]) -> Iterator[None]:
    """Call `notify` when, within this context, a function is compiled for the first time."""
    with install_listener("numba:compile", _Notice(notify)):
        yield
