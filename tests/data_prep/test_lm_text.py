"""Evaluation data is found in training sets and in language-model text."""

from pathlib import Path

import pytest

from asr import manifest
from asr.cli import main
from asr.manifest import Utterance

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
    return main(["prepare", "lm-text", *arguments])


def test_nothing_is_shared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = folder(tmp_path / "train", "1", "IT WAS THE BEST OF TIMES")  # six words
    lines = ["IT WAS THE BEST OF TIMES IT", "IS THE WORST OF TIMES"]
    assert check(tmp_path, train, lines) == 0
    assert "with 8 held-out words in a row: 0 of 2" in capsys.readouterr().out


def test_speakers_and_ids_and_texts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = folder(tmp_path / "train", "9", f"HE SAID {SAID}")
    assert check(tmp_path, train, ["A B C"], "--out", str(tmp_path / "clean")) == 1
    assert not (tmp_path / "clean").exists()
    out = capsys.readouterr().out
    assert "speaker in common: 1  9" in out and "utterance id in common: 1  9-0" in out
    assert "sequence of 8 words in common: 1  HE SAID IT WAS" in out


def test_lines_with_held_out_words_are_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train = folder(tmp_path / "train", "1", "HELLO")
    words = SAID.split()
    lines = ["BEFORE", f"X {SAID} Y", "BETWEEN", " ".join(words[:5]), " ".join(words[5:]), "", "AFTER"]
    assert check(tmp_path, train, lines) == 1
    clean = tmp_path / "clean"
    (tmp_path / "dev" / "manifest.jsonl").unlink()
    (tmp_path / "dev").rmdir()
    assert check(tmp_path, train, lines, "--out", str(clean)) == 0
    assert clean.read_text().splitlines() == ["BEFORE", "BETWEEN", "", "AFTER"]
    assert "with 8 held-out words in a row: 3 of 7" in capsys.readouterr().out


def test_sequences_across_utterances(tmp_path: Path) -> None:
    train = folder(tmp_path / "train", "1", "HELLO")
    assert check(tmp_path, train, ["the worst of times and so on and"]) == 1


def test_missing_manifest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "lm-text", "--held-out", str(tmp_path)]) == 1
    assert "manifest.jsonl: cannot read the manifest" in capsys.readouterr().err


def test_output_without_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "lm-text", "--held-out", str(tmp_path), "--out", str(tmp_path / "clean")]) == 2
    assert "--out needs --text" in capsys.readouterr().err
