"""Inner loops that numba compiles on their first call; numba is imported then, and not for `--help`."""

from collections.abc import Callable, Iterator
from threading import RLock
from typing import Any

KERNELS: "list[Kernel]" = []
"""All compiled functions of the modules imported so far."""


_LOCK = RLock()


class Kernel:
    """A function that is compiled on its first call, by whichever types it is called with."""

    def __init__(self, function: Callable[..., Any], **options: bool) -> None:
        self.py_func, self._options = function, options
        self._dispatcher: Any = None
        KERNELS.append(self)

    def __call__(self, *arguments: Any) -> Any:
        return (self._dispatcher or self.dispatcher)(*arguments)

    @property
    def dispatcher(self) -> Any:
        """Numba's object, with the cache on disk of asr.jit_cache."""
        with _LOCK:
            if self._dispatcher is None:
                from numba import njit

                from asr.jit_cache import Cache

                dispatcher = njit(nogil=True, **self._options)(self.py_func)
                dispatcher._cache = Cache(self.py_func, sorted(set(self.sources())))
                self._dispatcher = dispatcher
            return self._dispatcher

    @property
    def _numba_type_(self) -> Any:
        """Its type where another compiled function calls it."""
        return self.dispatcher._numba_type_

    def sources(self) -> Iterator[str]:
        """Files of the function and of those that it calls, which become part of its code."""
        yield self.py_func.__code__.co_filename
        for name in self.py_func.__code__.co_names:
            if isinstance(callee := self.py_func.__globals__.get(name), Kernel):
                yield from callee.sources()


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a function on its first call and cache the result on disk where possible."""
    return Kernel(function)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile an inner loop that allocates nothing, without reference counts of arrays.

    Reference counting took half of the time of beam search.
    """
    return Kernel(function, _nrt=False)
