"""Live sources: a microphone, PCM from a pipe, a file at its own pace; packets `float32[n]` at 16 kHz."""

import queue
import struct
import time
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import soxr

from asr import audio
from asr.audio import SAMPLE_RATE
from asr.errors import AsrError, AudioError

PACKET_SECONDS = 0.1
HELD_SECONDS = 30
"""Most audio that a microphone holds for a machine that is too slow."""


class Microphone:
    """An open microphone; iterate over it for packets, endlessly.

    It drops the oldest audio when the machine is too slow; `dropped` are the seconds lost. Raises AsrError.
    """

    def __init__(self, device: str | None = None) -> None:
        self.dropped = 0.0
        self._packets: queue.Queue[np.ndarray] = queue.Queue(round(HELD_SECONDS / PACKET_SECONDS))
        try:
            sounddevice: Any = import_module("sounddevice")
        except ModuleNotFoundError:
            raise AsrError("sounddevice is not installed; asr listen needs pip install 'asr[live]'") from None
        except OSError as error:  # the shared library
            raise AsrError(f"sounddevice: {error}; install it (Debian: apt install libportaudio2)") from None
        chosen = int(device) if device and device.isdigit() else device
        try:
            # Not all devices can convert the rate.
            self._rate = round(sounddevice.query_devices(chosen, "input")["default_samplerate"])
            block = round(PACKET_SECONDS * self._rate)
            self._stream = sounddevice.InputStream(
                self._rate, block, chosen, channels=1, dtype="float32", callback=self._receive
            )
        except (sounddevice.PortAudioError, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise AsrError(f"microphone: cannot be opened ({reason}); choose another with --device") from None

    def _receive(self, samples: np.ndarray, frames: int, times: Any, status: Any) -> None:
        """Store samples; called by a thread of PortAudio, which must not wait."""
        if status:  # PortAudio lost samples: at least one packet's worth of time
            self.dropped += PACKET_SECONDS
        while True:
            try:
                return self._packets.put_nowait(samples[:, 0].copy())
            except queue.Full:
                self._packets.get_nowait()
                self.dropped += PACKET_SECONDS

    def __iter__(self) -> Iterator[np.ndarray]:
        resampler = soxr.ResampleStream(self._rate, SAMPLE_RATE, 1)
        with self._stream:
            while True:
                yield resampler.resample_chunk(self._packets.get())


def read_pcm(file: BinaryIO, rate: int) -> Iterator[np.ndarray]:
    """Yield packets of 16-bit PCM as soon as they arrive; with a WAV header, its format counts.

    Raises AudioError.
    """
    head, channels = file.read(4), 1
    if head == b"RIFF":
        rate, channels = _read_header(file)
        head = b""
    if not 1_000 <= rate <= 1_000_000:
        raise AudioError(f"standard input: a sample rate of {rate} Hz; expected 1000 to 1000000")
    resampler = soxr.ResampleStream(rate, SAMPLE_RATE, 1)
    size = 2 * channels
    most = round(PACKET_SECONDS * rate) * size
    read: Any = getattr(file, "read1", file.read)
    while block := read(most):
        head += block
        whole = len(head) // size * size
        samples = np.frombuffer(head[:whole], dtype="<i2").reshape(-1, channels)
        head = head[whole:]
        yield resampler.resample_chunk(audio.scaled(samples).mean(axis=1, dtype=np.float32))
    yield resampler.resample_chunk(np.zeros(0, np.float32), last=True)


def _read_header(file: BinaryIO) -> tuple[int, int]:
    """Read a WAV header after its first four bytes, up to the samples: their rate and channels."""
    file.read(8)
    kind, rate, channels, bits = 0, 0, 0, 0
    while len(chunk := file.read(8)) == 8:
        name, size = struct.unpack("<4sI", chunk)
        if name == b"data":
            break
        content = file.read(size + size % 2)
        if name == b"fmt " and len(content) >= 16:
            kind, channels, rate, _, _, bits = struct.unpack("<HHIIHH", content[:16])
    if kind not in (1, 0xFFFE) or bits != 16 or not channels:
        raise AudioError("standard input: a WAV file, but not of 16-bit PCM; try arecord -f S16_LE")
    return rate, channels


def play(path: Path) -> Iterator[np.ndarray]:
    """Yield packets of a recording as fast as it was spoken. Raises AudioError."""
    begin, spoken, size = time.monotonic(), 0, round(PACKET_SECONDS * SAMPLE_RATE)
    for block in audio.stream(path):
        for start in range(0, len(block), size):
            packet = block[start : start + size, 0]
            spoken += len(packet)
            time.sleep(max(0.0, begin + spoken / SAMPLE_RATE - time.monotonic()))
            yield packet
