"""Command-line arguments -> recordings, and the files to write for each."""

import codecs
import glob
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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

    An argument is a file (which may not exist: reading it fails), a folder, a pattern (as of glob.glob, with
    `**` for any folders) unless a file has that name, `-` for standard input, or `@LIST`: a file with one
    path per line or, as by `find -print0`, NUL-terminated. Folders, also linked ones, are searched for
    visible files with one of SUFFIXES; output files of other recordings are skipped. No recording is opened.
    """
    found: dict[Path, Path] = {}  # absolute path -> path as given
    tops: list[Path] = []
    errors: list[AsrError] = []
    for path in (path for argument in arguments for path in _expand(argument)):
        if isinstance(path, AudioError):
            errors.append(path)
        elif path == STDIN:
            found[STDIN] = STDIN
        else:
            is_folder = os.path.isdir(path)  # noqa: PTH112 (Path.is_dir() fails if a name is too long)
            tops.append(_absolute(path) if is_folder else _absolute(path).parent)
            inside, failures = _recordings_in(path) if is_folder else ([path], [])
            errors += failures
            for recording in inside:
                found.setdefault(_absolute(recording), recording)
    _drop_outputs(found)
    top = Path(os.path.commonpath(tops)) if tops else Path()
    names = (Path("stdin") if path == STDIN else path.relative_to(top) for path in found)
    return [Recording(path, name) for path, name in zip(found.values(), names, strict=True)], errors


def _drop_outputs(found: dict[Path, Path]) -> None:
    """Remove what an earlier run wrote beside a recording, which a second `talks/*` would match."""
    bases = {*found, *(path.with_suffix("") for path in found if _is_known(path))}
    for path in list(found):
        if path.suffix[1:] in FORMATS and path.with_suffix("") in bases:
            del found[path]


def _expand(argument: str) -> Iterator[Path | AudioError]:
    """Expand lists and patterns."""
    if not argument:
        yield AudioError("an argument is empty; name a file or a folder")
    elif argument == str(STDIN):
        yield STDIN
    elif argument.startswith("@"):
        yield from _listed(Path(argument[1:]))
    elif set(argument) & set("*?[") and not os.path.lexists(argument):
        names = sorted(glob.glob(argument, recursive=True))  # noqa: PTH207 (Path's finds hidden files)
        yield from map(_literal, names)
        if not names:
            yield AudioError(f"{argument}: nothing matches this pattern")
    else:
        yield _literal(argument)


def _literal(name: str) -> Path:
    """A path; for a file named `-` one that cannot be mistaken for standard input."""
    path = Path(name)
    return path.absolute() if path == STDIN else path


def _listed(path: Path) -> Sequence[Path | AudioError]:
    """Read the files in a list; its entries are neither patterns nor lists."""
    try:
        content = path.read_bytes().removeprefix(codecs.BOM_UTF8)
    except OSError as error:
        return [AudioError(f"{path}: cannot read the list of recordings ({str(error.strerror).lower()})")]
    names = content.split(b"\0") if b"\0" in content else content.splitlines()
    paths = [_literal(os.fsdecode(name)) for name in names if name.strip()]
    return paths or [AudioError(f"{path}: the list of recordings is empty")]


def _recordings_in(folder: Path) -> tuple[list[Path], list[AudioError]]:
    """All visible files with one of SUFFIXES, except pipes, sockets and devices, sorted; and errors.

    Links to folders are followed last and no folder is entered twice, so that cycles end and files within
    the tree keep their own names.
    """
    files: list[Path] = []
    failures: list[OSError] = []
    entered: set[str] = set()
    tops = [folder]
    for top in tops:
        for parent, subfolders, names in os.walk(top, onerror=failures.append):
            if (real := os.path.realpath(parent)) in entered:
                subfolders.clear()
                continue
            entered.add(real)
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            tops += [path for path in (Path(parent, name) for name in subfolders) if path.is_symlink()]
            files += [Path(parent, name) for name in names if not name.startswith(".")]
    files = sorted(path for path in files if _is_known(path) and (path.is_file() or not path.exists()))
    reasons = [f"{e.filename}: cannot read the folder ({str(e.strerror).lower()})" for e in failures]
    if not files and not reasons:
        known = ".wav, .flac, .mp3, .mp4 or another known suffix"
        reasons = [f"{folder}: no recordings in it (no name ends in {known})"]
    return files, list(map(AudioError, reasons))


def _is_known(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _absolute(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))


def output_paths(
    recordings: Sequence[Recording], formats: Sequence[str], out: Path | None
) -> dict[Path, dict[str, Path]]:
    """Map each recording's path to its output file by format, beside it or at `out / name`.

    The format replaces the suffix. Recordings that differ in their suffix only, or whose outputs would
    replace an input, keep their full names. Raises AsrError if these collide too, in any case of letters.
    """
    bases = {r.path: out / r.name if out else r.name if r.path == STDIN else r.path for r in recordings}
    taken = {_key(path): path for path in bases}
    for home in {_absolute(base.parent) for base in bases.values()}:
        taken |= {_key(folder): folder for folder in (home, *home.parents)}
    wanted = Counter(_key(base.parent / f"{_stem(base.name)}.txt") for base in bases.values())
    outputs = {}
    for path, base in bases.items():
        for name in (_stem(base.name), base.name):
            targets = {suffix: base.parent / f"{name}.{suffix}" for suffix in formats}
            others = [taken[key] for key in map(_key, targets.values()) if key in taken]
            if not others and (name == base.name or wanted[_key(base.parent / f"{name}.txt")] == 1):
                break
        if others:
            raise AsrError(f"{path}: its output would replace {others[0]} or its output; rename one")
        taken |= {_key(target): path for target in targets.values()}
        outputs[path] = targets
    return outputs


def _key(path: Path) -> str:
    """Absolute path without the case of letters, which file systems may ignore."""
    return str(_absolute(path)).casefold()


def _stem(name: str) -> str:
    """The name without the suffix of a recording."""
    stem, _, suffix = name.rpartition(".")
    return stem if stem and f".{suffix}".lower() in SUFFIXES else name
