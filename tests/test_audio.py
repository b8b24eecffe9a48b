import itertools
import os
import struct
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr import audio
from asr.containers import Notes
from asr.errors import AudioError, AudioTooLongError

FORMATS = {
    "wav, 8 bit": ("WAV", "PCM_U8"),
    "wav, 16 bit": ("WAV", "PCM_16"),
    "wav, 24 bit": ("WAV", "PCM_24"),
    "wav, 32 bit": ("WAV", "PCM_32"),
    "wav, float": ("WAV", "FLOAT"),
    "wav, double": ("WAV", "DOUBLE"),
    "wav, mu-law": ("WAV", "ULAW"),
    "wav, A-law": ("WAV", "ALAW"),
    "wav, extensible": ("WAVEX", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "w64, float": ("W64", "FLOAT"),
    "rf64": ("RF64", "PCM_16"),
    "flac, 16 bit": ("FLAC", "PCM_16"),
    "flac, 24 bit": ("FLAC", "PCM_24"),
    "aiff": ("AIFF", "PCM_16"),
    "aifc, float": ("AIFF", "FLOAT"),
    "au": ("AU", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "caf, lossless": ("CAF", "ALAC_16"),
    "sphere": ("NIST", "PCM_16"),
    "ogg vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}
RATES = (8_000, 44_100, 48_000)
SECONDS = 1.5


def sine(rate: int, seconds: float = SECONDS, hertz: float = 440) -> np.ndarray:
    return 0.5 * np.sin(2 * np.pi * hertz * np.arange(round(seconds * rate)) / rate)


def refusal(path: Path, channel: audio.Channel = "mix") -> str:
    with pytest.raises(AudioError) as error:
        list(audio.stream(path, channel))
    return str(error.value)


def combinations() -> list[tuple[str, int, int]]:
    found = []
    for number, name in enumerate(FORMATS):
        rates = (8_000, 24_000, 48_000) if name == "opus" else RATES  # Opus knows no 44.1 kHz
        most = 2 if name in ("mp3", "opus") else 6  # Opus takes one of six for bass alone
        found += [(name, rate, 1) for rate in rates]
        found += [(name, 16_000, most), (name, rates[number % 3], 2)]
    return found


@pytest.mark.parametrize(("name", "rate", "channels"), combinations())
def test_a_sine_comes_through(tmp_path: Path, name: str, rate: int, channels: int) -> None:
    kind, subtype = FORMATS[name]
    path = tmp_path / "sine"
    soundfile.write(path, np.tile(sine(rate)[:, None], channels), rate, format=kind, subtype=subtype)
    samples = audio.read(path)
    assert samples.dtype == np.float32
    exact = kind != "OGG"  # FFmpeg starts Vorbis up to 3 ms late
    assert len(samples) == pytest.approx(SECONDS * 16_000, abs=0 if exact else 50)
    assert audio.duration(path) == pytest.approx(SECONDS)
    expected = sine(16_000)
    samples, expected = samples[1600:22_000], expected[1600:22_000]  # codecs and resampling swing in and out
    assert max(np.corrcoef(samples[late:][:20_000], expected[:20_000])[0, 1] for late in range(50)) > 0.995
    assert np.std(samples) == pytest.approx(np.std(expected), rel=0.1)


def test_16_bit_samples_at_16_khz_come_through_exactly(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(-(2**15), 2**15, 5000, dtype=np.int16)
    for suffix in ("wav", "flac", "aiff", "au"):
        soundfile.write(tmp_path / f"a.{suffix}", values, 16_000, subtype="PCM_16")
        np.testing.assert_array_equal(audio.read(tmp_path / f"a.{suffix}"), values / np.float32(2**15))


@pytest.mark.parametrize("rate", [8_000, 11_025, 22_050, 44_100, 48_000, 96_000])
@pytest.mark.parametrize("count", [0, 1, 2, 1001, 44_101])
def test_resampling_keeps_the_length(rate: int, count: int) -> None:
    samples = audio.resample(np.zeros(count), rate)
    assert samples.dtype == np.float32
    assert abs(len(samples) - count * 16_000 / rate) < 1


def test_resampling_filters_instead_of_aliasing() -> None:
    samples = audio.resample(sine(48_000, hertz=9_000), 48_000)
    assert np.abs(samples[800:-800]).max() < 1e-3


def test_channels_are_averaged(tmp_path: Path) -> None:
    left, right = sine(16_000), sine(16_000, hertz=1_000)
    soundfile.write(tmp_path / "a.wav", np.stack([left, right], axis=1), 16_000, subtype="FLOAT")
    np.testing.assert_allclose(audio.read(tmp_path / "a.wav"), (left + right) / 2, atol=1e-6)


def test_channels_in_opposite_phase(tmp_path: Path) -> None:
    """Their mean would be silence: the first is taken, and a warning is noted."""
    speech = sine(16_000)
    for number, right in enumerate((-speech, -0.9 * speech, 0.9 * speech, 0 * speech)):
        path = tmp_path / f"{number}.wav"
        soundfile.write(path, np.stack([speech, right], axis=1), 16_000, subtype="FLOAT")
        notes = Notes()
        found = np.concatenate(list(audio.stream(path, notes=notes)))[:, 0]
        assert [text for text in notes.warnings if "opposite phase" in text] == notes.warnings
        assert len(notes.warnings) == (number < 2)
        np.testing.assert_allclose(found, speech if number < 2 else (speech + right) / 2, atol=1e-6)


def test_blocks_join_without_a_seam(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noise = np.random.default_rng(1).uniform(-0.5, 0.5, (20_000, 2))
    samples = np.concatenate([noise, 0 * noise, noise])  # so that the bit rate of MP3 varies
    for kind, subtype in (("FLAC", None), ("WAV", None), ("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", None)):
        path = tmp_path / f"a.{subtype}"
        soundfile.write(path, samples, 48_000, format=kind, subtype=subtype)
        whole = audio.read(path)
        for block in (60_000, 20_000, 999):
            with monkeypatch.context() as patch:
                patch.setattr(audio, "_BLOCK_BYTES", 8 * block)
                np.testing.assert_array_equal(audio.read(path), whole)


@pytest.mark.parametrize(
    "name", ["a b.wav", "a\nb.wav", "ünï.wav", "音.wav", b"caf\xe9.wav", "no suffix", "a.mp3"]
)
def test_names(tmp_path: Path, name: str | bytes) -> None:
    path = tmp_path / os.fsdecode(name)
    assert "no such file" in refusal(path)
    with path.open("wb") as file:
        soundfile.write(file, sine(16_000), 16_000, format="WAV")
    assert len(audio.read(path)) == 24_000
    assert audio.duration(path) == SECONDS


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "MP3"])
def test_a_pipe(tmp_path: Path, kind: str) -> None:
    soundfile.write(tmp_path / "file", sine(16_000), 16_000, format=kind)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes((tmp_path / "file").read_bytes()))
    writer.start()
    np.testing.assert_array_equal(audio.read(pipe), audio.read(tmp_path / "file"))
    writer.join(timeout=10)


def test_flac_of_unknown_length(tmp_path: Path) -> None:
    """Written by an encoder that could not seek back to the header."""
    path = tmp_path / "a.flac"
    soundfile.write(path, sine(16_000), 16_000)
    whole, content = audio.read(path), bytearray(path.read_bytes())
    content[21] &= 0xF0  # the last 36 bits of these 8 bytes are the number of samples
    content[22:26] = bytes(4)
    path.write_bytes(content)
    np.testing.assert_array_equal(audio.read(path), whole)
    assert audio.duration(path) == SECONDS


JUNK = b"This is no recording.\n" * 100


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.wav", b"", "the file is empty"),
        ("a.wav", b"x", "Format not recognised"),
        ("a.flac", b"fLaC" + bytes(100), "cannot read"),
        ("a.wav", b"RIFF", "Format not recognised"),
        *((f"a.{suffix}", JUNK, "Format not recognised") for suffix in ("wav", "mp3", "vox", "raw")),
    ],
)
def test_files_of_other_kinds(tmp_path: Path, name: str, content: bytes, reason: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    assert reason in refusal(path)
    with pytest.raises(AudioError) as error:
        audio.duration(path)
    assert str(error.value).startswith(f"{path}: ") and reason in str(error.value)


@pytest.mark.parametrize("kind", ["SVX", "IRCAM", "VOC"])
def test_rare_formats(tmp_path: Path, kind: str) -> None:
    soundfile.write(tmp_path / "a", sine(16_000), 16_000, format=kind)
    np.testing.assert_allclose(audio.read(tmp_path / "a"), sine(16_000), atol=0.01)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "directory"),
        ("none.wav", "no such file"),
        ("a" * 300, "file name too long"),
        ("a\0b.wav", "null byte"),
    ],
)
def test_paths_that_are_no_file(tmp_path: Path, name: str, reason: str) -> None:
    message = refusal(tmp_path / name)
    assert message.startswith(f"{tmp_path / name}: ") and reason in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_read_permission(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(16_000), 16_000)
    path.chmod(0)
    assert "permission denied" in refusal(path)


def test_a_header_without_samples(tmp_path: Path) -> None:
    for kind, subtype in (("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("AU", "PCM_16"), ("OGG", "VORBIS")):
        path = tmp_path / kind
        soundfile.write(path, np.zeros(0), 16_000, format=kind, subtype=subtype)
        reason = refusal(path)
        assert "no samples" in reason or "cannot read" in reason


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_samples_that_are_not_finite(tmp_path: Path, value: float) -> None:
    path = tmp_path / "a.wav"
    samples = sine(16_000)
    samples[1234] = value
    soundfile.write(path, samples, 16_000, subtype="FLOAT")
    assert "not finite" in refusal(path)


@pytest.mark.parametrize("rate", [1, 999, 2_000_000])
def test_an_absurd_rate(tmp_path: Path, rate: int) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, sine(16_000), 16_000)
    content = bytearray(path.read_bytes())
    content[24:28] = struct.pack("<I", rate)
    path.write_bytes(content)
    assert f"sample rate of {rate:g} Hz" in refusal(path)


@pytest.mark.parametrize("rate", [0, -16_000, float("nan"), float("inf")])
def test_an_invalid_rate(rate: float) -> None:
    with pytest.raises(AudioError, match="sample rate"):
        audio.resample(sine(16_000), rate)


def test_real_speech(shared_data: Path, tmp_path: Path) -> None:
    with tarfile.open(shared_data / "dev-excerpt.tar") as archive:
        recordings = (member for member in archive if member.name.endswith(".opus"))
        for member in itertools.islice(recordings, 5):
            content = archive.extractfile(member).read()  # type: ignore[union-attr]
            path = tmp_path / "a.opus"
            path.write_bytes(content)
            samples = audio.read(path)
            assert len(samples) == round(audio.duration(path) * 16_000) > 16_000
            expected = audio.resample(soundfile.read(path)[0], soundfile.info(path).samplerate)
            assert np.corrcoef(samples, expected)[0, 1] > 0.999  # FFmpeg's decoder, and that of Opus itself
            assert 0.01 < np.std(samples) < 0.3
            path.write_bytes(content[:-1])
            assert "cut off" in refusal(path)


def test_longest_counts_what_is_decoded(tmp_path: Path) -> None:
    """Seconds, and samples of all channels: a second of 8 channels at 655,350 Hz is the work of 14."""
    path = tmp_path / "a.flac"
    for rate, channels, seconds, longest in ((16_000, 1, 3.0, 2.9), (655_350, 8, 1.0, 13.0)):
        soundfile.write(path, np.zeros((int(rate * seconds), channels)), rate)
        with pytest.raises(AudioTooLongError, match=rf"a\.flac.*longer than {longest:g} s"):
            list(audio.stream(path, options=audio.ReadOptions(longest=longest)))
        assert list(audio.stream(path, options=audio.ReadOptions(longest=longest + 1)))
