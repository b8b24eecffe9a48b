"""The digits corpus included in the package, made by recipes/digits/make_corpus.py."""

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from asr.console import option
from asr.prepare import PrepareOptions, Problem, explain_write_errors, prepare_part
from data_prep import folder
from data_prep.download import unpack

PARTS = ("train", "dev", "test")
"""No speaker and no voice is in two parts."""


@dataclass(frozen=True, kw_only=True)
class Options(PrepareOptions):
    """Options of `asr prepare digits`."""

    out: Path = option("output folder", Path("data/digits"), metavar="FOLDER")


def prepare(options: Options) -> list[Problem]:
    """Unpack the recordings to `out`/audio and prepare `out`/train, dev and test; return all problems."""
    with explain_write_errors(options.out):
        unpack_audio(options.out / "audio")
    problems: list[Problem] = []
    for part in PARTS:
        utterances, faults = folder.scan(options.out / "audio" / part / "transcripts.tsv")
        speeds = options.speeds if part == "train" else ()
        problems += prepare_part(options.out / part, utterances, faults, speeds=speeds, jobs=options.jobs)
    return problems


def unpack_audio(target: Path) -> None:
    """Unpack the archive into `target`, unless this very archive has been unpacked there."""
    with resources.as_file(resources.files("data_prep") / "data" / "digits.tar.gz") as archive:
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        done = target / ".done"
        if done.exists() and done.read_text(encoding="utf-8") == digest:
            return
        target.mkdir(parents=True, exist_ok=True)
        unpack(archive, target)
        done.write_text(digest, encoding="utf-8")
