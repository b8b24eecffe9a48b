"""Any recording -> float32 blocks at 16 kHz, by libsndfile or, for other containers, FFmpeg through PyAV.

Decoders do not report every truncated file, so container headers are checked first: libsndfile shortens
WAV, AIFF, AU, CAF and Ogg to what is left, decodes only the first of several chained Ogg or MP3 streams, and
stops at an estimate in an MP3 without a Xing header; FFmpeg ends silently where a Matroska file does. A
truncated file stays undetected if it was written to a pipe, or cut between two packets of MPEG, AAC, AMR or
MP3 without a Xing header.
"""

import itertools
import math
import os
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

import numpy as np
import soundfile
import soxr

from asr.errors import AudioError

if TYPE_CHECKING:
    import av

SAMPLE_RATE = 16_000

Channel = int | Literal["mix", "split"]
"""Mean of all channels, each channel separately, or one channel by its number from 0."""

CUT = "the recording is cut off or damaged ({}); copy or download it again"
CHAINED = "the recording goes on where its first stream ends; convert it to wav or flac first"
NO_SAMPLES = "the recording holds no samples"
UNREADABLE = "cannot read the recording ({})"

_BLOCK_BYTES = 1 << 20
_UNKNOWN_FRAMES = 1 << 40
_UNKNOWN_SIZE = 0x7FFF0000
"""Programs that cannot seek back, such as those writing to a pipe, leave 32-bit sizes of at least this."""
_MOST_CHUNKS = 1 << 18

_SNDFILE_FORMATS = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST"}
"""Formats of libsndfile in which truncation is detected."""

_MP4_START = rb"\0.{3}(ftyp|moov|free|skip|wide|pnot)|.{4}mdat"
_FFMPEG_FORMATS = {  # first bytes: common name, FFmpeg's name
    _MP4_START: ("mp4", "mov"),
    rb"\x1aE\xdf\xa3": ("mkv or webm", "matroska"),
    rb"RIFF.{4}AVI ": ("avi", "avi"),
    rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11": ("wma", "asf"),
    rb"FLV\x01": ("flv", "flv"),
    rb"G.{187}G.{187}G|.{4}G.{191}G.{191}G": ("mpeg-ts", "mpegts"),
    rb"\0\0\x01\xba": ("mpeg-ps", "mpeg"),
    rb"\xff[\xf0\xf1\xf8\xf9]": ("aac", "aac"),
    rb"#!AMR": ("amr", "amr"),
}


class Track(NamedTuple):
    """A recording being decoded: its length in seconds if the header states it, and blocks of float32
    `[samples, channels]` at `rate` Hz."""

    rate: int
    channels: int
    seconds: float | None
    blocks: Iterator[np.ndarray]


def stream(path: Path, channel: Channel = "mix") -> Iterator[np.ndarray]:
    """Decode wav, rf64, w64, flac, ogg, opus, mp3, aiff, au, caf, and with PyAV mp4, webm, mkv, video.

    Yields float32 `[samples, C]` at 16 kHz; C = 1, or the number of channels for "split". Path `-` is
    standard input. Raises AudioError if the file is missing, empty, of an unknown format, lacks the channel,
    holds samples that are not finite, or, after its last good block, is truncated.
    """
    name = _name(path)
    with _open(path) as track:
        _check_rate(track.rate, name)
        channels = track.channels if channel == "split" else 1
        picked = (_finite(pick(block, channel, name), name) for block in track.blocks)
        for samples in _resampled(picked, track.rate, channels):
            if len(samples):
                yield _finite(samples, name)


def read(path: Path, channel: int | Literal["mix"] = "mix") -> np.ndarray:
    """Decode a whole recording to float32 `[samples]` at 16 kHz. Raises AudioError as `stream` does."""
    return np.concatenate([*(block[:, 0] for block in stream(path, channel)), np.zeros(0, np.float32)])


def resample(samples: np.ndarray, rate: float, name: str = "audio") -> np.ndarray:
    """Resample `[samples]` at `rate` Hz to float32 at 16 kHz. Raises AudioError on NaN or infinity."""
    _finite(samples, name)
    _check_rate(rate, name)
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return np.ascontiguousarray(samples, dtype=np.float32)


def duration(path: Path) -> float:
    """Length in seconds, from the header if it states one. Raises AudioError as `stream` does."""
    with _open(path) as track:
        return sum(map(len, track.blocks)) / track.rate if track.seconds is None else track.seconds


def stated_duration(path: Path) -> float | None:
    """Length in seconds from the header; None if only decoding the whole file would tell."""
    with _open(path) as track:
        return track.seconds


def pick(block: np.ndarray, channel: Channel, name: str = "audio") -> np.ndarray:
    """Select channels: `[samples, channels]` -> `[samples, C]`. Raises AudioError for a missing channel."""
    if channel not in ("mix", "split") and (
        not isinstance(channel, int | np.integer) or not 0 <= channel < block.shape[1]
    ):
        raise AudioError(f"{name}: no channel {channel}; it has {block.shape[1]}, counted from 0")
    if channel == "split" or block.shape[1] == 1:
        return block
    if channel == "mix":
        with np.errstate(over="ignore", invalid="ignore"):  # infinities are reported later
            mixed: np.ndarray = block.mean(axis=1, keepdims=True)
        return mixed
    return block[:, [channel]]


def _resampled(blocks: Iterator[np.ndarray], rate: int, channels: int) -> Iterator[np.ndarray]:
    if rate == SAMPLE_RATE:
        yield from blocks
        return
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, channels)
    for block in blocks:
        yield resampler.resample_chunk(block)
    yield resampler.resample_chunk(np.zeros((0, channels), np.float32), last=True)


def _name(path: Path) -> str:
    return "standard input" if path == Path("-") else str(path)


def _check_rate(rate: float, name: str) -> None:
    if not 1_000 <= rate <= 1_000_000:
        raise AudioError(f"{name}: a sample rate of {rate:g} Hz; expected 1000 to 1000000")


def _finite(samples: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: the recording holds samples that are not finite")
    return samples


# ------------------------------------------------------------------------------------ opening a file


@contextmanager
def _open(path: Path) -> Iterator[Track]:
    """Open a recording with the decoder that knows its container. Raises AudioError."""
    name, view = _name(path), None
    try:
        with _seekable(path, name) as file:
            if not file.read(1):
                raise AudioError(f"{name}: {UNREADABLE.format('the file is empty')}")
            if defect := _defect(file):
                raise AudioError(f"{name}: {defect}")
            if kind := _ffmpeg_format(file):
                with open_ffmpeg(View(file), kind, name) as track:
                    yield track
                return
            view = View(file, endless=_is_mp3_of_unknown_length(file))
            with _SoundFile(view) as sound:
                if sound.format not in _SNDFILE_FORMATS:
                    raise AudioError(f"{name}: {UNREADABLE.format('Format not recognised')}")
                seconds = sound.frames / sound.samplerate if sound.frames < _UNKNOWN_FRAMES else None
                yield Track(sound.samplerate, sound.channels, seconds, _sndfile_blocks(sound, view, name))
    except (soundfile.LibsndfileError, OSError, ValueError) as error:
        cause = view.error if view and view.error else error
        raise AudioError(f"{name}: {UNREADABLE.format(_reason(cause))}") from None


@contextmanager
def _seekable(path: Path, name: str) -> Iterator[BinaryIO]:
    """Open a file at its start; what cannot seek is copied to disk. libsndfile could not open every name."""
    with ExitStack() as stack:
        if path == Path("-"):
            if sys.stdin is None:
                raise AudioError(f"{name}: {UNREADABLE.format('it is closed')}")
            file: BinaryIO = sys.stdin.buffer
        else:
            file = stack.enter_context(path.open("rb", buffering=0))
        if file.isatty():
            raise AudioError(f"{name}: it is a terminal; give a file, or a recording through a pipe")
        if not file.seekable() or file.tell():
            copy = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, copy)
            copy.seek(0)
            file = copy
        yield file


class View:
    """A file as C libraries see it: nameless, and without exceptions, which they would lose.

    A read error looks like the end of the file and is kept in `error`. An `endless` file reports a size far
    beyond its end, so that libmpg123 decodes past its own estimate.
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
        """Seek; in an endless file, an offset from the end (a search for an ID3v1 tag) goes to the start."""
        if self._endless and whence == os.SEEK_END:
            offset, whence = (0 if offset else 1 << 40), os.SEEK_SET
        try:
            return self._file.seek(offset, whence)
        except (OSError, ValueError, OverflowError):  # offsets in damaged headers
            return self._file.seek(0, os.SEEK_END)


def _block_samples(channels: int) -> int:
    return max(1, _BLOCK_BYTES // (4 * channels))


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a directory"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    text = str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
    # libsndfile's message for an MP3 that it cannot open; the file itself was opened above.
    return "Format not recognised" if text.startswith("File does not exist") else text


# ---------------------------------------------------------------------------------------- libsndfile


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """A sequential reader. soundfile seeks after each read of a seekable file, which garbles MP3 between
    blocks and fails at the end of a FLAC file of unknown length."""

    def seekable(self) -> bool:
        return False


def _sndfile_blocks(sound: soundfile.SoundFile, view: View, name: str) -> Iterator[np.ndarray]:
    """Read `float32[samples, channels]` to the end, as the length in the header may be unknown or wrong."""
    size = _block_samples(sound.channels)
    promised, count, left = sound.frames, 0, sound.frames
    try:
        while left > 0:
            block = sound.read(min(size, left), dtype="float32", always_2d=True)
            count += len(block)
            left = left - size if len(block) == size else 0
            if len(block):
                yield block
    except soundfile.LibsndfileError as error:
        if view.error is None:
            raise AudioError(f"{name}: {CUT.format(_reason(error))}") from None
    if view.error:
        raise view.error
    if sound.format == "MP3" and _has_more_mp3(view):
        raise AudioError(f"{name}: {CHAINED}")
    if count == 0:
        raise AudioError(f"{name}: {NO_SAMPLES}")
    if count < promised < _UNKNOWN_FRAMES:
        raise AudioError(f"{name}: {CUT.format(f'{count} of {promised} samples')}")


def _skip_id3(file: BinaryIO) -> None:
    """Seek past the ID3v2 tag at the start, if any."""
    file.seek(0)
    tag = file.read(10)
    length = 0
    for byte in tag[6:10]:
        length = length << 7 | byte & 0x7F
    file.seek(10 + length if tag[:3] == b"ID3" else 0)


def _is_mp3_of_unknown_length(file: BinaryIO) -> bool:
    """Tell MPEG audio whose first frame lacks the number of frames (Xing, Info). Rewinds."""
    _skip_id3(file)
    frames = file.read(4096).lstrip(b"\0")
    file.seek(0)
    return _is_mpeg(frames) and b"Xing" not in frames and b"Info" not in frames


def _is_mpeg(frame: bytes) -> bool:
    return frame[:1] == b"\xff" and frame[1:2] >= b"\xe0"  # eleven bits of synchronisation


def _has_more_mp3(file: View) -> bool:
    """Tell whether more MP3 frames follow than a Xing header may miscount."""
    rest = file.read(4096)
    return len(rest) == 4096 and (rest[:3] == b"ID3" or _is_mpeg(rest))


# -------------------------------------------------------------------------------------------- FFmpeg


def _ffmpeg_format(file: BinaryIO) -> tuple[str, str] | None:
    """Common and FFmpeg's name of a container by its first bytes; None if FFmpeg is not needed. Rewinds."""
    _skip_id3(file)
    head = file.read(600)
    file.seek(0)
    return next((names for start, names in _FFMPEG_FORMATS.items() if re.match(start, head, re.DOTALL)), None)


@contextmanager
def open_ffmpeg(file: View, kind: tuple[str, str], name: str) -> Iterator[Track]:
    """Open the default audio track. Raises AudioError, also while its blocks are read.

    The format is given, never guessed: some demuxers, such as those of playlists, open other files. Frames
    are concatenated, so a track that starts late or has gaps gets times that are early by as much.
    """
    common, ffmpeg = kind
    try:
        import av
    except ImportError:
        raise AudioError(f"{name}: reading {common} needs PyAV; pip install 'asr[media]'") from None
    message = UNREADABLE
    try:
        with av.open(file, format=ffmpeg, metadata_errors="replace", io_open=_refuse_file) as container:
            audio = container.streams.best("audio")
            if not isinstance(audio, av.AudioStream):
                raise ValueError("it has no audio track")
            message = CUT
            frames = _ffmpeg_frames(container, audio)
            first = next(frames, None)
            if first is None:
                raise file.error or AudioError(f"{name}: {NO_SAMPLES}")
            seconds = _stated_seconds(container, audio)
            blocks = _ffmpeg_blocks(itertools.chain([first], frames), seconds, file)
            yield Track(first.sample_rate, first.layout.nb_channels, seconds, blocks)
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(f"{name}: {message.format(reason.lower())}") from None


def _refuse_file(url: str, flags: int, options: dict[str, str]) -> None:
    raise ValueError(f"it refers to another file, {url!r}")


def _stated_seconds(container: "av.container.InputContainer", audio: "av.AudioStream") -> float | None:
    """Track length in the header. Only mp4 has one per track; others may state the video's, or a guess."""
    if container.format.name.startswith("mov") and audio.duration and audio.time_base:
        return float(audio.duration * audio.time_base)
    alone = len(container.streams) == 1 and container.format.name.startswith(("matroska", "avi", "asf"))
    return container.duration / 1e6 if alone and container.duration else None  # in AV_TIME_BASE


def _ffmpeg_frames(
    container: "av.container.InputContainer", audio: "av.AudioStream"
) -> Iterator["av.AudioFrame"]:
    for packet in container.demux(audio):
        if packet.is_corrupt:
            raise ValueError("a packet is damaged")
        yield from packet.decode()


def _ffmpeg_blocks(
    frames: Iterator["av.AudioFrame"], stated: float | None, file: View
) -> Iterator[np.ndarray]:
    """Collect frames into blocks. Raises ValueError if they end early.

    The tolerance is 0.5 s plus 1 %, as stated lengths count the encoder's padding at both ends.
    """
    layouts, seconds = set(), 0.0
    pending: list[np.ndarray] = []
    for frame in frames:
        layouts.add((frame.sample_rate, frame.layout.nb_channels))
        if len(layouts) > 1:
            raise ValueError("its sample rate or number of channels changes on the way")
        pending.append(_ffmpeg_samples(frame))
        seconds += frame.samples / frame.sample_rate
        if sum(map(len, pending)) >= _block_samples(frame.layout.nb_channels):
            yield np.concatenate(pending)
            pending = []
    if pending:
        yield np.concatenate(pending)
    if file.error:
        raise file.error
    if stated is not None and seconds < 0.99 * stated - 0.5:
        raise ValueError(f"{seconds:.1f} of {stated:.1f} seconds")


def _ffmpeg_samples(frame: "av.AudioFrame") -> np.ndarray:
    """Convert any of FFmpeg's sample formats to `float32[samples, channels]` in [-1, 1]."""
    data: np.ndarray = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128) / 128
    scale = 1.0 if data.dtype.kind == "f" else 0.5 ** (8 * data.dtype.itemsize - 1)
    with np.errstate(over="ignore"):  # infinities are reported later
        samples: np.ndarray = data.astype(np.float32)
    return samples * np.float32(scale)


# ------------------------------------------------------------------------------- truncated containers


class _Chunks(NamedTuple):
    """Layout of a chunked container: offset of the first chunk, chunk header, chunks that hold samples."""

    first: int
    header: str
    names: tuple[bytes, ...]
    several: bool = False  # more than one chunk may hold samples
    inclusive: bool = False  # a chunk's size counts its header
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


def _defect(file: BinaryIO) -> str | None:
    """Message for a file that ends before its container says; None otherwise. Rewinds."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    head = file.read(1024)
    file.seek(0)
    found = None
    if head[:4] == b"OggS":
        found = _ogg_defect(file, size)
    elif head[:377:188] == b"GGG" and size % 188:  # MPEG transport stream
        found = CUT.format(f"{size % 188} of 188 bytes of its last packet")
    else:
        spans = ((start, end) for start, end in _sample_spans(file, size, head) if end > size)
        if span := next(spans, None):
            found = CUT.format(f"{max(0, size - span[0])} of {span[1] - span[0]} bytes")
    file.seek(0)
    return found


def _sample_spans(file: BinaryIO, size: int, head: bytes) -> Iterator[tuple[int, int]]:
    """Start and end offsets of sample data as headers declare them."""
    layout = _LAYOUTS.get(head[:4])
    if head[:4] == b".snd" and len(head) >= 12:
        start, length = struct.unpack(">4x2I", head[:12])
        if length < _UNKNOWN_SIZE:
            yield start, start + length
    elif head[:7] == b"NIST_1A":
        yield from _sphere_spans(head)
    elif head[:4] == b"\x1aE\xdf\xa3":
        yield from _matroska_spans(head)
    elif head[8:12] == b"AVI ":
        yield from _chunk_spans(file, size, _AVI)
    elif re.match(_MP4_START, head, re.DOTALL):
        yield from _chunk_spans(file, size, _MP4)
    elif layout is not None:
        long_size = struct.unpack("<Q", head[28:36])[0] if head[12:16] == b"ds64" and head[35:] else 0
        yield from _chunk_spans(file, size, layout, long_size)


def _chunk_spans(file: BinaryIO, size: int, chunks: _Chunks, long_size: int = 0) -> Iterator[tuple[int, int]]:
    """Walk the chunks; `long_size` is RF64's 64-bit size, stored elsewhere (EBU Tech 3306)."""
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
            if length == 1:  # a 64-bit size follows
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


def _sphere_spans(head: bytes) -> Iterator[tuple[int, int]]:
    """NIST SPHERE: the header's length is in its second line, everything else in named fields."""
    numbers = dict(re.findall(rb"(\w+) -i (\d{1,18})\n", head)) | {b"header": head[7:16].strip()}
    keys = (b"header", b"sample_count", b"channel_count", b"sample_n_bytes")
    with suppress(KeyError, ValueError):
        start, *factors = (int(numbers[key]) for key in keys)
        yield start, start + math.prod(factors)


def _matroska_spans(head: bytes) -> Iterator[tuple[int, int]]:
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
        if name is not None and length < (1 << 7 * width) - 1:
            yield position, position + length
        position += length


def _ogg_defect(file: BinaryIO, size: int) -> str | None:
    """Walk the pages (RFC 3533); the last must carry the end-of-stream flag and be complete."""
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
