"""Whatever the bytes are: samples or an AudioError come out, soon, and in bounded memory."""

import io
import os
import random
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from asr import audio
from asr.containers import Notes
from asr.errors import AudioError
from tests.test_audio import FORMATS

KINDS = {name: FORMATS[name] for name in FORMATS if "bit" not in name or "16 bit" in name}
KINDS["wav, ADPCM"] = ("WAV", "IMA_ADPCM")
MAGIC = (
    *(b"RIFF\xff\xff\xff\xffWAVEfmt ", b"RIFF\0\0\1\0AVI LIST", b"RF64\xff\xff\xff\xffWAVEds64", b"RIFX"),
    *(b"riff.\x91\xcf\x11\xa5\xd6(\xdb\x04\xc1\0\0", b"FORM\0\0\1\0AIFFCOMM", b"FORM\0\0\1\0AIFCFVER"),
    *(b".snd\0\0\0\x18", b"caff\0\1\0\0desc", b"NIST_1A\n   1024\n", b"fLaC\0\0\0\x22", b"ID3\4\0\0\0\0\0\0"),
    *(b"OggS\0\2" + bytes(20) + b"\1\x1e\1vorbis", b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead\1"),
    *(b"\xff\xfb\x90\0", b"\xff\xf1\x50\x80", b"\0\0\0\x20ftypisom", b"\0\0\0\x08moov", b"\x1aE\xdf\xa3\x80"),
    *(b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"FLV\1\5\0\0\0\t", b"\0\0\1\xba", b"#!AMR\n", b"#!AMR-WB\n"),
)
BUDGET = settings(
    derandomize=True,
    database=None,
    max_examples=150,
    deadline=20_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
CHANNELS = st.sampled_from(["mix", "split", 0, 1])


@cache
def encode(name: str) -> bytes:
    file = io.BytesIO()
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (3000, 2))
    soundfile.write(file, noise, 24_000, format=KINDS[name][0], subtype=KINDS[name][1])
    return file.getvalue()


@cache
def encode_mp4(folder: Path) -> bytes:
    with av.open(str(folder / "encoded.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=16_000, layout="mono")
        noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 8000)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(noise, format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16_000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return (folder / "encoded.mp4").read_bytes()


@st.composite
def changes(draw: st.DrawFn) -> list[tuple[float, int, bytes]]:
    """Position (0 to 1, often in the header), number of bytes removed, and their replacement."""
    place = st.one_of(st.floats(0, 0.05), st.floats(0, 1))
    extreme = st.sampled_from(
        [b"\xff" * 4, b"\0" * 4, b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x80\0\0\0"]
    )
    piece = st.tuples(place, st.integers(0, 8), st.one_of(st.binary(max_size=8), extreme))
    return draw(st.lists(piece, min_size=1, max_size=6))


def changed(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    for place, gone, new in edits:
        start = round(place * len(content))
        content = content[:start] + new + content[start + gone :]
    return content


def assert_survives(path: Path, content: bytes, channel: audio.Channel) -> None:
    path.write_bytes(content)
    try:
        for block in audio.stream(path, channel):
            assert block.dtype == np.float32
            assert block.ndim == 2
            assert np.isfinite(block).all()
            assert channel == "split" or block.shape[1] == 1
    except AudioError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)
    try:
        assert audio.duration(path) >= 0
    except AudioError as error:
        assert "\n" not in str(error)


@BUDGET
@given(content=st.binary(max_size=2000), channel=CHANNELS)
def test_random_bytes(tmp_path: Path, content: bytes, channel: audio.Channel) -> None:
    assert_survives(tmp_path / "a", content, channel)


@BUDGET
@given(
    magic=st.sampled_from(MAGIC),
    seed=st.integers(0, 2**32),
    content=st.binary(max_size=200),
    channel=CHANNELS,
)
def test_random_bytes_behind_real_magic_numbers(
    tmp_path: Path, magic: bytes, seed: int, content: bytes, channel: audio.Channel
) -> None:
    tail = random.Random(seed).randbytes(seed % 3000)
    assert_survives(tmp_path / "a", magic + content + tail, channel)


@pytest.mark.parametrize("name", KINDS)
@settings(BUDGET, max_examples=40)
@given(edits=changes(), channel=CHANNELS)
def test_mutated_files(
    tmp_path: Path, name: str, edits: list[tuple[float, int, bytes]], channel: audio.Channel
) -> None:
    assert_survives(tmp_path / "a", changed(encode(name), edits), channel)


@settings(BUDGET, max_examples=100)
@given(edits=changes(), channel=CHANNELS)
def test_a_mutated_mp4_file(
    tmp_path: Path, edits: list[tuple[float, int, bytes]], channel: audio.Channel
) -> None:
    assert_survives(tmp_path / "a", changed(encode_mp4(tmp_path), edits), channel)


SPOKEN = 2.0
READERS = ("wav", "flac", "ogg", "opus", "mp3", "m4a", "webm")
COUNT = int(os.environ.get("ASR_FUZZ", "350"))
"""Number of damaged files; a whole run takes 20,000."""


@cache
def encode_reader(kind: str) -> bytes:
    """Two seconds of noise; the header, which states the length, is in the first eighth."""
    file = io.BytesIO()
    noise = np.random.default_rng(1).uniform(-0.3, 0.3, round(SPOKEN * 16_000)).astype(np.float32)
    if kind in ("m4a", "webm"):
        muxer, codec, rate = ("ipod", "aac", 16_000) if kind == "m4a" else ("webm", "libopus", 48_000)
        options = {"movflags": "faststart"} if kind == "m4a" else {}
        with tempfile.NamedTemporaryFile() as place, av.open(place.name, "w", muxer, options) as container:
            stream = container.add_stream(codec, rate=rate, layout="mono", bit_rate=96_000)
            samples = np.repeat(noise, rate // 16_000)[None]
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout="mono")
            frame.sample_rate, frame.pts = rate, 0
            container.mux([*stream.encode(frame), *stream.encode(None)])
            container.close()
            return Path(place.name).read_bytes()
    subtype = {"ogg": "VORBIS", "opus": "OPUS", "mp3": "MPEG_LAYER_III"}.get(kind, "PCM_16")
    soundfile.write(file, noise, 16_000, format="OGG" if kind == "opus" else kind.upper(), subtype=subtype)
    return file.getvalue()


def damage(content: bytes, random: random.Random, body: bool) -> bytes:
    """Cut, remove, overwrite or insert something; `body`: not in the first eighth."""
    low = len(content) // 8 if body else 0
    start = random.randrange(low, len(content))
    size = random.choice((1, 8, 100, 2000, len(content) // 4, len(content)))
    end = min(len(content), start + random.randint(1, size))
    new = random.choice((b"", b"", bytes(end - start), random.randbytes(end - start)))
    inserted = random.randbytes(random.choice((0, 0, 0, 7, 300)))
    tail = b"" if random.random() < 0.2 else content[end:]
    return content[:start] + new + inserted + tail


def ends_between_pages(content: bytes) -> bool:
    """An Ogg file that lost its last pages does not tell."""
    position = 0
    while content[position : position + 4] == b"OggS" and len(content) > position + 26:
        table = content[position + 27 :][: content[position + 26]]
        position += 27 + len(table) + sum(table)
    return position == len(content)


def test_no_loss_in_silence(tmp_path: Path) -> None:
    """Damaged files give all samples, or a warning, or one line of error."""
    silent = []
    for seed in range(COUNT):
        chance = random.Random(seed)
        kind = READERS[seed % len(READERS)]
        body = chance.random() < 0.7
        content = damage(encode_reader(kind), chance, body)
        path, notes, seconds = tmp_path / "a", Notes(), 0.0
        path.write_bytes(content)
        try:
            seconds = sum(map(len, audio.stream(path, notes=notes))) / 16_000
            stated = audio.stated_duration(path) or 0.0
        except AudioError as error:
            assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
            continue
        told = notes.losses or notes.warnings
        stated = SPOKEN if body and not ends_between_pages(content) else stated
        if seconds < stated - 0.11 and not told:
            silent.append((seed, kind, body, seconds, stated))
    assert not silent


READ_ALL = """
import resource, sys
from pathlib import Path
from asr import audio
from asr.containers import Notes
from asr.errors import AudioError

before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
refused = 0
for original in Path(sys.argv[1]).iterdir():
    whole = original.read_bytes()
    changed = original.with_suffix(".changed")
    for start in range(4, min(len(whole), 200), 4):
        for value in (b"\\xff" * 4, b"\\x7f" + b"\\xff" * 3, b"\\xff" * 3 + b"\\x7f"):
            changed.write_bytes(whole[:start] + value + whole[start + 4:])
            try:
                for _ in audio.stream(changed, "split"):
                    pass
            except AudioError:
                refused += 1
    changed.unlink()
print(refused, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_headers_that_promise_too_much_take_no_memory(tmp_path: Path) -> None:
    """Every field of a header in turn says that there are billions: of channels, samples, bytes."""
    for name in KINDS:
        (tmp_path / name).write_bytes(encode(name))
    done = subprocess.run(
        [sys.executable, "-c", READ_ALL, str(tmp_path)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr[-2000:]
    refused, mebibytes = map(int, done.stdout.splitlines()[-1].split())  # libsndfile prints some of its own
    assert refused > 500
    assert mebibytes < 64
