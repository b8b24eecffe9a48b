"""Pauses after words, as the tagger reads them, and their simulation for its training."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.formatting.marks import MARKS, SENTENCE_END

EDGES = (0.03, 0.07, 0.12, 0.2, 0.3, 0.45, 0.6, 0.9, 1.5)
"""Seconds that separate the buckets of known pauses."""

UNKNOWN = 0
BUCKETS = len(EDGES) + 2

KINDS = tuple(0 if not mark else 2 if mark in SENTENCE_END else 1 for mark in MARKS)
"""Kind of pause by mark: within a phrase, within a sentence, after a sentence."""


def bucket(seconds: np.ndarray) -> np.ndarray:
    """Buckets of pauses in seconds; NaN is unknown."""
    found: np.ndarray = np.searchsorted(EDGES, seconds, side="right") + 1
    return np.where(np.isnan(seconds), UNKNOWN, found)


def seconds(buckets: np.ndarray) -> np.ndarray:
    """The shortest pause of each bucket; NaN if unknown."""
    shortest: np.ndarray = np.array([np.nan, 0.0, *EDGES])[buckets]
    return shortest


@dataclass(frozen=True, eq=False)
class Pauses:
    """Probabilities of the buckets `float[readers, kinds, BUCKETS]`."""

    shares: np.ndarray

    @classmethod
    def read(cls, path: Path) -> "Pauses":
        """Read what recipes.formatting.pauses wrote."""
        return cls(np.array(json.loads(path.read_text())["shares"]))

    def draw(self, rng: np.random.Generator, marks: np.ndarray) -> np.ndarray:
        """Buckets of the pauses that one reader makes at these marks."""
        sums = self.shares[rng.integers(len(self.shares))].cumsum(axis=1)
        kinds = sums[np.array(KINDS)[marks]]
        drawn: np.ndarray = (rng.random((len(marks), 1)) > kinds).sum(axis=1)
        return drawn.clip(max=BUCKETS - 1)
