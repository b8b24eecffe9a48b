"""Any recording -> float32 blocks at 16 kHz, decoded by FFmpeg through PyAV.

What can be decoded is decoded; what is missing is reported. FFmpeg reads to the end of what it finds and
is silent about the rest, so sizes, durations and page numbers stated by the container are checked here. Time
stamps are kept: a late start or a gap becomes silence. Where nothing states a length, a cut is not noticed:
MPEG streams, ADTS, AMR, MP3 without a Xing header, Ogg cut between pages, WAV written to a pipe.
"""

import math
import os
import re
import shutil
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from copy import copy
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal, NamedTuple

import numpy as np
import soxr

from asr.errors import AudioError

if TYPE_CHECKING:
    import av

SAMPLE_RATE = 16_000

Channel = int | Literal["mix", "split"]
"""Mean of all channels, each channel separately, or one channel by its number from 0."""

File = Path | BinaryIO
"""A path (`-` is standard input), or a file opened in binary mode."""

CUT = "the recording is cut off or damaged ({})"
NO_SAMPLES = "the recording holds no samples"
UNREADABLE = "cannot read the recording ({})"

_BLOCK_BYTES = 1 << 20
_TOLERANCE = 0.1
"""Seconds by which time stamps and lengths may differ: encoders pad both ends, containers round."""
_LONGEST_GAP = 4 * 3600.0
_OPPOSITE = 0.02
"""Power of a mix, relative to its channels', below which they are in opposite phase."""
_QUIET = 1e-8
"""Times _OPPOSITE, the power of noise of codecs, whose phase means nothing."""
_SILENT = 1e-4

_DEMUXERS = (
    "wav,w64,flac,ogg,mp3,aiff,au,caf,nistsphere,mov,matroska,avi,asf,flv,mpegts,mpeg,aac,loas,amr,ac3,eac3,dts,"
    "truehd,wv,tta,ape,tak,mpc,mpc8,shn,voc,ircam,iff,rm,mxf,dss,sox"
)
"""Only these: demuxers of playlists would open other files."""
_TIMED = ("matroska", "mov", "mpegts", "mpeg", "asf", "flv", "ogg", "flac")
"""Formats whose time stamps are stored, not counted."""
_COUNTED = ("ogg", "mov", "aiff", "au", "caf", "w64", "nistsphere", "voc", "tta", "wv")
"""Formats whose header or last page states the track's length; FFmpeg estimates it for others."""
_PCM = ("wav", "w64", "aiff", "au", "caf", "nistsphere")


@dataclass(frozen=True)
class ReadOptions:
    """What to read of a recording, and how strictly."""

    start: float = field(default=0.0, metadata={"help": "start at this second", "least": 0})
    end: float | None = field(default=None, metadata={"help": "stop at this second", "least": 0})
    track: int | None = field(
        default=None,
        metadata={"help": "number of the audio track, from 0, if a file has several", "least": 0},
    )
    raw_rate: int | None = field(
        default=None,
        metadata={"help": "read headerless 16-bit little-endian samples at this rate", "metavar": "HZ"},
    )
    raw_channels: int = field(default=1, metadata={"help": "number of channels with --raw-rate", "least": 1})
    strict: bool = field(default=False, metadata={"help": "treat an incomplete recording as an error"})

    def __post_init__(self) -> None:
        if not 0 <= self.start < (math.inf if self.end is None else self.end):
            raise AudioError(f"start {self.start:g} s and end {self.end} s select nothing")


@dataclass
class Notes:
    """What was noticed while reading a recording: losses, and other reasons for doubt."""

    losses: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def incomplete(self) -> str | None:
        """What is missing; None if nothing is."""
        return "; ".join(self.losses[:3]) or None

    def warn(self, text: str) -> None:
        """Add a warning once."""
        if text not in self.warnings:
            self.warnings.append(text)


class Track(NamedTuple):
    """A recording being decoded: seconds if stated; rates and blocks `float32[samples, channels]`."""

    seconds: float | None
    blocks: Iterator[tuple[int, np.ndarray]]


def stream(
    path: File, channel: Channel = "mix", notes: Notes | None = None, options: ReadOptions = ReadOptions()
) -> Iterator[np.ndarray]:
    """Decode any audio or video file, as float32 `[samples, C]` at 16 kHz in blocks.

    C = 1, or the number of channels for "split". Raises AudioError if the file is missing, empty, of an
    unknown format, lacks the channel or track, or holds samples that are not finite. An incomplete recording
    raises AudioError after its last good block; if `notes` is given and not `strict`, it is noted there.
    """
    name, strict = file_name(path), notes is None or options.strict
    notes = Notes() if notes is None else notes
    count = 0
    with _open(path, notes, options) as track:
        clipped = _clipped(track.blocks, options.start, options.end)
        picked = ((rate, _finite(pick(block, channel, name, notes), name)) for rate, block in clipped)
        for samples in _resampled(picked, name):
            if len(samples):
                count += len(samples)
                yield _finite(samples, name)
    if notes.incomplete and (strict or not count):
        raise AudioError(f"{name}: {CUT.format(notes.incomplete)}")
    if not count:
        beyond = f"; it is shorter than {options.start:g} s" if options.start else ""
        raise AudioError(f"{name}: {NO_SAMPLES}{beyond}")


def read(path: File, channel: int | Literal["mix"] = "mix") -> np.ndarray:
    """Decode a whole recording to float32 `[samples]` at 16 kHz. Raises AudioError as `stream` does."""
    return np.concatenate([*(block[:, 0] for block in stream(path, channel)), np.zeros(0, np.float32)])


def resample(samples: np.ndarray, rate: float, name: str = "audio") -> np.ndarray:
    """Resample `[samples]` at `rate` Hz to float32 at 16 kHz. Raises AudioError on NaN or infinity."""
    _finite(samples, name)
    _check_rate(rate, name)
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return np.ascontiguousarray(samples, dtype=np.float32)


def duration(path: File) -> float:
    """Length in seconds, as stated, else by decoding. Raises AudioError as `stream` does."""
    notes = Notes()
    with _open(path, notes, ReadOptions()) as track:
        seconds = track.seconds
        if seconds is None:
            seconds = sum(len(block) / rate for rate, block in track.blocks)
    if notes.incomplete:
        raise AudioError(f"{file_name(path)}: {CUT.format(notes.incomplete)}")
    return seconds


def stated_duration(path: File) -> float | None:
    """Length in seconds from the header; None if only decoding the whole file would tell."""
    with _open(path, Notes(), ReadOptions()) as track:
        return track.seconds


def pick(block: np.ndarray, channel: Channel, name: str = "audio", notes: Notes | None = None) -> np.ndarray:
    """Select channels: `[samples, channels]` -> `[samples, C]`. Raises AudioError for a missing channel.

    Where channels cancel each other, the mix is the first channel, and a warning is noted.
    """
    if channel not in ("mix", "split") and (
        not isinstance(channel, int | np.integer) or not 0 <= channel < block.shape[1]
    ):
        raise AudioError(f"{name}: no channel {channel}; it has {block.shape[1]}, counted from 0")
    if channel == "split" or block.shape[1] == 1:
        return block
    if channel != "mix":
        return block[:, [channel]]
    with np.errstate(over="ignore", invalid="ignore"):  # infinities are reported later
        mixed: np.ndarray = block.mean(axis=1, keepdims=True)
        power = np.vdot(block, block) / 2
        if block.shape[1] == 2 and np.vdot(mixed, mixed) < _OPPOSITE * power > _QUIET * len(block):
            if notes is not None:
                notes.warn("its two channels are in opposite phase and cancel each other; channel 0 is used")
            return block[:, :1]
    return mixed


def file_name(path: File) -> str:
    """The name of a recording in messages."""
    if isinstance(path, Path):
        return "standard input" if path == Path("-") else str(path)
    name = getattr(path, "name", None)
    return name if isinstance(name, str) else "audio"


def _resampled(blocks: Iterable[tuple[int, np.ndarray]], name: str) -> Iterator[np.ndarray]:
    """Resample to 16 kHz; where the rate changes, a new resampler starts."""
    for rate, group in groupby(blocks, key=lambda block: block[0]):
        _check_rate(rate, name)
        resampler = None
        for _, block in group:
            if rate == SAMPLE_RATE:
                yield block
                continue
            resampler = resampler or soxr.ResampleStream(rate, SAMPLE_RATE, block.shape[1])
            yield resampler.resample_chunk(np.ascontiguousarray(block))
            empty = block[:0]
        if resampler is not None:
            yield resampler.resample_chunk(np.ascontiguousarray(empty), last=True)


def _clipped(
    blocks: Iterable[tuple[int, np.ndarray]], start: float, end: float | None
) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks between two times in seconds."""
    now = 0.0
    for rate, block in blocks:
        first = min(max(0, round((start - now) * rate)), len(block))
        last = len(block) if end is None else min(max(0, round((end - now) * rate)), len(block))
        if first < last:
            yield rate, block[first:last]
        now += len(block) / rate
        if end is not None and now >= end:
            return


def _check_rate(rate: float, name: str) -> None:
    if not 1_000 <= rate <= 1_000_000:
        raise AudioError(f"{name}: a sample rate of {rate:g} Hz; expected 1000 to 1000000")


def _finite(samples: np.ndarray, name: str) -> np.ndarray:
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: the recording holds samples that are not finite")
    return samples


# ------------------------------------------------------------------------------------ opening a file


@contextmanager
def _open(path: File, notes: Notes, options: ReadOptions) -> Iterator[Track]:
    """Open a recording. Raises AudioError, also while its blocks are read."""
    name = file_name(path)
    try:
        with _seekable(path, name) as file:
            view = View(file)
            if view.size == 0:
                raise AudioError(f"{name}: {UNREADABLE.format('the file is empty')}")
            if options.raw_rate:
                yield Track(None, _raw_blocks(view, options.raw_rate, options.raw_channels))
                return
            _skip_tags(view)
            _check_container(view, notes)
            if len(view.links) > 1:
                yield Track(None, _chained(view, name, notes, options.track))
                return
            with open_ffmpeg(view, name, notes, options.track) as track:
                yield track
    except (OSError, ValueError) as error:
        if notes.incomplete and not isinstance(error, OSError):
            raise AudioError(f"{name}: {CUT.format(notes.incomplete)}") from None
        hint = "; for headerless samples give their rate (--raw-rate)" if path == Path("-") else ""
        reason = _reason(error, name)
        raise AudioError(
            f"{name}: {UNREADABLE.format(reason + (hint if reason == _UNKNOWN else ''))}"
        ) from None


@contextmanager
def _seekable(path: File, name: str) -> Iterator[BinaryIO]:
    """Open a file at its start; what cannot seek is copied to disk. FFmpeg could not open every name."""
    with ExitStack() as stack:
        if not isinstance(path, Path):
            file = path
            if not isinstance(file.read(0), bytes):
                raise AudioError(f"{name}: the file is opened as text; open it with mode 'rb'")
        elif path == Path("-"):
            if sys.stdin is None:
                raise AudioError(f"{name}: {UNREADABLE.format('it is closed')}")
            file = sys.stdin.buffer
        else:
            file = stack.enter_context(path.open("rb", buffering=0))
        if file.isatty():
            raise AudioError(f"{name}: it is a terminal; give a file, or a recording through a pipe")
        if not file.seekable() or file.tell():
            spool = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(file, spool)
            spool.seek(0)
            file = spool
        yield file


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
        """Read at an offset, which moves there."""
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


def _chained(view: View, name: str, notes: Notes, number: int | None) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of streams laid end to end, of which FFmpeg would lose parts."""
    width = 0
    for start, end in zip(view.links, [*view.links[1:], view.size], strict=True):
        part = copy(view)
        part.start, part.end = view.start + start, view.start + end
        with open_ffmpeg(part, name, notes, number) as track:
            for rate, block in track.blocks:
                width = width or block.shape[1]
                yield rate, _fit(block, width)


_UNKNOWN = "Format not recognised"


def _reason(error: Exception, name: str) -> str:
    if isinstance(error, FileNotFoundError):
        url = re.match(r"(https?|ftp):/", name)
        return "no such file; URLs are not read, download it first" if url else "no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a directory"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return str(error)


def _skip_tags(view: View) -> None:
    """Start behind ID3v2 tags, of which there may be several."""
    while (tag := view.read_at(0, 10))[:3] == b"ID3" and len(tag) == 10:
        length = sum((byte & 127) << shift for byte, shift in zip(tag[6:], (21, 14, 7, 0), strict=True))
        if 10 + length >= view.size:
            break
        view.start += 10 + length
    view.seek(0)


def _raw_blocks(view: View, rate: int, channels: int) -> Iterator[tuple[int, np.ndarray]]:
    """Headerless signed 16-bit little-endian samples."""
    width = 2 * channels
    while len(data := view.read(_BLOCK_BYTES // width * width)) >= width:
        samples = np.frombuffer(data[: len(data) // width * width], "<i2").reshape(-1, channels)
        yield rate, samples.astype(np.float32) / 2**15
    if view.error:
        raise view.error


# -------------------------------------------------------------------------------------------- FFmpeg


@contextmanager
def open_ffmpeg(view: View, name: str, notes: Notes, number: int | None = None) -> Iterator[Track]:
    """Open audio track `number`, or the default one. Raises ValueError, also while its blocks are read."""
    try:
        import av
    except ImportError as error:
        raise AudioError(f"{name}: PyAV, which decodes audio, cannot be loaded ({error})") from None
    try:
        counted = _check_mp3(view, notes)
        wanted = {"format_whitelist": _DEMUXERS, "max_size": "65536"}
        with av.open(view, options=wanted, metadata_errors="replace", io_open=_refuse_file) as container:
            track = _choose(container, number, name, notes)
            decoder = _Decoder(container, track, view, notes, counted)
            yield Track(decoder.stated, decoder.blocks())
    except (av.FFmpegError, RuntimeError, MemoryError, struct.error) as error:
        if view.error:
            raise view.error from None
        invalid = isinstance(error, (av.error.InvalidDataError, av.error.ArgumentError))
        reason = _UNKNOWN if invalid else (getattr(error, "strerror", None) or str(error)).lower()
        if invalid and view.read_at(4, 4) in (b"ftyp", b"mdat", b"moov"):
            reason = CUT.format("it lacks the index of an mp4 file")
        raise ValueError(reason) from None


def _refuse_file(url: str, flags: int, options: dict[str, str]) -> None:
    raise ValueError(f"it refers to another file, {url!r}")


def _choose(
    container: "av.container.InputContainer", number: int | None, name: str, notes: Notes
) -> "av.AudioStream":
    """The audio track to read. Raises AudioError if there is none, or not that one."""
    tracks = list(container.streams.audio)
    best = container.streams.best("audio")
    if not tracks:
        raise ValueError("it has no audio track")
    if number is not None:
        if not 0 <= number < len(tracks):
            raise AudioError(f"{name}: no track {number}; it has {len(tracks)}, counted from 0")
        return tracks[number]
    chosen = next((i for i, track in enumerate(tracks) if best and track.index == best.index), 0)
    if len(tracks) > 1:
        notes.warn(f"it has {len(tracks)} audio tracks; track {chosen} is read (choose with --track)")
    return tracks[chosen]


class _Decoder:
    """Decodes one track to blocks, keeping its time stamps, and notes what is missing."""

    def __init__(
        self,
        container: "av.container.InputContainer",
        audio: "av.AudioStream",
        view: View,
        notes: Notes,
        counted: bool,
    ) -> None:
        self._container, self._audio, self._view, self._notes = container, audio, view, notes
        self._format = container.format.name.split(",")[0]
        import av

        audio.codec_context.thread_count = 1
        audio.codec_context.options = {"err_detect": "crccheck"}
        if self._format == "caf":  # its last packet, if short, would be trimmed twice
            audio.codec_context.flags2 |= av.codec.context.Flags2.skip_manual
        self.stated = self._stated(counted)
        self._peak = 0.0

    def blocks(self) -> Iterator[tuple[int, np.ndarray]]:
        """Blocks of equal channel count `float32[samples, channels]`, with their rate."""
        pending: list[np.ndarray] = []
        width, rate, seconds = 0, 0, 0.0
        for frame_rate, samples in self._timed(self._frames()):
            width = width or samples.shape[1]
            if pending and (frame_rate != rate or sum(map(len, pending)) >= _block_samples(width)):
                yield rate, np.concatenate(pending)
                pending = []
            rate = frame_rate
            if self.stated is not None and self._format == "ogg":  # the last block of Vorbis reaches beyond
                samples = samples[: max(0, round((self.stated - seconds) * rate))]
            pending.append(_fit(samples, width))
            seconds += len(samples) / rate
        if pending:
            yield rate, np.concatenate(pending)
        if self._view.error:
            raise self._view.error
        if self._view.shrunk:
            self._notes.losses.append("the file became shorter while it was read")
        if self.stated is not None and seconds < self.stated - self._slack():
            self._notes.losses.append(f"{seconds:.2f} of {self.stated:.2f} s")
        tracks = len(self._container.streams.audio)
        if tracks > 1 and seconds and self._peak < _SILENT:
            self._notes.warn(f"the track that is read is silent; the file has {tracks} (choose with --track)")

    def _frames(self) -> Iterator["av.AudioFrame"]:
        """Decoded frames; packets that are damaged are counted."""
        import av

        damaged, good = 0, False
        packets = self._container.demux(self._audio)
        while True:
            try:
                packet = next(packets, None)
                if packet is None:
                    break
                frames = packet.decode()
                damaged += packet.is_corrupt and good and self._format not in _PCM
            except (av.FFmpegError, ValueError) as error:
                if isinstance(error, av.error.EOFError) or not isinstance(error, av.error.InvalidDataError):
                    self._notes.losses.append(f"decoding stopped: {error}")
                    break
                # A dump of a broadcast starts in the middle of a frame.
                damaged += good or self._format not in ("mp3", "aac", "mpegts", "mpeg")
                continue
            for frame in frames:
                good = True
                yield frame
        if damaged:
            self._notes.losses.append(f"{damaged} damaged packet{'s' * (damaged > 1)}")

    def _timed(self, frames: Iterable["av.AudioFrame"]) -> Iterator[tuple[int, np.ndarray]]:
        """Samples of frames, with silence where time stamps leave a gap."""
        start = self._container.start_time or 0
        shift = 0.0 if self._format == "mov" else -start / 1e6
        position, gaps = 0.0, list[tuple[float, float]]()
        for frame in frames:
            samples, rate = _samples(frame), frame.sample_rate
            if self._format in _TIMED and frame.pts is not None and frame.time_base:
                gap = float(frame.pts * frame.time_base) + shift - position
                if gap < -0.5 or gap > self._longest_gap(position):
                    shift -= gap  # parts laid end to end, or a damaged time stamp
                    if gap > 0:
                        self._notes.warn(f"its time stamps jump by {gap:.0f} s at {position:.1f} s; ignored")
                elif gap > _TOLERANCE:
                    if self._format == "flac":
                        self._notes.losses.append(f"{gap:.2f} s missing at {position:.1f} s")
                    yield from _silence(gap, rate, samples.shape[1])
                    if position:  # a late start is no gap
                        gaps.append((position, gap))
                    position += gap
            position += len(samples) / rate
            if len(samples):
                self._peak = max(self._peak, float(np.abs(samples).max()))
                yield rate, samples
        if gaps:
            total = sum(seconds for _, seconds in gaps)
            self._notes.warn(
                f"{len(gaps)} gaps in its audio, {total:.1f} s in all, the first at {gaps[0][0]:.1f} s"
            )

    def _longest_gap(self, position: float) -> float:
        return min(_LONGEST_GAP, math.inf if self.stated is None else self.stated - position + 1)

    def _slack(self) -> float:
        return 0.5 if self._format in ("asf", "avi", "flv") else _TOLERANCE

    def _stated(self, counted: bool) -> float | None:
        """End of the track in seconds, if the container states it and FFmpeg does not estimate it."""
        audio, container = self._audio, self._container
        context = audio.codec_context
        if self._format == "flac":
            total = int.from_bytes((context.extradata or b"")[13:18], "big") & (1 << 36) - 1
            return total / context.sample_rate if total and context.sample_rate else None
        if match := re.fullmatch(r"(\d+):(\d+):([\d.]+)", audio.metadata.get("DURATION", "")):
            hours, minutes, seconds = map(float, match.groups())
            return 3600 * hours + 60 * minutes + seconds - (container.start_time or 0) / 1e6
        pcm = self._format == "wav" and context.codec.name.startswith("pcm")
        if pcm or self._format in _COUNTED or (self._format == "mp3" and counted):
            if not audio.duration or audio.time_base is None:
                return None
            # Length in Ogg counts the samples before an Opus stream's start (RFC 7845).
            head = context.extradata or b""
            before = int.from_bytes(head[10:12], "little") / 48_000 if head[:8] == b"OpusHead" else 0
            late = audio.start_time if self._format == "mov" and audio.start_time else 0
            return float((audio.duration + late) * audio.time_base) - (before if self._format == "ogg" else 0)
        alone = len(container.streams) == 1 and self._format in ("matroska", "avi", "asf", "flv")
        return container.duration / 1e6 if alone and container.duration else None


def _samples(frame: "av.AudioFrame") -> np.ndarray:
    """Convert any of FFmpeg's sample formats to `float32[samples, channels]` in [-1, 1]."""
    data: np.ndarray = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    return scaled(data)


def scaled(data: np.ndarray) -> np.ndarray:
    """Scale integer samples to [-1, 1], and convert to float32."""
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128) / 128
    scale = 1.0 if data.dtype.kind == "f" else 0.5 ** (8 * data.dtype.itemsize - 1)
    with np.errstate(over="ignore"):  # infinities are reported later
        samples: np.ndarray = data.astype(np.float32)
    return samples * np.float32(scale)


def _fit(samples: np.ndarray, channels: int) -> np.ndarray:
    """Give samples another number of channels, where it changes within a recording."""
    if samples.shape[1] == channels:
        return samples
    return np.repeat(samples.mean(axis=1, keepdims=True), channels, axis=1)


def _silence(seconds: float, rate: int, channels: int) -> Iterator[tuple[int, np.ndarray]]:
    left = round(seconds * rate)
    while left > 0:
        count = min(left, _block_samples(channels))
        yield rate, np.zeros((count, channels), np.float32)
        left -= count


def _block_samples(channels: int) -> int:
    return max(1, _BLOCK_BYTES // (4 * channels))


# ------------------------------------------------------------------------ sizes stated by containers


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


def _check_container(view: View, notes: Notes) -> None:
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
        long_size = struct.unpack("<Q", head[28:36])[0] if head[12:16] == b"ds64" and head[35:] else 0
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


def _check_chunks(view: View, notes: Notes, chunks: _Chunks, long_size: int) -> None:
    """Walk the chunks up to the samples; `long_size` is RF64's 64-bit size (EBU Tech 3306)."""
    position, width = chunks.first, struct.calcsize(chunks.header)
    for _ in range(1 << 18):
        header = view.read_at(position, width)
        if len(header) < width:
            return
        name, length = struct.unpack(chunks.header, header)
        start, length = position + width, length - chunks.counted
        is_long = length == 0xFFFFFFFF and long_size > 0
        length = long_size if is_long else length
        end = start + length + -(start + length) % chunks.align
        if name == chunks.name:
            layout = chunks.header[0] + chunks.header[-1]
            place = (start - struct.calcsize(layout), layout, chunks.counted)
            ended = _only_metadata_follows(view, end, chunks)
            _check_size(view, notes, start, length, ended, None if is_long else place)
            return
        if length < 0:
            return
        if chunks.name is None:
            _check_size(view, notes, start, length, True, None)
        position = end
    raise ValueError(_UNKNOWN)


def _only_metadata_follows(view: View, position: int, chunks: _Chunks) -> bool:
    """Tell whether other chunks or nothing of weight follows the samples."""
    width = struct.calcsize(chunks.header)
    for _ in range(1000):
        if view.size - position < width:
            return True
        header = view.read_at(position, width)
        if header[:3] in (b"ID3", b"TAG"):
            return True
        name, length = struct.unpack(chunks.header, header)
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


def _check_mp3(view: View, notes: Notes) -> bool:
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
    position, pages, body = 0, dict[bytes, int](), b""
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
        pages[serial] = number
        position += 27 + len(table) + len(body)
    rest = view.read_at(position, 1 << 18)
    if b"OggS" in rest or (rest and b"OggS".startswith(rest)):
        notes.losses.append(f"damaged at byte {position}")
