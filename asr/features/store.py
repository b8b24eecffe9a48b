"""The feature store: log-mel features of a corpus as memory-mapped float16 arrays."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from asr.errors import StoreError
from asr.features.logmel import LogMelConfig

VERSION = 1

MOST_OPEN = 256
"""Each open memory map costs a file descriptor; the usual limit is 1,024 a process."""


@dataclass(frozen=True)
class Entry:
    """Where the features of one utterance lie: shard, first frame and number of frames."""

    id: str
    speed: float
    shard: int
    start: int
    frames: int


class FeatureStore:
    """A complete store, opened for reading.

    `mean` and `std` are `float32[mels]` over all frames at natural speed; `entries` has one Entry for each
    utterance and speed. Raises StoreError where `meta.json` (written last) or a shard is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            if meta["version"] != VERSION:
                raise StoreError(f"{folder}: the feature store has version {meta['version']}, not {VERSION}")
            self.config = LogMelConfig(**meta["log_mel"])
            self.mean = np.asarray(meta["mean"], dtype=np.float32)
            self.std = np.asarray(meta["std"], dtype=np.float32)
            rows = (folder / "index.jsonl").read_text(encoding="utf-8").splitlines()
            entries = [Entry(**json.loads(row)) for row in rows]
        except FileNotFoundError as error:
            missing = Path(error.filename).name
            raise StoreError(
                f"{folder}: no {missing}, so the feature store is not complete; run `asr prepare` to the end"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise StoreError(f"{folder}: the feature store is damaged ({error})") from None
        self.entries = {(entry.id, entry.speed): entry for entry in entries}
        self._shards: dict[int, np.ndarray] = {}

    def read(self, entry: Entry) -> np.ndarray:
        """`float16[frames, mels]`, a read-only view into the memory map."""
        shard = self.shard(entry.shard)
        end = entry.start + entry.frames
        if end > len(shard):
            path = shard_path(self.folder, entry.shard)
            raise StoreError(f"{path}: shorter than its index; prepare it again")
        return shard[entry.start : end]

    def shard(self, number: int) -> np.ndarray:
        """All of a shard, `float16[frames, mels]`, as a read-only memory map. Raises StoreError."""
        shard = self._shards.get(number)
        if shard is None:
            if len(self._shards) >= MOST_OPEN:
                self._shards.pop(next(iter(self._shards)))
            shard = self._shards[number] = self._open(number)
        return shard

    def _open(self, number: int) -> np.ndarray:
        path = shard_path(self.folder, number)
        try:
            shard: np.ndarray = np.load(path, mmap_mode="r")
        except (OSError, ValueError) as error:
            raise StoreError(f"{path}: the shard cannot be read ({error}); prepare it again") from None
        if shard.dtype != np.float16 or shard.ndim != 2 or shard.shape[1] != self.config.mels:
            raise StoreError(f"{path}: not a float16 array of {self.config.mels} mel bins; prepare it again")
        return shard


def shard_path(folder: Path, number: int) -> Path:
    """File of shard `number`."""
    return folder / f"features-{number:05d}.npy"
