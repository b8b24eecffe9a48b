"""Whether a file holds all of its recording, where libsndfile does not tell.

libsndfile fits the length of a WAV, AIFF, AU or Ogg file that was cut off to what is left, plays only the
first of several Ogg or MP3 streams laid end to end, and stops at an estimate where an MP3 file has no Xing
header. What nobody can see stays unseen: a cut of a WAV file that was written into a pipe, or between two
frames of an MP3 file without a Xing header.
"""

import os
import struct
from typing import BinaryIO

CUT = "the recording is cut off or damaged ({}); copy or download it again"
CHAINED = "the recording goes on where its first stream ends; convert it to wav or flac first"

_CHUNKED = {b"RIFF": "<4sI", b"RF64": "<4sI", b"BW64": "<4sI", b"RIFX": ">4sI", b"FORM": ">4sI"}
_UNKNOWN_SIZE = 0x7FFF0000
"""Sizes from here on are what programs write that cannot know the length, as into a pipe."""


def defect(file: BinaryIO) -> str | None:
    """What is wrong with the end of a WAV, RF64, AIFF, AU or Ogg file; None for others. Rewinds `file`."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(12)
    file.seek(0)
    if head[:4] == b"OggS":
        found = _ogg_defect(file, size)
    else:
        start, end = _declared(file, head)
        found = CUT.format(f"{size - start} of {end - start} bytes") if end > size else None
    file.seek(0)
    return found


def _declared(file: BinaryIO, head: bytes) -> tuple[int, int]:
    """Where the samples start and end by the header; zeros where it does not say."""
    if head[:4] == b".snd" and len(head) == 12:
        start, length = struct.unpack(">4x2I", head)
        return (start, start + length) if length < _UNKNOWN_SIZE else (0, 0)
    layout = _CHUNKED.get(head[:4])
    if layout is None:
        return 0, 0
    long_size = 0
    file.seek(12)
    while len(header := file.read(8)) == 8:
        name, length = struct.unpack(layout, header)
        start = file.tell()
        if name in (b"data", b"SSND"):
            length = length if length < _UNKNOWN_SIZE else long_size
            return (start, start + length) if length else (0, 0)
        if name == b"ds64":  # RF64: sizes beyond 4 GB (EBU Tech 3306)
            long_size = struct.unpack("<8xQ", file.read(16).ljust(16, b"\0"))[0]
        file.seek(start + length + length % 2)
    return 0, 0


def _ogg_defect(file: BinaryIO, size: int) -> str | None:
    """Walk over the pages (RFC 3533): the last one must be marked as such, and lie in the file."""
    position, in_headers, ended = 0, True, False
    while len(page := file.read(27)) == 27 and page[:4] == b"OggS":
        first, ended = bool(page[5] & 2), bool(page[5] & 4)
        if first and not in_headers:
            return CHAINED
        in_headers = first
        position += 27 + page[26] + sum(file.read(page[26]))
        file.seek(position)
    whole = ended and position <= size
    return None if whole else CUT.format(f"its end is missing after {min(position, size)} bytes")


def for_libsndfile(file: BinaryIO) -> BinaryIO:
    """`file`, or a view of it that makes libsndfile decode it to the end."""
    return _Endless(file) if _is_mp3_of_unknown_length(file) else file  # type: ignore[return-value]


def _is_mp3_of_unknown_length(file: BinaryIO) -> bool:
    """Whether MPEG audio frames follow, and the first does not hold the number of frames (Xing or Info)."""
    tag = file.read(10)
    if tag[:3] == b"ID3":
        length = 0
        for byte in tag[6:10]:
            length = length << 7 | byte & 0x7F
        file.seek(10 + length)
    else:
        file.seek(0)
    frames = file.read(4096).lstrip(b"\0")
    file.seek(0)
    return _is_mpeg(frames) and b"Xing" not in frames and b"Info" not in frames


def _is_mpeg(frame: bytes) -> bool:
    """Whether a frame's eleven bits of synchronisation stand here."""
    return frame[:1] == b"\xff" and frame[1:2] >= b"\xe0"


class _Endless:
    """A file that claims to go on far behind its end, so that libmpg123 decodes it beyond its estimate."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.tell, self.read = file.tell, file.read

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """An offset from the end looks for an ID3v1 tag there; it is shown the start, which holds none."""
        if whence == os.SEEK_END:
            offset, whence = (0 if offset else 1 << 40), os.SEEK_SET
        return self._file.seek(offset, whence)


def has_more_mp3(file: BinaryIO) -> bool:
    """Whether MP3 frames follow where libsndfile stopped, beyond the few that a Xing header may miscount."""
    rest = file.read(4096)
    return len(rest) == 4096 and (rest[:3] == b"ID3" or _is_mpeg(rest))
