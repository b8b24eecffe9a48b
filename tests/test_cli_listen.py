"""`asr listen` in real processes: pipes, subtitles, interruptions, a terminal, a stand-in for sounddevice."""

import io
import os
import re
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from asr.cli import main
from asr.decoding.types import Word
from asr.errors import AudioError
from asr.inference import sources
from asr.inference.captions import Captions, SubtitleFile
from asr.inference.live import Committed, Endpoint, Event, Final, Partial
from asr.inference.sources import Microphone, read_pcm
from tests.standin import speak
from tests.test_cli import record

PAUSE = np.zeros(16_000, np.float32)


def pcm(samples: np.ndarray) -> bytes:
    return np.rint(samples * 32767).astype("<i2").tobytes()


def wav(data: bytes, rate: int = 16_000, channels: int = 1, bits: int = 16, size: int = 0x7FFFFFFF) -> bytes:
    """A WAV file as arecord pipes it: with a size that is not known yet, and a chunk that means nothing."""
    form = struct.pack("<HHIIHH", 1, channels, rate, rate * channels * bits // 8, channels * bits // 8, bits)
    chunks = b"LIST" + struct.pack("<I", 3) + b"abc\0" + b"fmt " + struct.pack("<I", 16) + form
    return b"RIFF" + struct.pack("<I", size) + b"WAVE" + chunks + b"data" + struct.pack("<I", size) + data


@pytest.fixture
def start(standin_bundle: Path) -> Iterator[Any]:
    """Starts `asr listen -` with arguments; ends the processes after the test."""
    processes: list[subprocess.Popen[bytes]] = []

    def begin(*arguments: str | Path) -> "subprocess.Popen[bytes]":
        command = [
            sys.executable,
            "-m",
            "asr.cli",
            "listen",
            "-",
            "--raw",
            "--model",
            standin_bundle,
            *arguments,
        ]
        pipe = subprocess.PIPE
        processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe))
        return processes[-1]

    yield begin
    for process in processes:
        process.kill()
        process.communicate()


def wait_for(text: str, file: Path) -> str:
    """The content of a file once it has a text."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if file.exists() and text in (content := file.read_text()):
            return content
        time.sleep(0.05)
    raise AssertionError(f"no {text!r} in {file.read_text() if file.exists() else 'no file'!r}")


SPEECH = np.concatenate([speak("ONE TWO"), PAUSE, speak("THREE"), PAUSE])


@pytest.mark.parametrize(
    ("data", "arguments"),
    [
        (pcm(SPEECH), ()),
        (pcm(np.repeat(SPEECH, 3)), ("--rate", "48000")),
        (wav(pcm(SPEECH)), ("--rate", "8000")),
        (wav(pcm(np.repeat(SPEECH, 2)), channels=2), ()),
        (pcm(SPEECH) + b"\1", ()),
    ],
    ids=["raw", "rate", "wav", "stereo", "odd"],
)
def test_standard_input(data: bytes, arguments: tuple[str, ...], start: Any) -> None:
    process = start(*arguments)
    out, err = process.communicate(data, timeout=120)
    assert (out.decode().splitlines(), err.decode(), process.returncode) == (["ONE TWO", "THREE"], "", 0)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interruption_keeps_everything(number: int, start: Any, tmp_path: Path) -> None:
    """Subtitles are written while speech goes on; Ctrl-C also writes the words not yet committed."""
    subtitles = tmp_path / "out" / "a.srt"
    process = start("--srt", subtitles)
    process.stdin.write(pcm(np.concatenate([speak("THE END IS NEAR"), PAUSE, speak("SO WE SAY GOOD BYE")])))
    process.stdin.flush()
    wait_for("SO WE", subtitles)
    process.send_signal(number)
    assert process.wait(60) == 0
    first, second = process.stdout.read().decode().splitlines()
    assert first == "THE END IS NEAR"
    assert second.startswith("SO WE") and "SO WE SAY GOOD BYE".startswith(second)  # as far as it was read
    content = re.sub(r"[\d:,]+ --> [\d:,]+", "TIME", subtitles.read_text())
    assert content == f"1\nTIME\n{first}\n\n2\nTIME\n{second}\n"
    assert process.stderr.read() == b""


def test_a_killed_process_leaves_what_was_committed(start: Any, tmp_path: Path) -> None:
    process = start("--srt", tmp_path / "a.srt")
    process.stdin.write(
        pcm(np.concatenate([speak("ONE TWO"), PAUSE, speak("THREE FOUR FIVE SIX SEVEN EIGHT")]))
    )
    process.stdin.flush()
    written = wait_for("THREE FOUR", tmp_path / "a.srt")
    process.kill()
    process.wait()
    assert written.startswith("1\n00:00:00,000 --> ") and "\n\n2\n" in written
    assert (tmp_path / "a.srt").read_text().startswith(written[:60])


def test_a_recording_is_played_in_real_time(
    standin_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = record(tmp_path / "a.wav", "SO IT IS")
    begin = time.monotonic()
    assert main(["listen", str(path), "--raw", "--model", str(standin_bundle)]) == 0
    assert time.monotonic() - begin > 3 * 0.04 * len("SO IT IS")
    assert capsys.readouterr().out == "SO IT IS\n"


def test_wrong_input(standin_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = ["--model", str(standin_bundle)]
    cases = {
        ("absent.wav",): "absent.wav",
        ("a.wav", "--device", "2"): "--device",
        ("a.wav", "--srt", str(tmp_path)): "is a folder",
    }
    for arguments, message in cases.items():
        assert main(["listen", *arguments, *model]) in (1, 2)
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    for data in (wav(b"", bits=24), wav(b"")[:30], b"RIFF"):
        with pytest.raises(AudioError, match="16-bit"):
            list(read_pcm(io.BytesIO(data), 16_000))


# The microphone


class FakeDevice:
    """The parts of sounddevice that are used; the microphone has 48 kHz."""

    PortAudioError = RuntimeError

    def __init__(self, error: str | None = None) -> None:
        self.error = error

    def query_devices(self, device: Any, kind: str) -> dict[str, Any]:
        if self.error:
            raise self.PortAudioError(self.error)
        return {"default_samplerate": 48_000.0}

    def InputStream(self, rate: int, block: int, device: Any, **options: Any) -> Any:  # noqa: N802
        self.callback, self.device, self.block = options["callback"], device, block
        return io.BytesIO()  # a context manager

    def record(self, samples: np.ndarray, status: str = "") -> None:
        for start in range(0, len(samples), self.block):
            part = samples[start : start + self.block, None]
            self.callback(part, len(part), SimpleNamespace(), status)


def test_the_microphone_drops_the_oldest_audio(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeDevice()
    monkeypatch.setitem(sys.modules, "sounddevice", fake)
    monkeypatch.setattr(sources, "HELD_SECONDS", 2)
    microphone = Microphone("3")
    assert (fake.device, fake.block) == (3, 4800)
    fake.record(np.repeat(np.arange(35, dtype=np.float32), 4800))
    assert microphone.dropped == pytest.approx(1.5)
    packets = iter(microphone)
    heard = np.concatenate([next(packets) for _ in range(20)])
    assert len(heard) == pytest.approx(20 * 1600, abs=400)
    assert heard[800] == pytest.approx(15, abs=0.5) and heard[-800] == pytest.approx(34, abs=1)
    fake.record(np.zeros(4800, np.float32), status="input overflow")
    assert microphone.dropped == pytest.approx(1.6)


def test_words_from_a_microphone(
    standin_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def receive(self: Microphone) -> Iterator[np.ndarray]:
        yield speak("HI THERE")
        self.dropped = 0.3
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setitem(sys.modules, "sounddevice", FakeDevice())
    monkeypatch.setattr(Microphone, "__iter__", receive)
    assert main(["listen", "--raw", "--model", str(standin_bundle)]) == 0
    out, err = capsys.readouterr()
    assert out == "HI THERE\n" and "0.3 s of audio" in err and err.count("\n") == 1


@pytest.mark.parametrize(
    ("module", "message"),
    [(None, "pip install"), (FakeDevice("no default input device\nmore"), "no default input")],
)
def test_no_microphone(
    module: Any, message: str, standin_bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setitem(sys.modules, "sounddevice", module)
    assert main(["listen", "--raw", "--model", str(standin_bundle)]) == 1
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_no_portaudio(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, standin_bundle: Path
) -> None:
    (tmp_path / "sounddevice.py").write_text("raise OSError('PortAudio library not found')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "sounddevice", raising=False)
    assert main(["listen", "--raw", "--model", str(standin_bundle)]) == 1
    error = capsys.readouterr().err
    assert "PortAudio library not found" in error and "libportaudio2" in error and error.count("\n") == 1


# Captions and subtitles


def final(text: str, start: float, end: float) -> Final:
    words = text.split()
    step = (end - start) / len(words)
    spans = [(start + i * step, start + (i + 1) * step) for i in range(len(words))]
    return Final(0, start, end, tuple(Word(w, a, b, 1.0) for w, (a, b) in zip(words, spans, strict=True)))


def test_captions_in_a_terminal() -> None:
    """Finished text is printed once; the region below it never has more lines than the terminal."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=30, height=6, color_system="standard")
    with Captions(console, lambda: 0.5) as captions:
        captions(Partial("SOME WORDS", "THAT MAY", 0.0))
        drawn = file.getvalue()
        for count in range(60):
            captions(Partial("WORD " * count, "NEXT", 0.0))
        captions(Endpoint(0, 0.0, 9.0))
        captions(final("ALL IS SAID", 0.0, 9.0))
    assert "SOME WORDS \x1b[90mTHAT MAY" in drawn and "0.5 s lost" in drawn
    assert file.getvalue().count("ALL IS SAID") == 1
    up = [len(moves) // 4 for moves in re.findall(r"(?:\x1b\[1A)+", re.sub(r"\x1b\[2K", "", file.getvalue()))]
    assert max(up) <= 5
    lines = re.sub(r"\x1b\[[?\d;]*[A-Za-z]", "", file.getvalue()).replace("\r", "\n").splitlines()
    assert max(map(len, lines)) <= 30


def test_subtitles_are_complete_after_every_event(tmp_path: Path) -> None:
    path = tmp_path / "a.srt"
    with path.open("w") as file:
        subtitles = SubtitleFile(file)

        def after(event: Event) -> str:
            subtitles(event)
            return path.read_text()

        first, second = final("ONE TWO", 0.0, 2.0), final("THREE FOUR", 2.4, 2.6)
        assert after(Committed(first.words)) == "1\n00:00:00,000 --> 00:00:02,000\nONE TWO\n"
        assert after(final("WON TWO", 0.0, 2.0)) == "1\n00:00:00,000 --> 00:00:02,000\nWON TWO\n"
        assert after(Committed(second.words)).split("\n\n")[1].startswith("2\n00:00:02,000 --> ")
        assert after(second).endswith("\nTHREE FOUR\n") and path.read_text().count("-->") == 2
        assert after(final("A", 2.6, 2.7)).count("-->") == 3
