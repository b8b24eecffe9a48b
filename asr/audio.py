"""Any recording -> float32 mono at 16 kHz."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
import soundfile
import soxr

from asr import containers
from asr.errors import AudioError

SAMPLE_RATE = 16_000

_BLOCK = 1 << 20
_UNKNOWN_FRAMES = 1 << 40


def read(path: Path) -> np.ndarray:
    """Decode wav, flac, ogg, opus, mp3, aiff, au: float32 `[samples]`, 16 kHz, channels averaged.

    What two channels hold in opposite phase cancels out. Raises AudioError where the file is missing,
    empty, cut off, of an unknown format, or holds samples that are not finite.
    """
    samples, rate = _decode(path)
    return resample(samples, rate, name=str(path))


def resample(samples: np.ndarray, rate: float, name: str = "audio") -> np.ndarray:
    """`[samples]` at `rate` Hz -> float32 `[samples]` at 16 kHz. Raises AudioError on NaN or infinity."""
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: the recording holds samples that are not finite")
    if not 1_000 <= rate <= 1_000_000:
        raise AudioError(f"{name}: a sample rate of {rate:g} Hz; expected 1000 to 1000000")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return np.ascontiguousarray(samples, dtype=np.float32)


def duration(path: Path) -> float:
    """Length in seconds, from the header where it says. Raises AudioError as `read` does."""
    with _open(path) as (_, sound):
        frames, rate = sound.frames, sound.samplerate
    if frames < _UNKNOWN_FRAMES:
        return float(frames / rate)
    samples, rate = _decode(path)
    return float(len(samples) / rate)


def _decode(path: Path) -> tuple[np.ndarray, int]:
    """`float32[samples]`, and their rate. Block by block, as the header's length may be unknown or wrong."""
    blocks: list[np.ndarray] = []
    with _open(path) as (file, sound):
        left = sound.frames
        try:
            while left > 0:
                block = sound.read(min(_BLOCK, left), dtype="float32", always_2d=True)
                blocks.append(block[:, 0] if sound.channels == 1 else block.mean(axis=1))
                left = left - _BLOCK if len(block) == _BLOCK else 0
        except soundfile.LibsndfileError as error:
            raise AudioError(f"{path}: {containers.CUT.format(_reason(error))}") from None
        count, promised, rate = sum(map(len, blocks)), sound.frames, sound.samplerate
        if sound.format == "MP3" and containers.has_more_mp3(file):
            raise AudioError(f"{path}: {containers.CHAINED}")
    if count == 0:
        raise AudioError(f"{path}: the recording holds no samples")
    if count < promised < _UNKNOWN_FRAMES:
        raise AudioError(f"{path}: {containers.CUT.format(f'{count} of {promised} samples')}")
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), rate


@contextmanager
def _open(path: Path) -> Iterator[tuple[BinaryIO, soundfile.SoundFile]]:
    """The file, and what libsndfile makes of it. Opened here, so that any name will do, and pipes too."""
    try:
        with path.open("rb", buffering=0) as opened:
            file: BinaryIO = opened if opened.seekable() else io.BytesIO(opened.read())
            if not file.read(1):
                raise AudioError(f"{path}: cannot read the recording (the file is empty)")
            if defect := containers.defect(file):
                raise AudioError(f"{path}: {defect}")
            with _SoundFile(containers.for_libsndfile(file)) as sound:
                yield file, sound
    except (soundfile.LibsndfileError, OSError, ValueError, TypeError) as error:
        raise AudioError(f"{path}: cannot read the recording ({_reason(error)})") from None


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
    if isinstance(error, TypeError):  # soundfile asks for the rate of a file whose name ends in .raw
        return "Format not recognised"
    return str(getattr(error, "error_string", error)).removeprefix("Error : ").rstrip(".")
