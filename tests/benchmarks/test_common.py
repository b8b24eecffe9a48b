"""Shared parts of the benchmarks: timing, processes, missing data, tables of at most 80 columns."""

import sys
import time
from importlib import import_module
from pathlib import Path

import pytest
import torch

import benchmarks
from benchmarks import ctc, decoding, features, lm, long_audio, recurrence, transcription

FOLDER = Path(benchmarks.__file__).parent
MODULES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")

PROCESS = {"seconds": 12345.6, "cpu_seconds": 12345.6, "peak_mib": 12345.6}
OUTCOME = {"xrt": 1234.5, "wer": 100.0, "peak_mib": 12345.6, "asr_wer": 100.0}
DECODER = {"wer": 100.0, "rtf": 12.3456, "us_per_frame": 12345.6, "ratio": 123.4}
WERS = {f"{way}{part}": 100.0 for way in ("single", "whole") for part in ("", "_deletions", "_insertions")}
SPEED = {"clock": 12345.6, "cpu": 12345.6}
TABLES = {
    "ctc": lambda: ctc.table(
        torch.device("cpu"),
        [
            {"vocabulary": 1024, "batch": 1024, "kernel": "cudnn", "error": 100 * "x"},
            {"vocabulary": 1024, "batch": 1024, "kernel": "native", "sync": True}
            | dict.fromkeys(("seconds", "ratio", "loss", "gradient"), 12.345),
        ],
    ),
    "decoding": lambda: "\n".join(
        [
            decoding.HEADER,
            decoding.format_row(
                {"beam": 1000, "thread_ratio": 1.99, "decoders": {"asr": DECODER, "flashlight": DECODER}}
            ),
        ]
    ),
    "features": lambda: features.table(
        {
            "seconds": 1200.0,
            "speeds": {"recordings to feature store": SPEED, "extraction: kaldi-native-fbank": SPEED},
            "ratios": {"extraction: kaldi-native-fbank": 12.3},
        }
    ),
    "lm": lambda: lm.table({"asr": PROCESS, "lmplz": PROCESS, "ratio": 1.5, "mib": 123.4, "load_ms": 12.3}),
    "long_audio": lambda: long_audio.table(
        {"recordings": 123, "shortest": 60.0, "longest": 180.0, "with LM": {**WERS, "difference": -1.23}}
        | {"long": {"hours": 12.34, "xrt": 123.4, "peak_mib": 1234.5}}
    ),
    "recurrence": lambda: "\n".join(
        [
            recurrence.HEADER,
            recurrence.format_row(
                {"cell": "lstm", "hidden": 1024, "batch": 1024, "frames": 1024, "precision": "bfloat16"}
                | {"padding": 0.123, "seconds": {"packed": 12.3456, "asr": 12.3456}, "ratio": 12.3}
                | {"difference": {"packed": 1e-7, "asr": 1e-7}}
            ),
        ]
    ),
    "transcription": lambda: transcription.table(
        {
            "utterances": 124,
            "seconds": 1234.5,
            "parameters": 9_800_000,
            "threads": {2: {"asr": OUTCOME, "pocketsphinx": OUTCOME, "ratio_pocketsphinx": 123.4}},
            "cold_start": {"asr": 12.34, "import_torch": 12.34, "ratio": 1.23},
        }
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_fit_80_columns(name: str) -> None:
    assert max(map(len, TABLES[name]().splitlines())) <= 80


@pytest.mark.parametrize("name", MODULES)
def test_each_benchmark_is_listed_and_its_help_fits_80_columns(name: str) -> None:
    documented = import_module(f"benchmarks.{name}").__doc__ or ""
    assert f"python -m benchmarks.{name}" in documented
    assert max(map(len, f'"""{documented}'.splitlines())) <= 80
    assert f"\n{name} " in (benchmarks.__doc__ or "")


@pytest.mark.parametrize("module", [decoding, long_audio, transcription])
def test_a_missing_corpus_ends_with_one_line(
    module: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["benchmark"])
    with pytest.raises(SystemExit) as exit:
        module.main()  # type: ignore[attr-defined]
    message = str(exit.value.code)
    assert "asr prepare digits" in message and "--manifest" in message and "\n" not in message


def test_timing_takes_the_median_of_rounds_after_the_warm_up() -> None:
    calls: list[str] = []
    waits = iter([0.2, 0.01, 0.0, 0.05])

    def slow() -> None:
        calls.append("slow")
        time.sleep(next(waits))

    timings = benchmarks.time_alternately({"slow": slow, "fast": lambda: calls.append("fast")}, rounds=3)
    assert calls == ["slow", "fast"] * 4
    assert 0.01 <= timings["slow"].seconds < 0.05
    assert timings["slow"].cpu_seconds < timings["slow"].seconds


def test_a_process_is_measured_and_its_failure_ends_the_benchmark() -> None:
    done = benchmarks.run([sys.executable, "-c", "x = bytearray(50 << 20); print(len(x))"])
    assert done.cpu_seconds > 0 and 50 < done.peak_mib < 200
    with pytest.raises(SystemExit, match="failed"):
        benchmarks.run([sys.executable, "-c", "raise SystemExit(3)"])


def test_utterances_are_spread() -> None:
    assert benchmarks.spread(range(10), 3) == [0, 3, 6]
    assert benchmarks.spread(range(3), 5) == benchmarks.spread(range(3)) == [0, 1, 2]
    assert benchmarks.spread([]) == []


def test_features_are_timed_against_their_peers(tmp_path: Path) -> None:
    pytest.importorskip("torchaudio")
    source = features.synthesise(tmp_path / "corpus", 12)
    result = features.measure(source, tmp_path, 24, rounds=1)
    assert result["seconds"] == 24 and "extraction: torchaudio" in result["ratios"]
    assert min(speed["clock"] for speed in result["speeds"].values()) > 0
