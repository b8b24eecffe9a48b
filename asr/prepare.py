"""From utterances to a training corpus: manifest, feature store and a named reason for every loss.

The modules of `data_prep` find the utterances of a corpus and pass them to `prepare_part`.
"""

import errno
import hashlib
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from asr import audio, manifest
from asr.console import option, progress
from asr.errors import AudioError, PrepareError
from asr.files import atomic_write
from asr.frames import FrameGrid, subsample
from asr.manifest import Utterance
from asr.text import ENGLISH, Tokenizer, ctc_frames_needed

if TYPE_CHECKING:  # imports torch, which neither --help nor a lexicon needs
    from asr.features.logmel import LogMelConfig
    from asr.features.store import Entry, Shard, Summary

SHARD_SECONDS = 1_800.0
"""Maximum speech per shard; few hold less than two thirds of it."""

Item = TypeVar("Item")


@dataclass(frozen=True)
class Problem:
    """Something in a corpus that could not be used.

    Attributes:
        name: Utterance id, or `file:line`.
        reason: Cause, on one line.
        speed: If not 1, only the copy at this speed was lost.
    """

    name: str
    reason: str
    speed: float = 1.0

    def __post_init__(self) -> None:
        for key in ("name", "reason"):
            object.__setattr__(self, key, " ".join(getattr(self, key).split()))

    def __str__(self) -> str:
        return f"{self.name}: {self.reason}" + (f" (speed {self.speed:g})" if self.speed != 1.0 else "")


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """Options shared by all corpora of recordings."""

    out: Path = option("output folder", metavar="FOLDER")
    jobs: int = option("number of processes", os.cpu_count() or 1, least=1)
    speeds: tuple[float, ...] = option("add copies of the training parts at these speeds", (), metavar="X")


def prepare_part(
    out: Path,
    utterances: Sequence[Utterance],
    problems: Sequence[Problem] = (),
    *,
    characters: str = ENGLISH,
    speeds: Sequence[float] = (),
    jobs: int = 1,
) -> list[Problem]:
    """Write manifest, feature store and `problems.txt` to `out`; return all problems, `problems` first.

    Finished work of an earlier run is reused. Problems are printed to stderr as they occur. Raises
    PrepareError if no utterance is usable or `out` cannot be written.
    """
    from asr.features import store
    from asr.features.logmel import LogMelConfig

    config = LogMelConfig()
    tokenizer = Tokenizer(characters)
    for speed in speeds:
        if not 0.5 <= speed <= 2.0:
            raise PrepareError(f"speed {speed}: expected a factor from 0.5 to 2, such as 0.9 or 1.1")
    usable, faults = check_texts(utterances, tokenizer)
    shards = plan(usable, speeds, config)
    fingerprint = _fingerprint(shards, usable, [*problems, *faults], characters)
    report = _Report()
    with explain_write_errors(out):
        if (earlier := _read_finished(out, fingerprint)) is not None:
            report.add(earlier)
            _log(f"{out}: already done")
            return list(report)
        report.add([*problems, *faults])
        _extract(out, shards, config, jobs, report)
        summary, kept = _write_index(out, usable, tokenizer, report)
        with atomic_write(out / "problems.txt") as file:  # name, reason and speed, separated by tabs
            for p in report:
                file.write(f"{p.name}\t{p.reason}" + (f"\t{p.speed}" if p.speed != 1.0 else "") + "\n")
        if not kept:
            raise PrepareError(f"{out}: no usable utterance; see {out / 'problems.txt'}")
        manifest.write(out / "manifest.jsonl", _relative(kept, out))
        store.write_meta(out, summary, config, fingerprint)
    hours = summary.frames * FrameGrid(hop=config.hop).hop_seconds / 3600
    count = f"{len(report)} problem{'s' * (len(report) != 1)}"
    _log(f"{out}: {summary.utterances} utterances, {hours:.2f} h, {count}")
    return list(report)


def _log(message: object) -> None:
    print(message, file=sys.stderr)


class _Report(dict[Problem, None]):
    """Collects distinct problems and prints them as they occur."""

    def add(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if problem not in self:
                self[problem] = None
                _log(problem)


def measure(items: Sequence[tuple[str, Utterance]]) -> tuple[list[Utterance], list[Problem]]:
    """Read durations from the headers, and check given ones, of (name for a problem, utterance)."""

    def duration(item: tuple[str, Utterance]) -> Utterance | Problem:
        name, u = item
        try:
            seconds = audio.duration(u.audio_filepath)
        except AudioError as error:
            return Problem(name, str(error))
        if u.offset is not None:
            length, seconds = seconds, u.duration or seconds - u.offset
            if not 0 < seconds <= length - u.offset + 0.5:
                reason = f"it would end at {u.offset + seconds:g} s of {length:g} s of {u.audio_filepath}"
                return Problem(name, reason)
        elif u.duration and not math.isclose(u.duration, seconds, rel_tol=0.05, abs_tol=0.5):
            reason = f"duration given as {u.duration:g} s, but {u.audio_filepath} is {seconds:g} s long"
            return Problem(name, reason)
        return replace(u, duration=seconds)

    with ThreadPool(16) as pool:  # opening files is slow over a network
        return divide(pool.map(duration, items, chunksize=64))


def divide(items: Iterable[Item | Problem]) -> tuple[list[Item], list[Problem]]:
    """Separate problems from everything else."""
    items = list(items)
    good = [item for item in items if not isinstance(item, Problem)]
    return good, [item for item in items if isinstance(item, Problem)]


def check_texts(
    utterances: Iterable[Utterance], tokenizer: Tokenizer
) -> tuple[list[Utterance], list[Problem]]:
    """Reject duplicate ids, empty texts and texts with characters outside the vocabulary."""
    good: dict[str, Utterance] = {}
    problems = []
    for utterance in utterances:
        if utterance.id in good:
            reason = f"duplicate id; {utterance.audio_filepath} is left out"
        elif not utterance.text.strip():
            reason = "the text is empty"
        elif outside := tokenizer.unknown(utterance.text):
            reason = f"characters outside the vocabulary: {outside!r} in {utterance.text[:60]!r}"
        else:
            good[utterance.id] = utterance
            continue
        problems.append(Problem(utterance.id, reason))
    return list(good.values()), problems


def plan(
    utterances: Sequence[Utterance], speeds: Sequence[float] = (), config: "LogMelConfig | None" = None
) -> "list[Shard]":
    """Divide the corpus into shards, once for natural speed and once for each of `speeds`.

    Boundaries depend only on nearby ids, so adding or removing an utterance usually changes one shard. A
    fingerprint covers the recordings (size, modification time), their order, the speed and the front end.
    """
    from asr.features.logmel import LogMelConfig
    from asr.features.store import VERSION, Shard

    settings = asdict(config or LogMelConfig())
    stamps: list[tuple[str | float, ...]] = []
    for utterance in utterances:
        try:
            stat = utterance.audio_filepath.stat()
            bounds = () if utterance.offset is None else (utterance.offset, utterance.duration)
            stamps.append((utterance.id, stat.st_size, stat.st_mtime_ns, *bounds))
        except OSError:
            stamps.append((utterance.id, -1, -1))
    shards = []
    for speed in (1.0, *sorted(set(speeds) - {1.0})):
        for part in _cuts(utterances, speed):
            text = json.dumps([VERSION, settings, speed, stamps[part]])
            fingerprint = hashlib.sha256(text.encode()).hexdigest()
            shards.append(Shard(speed, tuple(utterances[part]), fingerprint))
    return shards


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


def _extract(
    out: Path, shards: "Sequence[Shard]", config: "LogMelConfig", jobs: int, report: _Report
) -> None:
    from asr.features import store

    work = store.build(out, shards, config, jobs)
    earlier, problems = next(work)
    report.add(Problem(*problem) for problem in problems)
    with progress(out.name, sum(shard.seconds for shard in shards) - earlier) as update:
        for seconds, problems in work:
            report.add(Problem(*problem) for problem in problems)
            update(seconds=seconds)


def _write_index(
    out: Path, utterances: Sequence[Utterance], tokenizer: Tokenizer, report: _Report
) -> "tuple[Summary, list[Utterance]]":
    """Index the utterances that have enough frames for CTC; report the others."""
    from asr.features import store

    needed = {u.id: ctc_frames_needed(tokenizer.encode(u.text)) for u in utterances}
    kept: set[str] = set()

    def accept(entry: "Entry") -> bool:
        if entry.speed != 1.0 and entry.id not in kept:
            return False  # already reported at natural speed
        frames, need = subsample(entry.frames), needed[entry.id]
        if frames < need:
            reason = f"too short for its text: {frames} frames after subsampling, CTC needs {need}"
            report.add([Problem(entry.id, reason, entry.speed)])
            return False
        if entry.speed == 1.0:
            kept.add(entry.id)
        return True

    summary = store.write_index(out, accept)
    return summary, [u for u in utterances if u.id in kept]


def _relative(utterances: Iterable[Utterance], out: Path) -> Iterator[Utterance]:
    """Make audio paths below `out` relative, so that `out` can be moved, and all others absolute."""
    root = out.absolute()
    for u in utterances:
        path = u.audio_filepath.absolute()
        path = path.relative_to(root) if path.is_relative_to(root) else path
        yield replace(u, audio_filepath=path)


def _fingerprint(
    shards: "Iterable[Shard]", utterances: Iterable[Utterance], problems: Iterable[Problem], characters: str
) -> str:
    """Hash everything the contents of the output folder depend on."""
    digest = hashlib.sha256(characters.encode())
    for shard in shards:
        digest.update(shard.fingerprint.encode())
    rows = [[u.id, str(u.audio_filepath), u.duration, u.text, u.speaker] for u in utterances]
    for row in (*rows, *([problem.name, problem.reason] for problem in problems)):
        digest.update(json.dumps(row).encode())
    return digest.hexdigest()


def _read_finished(out: Path, fingerprint: str) -> list[Problem] | None:
    """Return the problems of an earlier run with the same input if all its files are present, else None."""
    try:
        meta = json.loads((out / "meta.json").read_text(encoding="utf-8"))
        sizes = {name: (out / name).stat().st_size for name in meta["shards"]}
        complete = sizes == meta["shards"] and meta["fingerprint"] == fingerprint
        if complete and all((out / name).exists() for name in ("manifest.jsonl", "index.jsonl")):
            lines = (out / "problems.txt").read_text(encoding="utf-8").split("\n")[:-1]
            rows = (line.split("\t") for line in lines)
            return [Problem(name, reason, *map(float, speed)) for name, reason, *speed in rows]
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None  # unfinished or damaged: prepare again
    return None


@contextmanager
def explain_write_errors(out: Path) -> Iterator[None]:
    """Turn a full disk, an unwritable folder or a dead worker process into a PrepareError."""
    resume = "finished work is kept; run the same command again to continue"
    try:
        yield
    except OSError as error:
        # numpy checks the free space first and raises an OSError without errno.
        if error.errno == errno.ENOSPC or "Not enough free space" in str(error):
            raise PrepareError(f"{out}: no space left on the device; free some; {resume}") from None
        raise PrepareError(f"{out}: cannot write there ({error}); {resume}") from None
    except BrokenProcessPool:
        raise PrepareError(
            f"{out}: a worker process died, perhaps out of memory; {resume} with fewer --jobs"
        ) from None
