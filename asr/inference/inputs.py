"""Command-line arguments -> recordings, and the files to write for each."""

import codecs
import glob
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from asr.errors import AsrError, AudioError
from asr.inference.writers import FORMATS

_KNOWN = """
wav wave w64 rf64 flac ogg oga opus mp2 mp3 aif aiff aifc au snd caf aac amr wma m4a m4b weba mka
mp4 m4v mov qt 3gp 3g2 webm mkv avi wmv asf flv ts mts m2ts mpg mpeg vob
"""
SUFFIXES = frozenset(f".{name}" for name in _KNOWN.split())
"""Suffixes of recordings in folders, in any case; a file given by name may have any suffix."""

STDIN = Path("-")


@dataclass(frozen=True)
class Recording:
    """A file, or STDIN; `name` is its path below the deepest folder that all arguments have in common."""

    path: Path
    name: Path


def find_recordings(arguments: Sequence[str]) -> tuple[list[Recording], list[AsrError]]:
    """Resolve arguments to recordings, each listed once, and errors for arguments that name none.

    An argument is a file (which need not exist: reading it will fail), a folder, a pattern (`**` matches any
    number of folders) unless a file of that name exists, `-` for standard input, or `@LIST`: a file with one
    path per line, or NUL-terminated as by `find -print0`. Folders, also linked ones, are searched for visible
    files with one of SUFFIXES; a pattern with `**` matches any suffix. Output files of other recordings are
    skipped. No recording is opened.
    """
    found: dict[Path, Path] = {}  # absolute path -> path as given
    tops: list[Path] = []
    errors: list[AsrError] = []
    for path in (path for argument in arguments for path in _expand(argument, errors)):
        if path == STDIN:
            found[STDIN] = STDIN
            continue
        inside = _recordings_in(path, errors) if _is_folder(path) else None
        tops.append(_absolute(path) if inside is not None else _absolute(path).parent)
        for recording in [path] if inside is None else inside:
            found.setdefault(_absolute(recording), recording)
    _drop_outputs(found)
    top = Path(os.path.commonpath(tops)) if tops else Path()
    names = (Path("stdin") if path == STDIN else path.relative_to(top) for path in found)
    return [Recording(path, name) for path, name in zip(found.values(), names, strict=True)], errors


def _drop_outputs(found: dict[Path, Path]) -> None:
    """Remove what an earlier run wrote beside a recording, which a second `talks/*` would match."""
    stems = {path.with_suffix("") for path in found if path.suffix.lower() in SUFFIXES}
    names = {str(path) for path in found}
    for path in list(found):
        beside = path.with_suffix("")
        if path.suffix[1:] in FORMATS and (beside in stems or str(beside) in names):
            del found[path]


def _expand(argument: str, errors: list[AsrError]) -> list[Path]:
    """Expand lists and patterns."""
    if not argument:
        errors.append(AudioError("an argument is empty; name a file or a folder"))
        return []
    if argument == str(STDIN):
        return [STDIN]
    if argument.startswith("@"):
        return _listed(Path(argument[1:]), errors)
    if not set(argument) & set("*?[") or os.path.lexists(argument):
        return [_literal(argument)]
    count = len(errors)
    paths = _matching(argument, errors)
    if not paths and len(errors) == count:
        errors.append(AudioError(f"{argument}: nothing matches this pattern"))
    return paths


def _literal(name: str) -> Path:
    """A path; for a file named `-` one that cannot be mistaken for standard input."""
    path = Path(name)
    return path.absolute() if path == STDIN else path


def _listed(path: Path, errors: list[AsrError]) -> list[Path]:
    """Read the files in a list; its entries are neither patterns nor lists."""
    try:
        content = path.read_bytes()
    except OSError as error:
        errors.append(AudioError(f"{path}: cannot read the list of recordings ({_reason(error)})"))
        return []
    if b"\0" in content:
        names = [name for name in content.split(b"\0") if name]
    else:
        lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
        names = [line.removesuffix(b"\r") for line in lines if line.strip()]
    if not names:
        errors.append(AudioError(f"{path}: the list of recordings is empty"))
    return [_literal(os.fsdecode(name)) for name in names]


def _matching(pattern: str, errors: list[AsrError]) -> list[Path]:
    """Expand a pattern like the shell, sorted; with `**`, unlike glob, cycles of links end."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return _shell(pattern)
    top, rest = Path(*parts[: parts.index("**")]), parts[parts.index("**") :]
    folders = [top] if _is_folder(top) else [path for path in _shell(str(top)) if _is_folder(path)]
    if set(rest) == {"**"}:
        return folders
    files = ((folder, file) for folder in folders for file in _walk(folder, errors))
    return [file for folder, file in files if _matches(file.relative_to(folder).parts, rest)]


def _shell(pattern: str) -> list[Path]:
    return [_literal(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207 (Path's finds hidden files)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _recordings_in(folder: Path, errors: list[AsrError]) -> list[Path]:
    count = len(errors)
    recordings = [file for file in _walk(folder, errors) if file.suffix.lower() in SUFFIXES]
    if not recordings and len(errors) == count:
        known = ".wav, .flac, .mp3, .mp4 or another known suffix"
        errors.append(AudioError(f"{folder}: no recordings in it (no name ends in {known})"))
    return recordings


def _walk(folder: Path, errors: list[AsrError]) -> list[Path]:
    """All visible files, sorted. Links to folders are followed last and no folder is entered twice, so that
    cycles end and files within the tree keep their own names."""
    files: list[Path] = []
    failures: list[OSError] = []
    entered: set[tuple[int, int]] = set()
    tops = [folder]
    for top in tops:
        for parent, subfolders, names in os.walk(top, onerror=failures.append):
            status = Path(parent).stat()
            if (status.st_dev, status.st_ino) in entered:
                subfolders.clear()
                continue
            entered.add((status.st_dev, status.st_ino))
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            tops += [path for path in (Path(parent, name) for name in subfolders) if path.is_symlink()]
            files += [Path(parent, name) for name in names if not name.startswith(".")]
    errors += [AudioError(f"{e.filename}: cannot read the folder ({_reason(e)})") for e in failures]
    return sorted(path for path in files if not _is_special(path))


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (Path.is_dir() fails if a name is too long)


def _is_special(path: Path) -> bool:
    """Pipes, sockets and devices. A path that cannot be examined is kept: reading it reports why."""
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113 (likewise)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def output_paths(
    recordings: Sequence[Recording], formats: Sequence[str], out: Path | None
) -> dict[Path, dict[str, Path]]:
    """Map each recording's path to its output file by format, beside it or at `out / name`.

    The format replaces the suffix. Recordings whose outputs would collide with each other or with an input
    keep their full names; if these collide too (`A.WAV` and `a.wav`, as file systems may ignore case), all
    but the first are numbered. The result depends on the arguments only.
    """
    bases = {recording.path: _base(recording, out) for recording in recordings}
    homes = {parent: _absolute(parent) for parent in {base.parent for base in bases.values()}}
    taken = {str(_absolute(path)).casefold() for path in bases}
    taken |= {str(folder).casefold() for home in homes.values() for folder in (home, *home.parents)}
    ranks = dict.fromkeys(bases, 0)
    rising: set[Path] | None = None
    while rising is None or rising:
        rising = set()
        writers: dict[str, list[Path]] = defaultdict(list)
        for path, base in bases.items():
            stem = f"{homes[base.parent]}/{_stem(base.name, ranks[path])}"
            for suffix in formats:
                writers[f"{stem}.{suffix}".casefold()].append(path)
        for output, paths in writers.items():
            if output in taken:
                rising.update(paths)
            elif len(paths) > 1:
                rising.update([path for path in paths if ranks[path] == 0] or paths[1:])
        for path in rising:
            ranks[path] += 1
    return {
        path: {suffix: base.parent / f"{_stem(base.name, ranks[path])}.{suffix}" for suffix in formats}
        for path, base in bases.items()
    }


def _base(recording: Recording, out: Path | None) -> Path:
    """Path of the recording if it lay beside its outputs."""
    if out is not None:
        return out / recording.name
    return recording.name if recording.path == STDIN else recording.path


def _stem(name: str, rank: int) -> str:
    """Name of an output without its format: without the recording's suffix, in full, or numbered."""
    stem, dot, suffix = name.rpartition(".")
    if rank == 0 and stem and f"{dot}{suffix}".lower() in SUFFIXES:
        return stem
    return f"{name}.{rank}" if rank > 1 else name


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))
