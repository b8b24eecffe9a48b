"""The commands of `asr lm`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from asr.cli import main
from asr.lm.arpa import read_arpa
from asr.lm.ngram import NgramLM
from tests.lm import plain
from tests.lm.plain import FIXTURES

Output = pytest.CaptureFixture[str]

TINY = str(FIXTURES / "tiny.txt")


def run(*arguments: str | Path) -> int:
    return main(["lm", *map(str, arguments)])


@pytest.fixture
def lm(tmp_path: Path, capsys: Output) -> Path:
    """A model of six sentences."""
    path = tmp_path / "lm.bin"
    assert run("train", TINY, "--out", path) == 0
    capsys.readouterr()
    return path


def test_train(tmp_path: Path, capsys: Output) -> None:
    out, arpa = tmp_path / "new" / "lm.bin", tmp_path / "new" / "lm.arpa.gz"
    assert run("train", TINY, "--out", out, "--arpa", arpa, "--prune", "0", "0", "1") == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    assert printed.out.splitlines() == [
        "11 words, 18 2-grams, 4 3-grams",
        "  1-grams: 11 of 11, discounts 0.4000, 1.6000, 3.0000",
        "  2-grams: 18 of 18, discounts 0.4783, 1.7609, 3.0000",
        "  3-grams: 4 of 20, discounts 0.7273, 1.2727, 3.0000",
    ]
    assert plain.of_lm(NgramLM.load(out)) == plain.of_lm(read_arpa(arpa))


def test_pack(lm: Path, tmp_path: Path, capsys: Output) -> None:
    out = tmp_path / "small.bin"
    assert run("pack", lm, "--out", out) == 0
    assert capsys.readouterr().out.startswith("11 words, 18 2-grams, 20 3-grams: ")
    assert run("score", out, TINY) == run("score", lm, TINY) == 0
    packed, unpacked = capsys.readouterr().out.split("6 sentences")[1:]
    assert packed == unpacked  # so few weights need no rounding
    assert run("pack", out, "--out", tmp_path / "pruned.bin", "--entropy", "0.01") == 0
    assert "18 2-grams" not in capsys.readouterr().out
    assert run("pack", lm, "--out", out, "--entropy", "-1") == 1
    assert "entropy threshold -1.0" in capsys.readouterr().err


def test_train_reports_fallback_discounts(tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "text").write_text("a b\n")
    assert run("train", tmp_path / "text", "--out", tmp_path / "lm.bin", "--order", "2") == 0
    assert capsys.readouterr().out.count("discounts 0.5000, 1.0000, 1.5000 (the usual ones") == 2


def test_train_with_all_options(tmp_path: Path) -> None:
    out = tmp_path / "lm.bin"
    assert run("train", TINY, "--out", out, "--vocab", "3", "--temp", tmp_path) == 0
    assert list(NgramLM.load(out).vocabulary)[3:] == ["cat", "sat", "the"]
    (tmp_path / "words").write_text("dog cat\n")
    assert run("train", TINY, TINY, "--out", out, "--vocab", tmp_path / "words", "--order", "2") == 0
    assert list(NgramLM.load(out).vocabulary)[3:] == ["cat", "dog"]
    assert run("train", TINY, "--out", out, "--entropy", "1") == 0
    assert NgramLM.load(out).counts == (11, 0, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"lm.bin", "words"}


def test_training_is_reproducible_and_reads_a_pipe(lm: Path, tmp_path: Path) -> None:
    out = tmp_path / "piped.bin"
    command = [sys.executable, "-m", "asr.cli", "lm", "train", "-", "--out", str(out)]
    subprocess.run(command, input=Path(TINY).read_bytes(), check=True, capture_output=True)
    assert out.read_bytes() == lm.read_bytes()


def test_import_and_export(lm: Path, tmp_path: Path, capsys: Output) -> None:
    arpa, back = tmp_path / "lm.arpa.xz", tmp_path / "back.bin"
    assert run("export", lm, "--out", arpa) == 0
    assert run("import", arpa, "--out", back) == 0
    assert back.read_bytes() == lm.read_bytes()
    assert capsys.readouterr().out == "11 words, 18 2-grams, 20 3-grams\n"


def test_score(lm: Path, tmp_path: Path, capsys: Output) -> None:
    (tmp_path / "text").write_text("the cat sat\nthe bird\n")
    assert run("score", lm, tmp_path / "text") == 0
    head, with_unknown, without = capsys.readouterr().out.splitlines()
    assert head.startswith("2 sentences, 5 words, 1 ") and "20.00 %" in head
    model = plain.of_lm(NgramLM.load(lm))
    total = sum(plain.score_sentence(model, text.split()) for text in ("the cat sat", "the bird"))
    assert with_unknown.endswith(f" {10 ** (-total / 7):.2f}")
    known = total - plain.score(model, ("<s>", "the"), "bird")
    assert without.endswith(f" {10 ** (-known / 6):.2f}")
    assert run("score", lm, tmp_path / "text", "--json") == 0
    assert json.loads(capsys.readouterr().out)["unknown_rate"] == 0.2
    (tmp_path / "text").write_text("THE CAT\n")
    assert run("score", lm, tmp_path / "text") == 0
    assert "do they differ in case?" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        (["train", TINY], "required: --out"),
        (["train", "--out", "x"], "required: TEXT"),
        (["train", TINY, "--out", "x", "--order", "6"], "argument --order: invalid choice: 6"),
        (["train", TINY, "--out", "x", "--prune", "a"], "argument --prune: 'a' is not a whole number"),
        (["import", "x"], "required: --out"),
        (["score", "x"], "required: TEXT"),
        ([], "required: COMMAND"),
    ],
)
def test_wrong_usage(arguments: list[str], cause: str, capsys: Output) -> None:
    with pytest.raises(SystemExit) as leaving:
        run(*arguments)
    assert leaving.value.code == 2
    assert cause in capsys.readouterr().err


TRAIN = ["train", TINY, "--out", "{}/x"]


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ([*TRAIN, "--vocab", "0"], "vocabulary of 0 words"),
        ([*TRAIN, "--vocab", "{}/no"], "{}/no: No such file or directory"),
        ([*TRAIN, "--entropy", "-1"], "entropy threshold -1.0"),
        ([*TRAIN, "--prune", "1", "0"], "cut-offs 1 0"),
        ([*TRAIN, "--prune", "0", "0", "1", "1"], "cut-offs 0 0 1 1"),
        (["train", TINY, "--out", "{}"], "{}: is a folder"),
        (["train", "{}/no", "--out", "{}/x"], "{}/no: No such file or directory"),
        (["import", TINY, "--out", "{}/x"], f"{TINY}: ends before"),
        (["export", TINY, "--out", "{}/x"], f"{TINY}: not a language model"),
        (["score", TINY, TINY], f"{TINY}: not a language model"),
        (["score", "{}/no", TINY], "{}/no: No such file or directory"),
    ],
)
def test_errors_are_one_line(tmp_path: Path, arguments: list[str], cause: str, capsys: Output) -> None:
    assert run(*(argument.format(tmp_path) for argument in arguments)) == 1
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
    assert printed.err.startswith(f"asr: {cause.format(tmp_path)}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_full_disk(lm: Path) -> None:
    command = [sys.executable, "-m", "asr.cli", "lm", "export", str(lm), "--out", "/dev/full"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (1, b"asr: No space left on device\n")
