"""From the words of a command line to recordings, and to the files that are written for them."""

import codecs
import glob
import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from itertools import chain
from pathlib import Path

from asr.errors import AsrError, AudioError

_KNOWN = """
wav wave w64 rf64 flac ogg oga opus mp2 mp3 aif aiff aifc au snd caf aac amr wma m4a m4b weba mka
mp4 m4v mov qt 3gp 3g2 webm mkv avi wmv asf flv ts mts m2ts mpg mpeg vob
"""

SUFFIXES = frozenset(f".{name}" for name in _KNOWN.split())
"""What recordings in a folder are known by, in any case; a file given by name may end in anything."""

OUTPUT_SUFFIXES = frozenset({".txt", ".srt", ".vtt", ".json", ".tsv"})

STDIN = Path("-")


@dataclass(frozen=True)
class Recording:
    """A file, or STDIN; `name` is its place below the deepest folder that all arguments have in common."""

    path: Path
    name: Path


def find_recordings(arguments: Sequence[str]) -> tuple[list[Recording], list[AsrError]]:
    """The recordings that `arguments` mean, each once, and what is wrong with the others.

    An argument is a file (which need not exist: reading it will fail), a folder, a pattern (`**` is any
    number of folders) unless a file of that name exists, `-` for standard input, or `@LIST`: a file with a
    path a line, or with a NUL after each as `find -print0` writes. What looks like an output of another one
    is left out. In folders, also behind links, what is
    hidden or has none of SUFFIXES is left out; a pattern with `**` finds files of any suffix.
    """
    found: dict[Path, Path] = {}  # from the absolute path to the path as it was given
    tops: list[Path] = []
    errors: list[AsrError] = []
    for item in chain.from_iterable(map(_expand, arguments)):
        if isinstance(item, AsrError):
            errors.append(item)
        elif item == STDIN:
            found[STDIN] = STDIN
        elif _is_folder(item):
            tops.append(_absolute(item))
            inside, problems = _recordings_in(item)
            for path in inside:
                found.setdefault(_absolute(path), path)
            errors += problems
        else:
            tops.append(_absolute(item).parent)
            found.setdefault(_absolute(item), item)
    _drop_outputs(found)
    top = Path(os.path.commonpath(tops)) if tops else Path()
    names = (Path("stdin") if path == STDIN else path.relative_to(top) for path in found)
    return [Recording(path, name) for path, name in zip(found.values(), names, strict=True)], errors


def _drop_outputs(found: dict[Path, Path]) -> None:
    """Leave out what an earlier run wrote beside a recording: a second `talks/*` names both."""
    stems = {path.with_suffix("") for path in found if path.suffix.lower() in SUFFIXES}
    names = {str(path) for path in found}
    for path in list(found):
        beside = path.with_suffix("")
        if path.suffix in OUTPUT_SUFFIXES and (beside in stems or str(beside) in names):
            del found[path]


def _expand(argument: str) -> list[Path | AsrError]:
    """Lists and patterns to paths."""
    if not argument:
        return [AudioError("an argument is empty; name a file or a folder")]
    if argument == str(STDIN):
        return [STDIN]
    if argument.startswith("@"):
        return _listed(Path(argument[1:]))
    path = _literal(argument)
    if not set(argument) & set("*?[") or os.path.lexists(path):
        return [path]
    return _matching(argument) or [AudioError(f"{argument}: nothing matches this pattern")]


def _literal(name: str) -> Path:
    """The path; of a file `./-` one that cannot be taken for standard input."""
    path = Path(name)
    return path.absolute() if path == STDIN else path


def _listed(path: Path) -> list[Path | AsrError]:
    """What a list names, which is neither a pattern nor another list."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return [AudioError(f"{path}: cannot read the list of recordings ({_reason(error)})")]
    if b"\0" in content:
        names = [name for name in content.split(b"\0") if name]
    else:
        lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")
        names = [line.removesuffix(b"\r") for line in lines if line.strip()]
    if not names:
        return [AudioError(f"{path}: the list of recordings is empty")]
    return [_literal(os.fsdecode(name)) for name in names]


def _matching(pattern: str) -> list[Path | AsrError]:
    """As the shell expands it, sorted; but `**`, for which glob would run round in loops of links."""
    parts = Path(pattern).parts
    if "**" not in parts:
        return [*_shell(pattern)]
    top, rest = Path(*parts[: parts.index("**")]), parts[parts.index("**") :]
    folders = [top] if _is_folder(top) else [path for path in _shell(str(top)) if _is_folder(path)]
    if set(rest) == {"**"}:
        return [*folders]
    matches: list[Path | AsrError] = []
    for folder in folders:
        files, errors = _walk(folder)
        matches += [file for file in files if _matches(file.relative_to(folder).parts, rest)]
        matches += errors
    return matches


def _shell(pattern: str) -> list[Path]:
    return [_literal(name) for name in sorted(glob.glob(pattern))]  # noqa: PTH207 (Path's finds hidden files)


def _matches(parts: Sequence[str], pattern: Sequence[str]) -> bool:
    if not pattern:
        return not parts
    if pattern[0] == "**":
        return any(_matches(parts[i:], pattern[1:]) for i in range(len(parts) + 1))
    return bool(parts) and fnmatch(parts[0], pattern[0]) and _matches(parts[1:], pattern[1:])


def _recordings_in(folder: Path) -> tuple[list[Path], list[AsrError]]:
    files, errors = _walk(folder)
    recordings = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not recordings and not errors:
        known = ".wav, .flac, .mp3, .mp4 or another known suffix"
        errors.append(AudioError(f"{folder}: no recordings in it (no name ends in {known})"))
    return recordings, errors


def _walk(folder: Path) -> tuple[list[Path], list[AsrError]]:
    """All files that are not hidden, sorted, and what could not be read.

    Links to folders are followed when all else is done, and no folder is entered twice; so loops end, and
    what lies in the tree goes by its own name.
    """
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
    errors: list[AsrError] = [
        AudioError(f"{error.filename}: cannot read the folder ({_reason(error)})") for error in failures
    ]
    return sorted(path for path in files if not _is_special(path)), errors


def _is_folder(path: Path) -> bool:
    return os.path.isdir(path)  # noqa: PTH112 (Path.is_dir() fails where a name is too long)


def _is_special(path: Path) -> bool:
    """A pipe, a socket or a device. What cannot be looked at is none: reading it will say why."""
    return os.path.exists(path) and not os.path.isfile(path)  # noqa: PTH110, PTH113 (likewise)


def _reason(error: OSError) -> str:
    return (error.strerror or str(error)).lower()


def output_paths(
    recordings: Sequence[Recording], formats: Sequence[str], out: Path | None
) -> dict[Path, dict[str, Path]]:
    """From each recording's path to the file of each format, beside it or at its name's place below `out`.

    The format replaces the suffix. Recordings that would then write the same file, or one that is an input,
    keep their whole names; and should even these not tell them apart (as `A.WAV` from `a.wav`, where the disk
    may not care), all but the first get a number. The result depends on nothing but the arguments.
    """
    bases = {recording.path: _base(recording, out) for recording in recordings}
    homes = {parent: _absolute(parent) for parent in {base.parent for base in bases.values()}}
    taken = {_folded(_absolute(path)) for path in bases}
    taken |= {_folded(folder) for home in set(homes.values()) for folder in (home, *home.parents)}
    ranks = dict.fromkeys(bases, 0)
    while True:
        writers: dict[str, list[Path]] = defaultdict(list)
        for path, base in bases.items():
            stem = f"{homes[base.parent]}/{_stem(base.name, ranks[path])}"
            for suffix in formats:
                writers[_folded(f"{stem}.{suffix}")].append(path)
        rising: set[Path] = set()
        for output, paths in writers.items():
            if output in taken:
                rising.update(paths)
            elif len(paths) > 1:
                rising.update([path for path in paths if ranks[path] == 0] or paths[1:])
        if not rising:
            break
        for path in rising:
            ranks[path] += 1
    return {
        path: {suffix: base.parent / f"{_stem(base.name, ranks[path])}.{suffix}" for suffix in formats}
        for path, base in bases.items()
    }


def _base(recording: Recording, out: Path | None) -> Path:
    """Where a recording would lie beside its outputs."""
    if out is not None:
        return out / recording.name
    return recording.name if recording.path == STDIN else recording.path


def _stem(name: str, rank: int) -> str:
    """What a format's suffix is put to: the name without a recording's suffix, whole, or with a number."""
    stem, dot, suffix = name.rpartition(".")
    if rank == 0 and stem and f"{dot}{suffix}".lower() in SUFFIXES:
        return stem
    return f"{name}.{rank}" if rank > 1 else name


def _folded(path: str | Path) -> str:
    """Equal where two paths may mean the same file on a disk that does not tell upper from lower case."""
    return str(path).casefold()


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))
