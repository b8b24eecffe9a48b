import io
import json
import os
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import soundfile

from asr import cli_transcribe, manifest
from asr.cli import main
from asr.manifest import Utterance
from tests.standin import speak

Output = pytest.CaptureFixture[str]


def record(path: Path, text: str) -> Path:
    """A recording that the stand-in reads as `text`."""
    with path.open("wb") as file:
        soundfile.write(file, speak(text), 16_000, format="WAV", subtype="PCM_16")
    return path


def run(*arguments: str | Path, **settings: object) -> "subprocess.Popen[bytes]":
    """The command in a process of its own, for what only a process has."""
    command = [sys.executable, "-m", "asr.cli", *map(str, arguments)]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": environment, **settings}
    return subprocess.Popen(command, **given)  # type: ignore[call-overload, no-any-return]


def usage(*arguments: str) -> int:
    """The exit code with which the parser leaves."""
    with pytest.raises(SystemExit) as leaving:
        main(arguments)
    assert isinstance(leaving.value.code, int)
    return leaving.value.code


# ------------------------------------------------------------------------------------------------ usage


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ([], "the following arguments are required: COMMAND"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["transcribe", "--model", "m"], "the following arguments are required: INPUT"),
        (["transcribe", "a.wav", "--model", "m", "--threads", "0"], "'0' is not a whole number from 1"),
        (["transcribe", "a.wav", "--model", "m", "--threads", "two"], "'two' is not a whole number from 1"),
        (["transcribe", "a.wav", "--model", "m", "--nonsense"], "unrecognized arguments: --nonsense"),
        (["evaluate", "m"], "the following arguments are required: manifests"),
        (["prepare"], "the following arguments are required: CORPUS"),
        (["prepare", "nonsense"], "invalid choice: 'nonsense'"),
        (["prepare", "digits", "--jobs", "-1"], "'-1' is not a whole number from 1"),
        (["prepare", "digits", "--speeds", "fast"], "invalid float value: 'fast'"),
    ],
)
def test_wrong_usage(arguments: list[str], complaint: str, capsys: Output) -> None:
    assert usage(*arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("usage: asr")
    assert complaint in err


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["evaluate"],
        ["compare"],
        ["transcribe"],
        ["prepare"],
        ["prepare", "librispeech"],
        ["prepare", "folder"],
    ],
)
def test_help(command: list[str], capsys: Output) -> None:
    assert usage(*command, "--help") == 0
    out, err = capsys.readouterr()
    assert out.startswith(" ".join(["usage: asr", *command]))
    assert err == ""


def test_version(capsys: Output) -> None:
    assert usage("--version") == 0
    assert capsys.readouterr().out == f"asr {version('asr')}\n"


def test_the_parser_imports_nothing_heavy() -> None:
    code = "import asr.cli, sys; asr.cli._parser(); print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "asr" in loaded
    assert not loaded & {"torch", "numpy", "soundfile", "onnxruntime", "rich", "jiwer", "pytorch_lightning"}


# ------------------------------------------------------------------------------------------- transcribe


def test_transcribe_one_file(standin_bundle: Path, tmp_path: Path, capsys: Output) -> None:
    path = record(tmp_path / "a b.wav", "IT'S ME")
    assert main(["transcribe", str(path), "--model", str(standin_bundle), "--threads", "1"]) == 0
    assert capsys.readouterr() == ("IT'S ME\n", "")


def test_transcribe_goes_on_after_a_bad_file(standin_bundle: Path, tmp_path: Path, capsys: Output) -> None:
    one, two = record(tmp_path / "1.wav", "ONE"), record(tmp_path / "2.wav", "TWO")
    (tmp_path / "bad.wav").write_text("no recording")
    files = [one, tmp_path / "bad.wav", tmp_path / "none.wav", two]
    assert main(["transcribe", *map(str, files), "--model", str(standin_bundle)]) == 1
    out, err = capsys.readouterr()
    assert out == f"{one}: ONE\n{two}: TWO\n"
    assert err.splitlines() == [
        f"asr: {tmp_path}/bad.wav: cannot read the recording (Format not recognised)",
        f"asr: {tmp_path}/none.wav: cannot read the recording (no such file)",
    ]


def test_transcribe_to_json(standin_bundle: Path, tmp_path: Path, capsys: Output) -> None:
    files = [record(tmp_path / "1.wav", "ONE MORE"), tmp_path / "none.wav", record(tmp_path / "2.wav", " ")]
    assert main(["transcribe", *map(str, files), "--model", str(standin_bundle), "--json"]) == 1
    out, err = capsys.readouterr()
    first, last = map(json.loads, out.splitlines())
    assert first["file"] == str(files[0])
    assert (first["text"], last["text"]) == ("ONE MORE", "")
    assert [word["text"] for word in first["words"]] == ["ONE", "MORE"]
    assert first["words"][1]["start"] == pytest.approx(4 * 0.12)
    assert (last["words"], last["duration"]) == ([], 0.12)
    assert err == f"asr: {tmp_path}/none.wav: cannot read the recording (no such file)\n"


def test_errors_stay_on_one_line(standin_bundle: Path, tmp_path: Path, capsys: Output) -> None:
    assert main(["transcribe", str(tmp_path / "a\nb.wav"), "--model", str(standin_bundle)]) == 1
    assert capsys.readouterr().err == f"asr: {tmp_path}/a\\nb.wav: cannot read the recording (no such file)\n"


def ascii_output(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> bytes:
    """What a command that succeeds prints under PYTHONIOENCODING=ascii."""
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
    arguments = ["transcribe", *map(str, files), "--model", str(standin_bundle)]
    shown = name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    lines = ascii_output(arguments, monkeypatch).decode("ascii").splitlines()
    assert lines[0] == f"{tmp_path}/{shown}: ONE".encode("ascii", "backslashreplace").decode()
    assert lines[1] == f"{tmp_path}/b.wav: TWO"
    lines = ascii_output([*arguments, "--json"], monkeypatch).decode("utf-8").splitlines()
    assert [json.loads(line)["file"] for line in lines] == [f"{tmp_path}/{shown}", f"{tmp_path}/b.wav"]
    assert capsys.readouterr() == ("", "")


def test_a_model_that_is_none(tmp_path: Path, capsys: Output) -> None:
    path = record(tmp_path / "a.wav", "ONE")
    assert main(["transcribe", str(path), "--model", str(tmp_path / "none")]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"asr: {tmp_path}/none: ")
    assert err.count("\n") == 1


# --------------------------------------------------------------------------------------------- evaluate


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three utterances by two speakers; the stand-in makes one word error in nine."""
    spoken = {"u1": ("ONE TWO THREE", "s1"), "u2": ("FOUR FIVE SIX", "s1"), "u3": ("SEVEN EIGHT NINE", "s2")}
    rows = []
    for name, (text, speaker) in spoken.items():
        path = record(tmp_path / f"{name}.wav", text.replace("FIVE", "FINE"))
        rows.append(Utterance(name, path, len(speak(text)) / 16_000, text, speaker))
    manifest.write(tmp_path / "manifest.jsonl", rows)
    return tmp_path


@pytest.mark.parametrize("by", ["folder", "file"])
def test_evaluate_to_json(standin_bundle: Path, corpus: Path, capsys: Output, by: str) -> None:
    target = corpus if by == "folder" else corpus / "manifest.jsonl"
    assert main(["evaluate", str(standin_bundle), str(target), "--json"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    report = json.loads(out)
    assert set(report) == {
        "utterances",
        "wer",
        "cer",
        "confidence",
        "audio_seconds",
        "processing_seconds",
        "real_time_factor",
        "speakers",
        "problems",
    }
    assert (report["utterances"], report["problems"]) == (3, [])
    assert (report["wer"]["rate"], report["wer"]["errors"], report["wer"]["length"]) == (1 / 9, 1, 9)
    assert (report["wer"]["substitutions"], report["wer"]["hits"]) == (1, 8)
    assert (report["wer"]["interval"]["unit"], report["wer"]["interval"]["units"]) == ("speaker", 2)
    assert report["cer"]["errors"] == 1
    assert [(s["speaker"], s["utterances"]) for s in report["speakers"]] == [("s1", 2), ("s2", 1)]
    assert report["real_time_factor"] > 0


def test_evaluate_on_the_terminal(standin_bundle: Path, corpus: Path, capsys: Output) -> None:
    assert main(["evaluate", str(standin_bundle), str(corpus)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "11.11 %" in out
    assert "FINE" in out


def test_evaluate_with_details(standin_bundle: Path, corpus: Path, capsys: Output) -> None:
    details = corpus / "new" / "details.jsonl"
    assert main(["evaluate", str(standin_bundle), str(corpus), "--details", str(details)]) == 0
    rows = [json.loads(line) for line in details.read_text(encoding="utf-8").splitlines()]
    assert [row["id"] for row in rows] == ["u1", "u2", "u3"]
    assert (rows[1]["reference"], rows[1]["hypothesis"]) == ("FOUR FIVE SIX", "FOUR FINE SIX")
    assert rows[1]["words"] == {"hits": 2, "substitutions": 1, "deletions": 0, "insertions": 0}
    assert "11.11 %" in capsys.readouterr().out


def test_the_report_is_not_lost_where_details_cannot_be_written(
    standin_bundle: Path, corpus: Path, capsys: Output
) -> None:
    details = corpus / ("long" * 100)
    assert main(["evaluate", str(standin_bundle), str(corpus), "--details", str(details), "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["wer"]["errors"] == 1
    assert err == f"asr: {details}: File name too long\n"


def test_evaluate_goes_on_after_a_bad_file(standin_bundle: Path, corpus: Path, capsys: Output) -> None:
    (corpus / "u1.wav").unlink()
    assert main(["evaluate", str(standin_bundle), str(corpus), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["utterances"], report["wer"]["errors"], report["wer"]["length"]) == (2, 1, 6)
    reason = f"{corpus}/u1.wav: cannot read the recording (no such file)"
    assert report["problems"] == [{"id": "u1", "reason": reason}]


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("none.jsonl", None, ": cannot read the manifest (No such file or directory)"),
        ("a.jsonl", "\n", ": empty manifest"),
        ("a.jsonl", "\n[]\n", ":2: expected one JSON object per line"),
    ],
)
def test_evaluate_on_a_bad_manifest(
    standin_bundle: Path, tmp_path: Path, capsys: Output, name: str, content: str | None, complaint: str
) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    assert main(["evaluate", str(standin_bundle), str(tmp_path / name)]) == 1
    assert capsys.readouterr() == ("", f"asr: {tmp_path / name}{complaint}\n")


def test_compare(standin_bundle: Path, corpus: Path, capsys: Output) -> None:
    before, after = corpus / "before.jsonl", corpus / "after.jsonl"
    assert main(["evaluate", str(standin_bundle), str(corpus), "--details", str(before)]) == 0
    record(corpus / "u2.wav", "FOUR FIVE SIX")
    assert main(["evaluate", str(standin_bundle), str(corpus), "--details", str(after)]) == 0
    capsys.readouterr()
    assert main(["compare", str(before), str(after)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("WER of B minus WER of A: -11.11 points, 95 % interval ")
    assert err == ""
    assert main(["compare", str(before), str(corpus / "none.jsonl")]) == 1
    assert capsys.readouterr().err.startswith(f"asr: {corpus}/none.jsonl: cannot read the details")


# ------------------------------------------------------------------------------------- train and prepare


def test_train_without_its_recipe(tmp_path: Path, capsys: Output) -> None:
    for arguments in (["NOSUCH.yaml"], ["--resume", "NOSUCH.yaml"], [str(tmp_path)]):
        assert main(["train", *arguments]) == 1
        complaint = f"asr: {arguments[-1]}: no such recipe; see the folder recipes/\n"
        assert capsys.readouterr() == ("", complaint)


@pytest.mark.parametrize(
    "command", [["train", "--print_config"], ["prepare", "digits"], ["prepare", "folder", "."]]
)
def test_commands_that_need_the_extra(
    command: list[str], capsys: Output, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("asr.extra._packages", lambda: ["no-such-package"])
    monkeypatch.chdir(tmp_path)
    assert main(command) == 1
    complaint = "asr: no-such-package is not installed; this command needs pip install 'asr[train]'\n"
    assert capsys.readouterr() == ("", complaint)
    assert list(tmp_path.iterdir()) == []


def test_prepare_a_subset_that_is_none(tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "out"
    assert main(["prepare", "librispeech", "--subset", "nonsense", "--out", str(out)]) == 1
    _, err = capsys.readouterr()
    assert err.startswith("asr: ")
    assert "nonsense" in err and "train-clean-100" in err
    assert err.count("\n") == 1
    assert not out.exists()


# ------------------------------------------------------------------------------------- ends of all kinds


def test_interrupted(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli_transcribe, "transcribe", interrupt)
    assert main(["transcribe", "a.wav", "--model", "m"]) == 130
    assert capsys.readouterr() == ("", "asr: interrupted\n")


def test_an_error_of_the_system(capsys: Output, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: object) -> int:
        raise PermissionError(13, "Permission denied", "/some/file")

    monkeypatch.setattr(cli_transcribe, "transcribe", fail)
    assert main(["transcribe", "a.wav", "--model", "m"]) == 1
    assert capsys.readouterr() == ("", "asr: /some/file: Permission denied\n")


def test_a_fault_of_ours_is_not_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: object) -> int:
        raise ZeroDivisionError

    monkeypatch.setattr(cli_transcribe, "transcribe", fail)
    with pytest.raises(ZeroDivisionError):
        main(["transcribe", "a.wav", "--model", "m"])


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
    assert (process.returncode, err) == (1, b"asr: No space left on device\n")


def test_output_is_closed() -> None:
    process = run("transcribe", "none.wav", "--model", "none", stdout=None, preexec_fn=lambda: os.close(1))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert err.startswith(b"asr: none: ") and err.count(b"\n") == 1
