"""Scores of readable text."""

import json
from pathlib import Path

import pytest
import soundfile

from asr import manifest
from asr.cli import main
from asr.formatting.marks import parse
from asr.scoring.formatted import SENTENCES, FormattedReport, tally
from tests.standin import speak


def compare(reference: str, hypothesis: str) -> FormattedReport:
    return tally([(parse(reference), parse(hypothesis))])


def test_known_counts() -> None:
    report = compare("He came, saw; and left. Did she? No!", "He came saw, and left. did she. No!")
    comma, period = report.marks[","], report.marks["."]
    assert (comma.expected, comma.found, comma.hits) == (1, 1, 0)
    assert (period.expected, period.found, period.hits) == (1, 1, 0)  # "left. did" is an abbreviation
    assert (report.marks[";"].recall, report.marks["?"].recall, report.marks["!"].f1) == (0, 0, 1)
    sentences = report.marks[SENTENCES]
    assert (sentences.precision, sentences.recall, sentences.f1) == (1, pytest.approx(2 / 3), 0.8)
    assert (report.same_case, report.matched) == (7, 8)
    # Wrong: one comma missing, one for a semicolon, one word's case, and what follows "left" and "she".
    assert report.words.length == 13 and 0 < report.words.errors <= 5


def test_marks_are_compared_between_aligned_words() -> None:
    report = compare("One two, three. Four five.", "One two, too three. Four fife.")
    assert report.marks[","].f1 == report.marks["."].f1 == report.case_accuracy == 1
    assert report.matched == 4 and report.words.errors == 2
    lost = compare("One two, three.", "One.")
    assert (lost.marks[","].recall, lost.marks["."].hits) == (0, 0)


@pytest.mark.parametrize(
    ("reference", "hypothesis"), [("", ""), ("", "One."), ("One.", ""), ("One.", "One.")]
)
def test_empty_texts(reference: str, hypothesis: str) -> None:
    report = compare(reference, hypothesis)
    assert report.marks["."].f1 == (reference == hypothesis != "")
    json.loads(report.to_json())
    assert "case accuracy" in report.to_text()


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    rows = [("a", "WHERE ARE YOU GOING", "Where are you going?"), ("b", "SO IT IS", None), ("c", "NO", "No.")]
    for name, spoken, _ in rows[:2]:
        soundfile.write(tmp_path / f"{name}.wav", speak(spoken), 16_000)
    utterances = [
        manifest.Utterance(name, tmp_path / f"{name}.wav", 1.0, spoken, formatted=formatted)
        for name, spoken, formatted in rows
    ]
    manifest.write(tmp_path / "manifest.jsonl", utterances)
    assert manifest.read(tmp_path / "manifest.jsonl") == utterances
    return tmp_path


def test_the_command(corpus: Path, standin_bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["evaluate", str(standin_bundle), str(corpus), "--formatted"]
    assert main(command) == 1  # c.wav is missing
    out = capsys.readouterr().out
    assert "WER with case and punctuation" in out and "not scored: c" in out
    assert main([*command, "--json"]) == 1
    row = json.loads(capsys.readouterr().out)
    assert row["marks"]["?"]["f1"] == 1 and row["problems"][0]["id"] == "c"
    assert main([*command, "--snr", "10"]) == 2
    assert "--formatted takes no" in capsys.readouterr().err


def test_references_without_marks(
    corpus: Path, standin_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = [manifest.Utterance("b", corpus / "b.wav", 1.0, "SO IT IS")]
    manifest.write(corpus / "manifest.jsonl", plain)
    assert main(["evaluate", str(standin_bundle), str(corpus), "--formatted"]) == 1
    assert "no text has punctuation" in capsys.readouterr().err


def test_scores_of_words_stay_those_of_plain_text(
    corpus: Path, standin_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["evaluate", str(standin_bundle), str(corpus), "--json"])
    assert json.loads(capsys.readouterr().out)["wer"]["errors"] == 0
