"""Measure how long readers pause after words, by forced alignment, for the training of the tagger.

    python -m recipes.formatting.pauses align OUT.jsonl MANIFEST ...
    python -m recipes.formatting.pauses fit pauses.json ALIGNED.jsonl ...

Between two utterances of a reader, the silence at their edges counts. Marks are those of the manifest
(`formatted`), or else those that the tagger finds without pauses.
"""

import json
import math
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from asr import load_model
from asr.console import exit_code, print_error
from asr.errors import AsrError
from asr.files import atomic_write
from asr.formatting.marks import MARKS, parse
from asr.formatting.pauses import BUCKETS, KINDS, UNKNOWN, bucket
from asr.formatting.tagger import Tagger

LEAST = 1000  # pauses of a speaker; speakers with fewer are left out
FEW = 50  # pauses of a kind; for fewer, those of all speakers are taken


def align(out: Path, manifests: Sequence[Path]) -> int:
    """Write each utterance with the pauses after its words, and the silence before and after it."""
    model = load_model()
    with atomic_write(out) as file:
        for path in manifests:
            for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
                try:
                    found = model.align(path.parent / row["audio_filepath"], row["text"])
                except AsrError as error:
                    print_error(f"{row['audio_filepath']}: {error}")
                    continue
                words = found.words
                row["pauses"] = [round(b.start - a.end, 3) for a, b in pairwise(words)]
                row |= {"head": words[0].start, "tail": round(found.duration - words[-1].end, 3)}
                file.write(json.dumps(row) + "\n")
    return 0


def read(path: Path) -> Iterator[dict[str, Any]]:
    """Rows that `align` wrote."""
    yield from map(json.loads, path.read_text(encoding="utf-8").splitlines())


def join(rows: Sequence[dict[str, Any]], prompts: bool = False) -> tuple[list[str], list[float]]:
    """Words of utterances laid end to end, and the pauses after them but the last; NaN is unknown.

    The silence around a prompt (`formatted`) is not a reader's pause; `prompts` takes it for one.
    """
    words: list[str] = []
    pauses: list[float] = []
    for row, following in zip(rows, [*rows[1:], None], strict=True):
        words += row["text"].split()
        pauses += row["pauses"]
        if following:
            pauses.append(
                math.nan if row.get("formatted") and not prompts else row["tail"] + following["head"]
            )
    return words, pauses


def fit(out: Path, aligned: Sequence[Path]) -> int:
    """Write the shares of the buckets by speaker and kind of mark."""
    speakers: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for path in aligned:
        for row in read(path):
            speakers[row["speaker"]].append(row)
    tagger, counts = Tagger(), {}
    for speaker, rows in speakers.items():
        words, pauses = join(rows)
        if len(pauses) < LEAST:
            continue
        marks = [t.mark for row in rows for t in parse(row.get("formatted") or "")]
        if len(marks) != len(words):
            marks = tagger.tag(words)[0].tolist()
        table = np.zeros((max(KINDS) + 1, BUCKETS))
        np.add.at(table, (np.array(KINDS)[marks[:-1]], bucket(np.array(pauses))), 1)
        table[:, UNKNOWN] = 0
        counts[speaker] = table
    total = sum(counts.values()) + 0.5 * (np.arange(BUCKETS) > 0)
    total = total / total.sum(axis=1, keepdims=True)
    shares = []
    for speaker, table in counts.items():
        smooth = table + FEW * total * (1 + 9 * (table.sum(axis=1, keepdims=True) < FEW))
        shares.append((smooth / smooth.sum(axis=1, keepdims=True)).round(4).tolist())
        print(speaker, *(f"{mark or 'none'!r}" for mark in MARKS), sep=" ")
        print(np.array(shares[-1]).round(3))
    with atomic_write(out) as file:
        json.dump({"speakers": list(counts), "shares": shares}, file, indent=1)
    return 0


def main(command: str, out: Path, paths: Sequence[Path]) -> int:
    """Run `align` or `fit`."""
    return {"align": align, "fit": fit}[command](out, paths)


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: main(sys.argv[1], Path(sys.argv[2]), [Path(p) for p in sys.argv[3:]])))
