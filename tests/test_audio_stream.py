"""`audio.stream`: blocks, channels, standard input, and files that change or fail while they are read."""

import errno
import io
import os
import socket
import sys
import threading
import tracemalloc
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import soxr

from asr import audio
from asr.errors import AudioError
from tests.test_audio import refusal, sine


@pytest.mark.parametrize("rate", [6_000, 8_000, 11_025, 44_100, 48_000, 384_000])
def test_resampling_is_independent_of_blocks(tmp_path: Path, rate: int) -> None:
    samples = np.random.default_rng(2).uniform(-0.5, 0.5, (600_001, 1)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    blocks = list(audio.stream(tmp_path / "a.wav"))
    assert len(blocks) >= 3
    assert {(block.ndim, block.shape[1], block.dtype) for block in blocks} == {(2, 1, np.dtype("float32"))}
    np.testing.assert_array_equal(np.concatenate(blocks)[:, 0], audio.read(tmp_path / "a.wav"))
    np.testing.assert_array_equal(np.concatenate(blocks), soxr.resample(samples, rate, 16_000))


@pytest.mark.parametrize("rate", [16_000, 48_000])
def test_one_channel_or_each(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    tones = np.stack([sine(rate, hertz=hertz) for hertz in (300, 700, 1500)], axis=1)
    soundfile.write(path, tones, rate, subtype="FLOAT")
    split = np.concatenate(list(audio.stream(path, "split")))
    assert split.shape == (24_000, 3)
    for number, hertz in enumerate((300, 700, 1500)):
        np.testing.assert_allclose(split[800:-800, number], sine(16_000, hertz=hertz)[800:-800], atol=1e-4)
        np.testing.assert_array_equal(audio.read(path, number), split[:, number])
    np.testing.assert_allclose(audio.read(path), split.mean(axis=1), atol=1e-6)
    for absent in (3, 200, -1):
        assert f"no channel {absent}; it has 3" in refusal(path, absent)


def test_a_bad_channel_does_not_affect_others(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    samples = np.tile(sine(16_000)[:, None], 2)
    samples[77, 1] = np.inf
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    assert len(audio.read(path, 0)) == 24_000
    for channel in ("mix", "split", 1):
        assert "not finite" in refusal(path, channel)


@pytest.mark.parametrize(("channels", "rate", "seconds"), [(200, 384_000, 0.2), (1, 16_000, 1500)])
def test_memory_is_bounded(tmp_path: Path, channels: int, rate: int, seconds: float) -> None:
    path = tmp_path / "a.wav"
    count = round(rate * seconds)
    with soundfile.SoundFile(path, "w", rate, channels, "PCM_16") as sound:
        for _ in range(10):
            sound.write(np.zeros((count // 10, channels), np.int16))
    tracemalloc.start()
    total = sum(map(len, audio.stream(path)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert total == round(seconds * 16_000)
    assert peak < 5 << 20  # the samples take 48 or 61 MB


@pytest.mark.parametrize(
    ("samples", "rate"),
    [
        (sine(16_000, 0.01), 16_000),
        (sine(384_000, 0.01), 384_000),
        (np.zeros(1600), 16_000),
        (np.sign(sine(16_000, 0.1)), 16_000),
        (0.5 + 0.3 * sine(16_000, 0.1), 16_000),
        (np.ones(1), 16_000),
    ],
    ids=["10 ms", "384 kHz", "silence", "clipping", "DC offset", "one sample"],
)
def test_odd_but_readable(tmp_path: Path, samples: np.ndarray, rate: int) -> None:
    soundfile.write(tmp_path / "a.wav", samples, rate, subtype="FLOAT")
    found = audio.read(tmp_path / "a.wav")
    expected = samples if rate == 16_000 else sine(16_000, 0.01)
    np.testing.assert_allclose(found, expected, atol=1e-7 if rate == 16_000 else 0.05)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3", "OGG"])
def test_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    path = tmp_path / "file"
    soundfile.write(path, sine(16_000), 16_000, format=kind)
    expected = audio.read(path)
    with path.open("rb") as file:
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
        np.testing.assert_array_equal(audio.read(Path("-")), expected)
    pipe, end = os.pipe()
    writer = threading.Thread(target=lambda: Path(f"/dev/fd/{end}").write_bytes(path.read_bytes()))
    with open(pipe, "rb") as file:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=file))
        writer.start()
        while not file.peek(1):
            pass
        os.close(end)
        np.testing.assert_array_equal(audio.read(Path("-")), expected)
        writer.join(timeout=10)
        assert "empty" in refusal(Path("-"))


def test_standard_input_that_holds_no_recording(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with open(slave, "rb") as terminal:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=terminal))
        for path in (Path("-"), Path(os.ttyname(slave))):
            assert "it is a terminal" in refusal(path)
    os.close(master)
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"hello")))
    assert "standard input" in refusal(Path("-"))
    monkeypatch.setattr(sys, "stdin", None)
    assert "closed" in refusal(Path("-"))


def test_what_cannot_be_opened(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        path = tmp_path / "socket"
        server.bind(str(path))
        assert "no such device" in refusal(path)
    path = tmp_path / "loop.wav"
    path.symlink_to(path)
    assert "too many levels of symbolic links" in refusal(path)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AU", "CAF"])
def test_a_file_that_grows_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(audio, "_BLOCK_BYTES", 4_000)
    path = tmp_path / "a"
    soundfile.write(path, sine(16_000), 16_000, format=kind, subtype="PCM_16")
    expected, content = audio.read(path), path.read_bytes()
    blocks = audio.stream(path)
    found = [next(blocks)]
    with path.open("ab") as file:
        file.write(content)
    np.testing.assert_array_equal(np.concatenate([*found, *blocks])[:, 0], expected)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AU", "OGG", "MP3"])
def test_a_file_that_shrinks_while_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr(audio, "_BLOCK_BYTES", 4_000)
    path = tmp_path / "a"
    count = 4_000_000 if kind == "WAV" else 200_000  # FFmpeg reads megabytes ahead
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, count), 16_000, format=kind)
    blocks = audio.stream(path)
    next(blocks)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(AudioError, match="cut off"):
        list(blocks)


class _Failing(io.BytesIO):
    """A file whose second half cannot be read."""

    broken = 1 << 30

    def read(self, size: int | None = -1) -> bytes:
        if self.tell() > self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read(size)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "AU", "MP3"])
def test_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], kind: str
) -> None:
    file = _Failing()
    soundfile.write(file, np.random.default_rng(0).uniform(-0.5, 0.5, 800_000), 16_000, format=kind)
    file.broken = len(file.getvalue()) // 2
    file.seek(0)
    monkeypatch.setattr(audio, "_seekable", lambda path, name: nullcontext(file))
    assert "input/output error" in refusal(tmp_path / "a")
    assert capfd.readouterr() == ("", "")


def test_a_damaged_part_comes_after_the_good_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "_BLOCK_BYTES", 4_000)
    path = tmp_path / "a.flac"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 50_000), 16_000)
    whole = audio.read(path)
    os.truncate(path, path.stat().st_size * 3 // 4)
    found = []
    with pytest.raises(AudioError, match="cut off"):
        for block in audio.stream(path):
            found.append(block)
    decoded = np.concatenate(found)[:, 0]
    assert len(decoded) > 30_000
    np.testing.assert_array_equal(decoded, whole[: len(decoded)])
