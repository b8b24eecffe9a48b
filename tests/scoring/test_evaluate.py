import io
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import soundfile
from rich.cells import cell_len
from rich.console import Console

from asr import manifest
from asr.cli import main
from asr.errors import ManifestError
from asr.inference.transcriber import Transcriber, load_model
from asr.manifest import Utterance
from asr.scoring.evaluate import Report, evaluate, summarize
from asr.scoring.report import print_report
from asr.scoring.wer import Counts, UtteranceScore, score, write_details
from tests.standin import speak, write_bundle

SPOKEN = {  # id: (speaker, reference, text that the stand-in recognises)
    "a1": ("ann", "ONE TWO THREE", "ONE TWO THREE"),
    "a2": ("ann", "FOUR FIVE", "FOUR SIX NINE"),
    "b1": ("bob", "SEVEN", ""),
    "b2": ("bob", "", "EIGHT"),
    "b3": ("bob", "NINE ONE NINE ONE", "NINE ONE NINE ONE"),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Transcriber:
    return load_model(write_bundle(tmp_path_factory.mktemp("bundle")), threads=1)


def corpus(folder: Path, ids: list[str], name: str = "manifest.jsonl") -> Path:
    utterances = []
    for id in ids:
        speaker, reference, spoken = SPOKEN[id]
        soundfile.write(folder / f"{id}.flac", speak(f" {spoken} "), 16_000)
        utterances.append(Utterance(id, Path(f"{id}.flac"), 1.0, reference, speaker))
    manifest.write(folder / name, utterances)
    return folder / name


def test_counts_by_hand(model: Transcriber, tmp_path: Path) -> None:
    report = evaluate(model, [corpus(tmp_path, list(SPOKEN))])
    assert report.words == Counts(hits=8, substitutions=1, deletions=1, insertions=2)
    assert report.words.rate == 0.4
    assert [(s.speaker, s.utterances, s.words.errors, s.words.length) for s in report.speakers] == [
        ("ann", 2, 2, 5),
        ("bob", 3, 2, 5),
    ]
    assert [s.id for s in report.worst(9)] == ["a2", "b2", "b1"]
    assert [s.id for s in report.worst(1)] == ["a2"]
    assert report.problems == ()
    assert report.audio_seconds == pytest.approx(sum(0.12 * (len(s) + 2) for _, _, s in SPOKEN.values()))
    assert report.processing_seconds > 0
    assert report.word_interval is not None and report.word_interval.unit == "speaker"
    assert report.word_interval.low == report.word_interval.high == pytest.approx(0.4)


def test_order_and_manifests_do_not_matter(model: Transcriber, tmp_path: Path) -> None:
    whole = evaluate(model, [corpus(tmp_path, list(SPOKEN), "whole.jsonl")])
    parts = [corpus(tmp_path, ids, f"{i}.jsonl") for i, ids in enumerate((["b3", "a2"], ["b2", "b1", "a1"]))]
    split = evaluate(model, parts)
    timeless = {"processing_seconds": 0, "real_time_factor": 0}
    assert {**split.to_dict(), **timeless} == {**whole.to_dict(), **timeless}


def test_unreadable_recordings_are_listed_not_scored(model: Transcriber, tmp_path: Path) -> None:
    path = corpus(tmp_path, list(SPOKEN))
    (tmp_path / "a2.flac").write_bytes(b"")
    (tmp_path / "b2.flac").unlink()
    report = evaluate(model, [path])
    assert [problem.id for problem in report.problems] == ["a2", "b2"]
    assert all(f"{p.id}.flac: cannot read the recording" in p.reason for p in report.problems)
    assert [s.id for s in report.scores] == ["a1", "b1", "b3"]
    assert report.words == Counts(hits=7, deletions=1)
    text = rendered(report)
    assert "3 of 5 utterances scored" in text
    assert "could not be scored: 2" in text
    assert f"  b2: {tmp_path}/b2.flac: cannot read the recording" in text


def test_nothing_scored(model: Transcriber, tmp_path: Path) -> None:
    path = corpus(tmp_path, ["a1"])
    (tmp_path / "a1.flac").unlink()
    report = evaluate(model, [path])
    assert json.loads(report.to_json())["wer"]["rate"] is None
    assert json.loads(report.to_json())["real_time_factor"] is None
    assert "0 of 1 utterances scored" in rendered(report) and "real-time factor n/a" in rendered(report)


def test_an_utterance_in_two_manifests(model: Transcriber, tmp_path: Path) -> None:
    first, second = corpus(tmp_path, ["a1", "a2"], "1.jsonl"), corpus(tmp_path, ["a2"], "2.jsonl")
    with pytest.raises(ManifestError, match=f"{second}: .*'a2'.* another manifest"):
        evaluate(model, [first, second])


def test_references_are_not_normalised(model: Transcriber, tmp_path: Path) -> None:
    path = corpus(tmp_path, ["a1"])
    path.write_text(path.read_text(encoding="utf-8").replace("ONE TWO", "one TWO"), encoding="utf-8")
    assert evaluate(model, [path]).words == Counts(hits=2, substitutions=1)


def example() -> Report:
    scores = [
        score("u1", "A [B] C D", "A [B] X D", "s1"),
        score("u2", "A B C D E F", "A B C D E F", "s2"),
        score("u3", "A", "B C", "s3"),
    ]
    return summarize(scores, [], audio_seconds=3600.0, processing_seconds=36.0)


def rendered(report: Report, width: int = 100, **options: int) -> str:
    file = io.StringIO()
    print_report(report, Console(file=file, width=width), **options)
    return file.getvalue()


def test_json_holds_every_count() -> None:
    row = json.loads(example().to_json())
    assert row["utterances"] == 3
    interval = row["wer"].pop("interval")
    counts = {"hits": 9, "substitutions": 2, "deletions": 0, "insertions": 1}
    assert row["wer"] == {"rate": 3 / 11, "errors": 3, "length": 11, **counts}
    assert interval["unit"] == "speaker" and interval["units"] == 3
    assert 0 <= interval["low"] < 3 / 11 < interval["high"] <= 2
    assert row["cer"]["length"] == len("A [B] C DA B C D E FA")
    assert row["real_time_factor"] == 0.01
    assert [(s["speaker"], s["wer"]["rate"]) for s in row["speakers"]] == [("s3", 2), ("s1", 0.25), ("s2", 0)]
    assert row["problems"] == []


def test_rendering() -> None:
    lines = [line.rstrip() for line in rendered(example()).splitlines()]
    [wer] = [line.split() for line in lines if line.startswith("WER")]
    assert wer[:3] == ["WER", "27.27", "%"] and wer[-5:] == ["3", "2", "0", "1", "11"]
    assert "3 of 3 utterances scored" in lines
    assert "1.00 h of audio in 36.0 s: real-time factor 0.0100" in lines
    assert any(line.startswith("interval: bootstrap over 3 speakers; rough") for line in lines)
    start = lines.index("u1, speaker s1: word errors 1, words 4")
    assert lines[start + 1 : start + 4] == ["  REF: A [B] C D", "  HYP: A [B] X D", "             S"]
    assert lines.index("u3, speaker s3: word errors 2, words 1") < start
    assert not any(line.startswith("u2,") for line in lines)


@cache
def long_score() -> UtteranceScore:
    """Return a score with counts of five digits."""
    return score("u", "A B C " * 30_000, "A B D " * 30_000, "s")


@pytest.mark.parametrize(
    "name", ["sp", "corpus/part/" * 9 + "84", "録音された話者の名前一二三四五六", "[b]/bold"]
)
def test_tables_fit_80_columns_with_whole_names(name: str) -> None:
    scores = [replace(long_score(), id=f"u{i}", speaker=s) for i, s in enumerate((name, "bob"))]
    report = summarize(scores, [], audio_seconds=1e6, processing_seconds=1e5)
    lines = rendered(report, 80, worst=0).splitlines()
    assert all(cell_len(line) <= 80 for line in lines)
    rows = lines[next(i for i, line in enumerate(lines) if line.startswith("speaker")) + 1 :]
    assert "".join(row.split()[0] for row in rows).replace("bob", "") == name
    numbers = [row.split()[1:] for row in rows if len(row.split()) > 1]
    assert len(numbers) == 2 and numbers[0] == numbers[1] and "…" not in "".join(lines)


def test_rendering_is_limited() -> None:
    text = rendered(example(), worst=1, speakers=2)
    assert "speakers with a lower WER, not shown: 1" in text
    assert "u3, speaker s3" in text and "u1, speaker s1" not in text


def test_rendering_without_speakers() -> None:
    anonymous = summarize([replace(s, speaker=None) for s in example().scores])
    text = rendered(anonymous)
    assert "bootstrap over 3 utterances\n" in text
    assert "speaker  utt." not in text and "u3: word errors 2, words 1" in text
    assert anonymous.speakers == []


def test_compare_two_files_of_details(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, hypothesis in (("a", "SO IT WAS"), ("b", "SO IT IS")):
        rows = [score(f"u{i}", "SO IT IS", hypothesis) for i in range(4)]
        write_details(tmp_path / f"{name}.jsonl", rows)
    assert main(["compare", str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")]) == 0
    out = capsys.readouterr().out
    assert "-33.33 points, 95 % interval -33.33 to -33.33" in out and "100.0 %" in out
