"""A multipart form -> a file on disk without a name, and the other fields."""

import errno
import logging
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, BinaryIO, cast

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from asr.serve.openai import ApiError

MOST_FIELDS, LONGEST_FIELD = 256, 32 << 10

_log = logging.getLogger(__name__)


class _Parser(MultiPartParser):
    """Writes a file to disk, where it has no name: whatever happens to the server, nothing stays behind."""

    def __init__(self, request: Request, folder: Path | None) -> None:
        limits: dict[str, Any] = {"max_files": 1, "max_fields": MOST_FIELDS, "max_part_size": LONGEST_FIELD}
        super().__init__(request.headers, request.stream(), **limits)
        self._folder = folder

    def on_headers_finished(self) -> None:
        """Replace Starlette's file, which would be kept in memory first."""
        super().on_headers_finished()
        if upload := self._current_part.file:
            upload.file.close()
            upload.file = cast("BinaryIO", TemporaryFile(dir=self._folder))  # noqa: SIM115
            self._files_to_close_on_error.append(cast("Any", upload.file))


async def read_form(request: Request, folder: Path | None) -> tuple[BinaryIO, list[tuple[str, str]]]:
    """Read a form to the file in it, on disk, and the other fields. Raises ApiError."""
    missing = "send the recording as multipart/form-data, in a field named file"
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "multipart/form-data":
        raise ApiError(400, "missing_file", missing, "file")
    try:
        form = await _Parser(request, folder).parse()
    except (MultiPartException, UnicodeError, LookupError) as error:
        reason = error.message if isinstance(error, MultiPartException) else "Invalid multipart data."
        raise ApiError(400, "invalid_form", f"the form cannot be read: {reason}") from None
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        _log.error("an upload cannot be stored: %s", error)
        reason = "its disk is full" if full else "its disk failed"
        raise ApiError(503, "disk_full" if full else "disk_failed", f"cannot store it: {reason}") from None
    uploads = [(name, item) for name, item in form.multi_items() if isinstance(item, UploadFile)]
    if not any(name == "file" for name, _ in uploads):
        for _, upload in uploads:
            upload.file.close()
        raise ApiError(400, "missing_file", missing, "file")
    upload = uploads[0][1]
    upload.file.raw.name = _file_name(upload.filename or "")  # type: ignore[attr-defined]  # for messages
    return upload.file, [(name, item) for name, item in form.multi_items() if isinstance(item, str)]


def _file_name(given: str) -> str:
    """A client's file name as messages show it; it is never used as a path."""
    return "".join(char for char in given if char.isprintable())[:100] or "audio"
