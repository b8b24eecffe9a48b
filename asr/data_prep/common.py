"""What all corpora have in common: utterances in, manifest and feature store out, every loss named."""

import errno
import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.pool import ThreadPool
from pathlib import Path

from rich.console import Console
from rich.progress import TextColumn

from asr import audio, manifest
from asr.data_prep.screen import open_console, progress_bar
from asr.errors import AudioError, PrepareError
from asr.features import extraction
from asr.features.extraction import Problem, Shard
from asr.features.logmel import LogMelConfig
from asr.features.store import Entry
from asr.files import atomic_write
from asr.frames import FrameGrid, subsample
from asr.manifest import Utterance
from asr.text import ENGLISH, Tokenizer, ctc_frames_needed


def prepare_part(
    out: Path,
    utterances: Sequence[Utterance],
    problems: Sequence[Problem] = (),
    *,
    characters: str = ENGLISH,
    speeds: Sequence[float] = (),
    jobs: int = 1,
) -> list[Problem]:
    """Write manifest, feature store and `problems.txt` into `out`; return all problems, those given first.

    What is there from an earlier run is used again; with the same input nothing is done. Every problem is
    printed on stderr. Raises PrepareError where nothing is left to prepare or `out` cannot be written.
    """
    config = LogMelConfig()
    tokenizer = Tokenizer(characters)
    speeds = _check_speeds(speeds)
    usable, faults = check_texts(utterances, tokenizer)
    shards = extraction.plan(usable, speeds, config)
    fingerprint = _fingerprint(shards, usable, [*problems, *faults], characters)
    report = _Report(open_console())
    with clear_errors(out):
        if (earlier := _finished(out, fingerprint)) is not None:
            report.add(earlier)
            report.console.print(f"{out}: done already")
            return report.problems
        report.add([*problems, *faults])
        _extract(out, shards, config, jobs, report)
        summary, spoken = _write_index(out, usable, tokenizer, report)
        _write_problems(out / "problems.txt", report.problems)
        if not spoken:
            raise PrepareError(f"{out}: not one utterance could be used; see {out / 'problems.txt'}")
        manifest.write(out / "manifest.jsonl", _relative(spoken, out))
        extraction.write_meta(out, summary, config, fingerprint)
    hours = summary.frames * FrameGrid(hop=config.hop).hop_seconds / 3600
    count = f"{len(report.problems)} problem{'s' * (len(report.problems) != 1)}"
    report.console.print(f"{out}: {summary.utterances} utterances, {hours:.2f} h, {count}")
    return report.problems


class _Report:
    """The problems so far, each once and on one line, printed as they come."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.problems: list[Problem] = []
        self._seen: set[Problem] = set()

    def add(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            problem = Problem(" ".join(problem.name.split()), " ".join(problem.reason.split()))
            if problem not in self._seen:
                self._seen.add(problem)
                self.problems.append(problem)
                self.console.print(f"{problem.name}: {problem.reason}")


def _check_speeds(speeds: Sequence[float]) -> list[float]:
    for speed in speeds:
        if not 0.5 <= speed <= 2.0:
            raise PrepareError(f"speed {speed}: expected a factor from 0.5 to 2, such as 0.9 or 1.1")
    return sorted(set(speeds) - {1.0})


def durations(paths: Iterable[Path]) -> Iterator[float | AudioError]:
    """Lengths in seconds from the headers, in order; an AudioError in the place of one that has none."""
    with ThreadPool(16) as pool:  # the time goes into opening files, often over a network
        yield from pool.imap(_duration, paths, chunksize=64)


def _duration(path: Path) -> float | AudioError:
    try:
        return audio.duration(path)
    except AudioError as error:
        return error


def check_texts(
    utterances: Iterable[Utterance], tokenizer: Tokenizer
) -> tuple[list[Utterance], list[Problem]]:
    """Sort out ids that stand twice, empty texts and texts that the vocabulary cannot spell."""
    good: dict[str, Utterance] = {}
    problems = []
    for utterance in utterances:
        if utterance.id in good:
            reason = f"the id stands twice; {utterance.audio_filepath} is left out"
        elif not utterance.text.strip():
            reason = "the text is empty"
        elif outside := tokenizer.unknown(utterance.text):
            reason = f"characters outside the vocabulary: {outside!r} in {utterance.text[:60]!r}"
        else:
            good[utterance.id] = utterance
            continue
        problems.append(Problem(utterance.id, reason))
    return list(good.values()), problems


def _extract(out: Path, shards: Sequence[Shard], config: LogMelConfig, jobs: int, report: _Report) -> None:
    total = sum(u.duration / shard.speed for shard in shards for u in shard.utterances) / 3600
    column = TextColumn("{task.completed:.2f} of {task.total:.2f} h, {task.fields[rate]:.0f} x real time")
    with progress_bar(report.console, column) as progress:
        task = progress.add_task(out.name, total=total, rate=0.0)
        fresh, start = 0.0, None
        for seconds, problems in extraction.build(out, shards, config, jobs):
            report.add(problems)
            if start is None:  # the first item is what earlier runs have done
                start = time.monotonic()
            else:
                fresh += seconds
            rate = fresh / max(time.monotonic() - start, 1e-9)
            progress.update(task, advance=seconds / 3600, rate=rate)


def _write_index(
    out: Path, utterances: Sequence[Utterance], tokenizer: Tokenizer, report: _Report
) -> tuple[extraction.Summary, list[Utterance]]:
    """Index the utterances that CTC can spell in the frames they have; the rest are problems."""
    needed = {u.id: ctc_frames_needed(tokenizer.encode(u.text)) for u in utterances}
    spoken: set[str] = set()

    def accept(entry: Entry) -> bool:
        if entry.speed != 1.0 and entry.id not in spoken:
            return False  # a problem at natural speed already
        frames, need = subsample(entry.frames), needed[entry.id]
        if frames < need:
            at = "" if entry.speed == 1.0 else f"{extraction.AT_SPEED}{entry.speed:g}: "
            reason = f"{at}too short for its text: {frames} frames after subsampling, CTC needs {need}"
            report.add([Problem(entry.id, reason)])
            return False
        if entry.speed == 1.0:
            spoken.add(entry.id)
        return True

    summary = extraction.write_index(out, accept)
    return summary, [u for u in utterances if u.id in spoken]


def _relative(utterances: Iterable[Utterance], out: Path) -> Iterator[Utterance]:
    """Audio paths absolute, or relative to `out` where below it, so that `out` can be moved."""
    root = out.absolute()
    for u in utterances:
        path = u.audio_filepath.absolute()
        path = path.relative_to(root) if path.is_relative_to(root) else path
        yield replace(u, audio_filepath=path)


def _fingerprint(
    shards: Iterable[Shard], utterances: Iterable[Utterance], problems: Iterable[Problem], characters: str
) -> str:
    """Changes with anything that the folder's content depends on."""
    digest = hashlib.sha256(characters.encode())
    for shard in shards:
        digest.update(shard.fingerprint.encode())
    for u in utterances:
        digest.update(json.dumps([u.id, str(u.audio_filepath), u.duration, u.text, u.speaker]).encode())
    for problem in problems:
        digest.update(json.dumps([problem.name, problem.reason]).encode())
    return digest.hexdigest()


def _finished(out: Path, fingerprint: str) -> list[Problem] | None:
    """The problems of an earlier run with the same input, if it ended and its files are there."""
    try:
        meta = json.loads((out / "meta.json").read_text(encoding="utf-8"))
        sizes = {name: (out / name).stat().st_size for name in meta["shards"]}
        sizes_kept = sizes == meta["shards"]
        whole = sizes_kept and all((out / name).exists() for name in ("manifest.jsonl", "index.jsonl"))
        return _read_problems(out / "problems.txt") if whole and meta["fingerprint"] == fingerprint else None
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None


def _write_problems(path: Path, problems: Iterable[Problem]) -> None:
    with atomic_write(path) as file:
        file.writelines(f"{p.name}\t{p.reason}\n" for p in problems)


def _read_problems(path: Path) -> list[Problem]:
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]
    return [Problem(*line.split("\t", 1)) for line in lines]


@contextmanager
def clear_errors(out: Path) -> Iterator[None]:
    """A full disk, a folder that cannot be written, a worker that dies: one line each."""
    from joblib.externals.loky.process_executor import BrokenProcessPool

    kept = "what is finished is kept, run the same command again to go on"
    try:
        yield
    except OSError as error:
        # numpy sees the end of the room coming and raises an OSError without a number.
        if error.errno == errno.ENOSPC or "Not enough free space" in str(error):
            raise PrepareError(f"{out}: no space left on the device; free some; {kept}") from None
        raise PrepareError(f"{out}: cannot write there ({error}); {kept}") from None
    except BrokenProcessPool:
        raise PrepareError(
            f"{out}: a worker process died, out of memory perhaps; {kept} with fewer --jobs"
        ) from None
