"""Filling a feature store, in parallel and resumable: a killed run loses at most the shards in work."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path

import numpy as np
import soxr
import torch

from asr import audio
from asr.errors import AsrError
from asr.features.logmel import LogMel, LogMelConfig
from asr.features.store import VERSION, Entry, shard_path
from asr.files import atomic_write
from asr.manifest import Utterance

SHARD_SECONDS = 1_800.0
"""A shard holds at most this much speech, and rarely less than two thirds of it."""

MIN_VARIANCE = 1e-4
"""Keeps the standard deviation of a mel bin that is always silent away from 0."""


AT_SPEED = "at speed "
"""How the reasons begin that concern a perturbed copy alone."""


@dataclass(frozen=True)
class Problem:
    """Something of the corpus that could not be used: its name and why."""

    name: str
    reason: str

    @property
    def copy_only(self) -> bool:
        """Whether the utterance itself is there, and only a copy at another speed is not."""
        return self.reason.startswith(AT_SPEED)


@dataclass(frozen=True)
class Shard:
    """A piece of work: utterances that go into one file, all at one speed.

    The fingerprint changes with anything that the features depend on: recordings (size and time of
    change), their order, the speed, the LogMel settings.
    """

    speed: float
    utterances: tuple[Utterance, ...]
    fingerprint: str


@dataclass(frozen=True)
class Record:
    """What is known of a finished shard; lies beside it as JSON and is written after it."""

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
    """What a finished store holds: utterances and frames at natural speed, and the moments of the latter."""

    utterances: int
    frames: int
    mean: list[float]
    std: list[float]
    speeds: list[float]
    shards: dict[str, int]


def plan(
    utterances: Sequence[Utterance], speeds: Sequence[float] = (), config: LogMelConfig | None = None
) -> list[Shard]:
    """Cut the corpus, once for natural speed and once for each further one, into shards.

    Where a shard ends is decided by the ids near its end, so that one utterance more or less changes the
    shard it lies in and mostly no other.
    """
    config = config or LogMelConfig()
    stamps = [_stamp(utterance) for utterance in utterances]
    shards = []
    for speed in (1.0, *sorted(set(speeds) - {1.0})):
        for part in _cuts(utterances, speed):
            text = json.dumps([VERSION, asdict(config), speed, stamps[part]])
            fingerprint = hashlib.sha256(text.encode()).hexdigest()
            shards.append(Shard(speed, tuple(utterances[part]), fingerprint))
    return shards


def _stamp(utterance: Utterance) -> tuple[str, int, int]:
    try:
        stat = utterance.audio_filepath.stat()
    except OSError:
        return utterance.id, -1, -1
    return utterance.id, stat.st_size, stat.st_mtime_ns


def _cuts(utterances: Sequence[Utterance], speed: float) -> Iterator[slice]:
    start, seconds = 0, 0.0
    for i, utterance in enumerate(utterances):
        length = utterance.duration / speed
        if i > start and seconds + length > SHARD_SECONDS:
            yield slice(start, i)
            start, seconds = i, 0.0
        seconds += length
        if seconds > SHARD_SECONDS * 2 / 3 and hashlib.sha256(utterance.id.encode()).digest()[0] < 32:
            yield slice(start, i + 1)
            start, seconds = i + 1, 0.0
    if start < len(utterances):
        yield slice(start, len(utterances))


def build(
    folder: Path, shards: Sequence[Shard], config: LogMelConfig | None = None, jobs: int = 1
) -> Iterator[tuple[float, list[Problem]]]:
    """Extract the shards that are not in `folder` yet and remove those that are there but not wanted.

    Yields (seconds of speech done, problems) for each shard; the first item stands for all that was
    there before. `write_index` and `write_meta` complete the store.
    """
    from joblib import Parallel, delayed

    config = config or LogMelConfig()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "meta.json").unlink(missing_ok=True)
    there = _keep(folder, {shard.fingerprint for shard in shards})
    pending = [shard for shard in shards if shard.fingerprint not in there]
    seconds = sum(_seconds(shard) for shard in shards if shard.fingerprint in there)
    yield seconds, [Problem(*p) for _, record in read_records(folder) for p in record.problems]
    taken = set(there.values())
    free = (number for number in range(len(shards)) if number not in taken)
    work = (
        delayed(_extract_shard)(folder, number, shard, config)
        for number, shard in zip(free, pending, strict=False)
    )
    for shard, problems in zip(pending, Parallel(n_jobs=jobs, return_as="generator")(work), strict=True):
        yield _seconds(shard), [Problem(*p) for p in problems]


def _seconds(shard: Shard) -> float:
    return sum(utterance.duration for utterance in shard.utterances) / shard.speed


def _keep(folder: Path, wanted: set[str]) -> dict[str, int]:
    """Remove all shards but the whole and wanted ones; fingerprint -> number of those that stay."""
    there: dict[str, int] = {}
    for number, record in read_records(folder):
        path = shard_path(folder, number)
        if record.fingerprint in wanted and path.exists() and path.stat().st_size == record.bytes:
            there[record.fingerprint] = number
    kept = {shard_path(folder, number) for number in there.values()}
    # Records go first: a shard without one does not count, a record without its shard would.
    for pattern in ("features-*.json", "features-*.npy", ".features-*"):
        for path in folder.glob(pattern):
            if path.with_suffix(".npy") not in kept:
                path.unlink()
    return there


def read_records(folder: Path) -> Iterator[tuple[int, Record]]:
    """(number, record) of the shards in `folder`, by number; unreadable records are passed over."""
    for path in sorted(folder.glob("features-*.json")):
        try:
            yield int(path.stem.removeprefix("features-")), Record(**json.loads(path.read_bytes()))
        except (ValueError, TypeError):
            continue


def _extract_shard(folder: Path, number: int, shard: Shard, config: LogMelConfig) -> list[tuple[str, str]]:
    """Write one shard, then its record; returns the record's problems."""
    log_mel = LogMel(config)
    index: list[tuple[str, int, int]] = []
    arrays = [np.zeros((0, config.mels), np.float16)]
    problems: list[tuple[str, str]] = []
    total, squares = np.zeros(config.mels), np.zeros(config.mels)
    frames = 0
    with _one_thread():
        for utterance in shard.utterances:
            try:
                features = extract(audio.read(utterance.audio_filepath), log_mel, shard.speed)
            except AsrError as error:
                problems.append((utterance.id, str(error)))
                continue
            total += features.sum(axis=0, dtype=np.float64)
            squares += np.square(features).sum(axis=0, dtype=np.float64)
            arrays.append(features.astype(np.float16))
            index.append((utterance.id, frames, len(features)))
            frames += len(features)
    path = shard_path(folder, number)
    with atomic_write(path, "wb") as file:
        np.save(file, np.concatenate(arrays))
    size = path.stat().st_size
    record = Record(
        shard.fingerprint, shard.speed, size, frames, total.tolist(), squares.tolist(), index, problems
    )
    with atomic_write(path.with_suffix(".json")) as file:
        json.dump(asdict(record), file)
    return problems


@contextmanager
def _one_thread() -> Iterator[None]:
    """Torch on one thread: the work is spread over processes, and threads would only fight."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def extract(samples: np.ndarray, log_mel: LogMel, speed: float = 1.0) -> np.ndarray:
    """`float32[samples]` at 16 kHz, played `speed` times as fast -> `float32[T, mels]`."""
    if speed != 1.0:
        samples = soxr.resample(samples, audio.SAMPLE_RATE * speed, audio.SAMPLE_RATE).astype(np.float32)
    with torch.inference_mode():
        features, _ = log_mel(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    return np.asarray(features[0].numpy())


def write_index(folder: Path, accept: Callable[[Entry], bool] = lambda _: True) -> Summary:
    """Write `index.jsonl` from the shards' records, without the entries that `accept` turns down.

    It is asked about the entries at natural speed first. Mean and standard deviation are those of all frames
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
    """Write `meta.json`, which declares the store complete."""
    meta = {"version": VERSION, "log_mel": asdict(config or LogMelConfig()), **asdict(summary)}
    with atomic_write(folder / "meta.json") as file:
        json.dump({**meta, "fingerprint": fingerprint}, file, indent=1)
