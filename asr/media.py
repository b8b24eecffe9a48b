"""Containers that libsndfile does not know (mp4, webm, mkv, video), decoded by FFmpeg through PyAV.

FFmpeg is told the format and never guesses: some of those it knows, such as playlists, open other files.
Frames are laid end to end: a track that begins late, or has gaps, gives times that are early by as much.
"""

import itertools
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from asr import containers
from asr.errors import AudioError

if TYPE_CHECKING:
    import av

_BLOCK_BYTES = 1 << 20
_KINDS = {  # how a file starts: what people call it, and FFmpeg
    containers.MP4_START: ("mp4", "mov"),
    rb"\x1aE\xdf\xa3": ("mkv or webm", "matroska"),
    rb"RIFF.{4}AVI ": ("avi", "avi"),
    rb"\x30\x26\xb2\x75\x8e\x66\xcf\x11": ("wma", "asf"),
    rb"FLV\x01": ("flv", "flv"),
    rb"G.{187}G.{187}G|.{4}G.{191}G.{191}G": ("mpeg-ts", "mpegts"),
    rb"\0\0\x01\xba": ("mpeg-ps", "mpeg"),
    rb"\xff[\xf0\xf1\xf8\xf9]": ("aac", "aac"),
    rb"#!AMR": ("amr", "amr"),
}


@dataclass(frozen=True)
class Track:
    """A recording being decoded: blocks of float32 `[samples, channels]` at `rate` Hz.

    `seconds` is its length by the header, None where that does not say.
    """

    rate: int
    channels: int
    seconds: float | None
    blocks: Iterator[np.ndarray]


def sniff(file: BinaryIO) -> tuple[str, str] | None:
    """What people and FFmpeg call this container, by its first bytes; None if not of here. Rewinds `file`."""
    containers.skip_id3(file)
    head = file.read(600)
    file.seek(0)
    return next((names for start, names in _KINDS.items() if re.match(start, head, re.DOTALL)), None)


def block_samples(channels: int) -> int:
    """Samples in a block, so that it takes a mebibyte however many channels there are."""
    return max(1, _BLOCK_BYTES // (4 * channels))


@contextmanager
def open_track(file: containers.View, kind: tuple[str, str], name: str) -> Iterator[Track]:
    """The audio track that a player would choose. Raises AudioError, also while its blocks are read."""
    people, ffmpeg = kind
    try:
        import av
    except ImportError:
        raise AudioError(f"{name}: reading {people} needs PyAV; pip install 'asr[media]'") from None
    complaint = containers.UNREADABLE
    try:
        with av.open(file, format=ffmpeg, metadata_errors="replace", io_open=_open_nothing) as container:
            audio = container.streams.best("audio")
            if not isinstance(audio, av.AudioStream):
                raise ValueError("it has no audio track")
            complaint = containers.CUT
            frames = _frames(container, audio)
            first = next(frames, None)
            if first is None:
                raise file.error or AudioError(f"{name}: {containers.NO_SAMPLES}")
            rate, channels = first.sample_rate, first.layout.nb_channels
            seconds = _stated_seconds(container, audio)
            yield Track(rate, channels, seconds, _blocks(itertools.chain([first], frames), seconds, file))
    except (av.FFmpegError, OSError, ValueError, RuntimeError, MemoryError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise AudioError(f"{name}: {complaint.format(reason.lower())}") from None


def _open_nothing(url: str, flags: int, options: dict[str, str]) -> None:
    """A recording is one file: whatever it names beside itself stays closed."""
    raise ValueError(f"it refers to another file, {url!r}")


def _stated_seconds(container: "av.container.InputContainer", audio: "av.AudioStream") -> float | None:
    """Only mp4 tells the length of each track; elsewhere it may be that of the video, or a guess."""
    if container.format.name.startswith("mov") and audio.duration and audio.time_base:
        return float(audio.duration * audio.time_base)
    alone = len(container.streams) == 1 and container.format.name.startswith(("matroska", "avi", "asf"))
    return container.duration / 1e6 if alone and container.duration else None  # in AV_TIME_BASE


def _frames(container: "av.container.InputContainer", audio: "av.AudioStream") -> Iterator["av.AudioFrame"]:
    for packet in container.demux(audio):
        if packet.is_corrupt:
            raise ValueError("a packet is damaged")
        yield from packet.decode()


def _blocks(
    frames: Iterator["av.AudioFrame"], stated: float | None, file: containers.View
) -> Iterator[np.ndarray]:
    """Frames gathered into blocks, and an error where they end early.

    Half a second and a hundredth may be missing, as stated lengths count what encoders add at both ends.
    """
    layouts, seconds = set(), 0.0
    pending: list[np.ndarray] = []
    for frame in frames:
        layouts.add((frame.sample_rate, frame.layout.nb_channels))
        if len(layouts) > 1:
            raise ValueError("its sample rate or number of channels changes on the way")
        pending.append(_samples(frame))
        seconds += frame.samples / frame.sample_rate
        if sum(map(len, pending)) >= block_samples(frame.layout.nb_channels):
            yield np.concatenate(pending)
            pending = []
    if pending:
        yield np.concatenate(pending)
    if file.error:
        raise file.error
    if stated is not None and seconds < 0.99 * stated - 0.5:
        raise ValueError(f"{seconds:.1f} of {stated:.1f} seconds")


def _samples(frame: "av.AudioFrame") -> np.ndarray:
    """`float32[samples, channels]` in [-1, 1], of any of FFmpeg's sample formats."""
    data: np.ndarray = frame.to_ndarray()
    data = data.T if frame.format.is_planar else data.reshape(-1, frame.layout.nb_channels)
    if data.dtype == np.uint8:
        return (data.astype(np.float32) - 128) / 128
    scale = 1.0 if data.dtype.kind == "f" else 0.5 ** (8 * data.dtype.itemsize - 1)
    with np.errstate(over="ignore"):  # infinities are reported, not warned of
        samples: np.ndarray = data.astype(np.float32)
    samples *= np.float32(scale)
    return samples
