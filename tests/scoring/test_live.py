"""Measures of live recognition by hand, and `asr evaluate --live` on a stand-in model."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr import manifest
from asr.cli import main
from asr.decoding.types import Word
from asr.inference.live import Committed, Endpoint, Event, Final, Partial
from asr.inference.transcriber import load_model
from asr.manifest import Utterance
from asr.scoring.live import Display, Timed, evaluate_live, trace
from asr.scoring.wer import read_details
from tests.standin import speak


def words(text: str, start: float) -> tuple[Word, ...]:
    return tuple(Word(t, start + i, start + i + 0.5, 1.0) for i, t in enumerate(text.split()))


def timed(events: Sequence[tuple[float, Event]]) -> list[Timed]:
    return [Timed(event, at, at + 0.1) for at, event in events]


def test_measures_by_hand() -> None:
    a, b, c = words("A B C", 0.0)
    found = trace(
        timed(
            [
                (1.0, Partial("", "A X", 0.0)),
                (2.0, Partial("", "A B", 0.0)),  # X changes
                (3.0, Committed((a,))),
                (3.0, Partial("A", "Y", 0.0)),  # B changes
                (4.0, Partial("A", "B", 0.0)),  # Y changes
                (5.0, Committed((b,))),
                (5.0, Endpoint(0, 0.0, 5.0)),
                (5.0, Final(0, 0.0, 5.0, words("A Z", 0.0))),
                (6.0, Partial("", "C D", 5.0)),
                (7.0, Committed((c,))),  # D disappears
                (7.0, Endpoint(1, 5.0, 7.0)),
                (7.0, Final(1, 5.0, 7.0, (c,))),
            ]
        ),
        [Word("A", 0.2, 0.4, 1.0), Word("B", 1.0, 1.5, 1.0), Word("C", 5.0, 5.9, 1.0)],
        seconds=8.0,
        processing=2.0,
    )
    assert found.committed == (a, b, c)
    assert [w.text for w in found.final] == ["A", "Z", "C"]
    assert found.latencies == pytest.approx((0.6, 2.5, 0.1))
    assert found.computed == pytest.approx((0.7, 2.6, 0.2))
    assert found.commits == pytest.approx((2.6, 3.5, 1.1))
    assert found.first == pytest.approx((0.8,))
    assert (found.changed, found.taken_back) == (4, 0)


def test_words_taken_back_are_counted() -> None:
    display = Display()
    display.apply(Committed(words("A B C", 0.0)))
    display.apply(Partial("A B C", "", 0.0))
    assert display.taken_back == 0
    display.apply(Partial("A X C", "D", 0.0))
    assert display.taken_back == 2
    display.apply(Endpoint(0, 0.0, 3.0))
    display.apply(Partial("", "E", 3.0))
    assert display.taken_back == 2 and display.committed == ["A", "B", "C"]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    spoken = {"a": "ONE TWO THREE FOUR FIVE", "b": "SIX SEVEN", "c": ""}
    for name, text in spoken.items():
        samples = np.concatenate([np.zeros(7_680), speak(text) if text else [], np.zeros(7_680)])
        soundfile.write(folder / f"{name}.flac", samples, 16_000)
    texts = {**spoken, "b": "SIX SEVEN EIGHT"}
    manifest.write(
        folder / "manifest.jsonl", [Utterance(k, Path(f"{k}.flac"), 1.0, t) for k, t in texts.items()]
    )
    return folder


def test_evaluation_is_deterministic(standin_bundle: Path, corpus: Path) -> None:
    """Errors and latencies are known: all words are read exactly, and shown with the chunk that has them."""
    utterances = list(manifest.read(corpus / "manifest.jsonl"))
    reports = [evaluate_live(load_model(standin_bundle, threads=1), utterances) for _ in range(2)]
    rows = [report.to_dict() for report in reports]
    for row in rows:
        assert row.pop("real_time_factor") > 0 and row.pop("latency_with_computing")["p50"] > 0
    row = rows[0]
    assert row == rows[1]
    for kind in ("committed", "final", "whole"):
        assert (row[kind]["errors"], row[kind]["words"]) == (1, 8)
    assert row["committed"]["relative"] == 0 and row["whole"]["wer"] == 1 / 8
    assert row["taken_back"] == 0 and row["model_delay"] == 0.8
    assert 0 < row["latency"]["p50"] <= row["latency"]["p99"] < 0.8
    assert row["latency"]["p50"] < row["commit_latency"]["p50"] < 2.5
    assert 0 < row["first_partial"]["p50"] < 1


def test_the_command(
    standin_bundle: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["evaluate", str(standin_bundle), str(corpus), "--live"]
    assert main([*arguments, "--json", "--real-time", "--details", str(tmp_path / "d.jsonl")]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["real_time"] and row["committed"]["errors"] == 1 and row["unstable_word_ratio"] >= 0
    assert row["latency_with_computing"]["p50"] > row["latency"]["p50"]
    assert [s.hypothesis for s in read_details(tmp_path / "d.jsonl")][1] == "SIX SEVEN"
    assert [s.words.errors for s in read_details(tmp_path / "d.finals.jsonl")] == [0, 1, 0]
    assert main([*arguments, "--chunk", "0.2"]) == 0
    out = capsys.readouterr().out
    assert "12.50 % (1 of 8" in out and "mean delay of the model 0.70 s" in out and "taken back 0" in out


def test_what_cannot_be_measured(
    standin_bundle: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(standin_bundle), str(corpus), "--live", "--snr", "10"]) == 2
    assert "--snr" in capsys.readouterr().err
    silent = [Utterance("c", corpus / "c.flac", 1.0, ""), Utterance("x", corpus / "x.flac", 1.0, "X")]
    report = evaluate_live(load_model(standin_bundle, threads=1), silent)
    row = json.loads(report.to_json())
    assert row["latency"]["p50"] is None and row["unstable_word_ratio"] is None
    assert [problem["id"] for problem in row["problems"]] == ["x"] and "x.flac" in report.to_text()
