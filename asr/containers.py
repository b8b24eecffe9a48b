"""Whether a file holds all of its recording, where its decoder does not tell.

libsndfile fits the length of a WAV, AIFF, AU, CAF or Ogg file that was cut off to what is left, plays only
the first of several Ogg or MP3 streams laid end to end, and stops at an estimate where an MP3 file has no
Xing header; FFmpeg ends without a word where a Matroska file does. What nobody can see stays unseen: a cut
of a file that was written into a pipe, or between two packets of MPEG, AAC, AMR or MP3 without a Xing header.
"""

import math
import os
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import BinaryIO

CUT = "the recording is cut off or damaged ({}); copy or download it again"
CHAINED = "the recording goes on where its first stream ends; convert it to wav or flac first"
NO_SAMPLES = "the recording holds no samples"
UNREADABLE = "cannot read the recording ({})"

MP4_START = rb"\0.{3}(ftyp|moov|free|skip|wide|pnot)|.{4}mdat"

_UNKNOWN_SIZE = 0x7FFF0000
"""Sizes of 32 bits from here on are what programs write that cannot know the length, as into a pipe."""
_MOST_CHUNKS = 1 << 18


@dataclass(frozen=True)
class _Chunks:
    """Chunks laid end to end: where the first starts, their header, the names of those that hold samples."""

    first: int
    header: str
    names: tuple[bytes, ...]
    several: bool = False  # whether more than one chunk holds samples
    inclusive: bool = False  # whether a chunk's size counts its header
    align: int = 1


_RIFF = _Chunks(12, "<4sI", (b"data",), align=2)
_AVI = _Chunks(12, "<4sI", (b"LIST", b"RIFF"), several=True, align=2)
_MP4 = _Chunks(0, ">I4s", (b"moov", b"moof", b"mdat"), several=True, inclusive=True)
_LAYOUTS = {
    b"RIFF": _RIFF,
    b"RF64": _RIFF,
    b"BW64": _RIFF,
    b"RIFX": _Chunks(12, ">4sI", (b"data",), align=2),
    b"FORM": _Chunks(12, ">4sI", (b"SSND",), align=2),
    b"caff": _Chunks(8, ">4sq", (b"data",)),
    b"riff": _Chunks(40, "<4s12xq", (b"data",), inclusive=True, align=8),  # W64
    b"\x30\x26\xb2\x75": _Chunks(0, "<4s12xq", (b"\x36\x26\xb2\x75",), inclusive=True),  # ASF
}


def defect(file: BinaryIO) -> str | None:
    """What is wrong with the end of a file, where its structure tells; None for others. Rewinds `file`."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(1024)
    file.seek(0)
    found = None
    if head[:4] == b"OggS":
        found = _ogg_defect(file, size)
    elif head[:377:188] == b"GGG" and size % 188:
        found = CUT.format(f"{size % 188} of 188 bytes of its last packet")  # MPEG transport stream
    else:
        for start, end in _declared(file, size, head):
            if end > size:
                found = CUT.format(f"{max(0, size - start)} of {end - start} bytes")
                break
    file.seek(0)
    return found


def _declared(file: BinaryIO, size: int, head: bytes) -> Iterator[tuple[int, int]]:
    """Where samples start and end by the headers, as far as they say."""
    layout = _LAYOUTS.get(head[:4])
    if head[:4] == b".snd" and len(head) >= 12:
        start, length = struct.unpack(">4x2I", head[:12])
        if length < _UNKNOWN_SIZE:
            yield start, start + length
    elif head[:7] == b"NIST_1A":
        yield from _sphere(head)
    elif head[:4] == b"\x1aE\xdf\xa3":
        yield from _matroska(head)
    elif head[8:12] == b"AVI ":
        yield from _walk(file, size, _AVI)
    elif re.match(MP4_START, head, re.DOTALL):
        yield from _walk(file, size, _MP4)
    elif layout is not None:
        long_size = struct.unpack("<Q", head[28:36])[0] if head[12:16] == b"ds64" and head[35:] else 0
        yield from _walk(file, size, layout, long_size)


def _walk(file: BinaryIO, size: int, chunks: _Chunks, long_size: int = 0) -> Iterator[tuple[int, int]]:
    """Where the chunks that hold samples start and end; RF64 tells `long_size` elsewhere (EBU Tech 3306)."""
    position, width = chunks.first, struct.calcsize(chunks.header)
    for _ in range(_MOST_CHUNKS):
        file.seek(position)
        header = file.read(width)
        if len(header) < width:
            return
        name, length = struct.unpack(chunks.header, header)
        start = position + width
        if chunks is _MP4:
            name, length = length, name
            if length == 1:  # a size of 64 bits follows
                length, start = struct.unpack(">Q", file.read(8).ljust(8, b"\0"))[0], start + 8
        elif length >= _UNKNOWN_SIZE and "I" in chunks.header:
            length = long_size
        if chunks.inclusive:
            length -= start - position
        if length < 0 or (length == 0 and name in chunks.names):
            return
        if name in chunks.names:
            yield start, start + length
            if not chunks.several:
                return
        position = start + length + -(start + length) % chunks.align
        if position >= size:
            return


def _sphere(head: bytes) -> Iterator[tuple[int, int]]:
    """NIST SPHERE: the length of the header stands in its second line, all else by name."""
    numbers = dict(re.findall(rb"(\w+) -i (\d{1,18})\n", head)) | {b"header": head[7:16].strip()}
    with suppress(KeyError, ValueError):
        start, *factors = (
            int(numbers[key]) for key in (b"header", b"sample_count", b"channel_count", b"sample_n_bytes")
        )
        yield start, start + math.prod(factors)


def _matroska(head: bytes) -> Iterator[tuple[int, int]]:
    """The one segment behind Matroska's header (RFC 8794: numbers start with the count of their bytes)."""
    position = 4
    for name in (None, b"\x18\x53\x80\x67"):
        if name is not None and head[position : position + 4] == name:
            position += 4
        elif name is not None:
            return
        width = 9 - head[position : position + 1].ljust(1, b"\0")[0].bit_length()
        length = int.from_bytes(head[position : position + width], "big") & ((1 << 7 * width) - 1)
        position += width
        if name is not None and length < (1 << 7 * width) - 1:
            yield position, position + length
        position += length


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


def for_libsndfile(file: BinaryIO) -> "View":
    """A view of `file` that makes libsndfile decode it to the end."""
    return View(file, endless=_is_mp3_of_unknown_length(file))


def skip_id3(file: BinaryIO) -> None:
    """Go from the start of `file` behind its ID3v2 tag, if it has one."""
    file.seek(0)
    tag = file.read(10)
    length = 0
    for byte in tag[6:10]:
        length = length << 7 | byte & 0x7F
    file.seek(10 + length if tag[:3] == b"ID3" else 0)


def _is_mp3_of_unknown_length(file: BinaryIO) -> bool:
    """Whether MPEG audio frames follow, and the first does not hold the number of frames (Xing or Info)."""
    skip_id3(file)
    frames = file.read(4096).lstrip(b"\0")
    file.seek(0)
    return _is_mpeg(frames) and b"Xing" not in frames and b"Info" not in frames


def _is_mpeg(frame: bytes) -> bool:
    """Whether a frame's eleven bits of synchronisation stand here."""
    return frame[:1] == b"\xff" and frame[1:2] >= b"\xe0"


class View:
    """What a library in C sees of a file: no name, and no exceptions, which would be lost on the way.

    An error of reading looks like the end of the file; `error` keeps it. An `endless` file claims to go on
    far behind its end, so that libmpg123 decodes it beyond its estimate.
    """

    def __init__(self, file: BinaryIO, endless: bool = False) -> None:
        self.error: OSError | None = None
        self._file = file
        self._endless = endless
        self.tell = file.tell

    def read(self, size: int = -1) -> bytes:
        try:
            return self._file.read(size)
        except OSError as error:
            self.error = error
            return b""

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """An offset from the end looks for an ID3v1 tag there; it is shown the start, which holds none."""
        if self._endless and whence == os.SEEK_END:
            offset, whence = (0 if offset else 1 << 40), os.SEEK_SET
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):  # where a damaged header points to
            return self._file.seek(0, os.SEEK_END)


def has_more_mp3(file: View) -> bool:
    """Whether MP3 frames follow where libsndfile stopped, beyond the few that a Xing header may miscount."""
    rest = file.read(4096)
    return len(rest) == 4096 and (rest[:3] == b"ID3" or _is_mpeg(rest))
