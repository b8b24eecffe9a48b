"""Truncated and concatenated files: `audio.read` and `audio.duration`."""

import io
import struct
import time
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr import audio
from asr.audio import CUT
from asr.errors import AudioError

RATE = 16_000
NOISE = np.random.default_rng(0).uniform(-0.5, 0.5, RATE)
KINDS = {
    "wav": ("WAV", "PCM_16"),
    "wav, big endian": ("WAV", "PCM_16"),
    "wav, 24 bit": ("WAV", "PCM_24"),
    "wav, extensible": ("WAVEX", "FLOAT"),
    "rf64": ("RF64", "PCM_16"),
    "aiff": ("AIFF", "PCM_16"),
    "au": ("AU", "PCM_16"),
    "w64": ("W64", "PCM_16"),
    "caf": ("CAF", "PCM_16"),
    "caf, lossless": ("CAF", "ALAC_16"),
    "sphere": ("NIST", "PCM_16"),
    "flac": ("FLAC", "PCM_16"),
    "vorbis": ("OGG", "VORBIS"),
    "opus": ("OGG", "OPUS"),
    "mp3": ("MP3", "MPEG_LAYER_III"),
}


@cache
def encode(name: str, repeats: int = 1) -> bytes:
    """The noise, so many times, in one of KINDS."""
    kind, subtype = KINDS[name]
    endian = "BIG" if "big endian" in name else None
    file = io.BytesIO()
    soundfile.write(file, np.tile(NOISE, repeats), RATE, format=kind, subtype=subtype, endian=endian)
    return file.getvalue()


def refusal(path: Path, content: bytes | None) -> str:
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AudioError) as error:
        audio.read(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ")
    return text[len(f"{path}: ") :]


def accepted(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    samples = audio.read(path)
    assert audio.duration(path) == pytest.approx(len(samples) / RATE, abs=1 / RATE)
    return samples


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_truncation_is_detected(tmp_path: Path, name: str, share: float) -> None:
    content = encode(name)
    assert len(accepted(tmp_path / "whole", content)) == pytest.approx(len(NOISE), abs=50)
    if name == "mp3" and share == 0.999:
        return  # 16 bytes of a frame
    reason = refusal(tmp_path / "part", content[: int(share * len(content))])
    assert "cut off" in reason or (share == 0.1 and "cannot read" in reason)


@pytest.mark.parametrize(
    "name", ["wav", "aiff", "au", "w64", "caf", "sphere", "flac", "vorbis", "opus", "mp3"]
)
def test_any_missing_byte_counts(tmp_path: Path, name: str) -> None:
    content = encode(name)
    # FFmpeg takes the last frame of an MP3 without its last bytes; 0.1 s may be missing without a word.
    for missing in (1, 2, 3, 10, 100) if name != "mp3" else (1000,):
        assert refusal(tmp_path / "part", content[:-missing])


def test_messages(tmp_path: Path) -> None:
    wav, flac, opus = encode("wav"), encode("flac"), encode("opus")
    assert refusal(tmp_path / "a.wav", wav[:-1000]) == CUT.format("31000 of 32000 bytes")
    assert refusal(tmp_path / "a.wav", wav[:44]) == CUT.format("0 of 32000 bytes")
    assert " of 1.00 s" in refusal(tmp_path / "a.flac", flac[: len(flac) // 2])
    half = len(opus) // 2
    assert f"its last page is cut off at byte {half}" in refusal(tmp_path / "a.opus", opus[:half])


@pytest.mark.parametrize("name", ["wav", "flac", "vorbis", "opus"])
def test_duration_detects_truncation_of_the_container(tmp_path: Path, name: str) -> None:
    content = encode(name)
    (tmp_path / "part").write_bytes(content[: len(content) // 2])
    if name == "flac":  # its header knows the length; only decoding shows the cut
        assert audio.duration(tmp_path / "part") == 1
    else:
        with pytest.raises(AudioError, match="cut off"):
            audio.duration(tmp_path / "part")


def test_long_metadata_hides_no_cut(tmp_path: Path) -> None:
    for kind, subtype in (("WAV", "PCM_16"), ("AIFF", "PCM_16"), ("OGG", "VORBIS"), ("OGG", "OPUS")):
        file = io.BytesIO()
        with soundfile.SoundFile(file, "w", RATE, 1, subtype, format=kind) as sound:
            sound.title, sound.comment = "title " * 1000, "comment " * 1000
            sound.write(NOISE)
        content = file.getvalue()
        assert b"title title" in content
        assert len(accepted(tmp_path / "whole", content)) == len(NOISE)
        assert "cut off" in refusal(tmp_path / "part", content[: len(content) * 3 // 4])


def patched(name: str, offset: int, layout: str, value: int) -> bytes:
    content = bytearray(encode(name))
    struct.pack_into(layout, content, offset, value)
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "field", "layout", "extra"),
    [
        ("rf64", 28, "<Q", 0),
        ("w64", b"data\xf3\xac\xd3\x11\x8c\xd1\0\xc0\x4f\x8e\xdb\x8a", "<Q", 24),
        ("caf", b"data", ">Q", 4),
    ],
)
def test_a_header_that_promises_too_much(
    tmp_path: Path, name: str, field: int | bytes, layout: str, extra: int
) -> None:
    """The field counts `extra` bytes: its own header in W64, a number of edits in CAF."""
    content = encode(name)
    offset = field if isinstance(field, int) else content.index(field) + len(field)
    assert struct.unpack_from(layout, content, offset) == (2 * RATE + extra,)
    reason = refusal(tmp_path / "a", patched(name, offset, layout, (1 << 60) + extra))
    edits = 4 if name == "caf" else 0
    assert reason == CUT.format(f"{2 * RATE + edits} of {(1 << 60) + edits} bytes")


@pytest.mark.parametrize(
    ("name", "offset", "layout"), [("wav", 22, "<H"), ("aiff", 20, ">H"), ("au", 20, ">I")]
)
def test_a_header_with_too_many_channels(tmp_path: Path, name: str, offset: int, layout: str) -> None:
    assert struct.unpack_from(layout, encode(name), offset) == (1,)
    reason = refusal(tmp_path / "a", patched(name, offset, layout, 65_535))
    assert "cannot read" in reason or "cut off" in reason


def test_chunks_without_end_take_no_time(tmp_path: Path) -> None:
    with (tmp_path / "a.wav").open("wb") as file:
        file.write(b"RIFF" + struct.pack("<I", 1 << 30) + b"WAVE")
        file.truncate(1 << 30)  # a sparse file: chunks of no bytes, 134 million of them
    before = time.process_time()
    assert "cannot read" in refusal(tmp_path / "a.wav", None)
    assert time.process_time() - before < 5


@pytest.mark.parametrize("size", [0x7FFFF000, 0x80000000, 0xFFFFFFFF])
def test_wav_from_a_pipe_has_no_length(tmp_path: Path, size: int) -> None:
    content = bytearray(encode("wav"))
    content[4:8] = struct.pack("<I", min(size + 36, 0xFFFFFFFF))
    content[40:44] = struct.pack("<I", size)
    assert len(accepted(tmp_path / "a.wav", bytes(content))) == len(NOISE)
    au = bytearray(encode("au"))
    au[8:12] = b"\xff" * 4
    assert len(accepted(tmp_path / "a.au", bytes(au))) == len(NOISE)


def test_wav_with_other_chunks(tmp_path: Path) -> None:
    content = encode("wav")
    odd = b"note" + struct.pack("<I", 3) + b"abc\0"
    assert len(accepted(tmp_path / "a.wav", content[:36] + odd + content[36:])) == len(NOISE)
    assert len(accepted(tmp_path / "a.wav", content + odd)) == len(NOISE)
    assert len(accepted(tmp_path / "a.wav", content + odd[:-2])) == len(NOISE)  # the samples are whole
    assert "cut off" in refusal(tmp_path / "a.wav", content[:36] + odd + content[36:-10])
    wrong_total = content[:4] + struct.pack("<I", len(content)) + content[8:]
    assert len(accepted(tmp_path / "a.wav", wrong_total)) == len(NOISE)


def pages(content: bytes) -> list[int]:
    """Offsets of the pages of an Ogg file."""
    found, start = [], 0
    while (start := content.find(b"OggS", start)) >= 0:
        found.append(start)
        start += 4
    return found


@pytest.mark.parametrize("name", ["vorbis", "opus"])
def test_ogg_damaged_within(tmp_path: Path, name: str) -> None:
    content = encode(name, repeats=6)
    inner = pages(content)
    assert len(inner) > 6
    without_a_page = content[: inner[-3]] + content[inner[-2] :]
    flipped = bytearray(content)
    flipped[inner[-3] + 500] ^= 1
    assert f"pages missing at byte {inner[-3]}" in refusal(tmp_path / "a.ogg", without_a_page)
    assert f"damaged at byte {inner[-3]}" in refusal(tmp_path / "a.ogg", bytes(flipped))
    assert len(accepted(tmp_path / "a.ogg", content + bytes(100))) == 6 * len(NOISE)  # after the end


@pytest.mark.parametrize("name", ["vorbis", "opus", "mp3"])
def test_streams_laid_end_to_end(tmp_path: Path, name: str) -> None:
    """Both are read; FFmpeg keeps some milliseconds of padding between them."""
    found = accepted(tmp_path / "a", encode(name) + encode(name))
    assert 0 <= len(found) / RATE - 2 < 0.15


def first_frame_end(content: bytes) -> int:
    """Offset of the end of the MP3 frame with the Xing header; LAME's part of it ends at byte 192 at most."""
    assert b"Xing" in content[:40] or b"Info" in content[:40]
    return content.index(content[:2], 192)


def id3(size: int) -> bytes:
    """A tag in front of the frames, such as holds a picture."""
    assert size % 128 == 0
    return b"ID3\x04\0\0" + bytes([0, size >> 14 & 127, size >> 7 & 127, 0]) + bytes(size)


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
@pytest.mark.parametrize("silence_first", [True, False])
def test_mp3_without_a_number_of_frames(tmp_path: Path, mode: str, silence_first: bool) -> None:
    """libsndfile estimates the length: too short, or so long that the file seems truncated."""
    parts = [np.zeros(3 * RATE), NOISE]
    samples = np.concatenate(parts if silence_first else parts[::-1])
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="MP3", bitrate_mode=mode, compression_level=0.5)
    content = file.getvalue()
    frames = content[first_frame_end(content) :]
    expected = accepted(tmp_path / "a.mp3", content)
    assert len(expected) == len(samples)
    for wrapped in (frames, id3(16_384) + frames, frames + b"TAG".ljust(128, b"x")):
        found = accepted(tmp_path / "a.mp3", wrapped)
        # Without the header, the encoder's delay and padding stay.
        assert len(expected) < len(found) < len(expected) + 3 * 1152
        lag = int(np.abs(found).argmax() - np.abs(expected).argmax())
        np.testing.assert_allclose(found[lag : lag + len(expected)], expected, atol=1e-5)
    assert len(accepted(tmp_path / "a.mp3", frames + frames)) > 2 * len(expected)


def test_mp3_with_tags(tmp_path: Path) -> None:
    content = encode("mp3")
    for wrapped in (
        id3(16_384) + content,
        id3(128) + id3(16_384) + content,
        content + b"TAG".ljust(128, b"x"),
    ):
        assert len(accepted(tmp_path / "a.mp3", wrapped)) == len(NOISE)
    # FFmpeg does not believe a Xing header that knows fewer bytes, and keeps the padding.
    found = accepted(tmp_path / "a.mp3", content + b"APETAGEX" + bytes(9000))
    assert 0 <= len(found) - len(NOISE) < 2 * 1152


def test_reading_an_mp3_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    content = encode("mp3")
    accepted(tmp_path / "a.mp3", content)
    accepted(tmp_path / "a.mp3", content[first_frame_end(content) :])
    assert capfd.readouterr() == ("", "")
