"""How loops are compiled, by numba."""

from collections.abc import Callable
from typing import Any

from numba import njit


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
