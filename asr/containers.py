"""Sizes stated by containers, compared with the file: FFmpeg does not report what is missing."""

import math
import os
import re
import struct
import zlib
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple

UNKNOWN = "Format not recognised"


@dataclass
class Notes:
    """Losses and other reasons for doubt noticed while a recording was read."""

    losses: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def incomplete(self) -> str | None:
        """Summary of the missing parts; None if nothing is missing."""
        return "; ".join(self.losses[:3]) or None

    def warn(self, text: str) -> None:
        """Add a warning once."""
        if text not in self.warnings:
            self.warnings.append(text)


class View:
    """A file as FFmpeg sees it: nameless, of fixed size, and without exceptions, which it would lose.

    Offsets count from `start`. A read error looks like the end of the file and is kept in `error`. `patch`
    (offset, bytes) replaces a wrong size in a header.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.error: OSError | None = None
        self.start, self.patch = 0, (0, b"")
        self.shrunk = False  # while it was read
        self.links = [0]  # offsets of streams laid end to end
        self._file, self._at = file, 0
        self.end = file.seek(0, os.SEEK_END)

    @property
    def size(self) -> int:
        """Bytes from `start` to the end."""
        return self.end - self.start

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        left = max(0, self.size - self._at)
        return self.read_at(self._at, left if size < 0 else min(size, left))

    def read_at(self, offset: int, size: int) -> bytes:
        """Read at an offset, which moves there; nothing where a damaged size points outside the file."""
        if not 0 <= offset <= self.size:
            return b""
        try:
            self._file.seek(self.start + offset)
            wanted = max(0, min(size, self.size - offset))
            data = self._file.read(wanted)
            self.shrunk |= len(data) < wanted
        except OSError as error:
            self.error, data = error, b""
        place, new = self.patch
        if new and offset < place + len(new) and place < offset + len(data):
            patched = bytearray(data)
            for index, byte in enumerate(new, start=place - offset):
                if 0 <= index < len(patched):
                    patched[index] = byte
            data = bytes(patched)
        self._at = offset + len(data)
        return data

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Seek; damaged headers may point anywhere."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at}.get(whence, self.size)
        self._at = min(max(0, base + offset), self.size)
        return self._at


def skip_tags(view: View) -> None:
    """Start behind ID3v2 tags, of which there may be several."""
    while (tag := view.read_at(0, 10))[:3] == b"ID3" and len(tag) == 10:
        length = sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
        if 10 + length >= view.size:
            break
        view.start += 10 + length
    view.seek(0)


class _Chunks(NamedTuple):
    """Layout of a chunked container: offset of the first chunk, chunk header, chunk with the samples."""

    first: int
    header: str
    name: bytes | None = b"data"  # None: any chunk
    counted: int = 0  # bytes of the header that a chunk's size counts
    align: int = 1


_LAYOUTS = {
    b"RIFF": _Chunks(12, "<4sI", align=2),
    b"RF64": _Chunks(12, "<4sI", align=2),
    b"BW64": _Chunks(12, "<4sI", align=2),
    b"RIFX": _Chunks(12, ">4sI", align=2),
    b"FORM": _Chunks(12, ">4sI", b"SSND", align=2),
    b"caff": _Chunks(8, ">4sq"),
    b"riff": _Chunks(40, "<16sq", b"data\xf3\xac\xd3\x11\x8c\xd1\0\xc0\x4f\x8e\xdb\x8a", 24, align=8),  # W64
    b"\x30\x26\xb2\x75": _Chunks(0, "<16sq", None, 24),  # ASF
}


def check_container(view: View, notes: Notes) -> None:
    """Note sizes that reach beyond the end of the file, and correct those that end too early."""
    head = view.read_at(0, 1024)
    layout = _LAYOUTS.get(head[:4])
    if head[:4] == b"OggS":
        _check_ogg(view, notes)
    elif head[:4] == b".snd" and len(head) >= 12:
        start, length = struct.unpack(">4x2I", head[:12])
        _check_size(view, notes, start, length, ended=start + length >= view.size, place=(8, ">I", 0))
    elif head[:7] == b"NIST_1A":
        _check_sphere(view, notes, head)
    elif head[:4] == b"\x1aE\xdf\xa3":
        _check_matroska(view, notes, head)
    elif head[:377:188] == b"GGG" and view.size % 188:  # MPEG transport stream
        notes.losses.append(f"{view.size % 188} of 188 bytes of its last packet")
    elif layout:
        layout = layout._replace(name=None) if head[8:12] == b"AVI " else layout
        long_size = struct.unpack("<Q", head[28:36])[0] if head[12:16] == b"ds64" and head[35:] else None
        _check_chunks(view, notes, layout, long_size)
    view.seek(0)


def _check_size(
    view: View, notes: Notes, start: int, length: int, ended: bool, place: tuple[int, str, int] | None
) -> None:
    """Check the size of samples at `start`, stored at `place`: offset, layout, and bytes it counts beside.

    `ended`: nothing but metadata follows. Otherwise the size wrapped at 4 GiB, or is that of a recorder that
    never closed the file, and all that follows is samples.
    """
    left, short = max(0, view.size - start), place is not None and place[1][-1] == "I"
    # Programs that cannot seek back, such as those writing to a pipe, leave one of these.
    unknown = length <= 0 or (short and (0x7FFF0000 <= length <= 0x80000100 or length >= 0xFFFF0000))
    if length > left and not unknown:
        notes.losses.append(f"{left} of {length} bytes")
    elif place and left and (unknown or not ended):
        offset, layout, beside = place
        size = left + beside
        view.patch = (offset, struct.pack(layout, size if not short or size < 1 << 32 else 0))


_DS64 = (28, "<Q", 0)
"""Place of RF64's 64-bit size of the samples (EBU Tech 3306)."""


def _check_chunks(view: View, notes: Notes, chunks: _Chunks, long_size: int | None) -> None:
    """Walk the chunks up to the samples; `long_size` is RF64's 64-bit size, if it has one."""
    position, width = chunks.first, struct.calcsize(chunks.header)
    for _ in range(1 << 18):
        header = view.read_at(position, width)
        if len(header) < width:
            return
        name, length = struct.unpack(chunks.header, header)
        start, length = position + width, length - chunks.counted
        is_long = length == 0xFFFFFFFF and long_size is not None
        length = length if long_size is None or not is_long else long_size
        end = start + length + -(start + length) % chunks.align
        if name == chunks.name:
            layout = chunks.header[0] + chunks.header[-1]
            place = (start - struct.calcsize(layout), layout, chunks.counted)
            ended = _only_metadata_follows(view, end, chunks)
            _check_size(view, notes, start, length, ended, _DS64 if is_long else place)
            return
        if length < 0:
            return
        if chunks.name is None:
            _check_size(view, notes, start, length, True, None)
        position = end
    raise ValueError(UNKNOWN)


def _only_metadata_follows(view: View, position: int, chunks: _Chunks) -> bool:
    """Tell whether other chunks or nothing of weight follows the samples."""
    width = struct.calcsize(chunks.header)
    for _ in range(1000):
        header = view.read_at(position, width)
        if len(header) < width:
            return True
        if header[:3] in (b"ID3", b"TAG"):
            return True
        name, length = struct.unpack(chunks.header, header)
        if name in (b"RIFF", b"RF64") and view.read_at(position + 8, 4) == b"WAVE":
            view.links.append(position)  # files laid end to end
            return True
        if not re.fullmatch(rb"[\x20-\x7e]{4}", name[:4]) or length < 0:
            return bool(view.size - position < 4096 and not any(view.read_at(position, 4096)))
        position += width - chunks.counted + length
        position += -position % chunks.align
        if position > view.size + 1:
            return bool(position - length > view.size - 4096)
    return True


def _check_sphere(view: View, notes: Notes, head: bytes) -> None:
    """NIST SPHERE: the header's length is in its second line, everything else in named fields."""
    numbers = dict(re.findall(rb"(\w+) -i (\d{1,18})\n", head)) | {b"header": head[7:16].strip()}
    keys = (b"header", b"sample_count", b"channel_count", b"sample_n_bytes")
    with suppress(KeyError, ValueError):
        start, *factors = (int(numbers[key]) for key in keys)
        if b"embedded-shorten" in head:
            view.start += start  # compressed: FFmpeg knows shorten, but not within SPHERE
        elif start + math.prod(factors) > view.size:
            notes.losses.append(f"{view.size - start} of {math.prod(factors)} bytes")


def check_mp3(view: View, notes: Notes) -> bool:
    """Check the size in a Xing, Info or VBRI header; return whether its number of frames may be believed."""
    head = view.read_at(0, 1 << 16)
    view.seek(0)
    match = re.search(rb"(Xing|Info)\0\0\0.{5}(....)|VBRI.{6}(....)", head, re.DOTALL)
    if not re.match(rb"\0*\xff[\xe0-\xff]", head) or not match:
        return False
    size, left = int.from_bytes(match[2] or match[3], "big"), view.size - max(0, match.start() - 40)
    if left + 40 < size:
        notes.losses.append(f"{left} of {size} bytes")
    return bool(left < size + 4096)  # otherwise another recording may follow


def _check_matroska(view: View, notes: Notes, head: bytes) -> None:
    """The single segment after the EBML header (RFC 8794: a number starts with its length in bytes)."""
    position = 4
    for name in (None, b"\x18\x53\x80\x67"):
        if name is not None and head[position : position + 4] == name:
            position += 4
        elif name is not None:
            return
        width = 9 - head[position : position + 1].ljust(1, b"\0")[0].bit_length()
        length = int.from_bytes(head[position : position + width], "big") & ((1 << 7 * width) - 1)
        position += width
        known = name is not None and length < (1 << 7 * width) - 1
        if known and position + length > view.size:
            notes.losses.append(f"{view.size - position} of {length} bytes")
        position += length


_REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def _check_ogg(view: View, notes: Notes) -> None:
    """Check the pages (RFC 3533): complete, numbered without a gap, with the right checksum."""
    position, pages, body, ended = 0, dict[bytes, int](), b"", False
    while (page := view.read_at(position, 27))[:4] == b"OggS" and len(page) == 27:
        table = view.read(page[26])
        body = view.read(sum(table))
        if len(table) < page[26] or len(body) < sum(table):
            notes.losses.append(f"its last page is cut off at byte {view.size}")
            return
        if page[5] & 2 and any(pages.values()):  # another stream starts behind the first
            view.links.append(position)
            pages = {}
        serial, number = page[14:18], int.from_bytes(page[18:22], "little")
        # zlib's CRC-32 has the same polynomial, with bits reversed and other start and end values.
        data = (page[:22] + bytes(4) + page[26:] + table + body).translate(_REVERSED)
        checksum = (zlib.crc32(data, 0xFFFFFFFF) ^ 0xFFFFFFFF).to_bytes(4, "big").translate(_REVERSED)
        if checksum != page[22:26]:
            notes.losses.append(f"damaged at byte {position}")
        elif not page[5] & 2 and number != pages.get(serial, number - 1) + 1:
            notes.losses.append(f"pages missing at byte {position}")
        pages[serial], ended = number, bool(page[5] & 4)
        position += 27 + len(table) + len(body)
    rest = view.read_at(position, 1 << 18)
    # What follows a page without an end mark is a damaged page, unless it is a tag or padding.
    unread = not ended and rest.strip(b"\0") and rest[:3] not in (b"TAG", b"APE", b"ID3")
    if b"OggS" in rest or unread or (rest and b"OggS".startswith(rest)):
        notes.losses.append(f"damaged at byte {position}")
