"""The cache of compiled code, in numba's own files.

Numba's cache ends a run if a file of it is damaged or the disk is full, ignores code in a folder that cannot
be written, and misses changes in functions of other modules. In this one, no failure is an error.
"""

import hashlib
import os
import pickle
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from numba.core.caching import FunctionCache, IndexDataCacheFile, _CacheLocator
from numba.core.compiler import CompileResult
from numba.misc.appdirs import AppDirs

from asr.console import announce_compilation, print_error

_NOT_KEPT = "at each start, as no folder for the result can be written (NUMBA_CACHE_DIR names another)"


def folders(module: str) -> list[Path]:
    """Folders of a module's compiled code: NUMBA_CACHE_DIR, or beside the module and in the user's cache."""
    name = _CacheLocator.get_suitable_cache_subpath(module)
    if chosen := os.environ.get("NUMBA_CACHE_DIR"):
        return [Path(chosen).absolute() / name]
    user = Path(AppDirs("numba", appauthor=False).user_cache_dir)  # not absolute for a user without a home
    return [Path(module).parent / "__pycache__", *([user / name] if user.is_absolute() else [])]


def writable_folder(module: str) -> Path | None:
    """The folder that the compiled code of a module is written to; None if none can be written."""
    for folder in folders(module):
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=folder).close()
            return folder
    return None


class Cache(FunctionCache):  # type: ignore[misc]  # numba has no types
    """Compiled code of one function, read from any of its folders and written to the first that works.

    It is valid as long as the contents of `sources` are the same.
    """

    def __init__(self, function: Callable[..., Any], sources: Sequence[str]) -> None:
        self._py_func, self._sources = function, sources
        self._path = function.__code__.co_filename
        self.kept = False
        """The code in use was read from disk, or written to it."""

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        target_context.refresh()
        key = self._index_key(sig, target_context.codegen())
        for files in self._files:
            with suppress(Exception):  # whatever unpickling damaged files raises
                if (found := files.load(key)) is not None:
                    code = CompileResult._rebuild(target_context, *found)
                    self.kept = True
                    return code
        if announce_compilation.is_set():
            announce_compilation.clear()
            kept = "once on this machine" if writable_folder(self._path) else _NOT_KEPT
            print_error(f"compiling inner loops, {kept}; it may take a minute")
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        key, content = self._index_key(sig, data.codegen), data._reduce()
        for files in self._files:
            for prepare in (lambda: None, files.flush):  # a damaged index is written anew
                with suppress(Exception):
                    Path(files._cache_path).mkdir(parents=True, exist_ok=True)
                    prepare()
                    files.save(key, content)
                    self.kept = True
                    return

    @cached_property
    def _files(self) -> list["_Files"]:
        if not all(map(os.path.isfile, self._sources)):  # but "<string>"
            return []
        code = self._py_func.__code__
        name = f"{Path(self._path).stem}.{self._py_func.__qualname__}-{code.co_firstlineno}"
        stamp = hashlib.sha256(b"".join(Path(path).read_bytes() for path in self._sources)).hexdigest()
        return [_Files(str(folder), name, stamp) for folder in folders(self._path)]


class _Files(IndexDataCacheFile):  # type: ignore[misc]
    """Files of one function in one folder, with checksums, as damaged machine code would crash."""

    def _save_data(self, name: str, data: Any) -> None:
        content = self._dump(data)
        super()._save_data(name, (hashlib.sha256(content).digest(), content))

    def _load_data(self, name: str) -> Any:
        digest, content = super()._load_data(name)
        if hashlib.sha256(content).digest() != digest:
            raise ValueError(f"{name}: its checksum differs")
        return pickle.loads(content)
