"""Benchmarks, one module per question: python -m benchmarks.NAME [--help]

decoding       beam search against flashlight-text and pyctcdecode
transcription  the whole command against torch and PocketSphinx; cold start
robustness     WER in noise and at other tempos against PocketSphinx
long_audio     WER on long recordings against single utterances; memory
serving        the server under load: delays, memory, leaks, slow clients
features       log-mel extraction against torchaudio and kaldi-native-fbank
lm             n-gram estimation against KenLM's lmplz
training       training steps against packed sequences
recurrence     recurrent layers exact under padding against packed sequences
ctc            PyTorch's CTC loss against cuDNN's

Each runs without arguments, on synthetic data or on the model that ships and
the digits corpus of `asr prepare digits`. Peers that are not installed are
left out. This module holds what several benchmarks use; it imports nothing
heavy, because some of them set the number of threads before numpy is imported.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

if TYPE_CHECKING:
    from asr.manifest import Utterance
    from asr.scoring.wer import Counts

DIGITS = Path("data/digits/test")
SAMPLE_RATE = 16_000  # as in asr.audio, which imports numpy

Item = TypeVar("Item")


def new_parser(doc: str | None) -> argparse.ArgumentParser:
    """Parser with the module's docstring as help, and --json."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    return parser


def add_corpus(parser: argparse.ArgumentParser, utterances: int | None = None) -> None:
    """Add --model, --manifest and --utterances."""
    parser.add_argument("--model", default="box", help="a bundle (default: box, which ships with asr)")
    parser.add_argument("--manifest", type=Path, default=DIGITS, help=f"default: {DIGITS}")
    parser.add_argument("--utterances", type=int, default=utterances, help="spread over the manifest")


def bundle_path(model: str) -> Path:
    """Folder of a bundle. Exits with one line if there is none."""
    from asr.errors import AsrError
    from asr.model.bundle import read_config, resolve_bundle

    try:
        folder = resolve_bundle(model)
        read_config(folder)
    except AsrError as error:
        raise SystemExit(str(error)) from None
    return folder


def read_utterances(path: Path, count: int | None = None) -> "list[Utterance]":
    """Read `count` utterances of a manifest or of a folder with one. Exits with one line without it."""
    from asr import manifest
    from asr.errors import AsrError

    path = path / "manifest.jsonl" if path.suffix != ".jsonl" else path
    if not path.exists():
        raise SystemExit(f"{path}: not found; run `asr prepare digits`, or give --manifest FILE")
    try:
        return spread(manifest.read(path), count)
    except AsrError as error:
        raise SystemExit(str(error)) from None


def spread(items: Sequence[Item], count: int | None = None) -> list[Item]:
    """Pick `count` items at even distances, or all."""
    count = min(count or len(items), len(items))
    return [items[i * len(items) // count] for i in range(count)]


def word_counts(pairs: "Iterable[tuple[str, str]]") -> "Counts":
    """Word errors of (reference, hypothesis) pairs."""
    from asr.scoring.wer import score, total

    return total(score("", reference, hypothesis).words for reference, hypothesis in pairs)


class Timing(NamedTuple):
    """Elapsed and CPU time of this process, in seconds."""

    seconds: float
    cpu_seconds: float


def time_alternately(
    work: Mapping[str, Callable[[], object]], rounds: int, wait: Callable[[], object] = lambda: None
) -> dict[str, Timing]:
    """Median time of each function over `rounds` rounds in turn, after one round of warm-up.

    `wait` is called before the clock is read, to finish asynchronous work.
    """
    times: dict[str, list[Timing]] = {name: [] for name in work}
    for _ in range(1 + rounds):
        for name, run_once in work.items():
            wait()
            begin, cpu = time.perf_counter(), time.process_time()
            run_once()
            wait()
            times[name].append(Timing(time.perf_counter() - begin, time.process_time() - cpu))
    columns = {name: zip(*measured[1:], strict=True) for name, measured in times.items()}
    return {name: Timing(*map(statistics.median, both)) for name, both in columns.items()}


# The peak memory of a process includes that of the process it was forked from, so a small one comes between.
_LAUNCHER = """
import json, os, subprocess, sys, time
cores, command = json.loads(sys.argv[1]), sys.argv[2:]
if cores:
    os.sched_setaffinity(0, cores)
begin = time.perf_counter()
process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(process.pid, 0)
seconds = time.perf_counter() - begin
print(json.dumps([status, seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024]))
"""


@dataclass(frozen=True)
class Run:
    """Elapsed time and CPU time in seconds, and peak memory in MiB, of one process."""

    seconds: float
    cpu_seconds: float
    peak_mib: float


def run(command: Sequence[str], cores: Sequence[int] = (), **environment: str) -> Run:
    """Run a command on `cores`, or on any; its stdout is dropped. Exits if it fails."""
    launcher = [sys.executable, "-c", _LAUNCHER, json.dumps(list(cores)), *command]
    done = subprocess.run(launcher, stdout=subprocess.PIPE, env={**os.environ, **environment}, check=True)
    status, *figures = json.loads(done.stdout)
    if status:
        raise SystemExit(f"{' '.join(command)} failed")
    return Run(*figures)


def asr_command(*arguments: str) -> list[str]:
    """Command line of `asr` in this environment."""
    return [sys.executable, "-m", "asr.cli", *arguments]


def one_core() -> None:
    """Restrict this process to one core and one thread; call before numpy and torch are imported."""
    os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def show(result: Mapping[str, Any], table: str, as_json: bool) -> None:
    """Print a result as JSON, or its table."""
    print(json.dumps(result, indent=1) if as_json else table)
