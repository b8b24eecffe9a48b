"""Download archives (resumable, verified) and unpack them safely."""

import gzip
import hashlib
import http.client
import re
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rich.progress import DownloadColumn, TransferSpeedColumn

from asr.console import progress_bar
from asr.errors import PrepareError

RETRY_AFTER = (1.0, 5.0, 20.0)
"""Seconds to wait before each attempt to resume an interrupted download."""

TIMEOUT = 60.0
BLOCK = 1 << 20

Update = Callable[..., None]  # rich.progress.Progress.update for one task


class _InterruptedError(Exception):
    """The connection broke; the bytes received so far are kept."""


def fetch(url: str, path: Path, checksum: str) -> None:
    """Download `url` to `path`, unless it exists.

    The bytes received are kept in `path`.part, where a later run resumes. `path` appears once its checksum
    ("md5:…" or "sha256:…") matches; otherwise the file is deleted. Raises PrepareError.
    """
    if not url.startswith(("http://", "https://")):
        raise PrepareError(f"{url}: not a URL; expected http://… or https://…")
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as progress:
        update = partial(progress.update, progress.add_task(f"download {path.name}", total=None))
        _retry(url, part, update)
        update(description=f"verify {path.name}", completed=0)
        found = _digest(part, checksum, update)
    if found != checksum:
        part.unlink()
        raise PrepareError(
            f"{path.name}: wrong checksum {found}, expected {checksum}; "
            "the file was deleted, run the same command again to download it anew"
        )
    part.rename(path)


def _retry(url: str, part: Path, update: Update) -> None:
    """Download the rest of `url`; give up after several interruptions in a row without progress."""
    waits = list(RETRY_AFTER)
    while True:
        before = _size(part)
        try:
            return _resume(url, part, update)
        except _InterruptedError as error:
            if _size(part) > before:
                waits = list(RETRY_AFTER)
            if not waits:
                raise PrepareError(f"{url}: {error}; run the same command again to resume") from None
            time.sleep(waits.pop(0))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _resume(url: str, part: Path, update: Update) -> None:
    """Append the missing bytes of `url` to `part`."""
    start = done = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            done, total = _offset_and_total(response, start)
            with part.open("ab" if done else "wb") as file:
                while block := response.read(BLOCK):
                    file.write(block)
                    done += len(block)
                    update(completed=done, total=total)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return  # complete already
            part.unlink()
            raise _InterruptedError("the file on the server has changed") from None
        message = f"the server answered {error.code} {error.reason}"
        if error.code >= 500:
            raise _InterruptedError(message) from None
        raise PrepareError(f"{url}: {message}") from None
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        reason = getattr(error, "reason", error)
        raise _InterruptedError(f"no connection after {done} bytes ({reason})") from None
    if total is not None and done < total:
        raise _InterruptedError(f"the connection broke after {done} of {total} bytes")


def _offset_and_total(response: Any, start: int) -> tuple[int, int | None]:
    """Return the position of the response's first byte in the file, and the file's size if known."""
    length = response.headers.get("Content-Length")
    if response.status != http.HTTPStatus.PARTIAL_CONTENT:  # the server ignores ranges
        return 0, None if length is None else int(length)
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if match is None or int(match[1]) != start:
        raise _InterruptedError("the server sent another range than requested")
    return start, None if match[2] == "*" else int(match[2])


def _digest(path: Path, checksum: str, update: Update) -> str:
    algorithm = checksum.partition(":")[0]
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            update(completed=file.tell())
    return f"{algorithm}:{digest.hexdigest()}"


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar.gz archive into `target`.

    Raises PrepareError if the archive is damaged or has a member that is neither a file nor a folder or
    that would be written outside `target`.
    """
    # Python before 3.10.12 and 3.11.4 has no filters.
    options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    root = target.resolve()
    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(f"unpack {archive.name}", total=archive.stat().st_size)
        try:
            with (
                archive.open("rb") as raw,
                gzip.GzipFile(fileobj=raw) as stream,
                tarfile.open(fileobj=stream, mode="r:") as tar,
            ):
                while (member := tar.next()) is not None:
                    _check_member(archive, member, root)
                    tar.extract(member, root, **options)
                    tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                    progress.update(task, completed=raw.tell())
                while stream.read(BLOCK):  # gzip verifies its checksum at the end
                    pass
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise PrepareError(
                f"{archive}: the archive is damaged ({error}); delete it and run the same command again"
            ) from None


def _check_member(archive: Path, member: tarfile.TarInfo, root: Path) -> None:
    if not (member.isreg() or member.isdir()):
        raise PrepareError(f"{archive}: refused, {member.name!r} is neither a file nor a folder")
    if not (root / member.name).resolve().is_relative_to(root):
        raise PrepareError(f"{archive}: refused, {member.name!r} would be written outside the target")
