"""Containers of video, and of compressed audio."""

from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest

from asr import audio
from asr.errors import AudioError

RATE = 48_000
SECONDS = 3.0
CUT = "cut off"

# Name: FFmpeg's muxer, codec and options.
KINDS: dict[str, tuple[str, str, dict[str, str]]] = {
    "mp4": ("mp4", "aac", {}),
    "mp4, header first": ("mp4", "aac", {"movflags": "faststart"}),
    "mp4, fragments": ("mp4", "aac", {"movflags": "frag_keyframe+empty_moov", "frag_duration": "500000"}),
    "m4a": ("ipod", "alac", {}),
    "mov": ("mov", "pcm_s16le", {}),
    "3gp": ("3gp", "aac", {}),
    "webm": ("webm", "libopus", {}),
    "mkv, aac": ("matroska", "aac", {}),
    "mkv, flac": ("matroska", "flac", {}),
    "mkv, 8 bit": ("matroska", "pcm_u8", {}),
    "mkv, 64 bit": ("matroska", "pcm_f64le", {}),
    "avi": ("avi", "libmp3lame", {}),
    "wma": ("asf", "wmav2", {}),
    "flv": ("flv", "aac", {}),
    "mpeg-ts": ("mpegts", "aac", {}),
    "mpeg-ps": ("mpeg", "mp2", {}),
    "aac": ("adts", "aac", {}),
}


LOSSLESS = ("m4a", "mov", "mkv, flac", "mkv, 64 bit")


def tones(rate: int, channels: int, seconds: float = SECONDS) -> np.ndarray:
    """`[samples, channels]`: a sine of another pitch in each channel, its loudness rising to the end."""
    time = np.arange(round(rate * seconds)) / rate
    loudness = 0.1 + 0.3 * time / seconds
    pitches = (440 * (channel + 1) for channel in range(channels))
    return np.stack([loudness * np.sin(2 * np.pi * pitch * time) for pitch in pitches], axis=1)


@cache
def encode(name: str, folder: Path, channels: int = 2, rate: int = RATE) -> bytes:
    muxer, codec, options = KINDS[name]
    path = folder / "encoded"
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[channels]
    with av.open(str(path), "w", format=muxer, options=options) as container:
        stream = container.add_stream(codec, rate=rate, layout=layout, bit_rate=128_000)
        samples = np.ascontiguousarray(tones(rate, channels).T.astype(np.float32))
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        frame.sample_rate, frame.pts = rate, 0
        for packet in stream.encode(frame) + stream.encode(None):
            if packet.size:  # FLAC's last one is empty, which no container takes
                container.mux(packet)
    return path.read_bytes()


def refusal(path: Path, content: bytes) -> str:
    path.write_bytes(content)
    with pytest.raises(AudioError) as error:
        list(audio.stream(path))
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    return text[len(f"{path}: ") :]


def lag(samples: np.ndarray, expected: np.ndarray) -> int:
    size = 1 << (len(samples) + len(expected)).bit_length()
    product = np.fft.rfft(samples, size) * np.conj(np.fft.rfft(expected, size))
    found = int(np.fft.irfft(product).argmax())
    return found - size if found > size // 2 else found


@pytest.mark.parametrize("name", KINDS)
def test_tones_come_through(tmp_path: Path, capfd: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / "a"
    path.write_bytes(encode(name, tmp_path))
    samples = np.concatenate(list(audio.stream(path, "split")))
    expected = tones(16_000, 2)
    assert samples.dtype == np.float32
    # At both ends an encoder adds some milliseconds, which mp4 and webm let a player leave out.
    assert -0.03 < len(samples) / 16_000 - SECONDS < 0.15
    assert audio.duration(path) == pytest.approx(len(samples) / 16_000, abs=0.1)
    for channel in range(2):
        found, wanted = samples[:, channel], expected[:, channel]
        late = lag(found, wanted)
        assert abs(late) < 1600
        assert late == 0 or name not in ("mp4", "mp4, header first", "3gp", "webm", *LOSSLESS)
        found, wanted = found[late + 1600 :][:40_000], wanted[1600:41_600]
        assert np.corrcoef(found, wanted)[0, 1] > 0.99
        assert np.std(found) == pytest.approx(np.std(wanted), rel=0.1)  # LAME makes all a little softer
    np.testing.assert_allclose(audio.read(path), samples.mean(axis=1), atol=1e-5)
    np.testing.assert_allclose(audio.read(path, 1), samples[:, 1], atol=1e-6)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", LOSSLESS)
@pytest.mark.parametrize(("channels", "rate"), [(1, 16_000), (6, 16_000)])
def test_lossless_is_exact(tmp_path: Path, name: str, channels: int, rate: int) -> None:
    path = tmp_path / "a"
    path.write_bytes(encode(name, tmp_path, channels, rate))
    samples = np.concatenate(list(audio.stream(path, "split")))
    np.testing.assert_allclose(samples, tones(rate, channels), atol=1.1 / 2**15)
    assert audio.duration(path) == SECONDS


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_truncation_is_detected(tmp_path: Path, name: str, share: float) -> None:
    content = encode(name, tmp_path)
    size = int(share * len(content))
    # A cut between two frames or packets leaves no trace in these.
    if name == "aac":
        size = content.index(content[:3], size) + 50
    if name in ("mpeg-ts", "mpeg-ps"):
        size = size // 2048 * 2048 + 1000 if name == "mpeg-ps" else size // 188 * 188 + 50
    reason = refusal(tmp_path / "part", content[:size])
    assert CUT in reason or (share == 0.1 and "cannot read" in reason)


def test_messages(tmp_path: Path) -> None:
    mkv = encode("mkv, aac", tmp_path)
    start = mkv.index(b"\x18\x53\x80\x67") + 12
    assert f"{1000 - start} of {len(mkv) - start} bytes" in refusal(tmp_path / "a", mkv[:1000])
    ts = encode("mpeg-ts", tmp_path)
    assert "187 of 188 bytes of its last packet" in refusal(tmp_path / "a", ts[:-1])
    damaged = bytearray(encode("aac", tmp_path))
    second = damaged.index(damaged[:3], len(damaged) // 2)
    damaged[second + 10 : second + 200] = bytes(190)
    assert "damaged packet" in refusal(tmp_path / "a", bytes(damaged))
    mp4 = encode("mp4", tmp_path)
    assert "cannot read" in refusal(tmp_path / "a", mp4[:28] + bytes(len(mp4) - 28))


def test_a_matroska_file_that_lost_its_middle(tmp_path: Path) -> None:
    """Its segment has no size, as a browser writes it, but its header tells the length."""
    content = encode("mkv, flac", tmp_path)
    start = content.index(b"\x18\x53\x80\x67") + 4
    live = content[:start] + b"\x01" + b"\xff" * 7 + content[start + 8 :]
    path = tmp_path / "a"
    path.write_bytes(live)
    assert len(audio.read(path)) == SECONDS * 16_000
    assert f"{CUT} or damaged (1." in refusal(path, live[: len(live) // 2])


def test_a_film_and_one_without_sound(tmp_path: Path) -> None:
    for name, sound in (("film.mkv", True), ("film.mp4", True), ("silent.mp4", False)):
        with av.open(str(tmp_path / name), "w") as container:
            video = container.add_stream("mpeg4", rate=10, width=64, height=64, pix_fmt="yuv420p")
            voice = container.add_stream("aac", rate=16_000, layout="mono") if sound else None
            for _ in range(50):  # five seconds of picture, three of sound
                picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
                container.mux(video.encode(picture))
            container.mux(video.encode(None))
            if voice is not None:
                samples = tones(16_000, 1).T.astype(np.float32)
                frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
                frame.sample_rate, frame.pts = 16_000, 0
                container.mux(voice.encode(frame))
                container.mux(voice.encode(None))
    for name in ("film.mkv", "film.mp4"):
        samples = audio.read(tmp_path / name)
        assert SECONDS <= len(samples) / 16_000 < SECONDS + 0.15
        assert audio.duration(tmp_path / name) == pytest.approx(len(samples) / 16_000, abs=0.1)
    path = tmp_path / "silent.mp4"
    assert "no audio track" in refusal(path, path.read_bytes())


@pytest.mark.parametrize(("start", "frame", "rate"), [(b"#!AMR\n", 32, 8_000), (b"#!AMR-WB\n", 61, 16_000)])
def test_amr(tmp_path: Path, start: bytes, frame: int, rate: int) -> None:
    """There is no encoder: a hundred frames of 20 ms in the best mode, of bits that are zero."""
    content = start + (bytes([0x3C if rate == 8_000 else 0x44]) + bytes(frame - 1)) * 100
    path = tmp_path / "a.amr"
    path.write_bytes(content)
    assert len(audio.read(path)) == 32_000
    assert audio.duration(path) == 2.0
    assert CUT in refusal(path, content[:-7])


def test_names_pipes_and_tags(tmp_path: Path) -> None:
    content = encode("mp4", tmp_path)
    path = tmp_path / b"caf\xe9\n .mp4".decode(errors="surrogateescape")
    path.write_bytes(content)
    whole = audio.read(path)
    adts = encode("aac", tmp_path)
    (tmp_path / "a").write_bytes(adts)
    (tmp_path / "b").write_bytes(b"ID3\x04\0\0\0\0\x08\0" + bytes(1024) + adts)
    np.testing.assert_array_equal(audio.read(tmp_path / "a"), audio.read(tmp_path / "b"))
    assert len(whole) == pytest.approx(48_000, abs=500)


def test_no_other_file_is_opened(tmp_path: Path) -> None:
    """FFmpeg would play a playlist by opening what it names; here it is no recording, whatever its name."""
    (tmp_path / "secret.mp4").write_bytes(encode("mp4", tmp_path))
    for text in (
        "#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nsecret.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile secret.mp4\n",
        '<?xml version="1.0"?><MPD><Period><BaseURL>secret.mp4</BaseURL></Period></MPD>',
    ):
        for name in ("a.m3u8", "a.mp4"):
            reason = refusal(tmp_path / name, text.encode())
            assert "Format not recognised" in reason
    with pytest.raises(ValueError, match="secret"):  # a recording that refers to another file
        audio._refuse_file("secret.mp4", 0, {})
