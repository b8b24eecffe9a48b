"""How fast is a language model made of a text, in how much memory, and how fast is it loaded?

    python -m benchmarks.lm TEXT [--order 3] [--vocab 200000] [--prune 0 0 1] [--lmplz PATH] [--json]

A process of its own does each: `asr lm train`, and KenLM's lmplz on the same text with the same cut-offs
where its path is given (it takes no number of words, so give it none to compare). Loading is the median
of 20 times, the file being in the system's cache.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from benchmarks.process import Run, run


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("text", type=Path, help="one sentence a line, may be compressed")
    parser.add_argument("--order", default="3")
    parser.add_argument("--vocab")
    parser.add_argument("--prune", nargs="+", default=[])
    parser.add_argument("--lmplz", type=Path, help="KenLM's program; the text must be plain then")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    prune = ["--prune", *arguments.prune] if arguments.prune else []
    with tempfile.TemporaryDirectory() as name:
        out = Path(name) / "lm.bin"
        vocabulary = ["--vocab", arguments.vocab] if arguments.vocab else []
        command = [sys.executable, "-m", "asr.cli", "lm", "train", str(arguments.text), "--out", str(out)]
        ours = run([*command, "--order", arguments.order, *prune, *vocabulary])
        result = {"ours": asdict(ours), "load_ms": load_milliseconds(out), "mib": out.stat().st_size / 2**20}
        if arguments.lmplz:
            peer = [str(arguments.lmplz), "-o", arguments.order, *prune, "--text", str(arguments.text)]
            result["lmplz"] = asdict(run([*peer, "--arpa", str(Path(name) / "lm.arpa"), "-T", name]))
    print(json.dumps(result, indent=1) if arguments.json else table(result))


def load_milliseconds(path: Path) -> float:
    """Median of the time from a path to a first score."""
    from asr.lm.ngram import NgramLM

    times = []
    for _ in range(21):
        begin = time.perf_counter()
        NgramLM.load(path).score(["THE"])
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times[1:])  # the first one compiles


def table(result: dict) -> str:
    """For reading."""
    lines = [f"model of {result['mib']:.0f} MiB, loaded and asked once in {result['load_ms']:.2f} ms"]
    for name in ("ours", "lmplz"):
        if name in result:
            row = Run(**result[name])
            lines.append(
                f"{name:6} {row.seconds:7.1f} s, {row.cpu_seconds:7.1f} s of CPU, peak {row.peak_mib:.0f} MiB"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
