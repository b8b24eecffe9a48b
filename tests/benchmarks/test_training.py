"""Training by several processes is measured like training by one."""

import json
import subprocess
import sys

import pytest


def test_two_processes_are_timed_and_train_the_same_cell() -> None:
    sizes = ("--cell=lstm", "--hidden=8", "--layers=1", "--batch-seconds=40", "--hours=0.02", "--epochs=1")
    command = [sys.executable, "-m", "benchmarks.training", *sizes, "--processes=2", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr[-2000:]
    assert "Profiler" not in process.stderr
    result = json.loads(process.stdout)
    rates = result["asr_xrt"], result["packed_xrt"]
    assert result["ratio"] == pytest.approx(rates[0] / rates[1]) and min(rates) > 0
    assert (result["processes"], result["cell"]) == (2, "lstm")
    assert 0 <= result["data_wait_share"] < 1 and result["mfu"] > 0
    assert sum(result["parts"].values()) == pytest.approx(1)
