"""Compilation of inner loops by numba."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from numba import njit
from numba.core.event import Event, Listener, install_listener


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call and cache the result on disk where possible."""
    return _compile(function)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile an inner loop that allocates nothing, without reference counts of arrays.

    Reference counting took half of the time of beam search.
    """
    return _compile(function, _nrt=False)


def _compile(function: Callable[..., Any], **options: bool) -> Any:
    try:
        return njit(cache=True, nogil=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache is writable
        return njit(nogil=True, **options)(function)


class _NotifyOnce(Listener):  # type: ignore[misc]  # numba has no types
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
    """Call `notify` once, when a function is compiled within this context."""
    with install_listener("numba:compile", _NotifyOnce(notify)):
        yield
