import argparse
import io
import json
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import pytest

from asr import cli
from asr.cli import main
from asr.console import announce_compilation, exit_code
from asr.errors import AsrError, TrainingStoppedError, UsageError
from asr.jit import compiled
from tests.standin import record

Output = pytest.CaptureFixture[str]


def run(*arguments: str | Path, **settings: object) -> "subprocess.Popen[bytes]":
    """Start the command in a process of its own."""
    command = [sys.executable, "-m", "asr.cli", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **settings}
    return subprocess.Popen(command, **given)  # type: ignore[call-overload, no-any-return]


def usage(*arguments: str) -> int:
    """Return the exit code of the parser."""
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


def one_line(capsys: Output, *parts: str | Path) -> None:
    """Check that a command printed nothing but one line of error, with these parts."""
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("asr: ") and err.count("\n") == 1
    assert all(str(part) in err for part in parts), err


# ------------------------------------------------------------------------------------------------ usage


@pytest.mark.parametrize(
    ("command", "complaint"),
    [
        ("", "the following arguments are required: COMMAND"),
        ("nonsense", "invalid choice: 'nonsense'"),
        ("transcribe --model m", "the following arguments are required: INPUT"),
        ("transcribe a.wav --model m --threads 0", "'0' is not a whole number from 1"),
        ("transcribe a.wav --threads two", "'two' is not a whole number from 1"),
        ("transcribe a.wav --nonsense", "unrecognized arguments: --nonsense"),
        ("evaluate m", "the following arguments are required: manifests"),
        ("prepare", "the following arguments are required: CORPUS"),
        ("prepare nonsense", "invalid choice: 'nonsense'"),
        ("prepare digits --jobs -1", "'-1' is not a whole number from 1"),
        ("prepare digits --speeds fast", "'fast' is not a number"),
    ],
)
def test_wrong_usage(command: str, complaint: str, capsys: Output) -> None:
    assert usage(*command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: asr")
    assert complaint in err


COMMANDS = [name.split() for section in cli.COMMANDS.values() for name in section if name != "train"]


@pytest.mark.parametrize("command", [[], ["prepare"], ["lm"], *COMMANDS], ids=" ".join)
def test_help(command: list[str], capsys: Output) -> None:
    assert usage(*command, "--help") == 0
    out, err = capsys.readouterr()
    assert out.startswith(" ".join(["usage: asr", *command])) and err == ""
    if not command:  # the overview
        assert all(f"\n  {name}  " in out for name in (*map(" ".join, COMMANDS), "train"))


@dataclass(frozen=True)
class Flags:
    """Flags of all kinds."""

    place: Path = field(metadata={"help": "100 % of it", "positional": True})
    needed: str = field(metadata={"help": "no default"})
    where: int | Path | None = field(default=None, metadata={"help": "a union"})
    ratio: float = field(default=0.5, metadata={"help": "a range", "least": 0, "most": 1})
    speeds: tuple[float, ...] = field(default=(), metadata={"help": "several"})
    words: tuple[str, ...] = field(default=(), metadata={"help": "h", "flag": "--word", "repeat": True})
    kind: Literal["a", "b"] = field(default="a", metadata={"help": "choices"})
    very_loud: bool = field(default=False, metadata={"help": "a switch"})
    secret: int = field(default=3, metadata={"hidden": True})


def parse(*arguments: str) -> Flags:
    parser = argparse.ArgumentParser()
    cli.add_flags(parser, Flags)
    return cli.read_flags(Flags, vars(parser.parse_args(["here", "--needed", "x", *arguments])))


def test_flags_of_a_dataclass() -> None:
    assert parse() == Flags(Path("here"), "x")
    given = ["--where", "3", "--ratio", "1", "--speeds", "1", "2", "--word", "u", "--word", "v"]
    flags = parse(*given, "--kind", "b", "--very-loud")
    assert flags == Flags(Path("here"), "x", 3, 1.0, (1.0, 2.0), ("u", "v"), "b", True)
    assert parse("--where", "there").where == Path("there")


@pytest.mark.parametrize("arguments", ["--ratio nan", "--ratio 1.5", "--kind c", "--secret 1"])
def test_flags_are_checked(arguments: str, capsys: Output) -> None:
    with pytest.raises(SystemExit):
        parse(*arguments.split())
    assert arguments.split()[0] in capsys.readouterr().err.splitlines()[-1]


def test_a_file_in_place_of_a_command(tmp_path: Path, capsys: Output) -> None:
    path = record(tmp_path / "a talk.wav", "ONE")
    assert main([str(path)]) == 2
    one_line(capsys, path, f"asr transcribe '{path}'")


def test_version(capsys: Output) -> None:
    assert usage("--version") == 0
    assert capsys.readouterr().out == f"asr {version('asr')}\n"


def test_the_parser_imports_nothing_heavy() -> None:
    code = (
        "import asr.cli, sys; asr.cli._parser([]); print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert not loaded & {"torch", "numpy", "soundfile", "onnxruntime", "rich", "jiwer", "pytorch_lightning"}


# ------------------------------------------------------------------------------------------- transcribe


def test_transcribe_to_json(standin_bundle: Path, tmp_path: Path, capsys: Output) -> None:
    files = [record(tmp_path / "1.wav", "ONE MORE"), tmp_path / "none.wav", record(tmp_path / "2.wav", " ")]
    assert main(["transcribe", "--raw", *map(str, files), "--model", str(standin_bundle), "--json"]) == 1
    out, err = capsys.readouterr()
    first, last = map(json.loads, out.splitlines())
    assert first["file"] == str(files[0])
    assert (first["text"], last["text"]) == ("ONE MORE", "")
    assert [word["text"] for word in first["words"]] == ["ONE", "MORE"]
    assert first["words"][1]["start"] == pytest.approx(4 * 0.12)
    assert (last["words"], last["duration"]) == ([], 0.12)
    assert err.startswith(f"asr: {tmp_path}/none.wav: ") and err.count("\n") == 1


def ascii_output(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Run a command that succeeds under PYTHONIOENCODING=ascii; return its output."""
    written = io.BytesIO()
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
        assert main(arguments) == 0
        return written.getvalue()


@pytest.mark.parametrize("name", ["é音.wav", os.fsdecode(b"caf\xe9.wav")])
def test_names_that_the_terminal_cannot_show(
    standin_bundle: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    files = [record(tmp_path / name, "ONE"), record(tmp_path / "b.wav", "TWO")]
    arguments = ["transcribe", "--raw", *map(str, files), "--model", str(standin_bundle)]
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    lines = ascii_output(arguments, monkeypatch).decode("ascii").splitlines()
    assert lines[0] == f"{tmp_path}/{shown}: ONE".encode("ascii", "backslashreplace").decode()
    assert lines[1] == f"{tmp_path}/b.wav: TWO"
    lines = ascii_output([*arguments, "--json"], monkeypatch).decode("utf-8").splitlines()
    assert [json.loads(line)["file"] for line in lines] == [f"{tmp_path}/{shown}", f"{tmp_path}/b.wav"]
    assert capsys.readouterr() == ("", "")


# --------------------------------------------------------------------------------------------- evaluate


def test_evaluate_to_json(standin_bundle: Path, spoken_corpus: Path, capsys: Output) -> None:
    assert main(["evaluate", str(standin_bundle), str(spoken_corpus / "manifest.jsonl"), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads(out)
    keys = "utterances normalized wer cer confidence audio_seconds processing_seconds real_time_factor"
    assert list(report) == [*keys.split(), "speakers", "problems"]
    assert (report["utterances"], report["problems"]) == (3, [])
    assert (report["wer"]["rate"], report["wer"]["errors"], report["wer"]["length"]) == (1 / 9, 1, 9)
    assert (report["wer"]["substitutions"], report["wer"]["hits"]) == (1, 8)
    assert (report["wer"]["interval"]["unit"], report["wer"]["interval"]["units"]) == ("speaker", 2)
    assert report["cer"]["errors"] == 1
    assert [(s["speaker"], s["utterances"]) for s in report["speakers"]] == [("s1", 2), ("s2", 1)]
    assert report["real_time_factor"] > 0


def test_evaluate_with_details(standin_bundle: Path, spoken_corpus: Path, capsys: Output) -> None:
    details = spoken_corpus / "new" / "details.jsonl"
    assert main(["evaluate", str(standin_bundle), str(spoken_corpus), "--details", str(details)]) == 0
    rows = [json.loads(line) for line in details.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["u1", "u2", "u3"]
    assert (rows[1]["reference"], rows[1]["hypothesis"]) == ("FOUR FIVE SIX", "FOUR FINE SIX")
    assert rows[1]["words"] == {"hits": 2, "substitutions": 1, "deletions": 0, "insertions": 0}
    out, err = capsys.readouterr()
    assert "11.11 %" in out and "FINE" in out and err == ""


def test_the_report_is_not_lost_where_details_cannot_be_written(
    standin_bundle: Path, spoken_corpus: Path, capsys: Output
) -> None:
    details = spoken_corpus / ("long" * 100)
    assert (
        main(["evaluate", str(standin_bundle), str(spoken_corpus), "--details", str(details), "--json"]) == 1
    )
    out, err = capsys.readouterr()
    assert json.loads(out)["wer"]["errors"] == 1
    assert err.startswith(f"asr: {details}: ") and err.count("\n") == 1


def test_evaluate_goes_on_after_a_bad_file(standin_bundle: Path, spoken_corpus: Path, capsys: Output) -> None:
    (spoken_corpus / "u1.wav").unlink()
    assert main(["evaluate", str(standin_bundle), str(spoken_corpus), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["utterances"], report["wer"]["errors"], report["wer"]["length"]) == (2, 1, 6)
    [problem] = report["problems"]
    assert problem["id"] == "u1" and problem["reason"].startswith(f"{spoken_corpus}/u1.wav: ")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("none.jsonl", None, "No such file"),
        ("a.jsonl", "\n", "empty manifest"),
        ("a.jsonl", "\n[]\n", ":2: expected one JSON object"),
    ],
)
def test_evaluate_on_a_bad_manifest(
    standin_bundle: Path, tmp_path: Path, capsys: Output, name: str, content: str | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert main(["evaluate", str(standin_bundle), str(tmp_path / name)]) == 1
    one_line(capsys, f"asr: {tmp_path / name}:", complaint)


def test_compare(standin_bundle: Path, spoken_corpus: Path, capsys: Output) -> None:
    before, after = spoken_corpus / "before.jsonl", spoken_corpus / "after.jsonl"
    assert main(["evaluate", str(standin_bundle), str(spoken_corpus), "--details", str(before)]) == 0
    record(spoken_corpus / "u2.wav", "FOUR FIVE SIX")
    assert main(["evaluate", str(standin_bundle), str(spoken_corpus), "--details", str(after)]) == 0
    capsys.readouterr()
    assert main(["compare", str(before), str(after)]) == 0
    out, err = capsys.readouterr()
    assert "-11.11 points" in out and err == ""
    assert main(["compare", str(before), str(spoken_corpus / "none.jsonl")]) == 1
    one_line(capsys, f"asr: {spoken_corpus}/none.jsonl: ")


# ------------------------------------------------------------------------------------- train and prepare


def test_train_without_its_recipe(tmp_path: Path, capsys: Output) -> None:
    for arguments in (["NOSUCH.yaml"], ["--resume", "NOSUCH.yaml"], [str(tmp_path)]):
        assert main(["train", *arguments]) == 1
        one_line(capsys, f"asr: {arguments[-1]}: no such recipe")


@pytest.mark.parametrize(
    "command", [["train", "--print_config"], ["prepare", "digits"], ["prepare", "folder", "."]]
)
def test_commands_that_need_the_extra(
    command: list[str], capsys: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("asr.errors._packages", lambda: ["no-such-package"])
    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    one_line(capsys, "no-such-package is not installed", "asr[train]")
    assert list(tmp_path.iterdir()) == []


def test_prepare_a_subset_that_is_none(tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "out"
    assert main(["prepare", "librispeech", "--subset", "nonsense", "--out", str(out)]) == 1
    one_line(capsys, "nonsense", "train-clean-100")
    assert not out.exists()


# ------------------------------------------------------------------------------------- ends of all kinds


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "Permission denied", "/some/file"), 1, "/some/file: Permission denied"),
        (AsrError("talk.wav: too quiet\nby far"), 1, "talk.wav: too quiet\\nby far"),
        (UsageError("--one excludes --other"), 2, "--one excludes --other"),
        (TrainingStoppedError("asked to end"), 75, "asked to end"),
    ],
)
def test_exit_codes(error: BaseException, code: int, message: str, capsys: Output) -> None:
    def fail() -> int:
        raise error

    assert exit_code(fail) == code
    assert capsys.readouterr() == ("", f"asr: {message}\n")
    with pytest.raises(ZeroDivisionError):  # a bug is not hidden
        exit_code(lambda: 1 // 0)


def test_compilation_is_announced_once(capsys: Output) -> None:
    code: dict[str, Any] = {}
    exec("def one(x):\n    return x + 1\n", code)  # functions without a file are never cached
    one = compiled(code["one"])
    announce_compilation.set()
    assert one(1) == 2 and one(1.5) == 2.5
    one_line(capsys, "compiling inner loops")
    assert not announce_compilation.is_set()


def test_control_c(standin_bundle: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.wav"
    os.mkfifo(pipe)
    process = run(
        *("transcribe", record(tmp_path / "a.wav", "ONE"), pipe, "--model", standin_bundle),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in a background job
    )
    with pipe.open("wb"):  # as soon as the command reads it
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, b"", b"asr: interrupted\n")


@pytest.mark.parametrize("command", ["transcribe", "--version"])
def test_nobody_reads_the_output(standin_bundle: Path, tmp_path: Path, command: str) -> None:
    """As in `asr transcribe ... | head -1`."""
    arguments: list[str | Path] = []
    if command == "transcribe":
        files = [record(tmp_path / f"{number}.wav", "ONE") for number in range(3)]
        arguments = [*files, "--model", standin_bundle]
    reading, writing = os.pipe()
    os.close(reading)
    process = run(command, *arguments, stdout=writing)
    os.close(writing)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (1, b"")


def test_the_disk_is_full() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with Path("/dev/full").open("wb") as full:
        process = run("--version", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 1 and b"No space left on device" in err


def test_output_is_closed() -> None:
    process = run("transcribe", "none.wav", "--model", "none", stdout=None, preexec_fn=lambda: os.close(1))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(b"asr: none: ") and err.count(b"\n") == 1
