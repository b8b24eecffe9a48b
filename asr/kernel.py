"""How loops are compiled, by numba."""

import sys
from collections.abc import Callable
from typing import Any

from numba import njit
from numba.core.event import Event, Listener, register

from asr.console import complain


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
    """Says once, on a terminal, why nothing seems to happen; silent where everything was kept."""

    told = False

    def on_start(self, event: Event) -> None:
        if not self.told and sys.stderr.isatty():
            complain("compiling the decoder, once on this machine; it may take a minute")
        self.told = True

    def on_end(self, event: Event) -> None:
        pass


register("numba:compile", _Notice())
