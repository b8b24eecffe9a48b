"""The feature store: log-mel features of a corpus as float16 shards, memory-mapped for reading.

`features-NNNNN.npy` holds the frames of many utterances end to end; its record, `features-NNNNN.json`, is
written after it. `index.jsonl` has one Entry per utterance and speed. `meta.json`, written last, marks the
store as complete. A killed run loses at most the shards in progress.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import soxr
import torch

from asr import audio
from asr.errors import AsrError, StoreError
from asr.features.logmel import LogMel, LogMelConfig
from asr.files import atomic_write
from asr.manifest import Utterance

VERSION = 1

MAX_OPEN = 256
"""Open memory maps. Each costs a file descriptor, and a process usually gets 1,024."""

MIN_VARIANCE = 1e-4
"""Keeps the standard deviation of a constantly silent mel bin away from 0."""


@dataclass(frozen=True)
class Entry:
    """Position of one utterance's features: shard, first frame, number of frames."""

    id: str
    speed: float
    shard: int
    start: int
    frames: int


class FeatureStore:
    """A complete feature store, opened for reading.

    Raises StoreError if `meta.json` or a shard is missing or damaged.

    Attributes:
        config: Front-end settings the features were made with.
        mean, std: `float32[mels]` over all frames at natural speed.
        entries: Entry by (utterance id, speed).
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            meta = json.loads((folder / "meta.json").read_text(encoding="utf-8"))
            if meta["version"] != VERSION:
                raise StoreError(f"{folder}: feature store version {meta['version']}, expected {VERSION}")
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
            raise StoreError(f"{folder}: damaged feature store ({error})") from None
        self.entries = {(entry.id, entry.speed): entry for entry in entries}
        self._shards: dict[int, np.ndarray] = {}

    def read(self, entry: Entry) -> np.ndarray:
        """Return `float16[frames, mels]`, a read-only view into the memory map."""
        shard = self.shard(entry.shard)
        end = entry.start + entry.frames
        if end > len(shard):
            path = shard_path(self.folder, entry.shard)
            raise StoreError(f"{path}: shorter than its index; prepare it again")
        return shard[entry.start : end]

    def shard(self, number: int) -> np.ndarray:
        """Return a whole shard, `float16[frames, mels]`, as a read-only memory map. Raises StoreError."""
        if number not in self._shards:
            path = shard_path(self.folder, number)
            try:
                shard: np.ndarray = np.load(path, mmap_mode="r")
                if shard.dtype != np.float16 or shard.ndim != 2 or shard.shape[1] != self.config.mels:
                    raise ValueError(f"not a float16 array of {self.config.mels} mel bins")
            except (OSError, ValueError) as error:
                raise StoreError(f"{path}: cannot read the shard ({error}); prepare it again") from None
            if len(self._shards) >= MAX_OPEN:
                self._shards.pop(next(iter(self._shards)))
            self._shards[number] = shard
        return self._shards[number]


def shard_path(folder: Path, number: int) -> Path:
    """Path of shard `number`."""
    return folder / f"features-{number:05d}.npy"


@dataclass(frozen=True)
class Shard:
    """Utterances that go into one file, all at one speed; the unit of parallel work.

    `fingerprint` changes with everything the features depend on.
    """

    speed: float
    utterances: tuple[Utterance, ...]
    fingerprint: str

    @property
    def seconds(self) -> float:
        """Duration of all utterances at this speed."""
        return sum(utterance.duration for utterance in self.utterances) / self.speed


@dataclass(frozen=True)
class Record:
    """Contents of a finished shard; `index` has (id, first frame, frames), `problems` (id, reason)."""

    fingerprint: str
    speed: float
    bytes: int
    frames: int
    sum: list[float]
    sum_of_squares: list[float]
    index: list[tuple[str, int, int]]
    problems: list[tuple[str, str]]


@dataclass(frozen=True)
class Summary:
    """Contents of a store: totals and moments at natural speed, all speeds, bytes of each shard."""

    utterances: int
    frames: int
    mean: list[float]
    std: list[float]
    speeds: list[float]
    shards: dict[str, int]


def build(
    folder: Path, shards: Sequence[Shard], config: LogMelConfig | None = None, jobs: int = 1
) -> Iterator[tuple[float, list[tuple[str, str]]]]:
    """Extract the shards missing from `folder` and delete shards that are not wanted.

    Yields (seconds of speech done, problems) per shard; the first item covers everything found finished.
    `write_index` and `write_meta` then complete the store.
    """
    from joblib import Parallel, delayed

    config = config or LogMelConfig()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.json").unlink(missing_ok=True)
    finished = _delete_stale(folder, {shard.fingerprint for shard in shards})
    pending = [shard for shard in shards if shard.fingerprint not in finished]
    seconds = sum(shard.seconds for shard in shards if shard.fingerprint in finished)
    yield seconds, [(n, reason) for _, record in read_records(folder) for n, reason in record.problems]
    numbers = sorted(set(range(len(shards))) - set(finished.values()))
    jobs_to_do = zip(numbers, pending, strict=False)
    work = (delayed(_extract_shard)(folder, number, shard, config) for number, shard in jobs_to_do)
    for shard, problems in zip(pending, Parallel(n_jobs=jobs, return_as="generator")(work), strict=True):
        yield shard.seconds, problems


def _delete_stale(folder: Path, wanted: set[str]) -> dict[str, int]:
    """Delete all but the complete, wanted shards; return fingerprint -> number of those kept."""
    kept: dict[str, int] = {}
    for number, record in read_records(folder):
        path = shard_path(folder, number)
        if record.fingerprint in wanted and path.exists() and path.stat().st_size == record.bytes:
            kept[record.fingerprint] = number
    paths = {shard_path(folder, number) for number in kept.values()}
    # Records first: a shard without a record is ignored, a record without its shard is not.
    for pattern in ("features-*.json", "features-*.npy", ".features-*"):
        for path in folder.glob(pattern):
            if path.with_suffix(".npy") not in paths:
                path.unlink()
    return kept


def read_records(folder: Path) -> Iterator[tuple[int, Record]]:
    """Yield (number, record) of the shards in `folder`, by number; skip unreadable records."""
    for path in sorted(folder.glob("features-*.json")):
        try:
            yield int(path.stem.removeprefix("features-")), Record(**json.loads(path.read_bytes()))
        except (ValueError, TypeError):
            continue


def _extract_shard(folder: Path, number: int, shard: Shard, config: LogMelConfig) -> list[tuple[str, str]]:
    """Write one shard, then its record; return the record's problems."""
    log_mel = LogMel(config)
    index: list[tuple[str, int, int]] = []
    arrays = [np.zeros((0, config.mels), np.float16)]
    problems: list[tuple[str, str]] = []
    total, squares = np.zeros(config.mels), np.zeros(config.mels)
    frames = 0
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # shards run in parallel processes, whose threads would compete
    try:
        for utterance in shard.utterances:
            try:
                samples = audio.read(utterance.audio_filepath, options=utterance.part)
                features = extract(samples, log_mel, shard.speed)
            except AsrError as error:
                problems.append((utterance.id, str(error)))
                continue
            total += features.sum(axis=0, dtype=np.float64)
            squares += np.square(features).sum(axis=0, dtype=np.float64)
            arrays.append(features.astype(np.float16))
            index.append((utterance.id, frames, len(features)))
            frames += len(features)
    finally:
        torch.set_num_threads(threads)
    path = shard_path(folder, number)
    with atomic_write(path, "wb") as file:
        np.save(file, np.concatenate(arrays))
    size, moments = path.stat().st_size, (total.tolist(), squares.tolist())
    record = Record(shard.fingerprint, shard.speed, size, frames, *moments, index, problems)
    with atomic_write(path.with_suffix(".json")) as file:
        json.dump(asdict(record), file)
    return problems


def extract(samples: np.ndarray, log_mel: LogMel, speed: float = 1.0) -> np.ndarray:
    """Compute features of `float32[samples]` played `speed` times as fast: `float32[T, mels]`."""
    if speed != 1.0:
        samples = soxr.resample(samples, audio.SAMPLE_RATE * speed, audio.SAMPLE_RATE).astype(np.float32)
    with torch.inference_mode():
        features, _ = log_mel(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    return np.asarray(features[0].numpy())


def write_index(folder: Path, accept: Callable[[Entry], bool] = lambda _: True) -> Summary:
    """Write `index.jsonl` from the shards' records, keeping the entries for which `accept` is true.

    `accept` sees all entries at natural speed before any other. Mean and standard deviation cover all frames
    at natural speed.
    """
    utterances, frames = 0, 0
    total: np.ndarray = np.zeros(1)
    squares: np.ndarray = np.zeros(1)
    speeds: set[float] = set()
    shards: dict[str, int] = {}
    natural = (item for item in read_records(folder) if item[1].speed == 1.0)
    others = (item for item in read_records(folder) if item[1].speed != 1.0)
    with atomic_write(folder / "index.jsonl") as file:
        for number, record in chain(natural, others):
            shards[shard_path(folder, number).name] = record.bytes
            speeds.add(record.speed)
            entries = [Entry(name, record.speed, number, *where) for name, *where in record.index]
            entries = [entry for entry in entries if accept(entry)]
            file.writelines(json.dumps(asdict(entry)) + "\n" for entry in entries)
            if record.speed == 1.0:
                utterances += len(entries)
                frames += record.frames
                total = total + record.sum
                squares = squares + record.sum_of_squares
    mean = total / max(1, frames)
    std = np.sqrt(np.maximum(squares / max(1, frames) - mean**2, MIN_VARIANCE))
    return Summary(utterances, frames, mean.tolist(), std.tolist(), sorted(speeds), shards)


def write_meta(
    folder: Path, summary: Summary, config: LogMelConfig | None = None, fingerprint: str = ""
) -> None:
    """Write `meta.json`, which marks the store as complete."""
    meta = {"version": VERSION, "log_mel": asdict(config or LogMelConfig()), **asdict(summary)}
    with atomic_write(folder / "meta.json") as file:
        json.dump({**meta, "fingerprint": fingerprint}, file, indent=1)
