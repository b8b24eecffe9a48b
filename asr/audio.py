"""Any recording -> float32 mono at 16 kHz."""

from pathlib import Path

import numpy as np
import soundfile
import soxr

from asr.errors import AudioError

SAMPLE_RATE = 16_000


def read(path: Path) -> np.ndarray:
    """Decode wav, flac, ogg, opus, mp3, aiff, au: float32 `[samples]`, 16 kHz, channels averaged.

    Raises AudioError where the file is missing, empty, cut off, of an unknown format, or holds
    samples that are not finite.
    """
    try:
        with soundfile.SoundFile(path) as file:
            samples = file.read(dtype="float32", always_2d=True)
            rate, promised = file.samplerate, file.frames
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise AudioError(f"{path}: cannot read the recording ({_reason(path, error)})") from None
    if len(samples) == 0:
        raise AudioError(f"{path}: the recording holds no samples")
    if len(samples) < promised:
        raise AudioError(f"{path}: the recording is cut off ({len(samples)} of {promised} samples)")
    mono = samples[:, 0] if samples.shape[1] == 1 else samples.mean(axis=1)
    return resample(mono, rate, name=str(path))


def resample(samples: np.ndarray, rate: float, name: str = "audio") -> np.ndarray:
    """`[samples]` at `rate` Hz -> float32 `[samples]` at 16 kHz. Raises AudioError on NaN or infinity."""
    if not np.isfinite(samples).all():
        raise AudioError(f"{name}: the recording holds samples that are not finite")
    if rate != SAMPLE_RATE:
        samples = soxr.resample(samples, rate, SAMPLE_RATE)
    return np.ascontiguousarray(samples, dtype=np.float32)


def duration(path: Path) -> float:
    """Length in seconds from the header alone. Raises AudioError as `read` does."""
    try:
        info = soundfile.info(path)
    except (soundfile.LibsndfileError, OSError, RuntimeError) as error:
        raise AudioError(f"{path}: cannot read the recording ({_reason(path, error)})") from None
    return float(info.frames / info.samplerate)


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "no such file"
    if path.is_dir():
        return "it is a directory"
    if path.stat().st_size == 0:
        return "the file is empty"
    return str(getattr(error, "error_string", error)).rstrip(".")
