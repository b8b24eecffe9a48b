"""`asr transcribe`, from folders to files: output, skipping, failures, progress."""

import errno
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import soundfile

from asr import commands, files
from asr.cli import main
from asr.inference import writers
from tests.standin import record, speak

Output = pytest.CaptureFixture[str]
TRANSCRIBE: list[str | Path] = [sys.executable, "-m", "asr.cli", "transcribe", "--raw"]


def run(bundle: Path, *arguments: str | Path) -> int:
    return main(["transcribe", "--raw", "--model", str(bundle), "--threads", "1", *map(str, arguments)])


def tree(folder: Path) -> dict[str, str]:
    return {str(p.relative_to(folder)): p.read_text() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_folder_is_mirrored(standin_bundle: Path, tmp_path: Path, capsys: Output) -> None:
    for name, text in (("a/x.wav", "ONE"), ("b/x.wav", "TWO"), ("b/y.v2.wav", "THREE")):
        record(tmp_path / "in" / name, text)
    assert run(standin_bundle, tmp_path / "in", "--out", tmp_path / "out") == 0
    assert tree(tmp_path / "out") == {"a/x.txt": "ONE\n", "b/x.txt": "TWO\n", "b/y.v2.txt": "THREE\n"}
    assert capsys.readouterr() == ("", "")


def test_skip_existing_does_the_rest(standin_bundle: Path, tmp_path: Path) -> None:
    paths = [record(tmp_path / f"{i}.wav", "NEW") for i in range(3)]
    (tmp_path / "1.txt").write_text("OLD\n")
    arguments = (standin_bundle, *paths, "--format", "txt", "--skip-existing")
    assert run(*arguments) == 0
    assert [(tmp_path / f"{i}.txt").read_text() for i in range(3)] == ["NEW\n", "OLD\n", "NEW\n"]
    assert run(*arguments) == 0  # nothing is left to do
    assert run(*arguments, "--format", "srt") == 0  # one of two files is not enough
    assert (tmp_path / "1.srt").exists() and (tmp_path / "1.txt").read_text() == "NEW\n"


def test_an_impossible_name_stops_nothing(standin_bundle: Path, tmp_path: Path, capsys: Output) -> None:
    paths = [record(tmp_path / "good.wav", "GOOD"), tmp_path / ("x" * 300 + ".wav")]
    assert run(standin_bundle, *paths, "--format", "txt", "--skip-existing") == 1
    assert (tmp_path / "good.txt").read_text() == "GOOD\n"
    assert capsys.readouterr().err.count("\n") == 1
    command = [*TRANSCRIBE, *paths, "--model", standin_bundle]
    assert on_terminal(command, status=1)[0].endswith(b"GOOD\n")


EXCLUSIVE = "--skip-existing; --json --format txt; --n-best 2; --n-best 2 --json --greedy; --greedy --beam 4"


@pytest.mark.parametrize("flags", EXCLUSIVE.split("; "))
def test_flags_that_exclude_each_other(
    standin_bundle: Path, tmp_path: Path, flags: str, capsys: Output
) -> None:
    assert run(standin_bundle, record(tmp_path / "a.wav", "A"), *flags.split()) == 2
    out, err = capsys.readouterr()
    assert out == "" and flags.split()[0] in err


def test_every_format_has_a_writer(standin_bundle: Path, tmp_path: Path) -> None:
    formats = get_args(get_args(get_type_hints(commands.Transcribe)["formats"])[0])
    assert formats == (*writers.FORMATS, "all")
    assert run(standin_bundle, record(tmp_path / "talk.wav", "ONE TWO"), "--format", "all") == 0
    assert {p.name for p in tmp_path.iterdir()} == {"talk.wav", *(f"talk.{kind}" for kind in writers.FORMATS)}
    assert json.loads((tmp_path / "talk.json").read_text())["text"] == "ONE TWO"


def test_standard_input(standin_bundle: Path, tmp_path: Path) -> None:
    path = record(tmp_path / "a.wav", "FROM A PIPE")
    command = [*TRANSCRIBE, "-", "--model", standin_bundle]
    done = subprocess.run(command, input=path.read_bytes(), stdout=subprocess.PIPE, check=True)
    assert done.stdout == b"FROM A PIPE\n"


def test_channels_as_a_dialogue(standin_bundle: Path, tmp_path: Path, capsys: Output) -> None:
    both = np.stack([speak("HELLO" + 30 * " "), speak(30 * " " + "OTHER")], axis=1)
    soundfile.write(tmp_path / "call.wav", both, 16_000)
    assert run(standin_bundle, tmp_path / "call.wav", "--channel", "split", "--out", tmp_path) == 0
    assert (tmp_path / "call.txt").read_text() == "0: HELLO\n1: OTHER\n"
    assert run(standin_bundle, tmp_path / "call.wav", "--channel", "1") == 0
    assert capsys.readouterr().out == "OTHER\n"
    with pytest.raises(SystemExit):
        run(standin_bundle, tmp_path / "call.wav", "--channel", "left")
    assert "argument --channel: 'left' is not" in capsys.readouterr().err


def test_bad_inputs_fail_alone(
    standin_bundle: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    good = record(tmp_path / "good.wav", "GOOD")
    (tmp_path / "empty.wav").touch()
    (tmp_path / "text.wav").write_text("not a recording")
    (tmp_path / "loop.wav").symlink_to("loop.wav")
    record(tmp_path / "cut.wav", "A LONG WORD")
    (tmp_path / "cut.wav").write_bytes((tmp_path / "cut.wav").read_bytes()[:5_000])
    soundfile.write(tmp_path / "none.wav", np.zeros(0), 16_000)
    soundfile.write(tmp_path / "nan.wav", np.full(900, np.nan), 16_000, subtype="FLOAT")
    soundfile.write(tmp_path / "short.wav", np.zeros(160), 16_000)
    (tmp_path / "void").mkdir()
    soundfile.write(tmp_path / "whole.flac", speak("A LONG WORD"), 16_000)
    (tmp_path / "flac.wav").write_bytes((tmp_path / "whole.flac").read_bytes()[:-50])
    soundfile.write(tmp_path / "inf.wav", np.full(900, np.inf), 16_000, subtype="FLOAT")
    with socket.socket(socket.AF_UNIX) as unreadable:
        monkeypatch.chdir(tmp_path)  # the names of sockets are short
        unreadable.bind("socket.wav")
    names = ("empty", "text", "loop", "cut", "flac", "socket", "none", "nan", "inf", "short")
    bad = [tmp_path / f"{name}.wav" for name in names]
    assert run(standin_bundle, *bad, tmp_path / "void", good) == 1
    out, err = capsys.readouterr()
    assert out == f"{tmp_path}/cut.wav: A\n{tmp_path}/flac.wav: A LONG WO\n{good}: GOOD\n"
    lines = err.splitlines()
    assert len(lines) == len(bad) + 1 and all(line.startswith("asr: ") for line in lines)
    assert lines[0].startswith(f"asr: {tmp_path}/void: ")
    reasons = (
        "empty", "not recognised", "symbolic links", "incomplete", "incomplete",
        "no such device", "no samples", "not finite", "not finite", "too short",
    )  # fmt: skip
    for line, path, reason in zip(lines[1:], bad, reasons, strict=True):
        assert line.startswith(f"asr: {path}: ") and reason in line
    assert run(standin_bundle, tmp_path / "cut.wav") == 0
    assert run(standin_bundle, "--strict", tmp_path / "cut.wav") == 1
    out, err = capsys.readouterr()
    assert out == "A\n" and "cut off" in err.splitlines()[-1]


@pytest.mark.parametrize("language", ["en", "en-US", "en_GB", "English"])
def test_english_is_accepted(standin_bundle: Path, tmp_path: Path, language: str, capsys: Output) -> None:
    path = record(tmp_path / "a.wav", "FINE")
    assert run(standin_bundle, path, "--language", language) == 0
    assert capsys.readouterr() == ("FINE\n", "")
    assert run(standin_bundle, path, "--language", "enough") == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and "--language enough" in err


def test_quiet(standin_bundle: Path, tmp_path: Path, capsys: Output) -> None:
    """Errors and losses are told, warnings and progress are not."""
    speech = speak("FINE")
    soundfile.write(tmp_path / "opposite.wav", np.stack([speech, -speech], axis=1), 16_000)
    assert run(standin_bundle, tmp_path / "opposite.wav") == 0
    assert "opposite phase" in capsys.readouterr().err
    assert run(standin_bundle, "--quiet", tmp_path / "opposite.wav") == 0
    assert capsys.readouterr() == ("FINE\n", "")
    cut = record(tmp_path / "cut.wav", "A LONG WORD")
    cut.write_bytes(cut.read_bytes()[:5_000])
    assert run(standin_bundle, "--quiet", cut, tmp_path / "none.wav") == 1
    lost, absent = capsys.readouterr().err.splitlines()
    assert "incomplete" in lost and "no such file" in absent
    command = [*TRANSCRIBE, record(tmp_path / "b.wav", "A WORD " * 100), "--quiet", "--model", standin_bundle]
    assert on_terminal(command)[1] == ""


@pytest.mark.parametrize("kind", ["silence", "clipped", "offset", "200 channels", "384 kHz"])
def test_odd_but_good_inputs(standin_bundle: Path, tmp_path: Path, kind: str, capsys: Output) -> None:
    speech, rate = speak("FINE"), 16_000
    samples = {
        "silence": np.zeros(16_000),
        "clipped": np.clip(1e3 * np.sin(np.arange(16_000)), -1, 1),
        "offset": np.full(16_000, 0.9),
        "200 channels": np.repeat(speech[:, None], 200, axis=1),
        "384 kHz": np.repeat(speech, 24),
    }[kind]
    rate = 384_000 if kind == "384 kHz" else rate
    soundfile.write(tmp_path / "odd.wav", samples, rate, subtype="PCM_16")
    assert run(standin_bundle, tmp_path / "odd.wav") == 0
    out, err = capsys.readouterr()
    assert err == "" and out.count("\n") == 1
    if kind in ("200 channels", "384 kHz"):
        assert out == "FINE\n"


@pytest.mark.parametrize("name", ["with space.wav", "new\nline.wav", os.fsdecode(b"caf\xe9.wav"), "-x.wav"])
def test_odd_names(standin_bundle: Path, tmp_path: Path, name: str, capsys: Output) -> None:
    record(tmp_path / name, "NAMED")
    assert run(standin_bundle, tmp_path, "--format", "txt", "--format", "json") == 0
    assert (tmp_path / name).with_suffix(".txt").read_text() == "NAMED\n"
    assert json.loads((tmp_path / name).with_suffix(".json").read_text())["text"] == "NAMED"
    assert capsys.readouterr() == ("", "")


def test_a_full_disk_and_a_file_in_the_way(
    standin_bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Output
) -> None:
    paths = [record(tmp_path / "in" / f"{i}/x.wav", "WORD") for i in range(4)]
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "3").write_text("a file in the folder's place")
    calls = []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fsync)
    assert run(standin_bundle, *paths, "--out", tmp_path / "out") == 1
    assert set(tree(tmp_path / "out")) == {"0/x.txt", "2/x.txt", "3"}
    full, barred = capsys.readouterr().err.splitlines()
    assert full.startswith(f"asr: {tmp_path}/out/1/x.txt: ") and "no space left" in full
    assert barred.startswith(f"asr: {tmp_path}/out/3/x.txt: ") and "file exists" in barred


def test_killed_and_gone_on(standin_bundle: Path, tmp_path: Path) -> None:
    texts = [f"{a}{b} {a}" for a in "ABCDEFGHIJ" for b in "KLMNOPQRST"]
    for text in texts:
        record(tmp_path / "in" / f"{text}.wav", text + 100 * " ")  # twelve seconds, five groups in all
    out = tmp_path / "out"
    options = ["--model", standin_bundle, "--out", out, "--skip-existing", "--threads", "1"]
    command = [*TRANSCRIBE, tmp_path / "in", *options]
    process = subprocess.Popen(command)
    while process.poll() is None and len(list(out.glob("*.txt"))) < 10:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = {p.name: (p.read_text(), p.stat().st_mtime_ns) for p in out.glob("*.txt")}
    assert all(text == f"{Path(name).stem}\n" for name, (text, _) in done.items())
    assert process.returncode == -signal.SIGKILL and 10 <= len(done) < 100
    assert subprocess.run(command, check=False).returncode == 0
    after = {p.name: (p.read_text(), p.stat().st_mtime_ns) for p in out.glob("*.txt")}
    assert {Path(name).stem: text for name, (text, _) in after.items()} == {t: f"{t}\n" for t in texts}
    assert {name: after[name] for name in done} == done  # none was done twice


def on_terminal(command: list[str | Path], status: int = 0, **options: Any) -> tuple[bytes, str]:
    """Return a command's stdout, and what it shows on a terminal that is its stderr."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "120"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, env=environment, **options)
    os.close(theirs)
    shown: list[bytes] = []

    def drain() -> None:
        with suppress(OSError):  # the end of a terminal
            while piece := os.read(ours, 4096):
                shown.append(piece)

    reader = threading.Thread(target=drain)
    reader.start()
    out, _ = process.communicate(timeout=60)
    reader.join()
    os.close(ours)
    assert process.returncode == status
    return out, b"".join(shown).decode()


def test_progress_on_a_terminal(standin_bundle: Path, tmp_path: Path) -> None:
    path = record(tmp_path / "a.wav", "A WORD " * 300)
    command = [*TRANSCRIBE, path, "--model", standin_bundle]
    out, shown = on_terminal(command)
    assert out.decode() == ("A WORD " * 300).strip() + "\n"
    assert "of 4.2 min" in shown and "x real time" in shown
    other = record(tmp_path / "b.wav", "A WORD " * 300)
    out, shown = on_terminal(
        [*TRANSCRIBE, other, tmp_path / "none.wav", *command[len(TRANSCRIBE) :]], status=1
    )
    assert out.count(b": A WORD") == 2 and "8.4 min" in shown
    assert f"asr: {tmp_path}/none.wav: " in shown


def test_progress_does_not_read_a_pipe(standin_bundle: Path, tmp_path: Path) -> None:
    path = record(tmp_path / "a.wav", "ONCE ONLY")
    command = [*TRANSCRIBE, "/dev/stdin", "--model", standin_bundle]
    with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as source:
        out, _ = on_terminal(command, stdin=source.stdout)
    assert out == b"ONCE ONLY\n"
