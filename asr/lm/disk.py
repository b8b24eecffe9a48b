"""Arrays on disk, so that memory limits the size of a model, but not the length of its text."""

import os
import tempfile
from pathlib import Path

import numpy as np

_SMALL = 1 << 20
"""Bytes below which an array is not worth a file."""


class Scratch:
    """Hands out arrays that lie in temporary files of a folder; each file goes when its array does."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or Path(tempfile.gettempdir())

    def array(self, length: int, dtype: type[np.generic]) -> np.ndarray:
        """`length` zeros, writable. Raises OSError that names the folder if it is full or missing."""
        size = length * np.dtype(dtype).itemsize
        if size < _SMALL:
            return np.zeros(length, dtype)
        try:
            with tempfile.TemporaryFile(dir=self.folder) as file:
                if hasattr(os, "posix_fallocate"):  # else a full disk would end the process by a signal
                    os.posix_fallocate(file.fileno(), 0, size)
                # An array of numpy's base class, which is what numba compiles for.
                return np.asarray(np.memmap(file, dtype, "w+", shape=(length,)))
        except OSError as error:
            raise OSError(error.errno, f"{error.strerror} (temporary files)", str(self.folder)) from None
