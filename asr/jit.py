"""Compilation of inner loops by numba."""

from collections.abc import Callable
from typing import Any

from numba import njit


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
