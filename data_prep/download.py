"""Download archives (resumable, verified) and unpack them safely."""

import gzip
import hashlib
import http.client
import tarfile
import time
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from rich.progress import DownloadColumn, TransferSpeedColumn

from asr.console import progress_bar
from asr.errors import PrepareError

RETRY_AFTER = (1.0, 5.0, 20.0)
"""Seconds to wait before each attempt to resume a download, if the last one brought nothing."""

TIMEOUT = 60.0
BLOCK = 1 << 20


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
    part.touch()
    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as progress:
        update = partial(progress.update, progress.add_task(f"download {path.name}", total=None))
        waits, size = list(RETRY_AFTER), part.stat().st_size
        while reason := _resume(url, part, update):
            if part.stat().st_size > size:
                waits, size = list(RETRY_AFTER), part.stat().st_size
            if not waits:
                raise PrepareError(f"{url}: {reason}; run the same command again to resume")
            time.sleep(waits.pop(0))
        digest = hashlib.new(checksum.partition(":")[0])
        with part.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
                update(description=f"verify {path.name}", completed=file.tell())
    if (found := f"{digest.name}:{digest.hexdigest()}") != checksum:
        part.unlink()
        again = "the file was deleted, run the same command again to download it anew"
        raise PrepareError(f"{path.name}: wrong checksum {found}, expected {checksum}; {again}")
    part.rename(path)


def _resume(url: str, part: Path, update: Callable[..., None]) -> str:
    """Append the missing bytes of `url` to `part`; return why it was interrupted, or "" at the end."""
    start = part.stat().st_size
    request = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT) as response:
            done = start if response.status == http.HTTPStatus.PARTIAL_CONTENT else 0  # it may ignore ranges
            total = done + (response.length or 0)
            with part.open("ab" if done else "wb") as file:
                while block := response.read(BLOCK):
                    file.write(block)
                    done += len(block)
                    update(completed=done, total=total or None)
            return "" if done >= total else f"the connection broke after {done} of {total} bytes"
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE and start:
            return ""  # nothing is missing, as the checksum will show
        message = f"the server answered {error.code} {error.reason}"
        if error.code < 500:
            raise PrepareError(f"{url}: {message}") from None
        return message
    except (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError) as error:
        return f"no connection after {part.stat().st_size} bytes ({getattr(error, 'reason', error)})"


def unpack(archive: Path, target: Path) -> None:
    """Unpack a tar.gz archive into `target`.

    Raises PrepareError if the archive is damaged or has a device, or a member or link outside `target`.
    """
    with progress_bar(DownloadColumn(), TransferSpeedColumn()) as progress, archive.open("rb") as raw:
        task = progress.add_task(f"unpack {archive.name}", total=archive.stat().st_size)
        try:
            with gzip.GzipFile(fileobj=raw) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.extract(member, target, filter="data")
                    tar.members = []  # type: ignore[attr-defined]  # it would keep them all
                    progress.update(task, completed=raw.tell())
                while stream.read(BLOCK):  # gzip verifies its checksum at the end
                    pass
        except tarfile.FilterError as error:
            raise PrepareError(f"{archive}: refused, {error}") from None
        except (tarfile.TarError, gzip.BadGzipFile, EOFError, zlib.error) as error:
            again = "delete it and run the same command again"
            raise PrepareError(f"{archive}: the archive is damaged ({error}); {again}") from None
