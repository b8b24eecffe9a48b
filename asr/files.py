"""Atomic writing: a file is complete or absent."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


@contextmanager
def atomic_write(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file beside `path`; rename it to `path` if the block ends without an error.

    Text is UTF-8. Undecodable bytes of file names become `\\udcXX`, which JSON reads back. A symbolic link is
    kept and its target replaced; devices and pipes are written directly.
    """
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    if path.exists() and not path.is_file():
        with path.open(mode, encoding=encoding, errors=errors) as file:
            yield file
        return
    path = path.resolve()
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:60]}.")
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None  # not the temporary file's name
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, mode, encoding=encoding, errors=errors) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
