"""Archives from the web: resumed after a cut, verified, unpacked without leaving the target."""

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
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import DownloadColumn, TransferSpeedColumn

from asr.data_prep.screen import progress_bar
from asr.errors import PrepareError

RETRY_AFTER = (1.0, 5.0, 20.0)
"""Seconds to wait before a cut download is taken up again, attempt by attempt."""

TIMEOUT = 60.0
BLOCK = 1 << 20

Report = Callable[[int, int | None], None]
"""Called with (bytes done, bytes in all or None)."""


def fetch(url: str, path: Path, checksum: str | None, console: Console) -> None:
    """Download `url` to `path`, unless it is there already.

    What has arrived waits in `path`.part, so that a later run goes on from there. `path` appears once
    the checksum ("md5:…" or "sha256:…") is right; a wrong one deletes the file. Raises PrepareError.
    """
    if not url.startswith(("http://", "https://")):
        raise PrepareError(f"{url}: not an address; expected http://… or https://…")
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with progress_bar(console, DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(f"download {path.name}", total=None)
        _patiently(url, part, lambda done, total: progress.update(task, completed=done, total=total))
        progress.update(task, description=f"verify {path.name}", completed=0)
        found = checksum and _digest(part, checksum, lambda done, _: progress.update(task, completed=done))
    if found != checksum:
        part.unlink()
        raise PrepareError(
            f"{path.name}: wrong checksum {found}, expected {checksum}; "
            "the file has been deleted, run the same command again to download it anew"
        )
    part.rename(path)


def _patiently(url: str, part: Path, report: Report) -> None:
    """Download what is missing of `url`; give up after so many cuts in which nothing arrived."""
    waits = list(RETRY_AFTER)
    while True:
        before = _size(part)
        try:
            return _continue(url, part, report)
        except _CutError as error:
            if _size(part) > before:
                waits = list(RETRY_AFTER)
            if not waits:
                raise PrepareError(f"{url}: {error}; run the same command again to go on") from None
            time.sleep(waits.pop(0))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


class _CutError(Exception):
    """The connection broke; what has arrived is kept."""


def _continue(url: str, part: Path, report: Report) -> None:
    """Append to `part` what is missing of `url`."""
    start = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    done = start
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            done, total = _placement(response, start)
            with part.open("ab" if done else "wb") as file:
                while block := response.read(BLOCK):
                    file.write(block)
                    done += len(block)
                    report(done, total)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            if error.headers.get("Content-Range") == f"bytes */{start}":
                return  # all of it is here already
            part.unlink()
            raise _CutError("the file on the server is not the one begun with") from None
        if error.code >= 500:
            raise _CutError(f"the server says {error.code} {error.reason}") from None
        raise PrepareError(f"{url}: the server says {error.code} {error.reason}") from None
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise _CutError(f"no connection after {done} bytes ({getattr(error, 'reason', error)})") from None
    if total is not None and done < total:
        raise _CutError(f"the connection was cut after {done} of {total} bytes")


def _placement(response: Any, start: int) -> tuple[int, int | None]:
    """Where the body of a response belongs, and the size of the whole."""
    length = response.headers.get("Content-Length")
    if response.status == http.HTTPStatus.PARTIAL_CONTENT:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != start:
            raise _CutError("the server sent another range than was asked for")
        return start, None if match[2] == "*" else int(match[2])
    return 0, None if length is None else int(length)  # the server ignores ranges: from the start


def _digest(path: Path, checksum: str, report: Report) -> str:
    algorithm = checksum.partition(":")[0]
    digest = hashlib.new(algorithm)
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            digest.update(block)
            report(file.tell(), None)
    return f"{algorithm}:{digest.hexdigest()}"


def unpack(archive: Path, target: Path, console: Console) -> None:
    """Unpack a tar.gz archive into `target`.

    Raises PrepareError where the archive is damaged, or holds a link or anything else that is neither a
    file nor a folder, or a member that would land outside `target`.
    """
    # Python before 3.10.12 and 3.11.4 has no filters.
    options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    root = target.resolve()
    size = archive.stat().st_size
    with progress_bar(console, DownloadColumn(), TransferSpeedColumn()) as progress:
        task = progress.add_task(f"unpack {archive.name}", total=size)
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
                while stream.read(BLOCK):  # on to the end, where gzip checks its checksum
                    pass
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise PrepareError(
                f"{archive}: the archive is damaged ({error}); delete it and run the same command again"
            ) from None


def _check_member(archive: Path, member: tarfile.TarInfo, root: Path) -> None:
    if not (member.isreg() or member.isdir()):
        raise PrepareError(f"{archive}: refused, as {member.name!r} is neither a file nor a folder")
    if not (root / member.name).resolve().is_relative_to(root):
        raise PrepareError(f"{archive}: refused, as {member.name!r} would land outside of the target")
