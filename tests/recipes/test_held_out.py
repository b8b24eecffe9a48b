"""What is evaluated is found wherever it was trained on."""

from pathlib import Path

import pytest

from asr import manifest
from asr.manifest import Utterance
from recipes.librispeech.held_out import main

SAID = "IT WAS THE BEST OF TIMES IT WAS THE WORST OF TIMES"


def folder(path: Path, speaker: str, *texts: str) -> str:
    path.mkdir()
    rows = [Utterance(f"{speaker}-{i}", path / f"{i}.flac", 1.0, t, speaker) for i, t in enumerate(texts)]
    manifest.write(path / "manifest.jsonl", rows)
    return str(path)


def check(tmp_path: Path, train: str, lines: list[str], *flags: str) -> int:
    held_out = folder(tmp_path / "dev", "9", SAID, "AND SO ON AND ON")
    (tmp_path / "text").write_text("".join(line + "\n" for line in lines))
    arguments = ["--held-out", held_out, "--train", train, "--text", str(tmp_path / "text"), *flags]
    return main(arguments)


def test_nothing_is_shared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = folder(tmp_path / "train", "1", "IT WAS THE BEST OF TIMES")  # six words
    lines = ["IT WAS THE BEST OF TIMES IT", "IS THE WORST OF TIMES"]
    assert check(tmp_path, train, lines) == 0
    assert "in a row that are held out: 0 of 2" in capsys.readouterr().out


def test_speakers_and_ids_and_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = folder(tmp_path / "train", "9", f"HE SAID {SAID}")
    assert check(tmp_path, train, ["A B C"], "--write", str(tmp_path / "clean")) == 1
    assert not (tmp_path / "clean").exists()
    out = capsys.readouterr().out
    assert "speakers in common: 1  9" in out and "utterance ids in common: 1  9-0" in out
    assert "words in the training texts in common: 1  HE SAID IT WAS" in out


def test_lines_that_share_words_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = folder(tmp_path / "train", "1", "HELLO")
    words = SAID.split()
    lines = ["BEFORE", f"X {SAID} Y", "BETWEEN", " ".join(words[:5]), " ".join(words[5:]), "", "AFTER"]
    assert check(tmp_path, train, lines) == 1
    clean = tmp_path / "clean"
    (tmp_path / "dev" / "manifest.jsonl").unlink()
    (tmp_path / "dev").rmdir()
    assert check(tmp_path, train, lines, "--write", str(clean)) == 0
    assert clean.read_text().splitlines() == ["BEFORE", "BETWEEN", "", "AFTER"]
    assert "in a row that are held out: 3 of 7" in capsys.readouterr().out


def test_utterances_run_on(tmp_path: Path) -> None:
    train = folder(tmp_path / "train", "1", "HELLO")
    assert check(tmp_path, train, ["the worst of times and so on and"]) == 1


def test_what_is_missing_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--held-out", str(tmp_path)]) == 1
    assert "manifest.jsonl: cannot read the manifest" in capsys.readouterr().err
