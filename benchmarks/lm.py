"""Estimation of n-gram models: time and memory against KenLM's lmplz; loading.

    python -m benchmarks.lm [TEXT] [--order 3] [--prune 0 0 1] [--lmplz PATH]

Each estimator is a process of its own, with the same text and cut-offs. lmplz
is run if it is on the PATH or given by --lmplz; it has no limit on the number
of words, so do not give --vocab then. Without TEXT, sentences of 20 words are
drawn with the unigram probabilities of the model that ships: they have more
distinct n-grams than real text. Loading is the median of 20, from a file in
the page cache to a first score.
"""

import shutil
import statistics
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import asr_command, bundle_path, new_parser, run, show

SENTENCE = 20


def main() -> None:
    """Parse, measure, print."""
    parser = new_parser(__doc__)
    parser.add_argument("text", type=Path, nargs="?", help="one sentence per line, may be compressed")
    parser.add_argument("--words", type=int, default=2_000_000, help="drawn without TEXT")
    parser.add_argument("--order", default="3")
    parser.add_argument("--vocab", help="most frequent words to keep")
    parser.add_argument("--prune", nargs="+", default=[], help="cut-off of each order")
    parser.add_argument("--lmplz", default=shutil.which("lmplz"), help="KenLM's program; needs plain text")
    arguments = parser.parse_args()
    prune = ["--prune", *arguments.prune] if arguments.prune else []
    vocabulary = ["--vocab", arguments.vocab] if arguments.vocab else []
    with tempfile.TemporaryDirectory() as name:
        out, text = Path(name) / "lm.bin", arguments.text or draw_text(Path(name), arguments.words)
        options = ["--order", arguments.order, *prune, *vocabulary]
        ours = run(asr_command("lm", "train", str(text), "--out", str(out), *options))
        result: dict[str, Any] = {"asr": asdict(ours)}
        if arguments.lmplz:
            peer = [arguments.lmplz, "-o", arguments.order, *prune, "--text", str(text), "-T", name]
            result["lmplz"] = asdict(run([*peer, "--arpa", str(Path(name) / "lm.arpa")]))
            result["ratio"] = result["lmplz"]["seconds"] / ours.seconds
        result |= {"mib": out.stat().st_size / 2**20, "load_ms": load_milliseconds(out)}
    show(result, table(result), arguments.json)


def draw_text(folder: Path, words: int) -> Path:
    """Write sentences of words drawn with the unigram probabilities of the built-in model."""
    import numpy as np

    from asr.lm import packed

    lm = packed.load(bundle_path("box") / "lm.bin")
    names = np.array(list(lm.vocabulary)[3:])  # without <unk>, <s>, </s>
    log_probs = lm.arrays.log_probs[4 : 4 + len(names)].astype(np.float64)
    weights = 10.0**log_probs
    drawn = np.random.default_rng(0).choice(names, words, p=weights / weights.sum())
    lines = (" ".join(drawn[i : i + SENTENCE]) for i in range(0, words, SENTENCE))
    path = folder / "text.txt"
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def load_milliseconds(path: Path) -> float:
    """Median time from the path to a first score, without the compilation by the first call."""
    from asr.lm.ngram import NgramLM

    times = []
    for _ in range(21):
        begin = time.perf_counter()
        NgramLM.load(path).score(["THE"])
        times.append(1000 * (time.perf_counter() - begin))
    return statistics.median(times[1:])


def table(result: dict[str, Any]) -> str:
    """Format the figures as lines of text."""
    lines = [f"{'':8}{'seconds':>10}{'CPU s':>10}{'peak MiB':>10}"]
    for name in ("asr", "lmplz"):
        if row := result.get(name):
            lines.append(f"{name:8}{row['seconds']:10.1f}{row['cpu_seconds']:10.1f}{row['peak_mib']:10.0f}")
    if "ratio" in result:
        lines.append(f"asr takes {1 / result['ratio']:.2f} times as long as lmplz")
    else:
        lines.append("lmplz: not found, so there is no peer; give --lmplz PATH")
    return "\n".join([*lines, f"model of {result['mib']:.0f} MiB loaded in {result['load_ms']:.2f} ms"])


if __name__ == "__main__":
    main()
