"""Valid but unusual recordings, as other tools' users reported them: all that is in them is read."""

import io
import os
import struct
import sys
import zlib
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import pytest
import soundfile

from asr import audio
from asr.containers import Notes
from asr.errors import AudioError

RATE = 16_000


def tone(seconds: float, rate: int = RATE) -> np.ndarray:
    time = np.arange(round(seconds * rate)) / rate
    return (0.3 * np.sin(2 * np.pi * (300 + 40 * time) * time)).astype(np.float32)


def found(
    path: Path, content: bytes, options: audio.ReadOptions = audio.ReadOptions()
) -> tuple[np.ndarray, Notes]:
    path.write_bytes(content)
    notes = Notes()
    return np.concatenate([b[:, 0] for b in audio.stream(path, notes=notes, options=options)]), notes


def assert_reads(path: Path, content: bytes, seconds: float, tolerance: float = 0.15) -> np.ndarray:
    samples, notes = found(path, content)
    assert len(samples) / RATE == pytest.approx(seconds, abs=tolerance)
    assert not notes.incomplete
    assert audio.duration(path) == pytest.approx(seconds, abs=tolerance)
    return samples


def loud(samples: np.ndarray, start: float, end: float) -> bool:
    """Tell sound from silence between two times."""
    return bool(np.sqrt(np.mean(samples[round(start * RATE) : round(end * RATE)] ** 2)) > 0.1)


# ------------------------------------------------------------------------------- sizes in headers


def wav(pcm: bytes, size: int, riff: bytes = b"RIFF", tail: bytes = b"") -> bytes:
    order = ">" if riff == b"RIFX" else "<"
    header = struct.pack(f"{order}IHHIIHH", 16, 1, 1, RATE, 2 * RATE, 2, 16)
    length = struct.pack(f"{order}I", size & 0xFFFFFFFF)
    return riff + length + b"WAVEfmt " + header + b"data" + length + pcm + tail


PCM = (tone(4) * 32767).astype("<i2").tobytes()
NOTE = b"note" + struct.pack("<I", 4) + b"abcd"


@pytest.mark.parametrize("size", [0, 20_000, 20_001, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFDB])
def test_a_wav_that_was_never_closed_or_whose_size_wrapped(tmp_path: Path, size: int) -> None:
    assert_reads(tmp_path / "a.wav", wav(PCM, size), 4, 0.001)
    tagged = b"ID3\x04\0\0\0\0\x01\0" + bytes(128) + wav(PCM, size)
    assert_reads(tmp_path / "a.wav", tagged, 4, 0.001)
    swapped = np.frombuffer(PCM, "<i2").astype(">i2").tobytes()
    assert_reads(tmp_path / "a.wav", wav(swapped, size, b"RIFX"), 4, 0.001)


def test_a_wav_beyond_4_gb(tmp_path: Path) -> None:
    """Its size wrapped: the header has 320,000 bytes, the file 4 GiB more (a sparse file)."""
    path = tmp_path / "a.wav"
    path.write_bytes(wav(PCM, 320_000))
    os.truncate(path, (1 << 32) + 320_044)
    with audio._open(path, Notes(), audio.ReadOptions()) as track:
        count = 0
        for _, block in track.blocks:
            count += len(block)
            if count > 50 * RATE:
                break
    assert count > 50 * RATE


def test_chunks_behind_the_samples_are_no_samples(tmp_path: Path) -> None:
    for tail in (NOTE, NOTE * 3, b"LIST" + struct.pack("<I", 26) + b"INFOISFT" + bytes(18), b"ID3\4" + NOTE):
        assert_reads(tmp_path / "a.wav", wav(PCM, len(PCM), tail=tail), 4, 1e-4)


def test_wav_files_laid_end_to_end(tmp_path: Path) -> None:
    """As by `cat a.wav b.wav`; each is checked."""
    whole = wav(PCM, len(PCM))
    assert_reads(tmp_path / "a.wav", whole + wav(PCM, len(PCM), tail=NOTE) + wav(PCM, 0), 12, 0.001)
    samples, notes = found(tmp_path / "a.wav", whole + whole + wav(PCM[:64_000], len(PCM)))
    assert len(samples) == 10 * RATE and notes.incomplete == "64000 of 128000 bytes"


@pytest.mark.parametrize("size", [0, 20_000])
def test_rf64_that_was_never_closed(tmp_path: Path, size: int) -> None:
    file = io.BytesIO()
    soundfile.write(file, tone(4), RATE, format="RF64", subtype="PCM_16")
    content = bytearray(file.getvalue())
    struct.pack_into("<Q", content, content.index(b"ds64") + 16, size)
    assert_reads(tmp_path / "a.wav", bytes(content), 4, 0.001)


@pytest.mark.parametrize("tags", [0, 1, 2])
def test_a_cut_wav_is_noted_behind_tags_too(tmp_path: Path, tags: int) -> None:
    content = (b"ID3\x04\0\0\0\0\x01\0" + bytes(128)) * tags + wav(PCM[:64_000], len(PCM))
    samples, notes = found(tmp_path / "a.wav", content)
    assert len(samples) == 2 * RATE
    assert notes.incomplete == "64000 of 128000 bytes"
    with pytest.raises(AudioError, match="64000 of 128000 bytes"):
        found(tmp_path / "a.wav", content, audio.ReadOptions(strict=True))


@pytest.mark.parametrize(
    ("kind", "mark", "layout", "values"),
    [
        ("CAF", b"data", ">q", [-1, 0, 20_000]),
        ("AIFF", b"SSND", ">I", [0, 0xFFFFFFFF, 20_000]),
        ("AU", b".snd\0\0\0\x18", ">I", [0, 0xFFFFFFFF, 20_000]),
        ("W64", b"data\xf3\xac\xd3\x11\x8c\xd1\0\xc0\x4f\x8e\xdb\x8a", "<q", [0, 24, 20_000]),
    ],
)
def test_other_containers_that_were_never_closed(
    tmp_path: Path, kind: str, mark: bytes, layout: str, values: list[int]
) -> None:
    file = io.BytesIO()
    soundfile.write(file, tone(4), RATE, format=kind, subtype="PCM_16")
    for value in values:
        content = bytearray(file.getvalue())
        struct.pack_into(layout, content, content.index(mark) + len(mark), value)
        assert_reads(tmp_path / "a", bytes(content), 4, 0.001)


# ------------------------------------------------------------------------------------ MP3 and tags


def mp3(seconds: float, rate: int = RATE, channels: int = 1, level: float = 0.5) -> bytes:
    """Frames of constant bit rate without the Xing or Info header."""
    file, samples = io.BytesIO(), np.repeat(tone(seconds, rate)[:, None], channels, axis=1)
    soundfile.write(file, samples, rate, format="MP3", bitrate_mode="CONSTANT", compression_level=level)
    content = file.getvalue()
    return content[content.index(content[:2], 192) :]


def id3(size: int) -> bytes:
    return b"ID3\x04\0\0" + bytes([0, size >> 14 & 127, size >> 7 & 127, size & 127]) + bytes(size)


def test_mp3_that_begins_with_something_else(tmp_path: Path) -> None:
    plain = mp3(4)
    http = b"HTTP/1.1 200 OK\r\nContent-Type: audio/mpeg\r\n\r\n"
    for head in (b"", bytes(700), id3(1000) + bytes(5000), id3(1000) * 3, http, plain[50:300]):
        samples = assert_reads(tmp_path / "a.mp3", head + plain, 4.1)
        assert loud(samples, 0.3, 3.9)


def test_what_is_no_sound_is_no_loss(tmp_path: Path) -> None:
    """Padding at the end, and tags between joined files."""
    plain = mp3(4)
    for tail in (bytes(30_000), b"TAG" + bytes(125), b"APETAGEX" + bytes(300), id3(1000)):
        assert_reads(tmp_path / "a.mp3", plain + tail, 4.1)
    for between in (b"TAG" + bytes(125), id3(1000)):
        assert_reads(tmp_path / "a.mp3", plain + between + plain, 8.2, 0.25)


def test_bytes_beyond_samples_a_second(tmp_path: Path) -> None:
    assert_reads(tmp_path / "a.mp3", mp3(4, level=0.0), 4.1)
    for rate, bits in ((RATE, 160_000), (44_100, 384_000)):
        assert_reads(tmp_path / "a.mp2", muxed("mp2", "mp2", [(0, 4)], rate, bits=bits), 4)


@pytest.mark.parametrize(("rate", "channels"), [(48_000, 1), (44_100, 2), (8_000, 1)])
def test_mp3_whose_format_changes(tmp_path: Path, rate: int, channels: int) -> None:
    for parts in ([(44_100, 1), (rate, channels)], [(rate, channels), (44_100, 1)]):
        content = b"".join(mp3(6, *part) for part in parts)
        samples = assert_reads(tmp_path / "a.mp3", content, 12.2, 0.25)
        assert all(loud(samples, at, at + 0.5) for at in range(1, 11))


@pytest.mark.parametrize("kind", ["mpegts", "adts"])
def test_streams_whose_rate_changes(tmp_path: Path, kind: str) -> None:
    parts = [muxed(kind, "aac", [(0, 4)], rate) for rate in (48_000, 44_100)]
    assert_reads(tmp_path / "a", b"".join(parts), 8, 0.2)
    if kind == "adts":
        assert_reads(tmp_path / "a", parts[0][50:], 4, 0.2)  # from within a frame


def test_other_codecs_in_wav_and_caf(tmp_path: Path) -> None:
    body = mp3(4)
    header = struct.pack("<HHIIHHHHIHHH", 0x55, 1, RATE, 4000, 144, 0, 12, 1, 2, 144, 1, 1393)
    chunks = b"WAVEfmt " + struct.pack("<I", len(header)) + header + b"data" + struct.pack("<I", len(body))
    assert_reads(tmp_path / "a", b"RIFF" + struct.pack("<I", len(chunks + body)) + chunks + body, 4.1)
    for muxer, codec, rate in (
        *(("wav", "ac3", 48_000), ("wav", "g722", RATE), ("caf", "alac", RATE)),
        *(
            ("caf", "adpcm_ima_qt", RATE),
            ("ogg", "flac", RATE),
            ("ac3", "ac3", 48_000),
            ("adts", "aac", RATE),
        ),
    ):
        assert_reads(tmp_path / "a", muxed(muxer, codec, [(0, 4)], rate), 4)


# -------------------------------------------------------------------------------------------- Ogg


REVERSED = bytes(int(f"{byte:08b}"[::-1], 2) for byte in range(256))


def sealed(page: bytearray) -> bytes:
    """A page with its checksum corrected."""
    page[22:26] = bytes(4)
    value = zlib.crc32(page.translate(REVERSED), 0xFFFFFFFF) ^ 0xFFFFFFFF
    page[22:26] = int(f"{value:032b}"[::-1], 2).to_bytes(4, "little")
    return bytes(page)


def pages(content: bytes) -> Iterator[bytearray]:
    position = 0
    while position < len(content):
        count = content[position + 26]
        size = 27 + count + sum(content[position + 27 : position + 27 + count])
        yield bytearray(content[position : position + size])
        position += size


def ogg(seconds: float, subtype: str) -> list[bytearray]:
    file = io.BytesIO()
    soundfile.write(file, tone(seconds), RATE, format="OGG", subtype=subtype)
    return list(pages(file.getvalue()))


@pytest.mark.parametrize("subtype", ["OPUS", "VORBIS"])
def test_ogg_without_an_end_mark(tmp_path: Path, subtype: str) -> None:
    whole = ogg(4, subtype)
    whole[-1][5] &= ~4
    assert_reads(tmp_path / "a.ogg", b"".join(map(sealed, whole)), 4, 0.03)


def test_a_muted_microphone_is_silence_and_a_lost_page_is_noted(tmp_path: Path) -> None:
    muted = ogg(8, "OPUS")
    for page in muted[5:]:
        page[6:14] = struct.pack("<q", struct.unpack("<q", page[6:14])[0] + 5 * 48_000)
    content = b"".join(map(sealed, muted))
    samples = assert_reads(tmp_path / "a.opus", content, 13)
    assert loud(samples, 1, 2) and not loud(samples, 3.5, 7.5) and loud(samples, 9, 12)
    del muted[4]
    _, notes = found(tmp_path / "a.opus", b"".join(muted))
    assert notes.incomplete and "pages missing" in notes.incomplete


def test_a_last_page_that_is_no_longer_one_is_noted(tmp_path: Path) -> None:
    whole = ogg(20, "VORBIS")
    assert len(whole) > 4
    whole[-1][:4] = b"oggs"
    _, notes = found(tmp_path / "a.ogg", b"".join(whole))
    assert notes.incomplete and "damaged" in notes.incomplete
    assert_reads(tmp_path / "a.ogg", b"".join(ogg(4, "VORBIS")) + b"TAG" + bytes(125), 4, 0.03)


# ------------------------------------------------------------------------------ containers, tracks


def muxed(
    muxer: str,
    codec: str,
    parts: list[tuple[float, float]],
    rate: int = 48_000,
    video: bool = False,
    tracks: tuple[float, ...] = (1.0,),
    bits: int = 128_000,
) -> bytes:
    """A file of tones: when each begins, and how long it is; tracks of different loudness."""
    file = io.BytesIO()
    with av.open(file, "w", format=muxer) as out:
        streams = [out.add_stream(codec, rate=rate, layout="mono", bit_rate=bits) for _ in tracks]
        packets = []
        if video:
            codec_name = "libvpx" if muxer == "webm" else "mpeg4"
            picture = out.add_stream(codec_name, rate=10, width=32, height=32, pix_fmt="yuv420p")
            for number in range(200):
                image = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8), format="rgb24")
                image.pts, image.time_base = number, Fraction(1, 10)
                packets += picture.encode(image)
            packets += picture.encode(None)
        for stream, loudness in zip(streams, tracks, strict=True):
            packets += encoded(stream, parts, rate, loudness)
        whole = [packet for packet in packets if packet.size]
        for packet in sorted(whole, key=lambda p: float((p.pts if p.dts is None else p.dts) * p.time_base)):
            out.mux(packet)
    return file.getvalue()


def encoded(stream: av.AudioStream, parts: list[tuple[float, float]], rate: int, loudness: float) -> list:
    size, packets = stream.codec_context.frame_size or 960, []
    kind = stream.codec_context.format.name if stream.codec_context.format else "fltp"
    for begin, seconds in parts:
        samples = loudness * tone(seconds, rate)
        if kind.startswith("s16"):
            samples = (samples * 32767).astype(np.int16)
        elif kind.startswith("s32"):
            samples = (samples * (2.0**31 - 1)).astype(np.int32)
        for at in range(0, len(samples) - size, size):
            frame = av.AudioFrame.from_ndarray(
                np.ascontiguousarray(samples[None, at : at + size]), format=kind, layout="mono"
            )
            frame.sample_rate, frame.pts, frame.time_base = rate, round(begin * rate) + at, Fraction(1, rate)
            packets += stream.encode(frame)
    return packets + stream.encode(None)


MUXERS = [("matroska", "aac"), ("mp4", "aac"), ("mov", "aac"), ("webm", "libopus"), ("mpegts", "aac")]


@pytest.mark.parametrize(("muxer", "codec"), MUXERS)
def test_late_starts_and_gaps_keep_their_times(tmp_path: Path, muxer: str, codec: str) -> None:
    late = assert_reads(tmp_path / "late", muxed(muxer, codec, [(5, 4)], video=True), 9)
    assert not loud(late, 0, 4.8) and loud(late, 5.2, 8.8)
    for video in (True, False):
        gap = assert_reads(tmp_path / "gap", muxed(muxer, codec, [(0, 4), (12, 4)], video=video), 16)
        assert loud(gap, 0.2, 3.8) and not loud(gap, 4.3, 11.8) and loud(gap, 12.2, 15.8)


@pytest.mark.parametrize("muxer", ["matroska", "mp4"])
def test_several_tracks(tmp_path: Path, muxer: str) -> None:
    content = muxed(muxer, "aac", [(0, 3)], tracks=(0.0, 1.0))
    samples, notes = found(tmp_path / "a", content, audio.ReadOptions(track=1))
    assert loud(samples, 0.2, 2.8) and not notes.warnings
    samples, notes = found(tmp_path / "a", content)
    assert not loud(samples, 0.2, 2.8)
    assert "2 audio tracks; track 0" in notes.warnings[0] and "silent" in notes.warnings[1]
    with pytest.raises(AudioError, match="no track 2; it has 2"):
        found(tmp_path / "a", content, audio.ReadOptions(track=2))


def test_raw_samples_and_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = audio.ReadOptions(raw_rate=RATE)
    samples, _ = found(tmp_path / "a", PCM, raw)
    np.testing.assert_array_equal(samples, np.frombuffer(PCM, "<i2") / np.float32(2**15))
    part, _ = found(tmp_path / "a", PCM, audio.ReadOptions(raw_rate=RATE, start=1, end=2.5))
    np.testing.assert_array_equal(part, samples[RATE : 5 * RATE // 2])
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(PCM)))
    with pytest.raises(AudioError, match="--raw-rate"):
        audio.read(Path("-"))
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(PCM)))
    blocks = list(audio.stream(Path("-"), options=audio.ReadOptions(raw_rate=48_000, raw_channels=2)))
    assert sum(map(len, blocks)) == pytest.approx(len(PCM) / 12, abs=1)


def test_a_web_address_is_no_file() -> None:
    with pytest.raises(AudioError, match="URLs are not read"):
        audio.read(Path("https://example.org/a.mp3"))


def test_open_files_and_bytes(tmp_path: Path) -> None:
    (tmp_path / "a.wav").write_bytes(wav(PCM, len(PCM)))
    with (tmp_path / "a.wav").open("rb") as file:
        np.testing.assert_array_equal(audio.read(file), audio.read(tmp_path / "a.wav"))
    assert audio.duration(io.BytesIO(wav(PCM, len(PCM)))) == 4
