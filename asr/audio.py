"""Any recording -> float32 at 16 kHz, block by block, so that a long one never lies in memory."""

import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import soundfile
import soxr

from asr import containers, media
from asr.errors import AudioError
from asr.media import Track

SAMPLE_RATE = 16_000

Channel = int | Literal["mix", "split"]
"""The mean of all channels, each on its own, or the one of this number, from 0."""

_FORMATS = {"WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3", "NIST"}
"""What libsndfile reads and `containers` can tell whole from cut off."""
_UNKNOWN_FRAMES = 1 << 40


def stream(path: Path, channel: Channel = "mix") -> Iterator[np.ndarray]:
    """Decode wav, rf64, w64, flac, ogg, opus, mp3, aiff, au, caf, and with PyAV mp4, webm, mkv, video.

    Blocks of float32 `[samples, C]` at 16 kHz, C = 1, or for "split" the number of channels; `-` is standard
    input. What two channels hold in opposite phase cancels out in the mix. Raises AudioError where the file
    is missing, empty, of an unknown format, lacks the channel, holds samples that are not finite, or, after
    the last good block, is cut off.
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
    """All of `stream` at once: float32 `[samples]`, 16 kHz. Raises AudioError as it does."""
    return np.concatenate([*(block[:, 0] for block in stream(path, channel)), np.zeros(0, np.float32)])


def resample(samples: np.ndarray, rate: float, name: str = "audio") -> np.ndarray:
    """`[samples]` at `rate` Hz -> float32 `[samples]` at 16 kHz. Raises AudioError on NaN or infinity."""
    _finite(samples, name)
    _check_rate(rate, name)
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return np.ascontiguousarray(samples, dtype=np.float32)


def duration(path: Path) -> float:
    """Length in seconds, from the header where it says. Raises AudioError as `stream` does."""
    with _open(path) as track:
        if track.seconds is not None:
            return track.seconds
        return sum(map(len, track.blocks)) / track.rate


def stated_duration(path: Path) -> float | None:
    """Length in seconds by the header; None where only reading the whole would tell."""
    with _open(path) as track:
        return track.seconds


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


def pick(block: np.ndarray, channel: Channel, name: str = "audio") -> np.ndarray:
    """`[samples, channels]` -> `[samples, C]`, as in `stream`. Raises AudioError for a channel it lacks."""
    if channel not in ("mix", "split") and (
        not isinstance(channel, int | np.integer) or not 0 <= channel < block.shape[1]
    ):
        raise AudioError(f"{name}: no channel {channel}; it has {block.shape[1]}, counted from 0")
    if channel == "split" or block.shape[1] == 1:
        return block
    if channel == "mix":
        with np.errstate(over="ignore", invalid="ignore"):  # infinities are reported, not warned of
            mixed: np.ndarray = block.mean(axis=1, keepdims=True)
        return mixed
    return block[:, [channel]]


@contextmanager
def _open(path: Path) -> Iterator[Track]:
    """What a decoder makes of the file; that of FFmpeg where libsndfile does not know the container."""
    name = _name(path)
    view = None
    try:
        with _seekable(path, name) as file:
            if not file.read(1):
                raise AudioError(f"{name}: {containers.UNREADABLE.format('the file is empty')}")
            if defect := containers.defect(file):
                raise AudioError(f"{name}: {defect}")
            if kind := media.sniff(file):
                with media.open_track(containers.View(file), kind, name) as track:
                    yield track
                return
            view = containers.for_libsndfile(file)
            with _SoundFile(view) as sound:
                if sound.format not in _FORMATS:
                    raise AudioError(f"{name}: {containers.UNREADABLE.format('Format not recognised')}")
                seconds = sound.frames / sound.samplerate if sound.frames < _UNKNOWN_FRAMES else None
                yield Track(sound.samplerate, sound.channels, seconds, _blocks(sound, view, name))
    except (soundfile.LibsndfileError, OSError, ValueError) as error:
        cause = view.error if view and view.error else error
        raise AudioError(f"{name}: {containers.UNREADABLE.format(_reason(cause))}") from None


@contextmanager
def _seekable(path: Path, name: str) -> Iterator[BinaryIO]:
    """The file at its start. Opened here, so that any name will do; what cannot seek is copied to disk."""
    with ExitStack() as stack:
        if path == Path("-"):
            if sys.stdin is None:
                raise AudioError(f"{name}: {containers.UNREADABLE.format('it is closed')}")
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


def _blocks(sound: soundfile.SoundFile, view: containers.View, name: str) -> Iterator[np.ndarray]:
    """`float32[samples, channels]`. The header's length may be unknown or wrong: read to the end."""
    size = media.block_samples(sound.channels)
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
            raise AudioError(f"{name}: {containers.CUT.format(_reason(error))}") from None
    if view.error:
        raise view.error
    if sound.format == "MP3" and containers.has_more_mp3(view):
        raise AudioError(f"{name}: {containers.CHAINED}")
    if count == 0:
        raise AudioError(f"{name}: {containers.NO_SAMPLES}")
    if count < promised < _UNKNOWN_FRAMES:
        raise AudioError(f"{name}: {containers.CUT.format(f'{count} of {promised} samples')}")


class _SoundFile(soundfile.SoundFile):  # type: ignore[misc]
    """Reads forward only. After each read soundfile seeks to where it is, which garbles MP3 at the seams of
    blocks, and fails at the end of a FLAC file that does not tell its length."""

    def seekable(self) -> bool:
        return False


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "it is a directory"
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    text = str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
    # What libsndfile says of MP3 that it cannot open; the file is there, as it was opened here.
    return "Format not recognised" if text.startswith("File does not exist") else text
