"""Models to ARPA files."""

import bz2
import gzip
import lzma
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np

from asr.files import atomic_write
from asr.lm.ngram import NgramArrays, NgramLM

_ROWS = 1 << 16


def write_arpa(lm: NgramLM, path: Path) -> None:
    """Write an ARPA file; .gz, .xz and .bz2 are compressed. Numbers are as short as float32 allows."""
    with atomic_write(path, "wb") as raw, _compressed(raw, path.suffix) as file:
        counts = "".join(f"ngram {n}={count}\n" for n, count in enumerate(lm.counts, 1))
        file.write(f"\\data\\\n{counts}\n".encode())
        names = lm.words()
        for n in range(1, lm.order + 1):
            file.write(f"\\{n}-grams:\n".encode())
            for rows in _rows(lm, n, names):
                file.write(rows.encode())
            file.write(b"\n")
        file.write(b"\\end\\\n")


def spell(lm: NgramArrays, nodes: np.ndarray, n: int) -> np.ndarray:
    """The words of n-grams of order `n`: uint32[len(nodes), n]."""
    nodes = nodes.astype(np.uint32)
    words = np.empty((len(nodes), n), np.uint32)
    for column in range(n - 1, -1, -1):
        words[:, column] = lm.words[nodes]
        nodes = np.searchsorted(lm.first_children, nodes, side="right").astype(np.uint32) - np.uint32(1)
    return words


def _compressed(file: IO[bytes], suffix: str) -> Any:
    if suffix == ".gz":
        return gzip.GzipFile("", "wb", 6, file, mtime=0)  # no name and no time: the same bytes every time
    if suffix == ".xz":
        return lzma.open(file, "wb")
    return bz2.open(file, "wb") if suffix == ".bz2" else nullcontext(file)


def _rows(lm: NgramLM, n: int, names: list[str]) -> Iterator[str]:
    first = 1 + sum(lm.counts[: n - 1])
    last = first + lm.counts[n - 1]
    for start in range(first, last, _ROWS):
        nodes = slice(start, min(start + _ROWS, last))
        words = spell(lm.arrays, np.arange(nodes.start, nodes.stop), n)
        columns = [lm.arrays.log_probs[nodes].astype(str).tolist()]
        columns.append([" ".join(names[word] for word in row) for row in words.tolist()])
        if n < lm.order:
            columns.append(lm.arrays.backoffs[nodes].astype(str).tolist())
        yield "\n".join(map("\t".join, zip(*columns, strict=True))) + "\n"
