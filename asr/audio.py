"""Any recording -> float32 blocks at 16 kHz, decoded by FFmpeg through PyAV.

What can be decoded is decoded; what is missing is reported. FFmpeg reads to the end of what it finds and
is silent about the rest, so sizes, durations and page numbers stated by the container are checked here. Time
stamps are kept: a late start or a gap becomes silence. Where nothing states a length, a cut is not noticed:
MPEG streams, ADTS, AMR, MP3 without a Xing header, Ogg cut between pages, WAV written to a pipe.
"""

import math
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, Literal, NamedTuple, cast

import av
import numpy as np
import soxr

from asr.console import option
from asr.containers import UNKNOWN, Notes, View, check_container, check_mp3, skip_tags
from asr.errors import AudioError, AudioTooLongError, UnsupportedAudioError

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
_DENSEST = 2 * 192_000
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
    """Part, track and strictness with which a recording is read."""

    start: float = option("start at this second", 0.0, least=0)
    end: float | None = option("stop at this second", None, least=0)
    track: int | None = option("number of the audio track, from 0, if a file has several", None, least=0)
    raw_rate: int | None = option(
        "read headerless 16-bit little-endian samples at this rate", None, least=1000, metavar="HZ"
    )
    raw_channels: int = option("number of channels with --raw-rate", 1, least=1)
    strict: bool = option("treat an incomplete recording as an error", False)
    longest: float | None = option("refuse more seconds than this", None, hidden=True)

    def __post_init__(self) -> None:
        if not 0 <= self.start < (math.inf if self.end is None else self.end):
            raise AudioError(f"start {self.start:g} s and end {self.end} s select nothing")


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
        blocks = track.blocks if options.longest is None else _limited(track.blocks, options.longest, name)
        clipped = _clipped(blocks, options.start, options.end)
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


def read(
    path: File, channel: int | Literal["mix"] = "mix", options: ReadOptions = ReadOptions()
) -> np.ndarray:
    """Decode a whole recording to float32 `[samples]` at 16 kHz. Raises AudioError as `stream` does."""
    blocks = stream(path, channel, options=options)
    return np.concatenate([*(block[:, 0] for block in blocks), np.zeros(0, np.float32)])


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


def _limited(
    blocks: Iterable[tuple[int, np.ndarray]], longest: float, name: str
) -> Iterator[tuple[int, np.ndarray]]:
    """Raise AudioTooLongError beyond `longest` seconds, or the work that _DENSEST samples a second cost.

    Counts what is decoded: headers may state anything.
    """
    seconds = work = 0.0
    for rate, block in blocks:
        seconds += len(block) / rate
        work += block.size / _DENSEST
        if max(seconds, work) > longest:
            raise AudioTooLongError(f"{name}: the recording is longer than {longest:g} s")
        yield rate, block


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
            skip_tags(view)
            check_container(view, notes)
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
            f"{name}: {UNREADABLE.format(reason + (hint if reason == UNKNOWN else ''))}"
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


def _chained(view: View, name: str, notes: Notes, number: int | None) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of streams laid end to end, of which FFmpeg would lose parts."""
    width = 0
    for start, end in zip(view.links, [*view.links[1:], view.size], strict=True):
        part = copy(view)
        part.start, part.end = view.start + start, view.start + end
        if view.read_at(0, 4) != b"OggS":  # whose pages have all been checked
            part.patch, part.links = (0, b""), [0]
            check_container(part, notes)
            if len(part.links) > 1:
                yield from _chained(part, name, notes, number)
                continue
        with open_ffmpeg(part, name, notes, number) as track:
            for rate, block in track.blocks:
                width = width or block.shape[1]
                yield rate, _fit(block, width)


def _reason(error: Exception, name: str) -> str:
    if isinstance(error, FileNotFoundError):
        url = re.match(r"(https?|ftp):/", name)
        return "no such file; URLs are not read, download it first" if url else "no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a directory"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return str(error)


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
        counted = check_mp3(view, notes)
        wanted = {"format_whitelist": _DEMUXERS, "max_size": "65536"}
        with av.open(view, options=wanted, metadata_errors="replace", io_open=_refuse_file) as container:
            track = _choose(container, number, name, notes)
            decoder = _Decoder(container, track, view, notes, counted)
            yield Track(decoder.stated, decoder.blocks())
    except (av.FFmpegError, RuntimeError, MemoryError, struct.error) as error:
        if view.error:
            raise view.error from None
        invalid = isinstance(error, (av.error.InvalidDataError, av.error.ArgumentError))
        reason = UNKNOWN if invalid else (getattr(error, "strerror", None) or str(error)).lower()
        if invalid and view.read_at(4, 4) in (b"ftyp", b"mdat", b"moov"):
            reason = CUT.format("it lacks the index of an mp4 file")
        raise ValueError(reason) from None


def _refuse_file(url: str, flags: int, options: dict[str, str]) -> None:
    raise ValueError(f"it refers to another file, {url!r}")


def _choose(
    container: av.container.InputContainer, number: int | None, name: str, notes: Notes
) -> av.AudioStream:
    """The audio track to read. Raises AudioError if there is none, or not that one."""
    tracks = list(container.streams.audio)
    best = container.streams.best("audio")
    if not tracks:
        raise ValueError("it has no audio track")
    tracks = [track for track in tracks if track.codec_context is not None]
    if not tracks:
        raise UnsupportedAudioError(f"{name}: {UNREADABLE.format('its codec is unknown')}")
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
        container: av.container.InputContainer,
        audio: av.AudioStream,
        view: View,
        notes: Notes,
        counted: bool,
    ) -> None:
        self._container, self._audio, self._view, self._notes = container, audio, view, notes
        self._format = container.format.name.split(",")[0]
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

    def _frames(self) -> Iterator[tuple[av.AudioFrame, np.ndarray]]:
        """Decoded frames and their samples; packets that are damaged are counted."""
        damaged, padding, good = 0, 0, False
        for packet in self._packets():
            try:
                decoded = cast("list[av.AudioFrame]", packet.decode())
                frames = [(frame, _samples(frame)) for frame in decoded]
                damaged += packet.is_corrupt and good and self._format not in _PCM
            except (av.FFmpegError, ValueError):
                content = bytes(packet).lstrip(b"\0")[:3] if self._format in ("mp3", "aac") else b"-"
                if not content or content in (b"ID3", b"TAG", b"APE"):
                    padding += not content
                    continue
                # A dump of a broadcast starts in the middle of a frame.
                damaged += good or self._format not in ("mp3", "aac", "mpegts", "mpeg")
                continue
            good |= bool(frames)
            if frames:  # zeros between frames are damage, those at the end are not
                damaged, padding = damaged + padding, 0
            yield from frames
        if damaged:
            self._notes.losses.append(f"{damaged} damaged packet{'s' * (damaged > 1)}")

    def _packets(self) -> Iterator[av.Packet]:
        try:
            yield from self._container.demux(self._audio)
        except (av.FFmpegError, ValueError) as error:
            self._notes.losses.append(f"reading stopped: {getattr(error, 'strerror', error)}")

    def _timed(self, frames: Iterable[tuple[av.AudioFrame, np.ndarray]]) -> Iterator[tuple[int, np.ndarray]]:
        """Samples of frames, with silence where time stamps leave a gap."""
        start = self._container.start_time or 0
        # In mp4 an edit list delays a track; larger times are those of a broadcast.
        shift = 0.0 if self._format == "mov" and start < 60e6 else -start / 1e6
        position, gaps = 0.0, list[tuple[float, float]]()
        for frame, samples in frames:
            rate = frame.sample_rate
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
                f"gaps in its audio: {len(gaps)}, {total:.1f} s in all, the first at {gaps[0][0]:.1f} s"
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


def _samples(frame: av.AudioFrame) -> np.ndarray:
    """Convert any of FFmpeg's sample formats to `float32[samples, channels]` in [-1, 1]."""
    if frame.format.is_planar and frame.layout.nb_channels > 8:
        # Beyond FFmpeg's eight pointers, PyAV looks for a null pointer that ends the planes: it may crash.
        [frame] = av.AudioResampler(frame.format.packed.name, frame.layout).resample(frame)
    data: np.ndarray = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    return scaled(data)


def scaled(data: np.ndarray) -> np.ndarray:
    """Scale integer samples to [-1, 1], and convert to float32."""
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128) / 128
    scale = 1.0 if data.dtype.kind == "f" else 0.5 ** (8 * data.dtype.itemsize - 1)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is reported later
        samples: np.ndarray = data.astype(np.float32) * np.float32(scale)
    return samples


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
