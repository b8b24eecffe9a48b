"""The digits corpus that ships with the package; recipes/digits/make_corpus.py made it."""

import hashlib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from asr.data_prep import folder
from asr.data_prep.common import clear_errors, prepare_part
from asr.data_prep.download import unpack
from asr.data_prep.screen import open_console
from asr.features.extraction import Problem

PARTS = ("train", "dev", "test")
"""No speaker, and no voice, stands in two parts."""


def prepare(out: Path, speeds: Sequence[float] = (), jobs: int = 1) -> list[Problem]:
    """Unpack the recordings to `out`/audio and prepare `out`/train, dev and test; return all problems.

    `speeds` adds perturbed copies to the training part alone.
    """
    with clear_errors(out):
        unpack_audio(out / "audio")
    problems: list[Problem] = []
    for part in PARTS:
        utterances, faults = folder.scan(out / "audio" / part / "transcripts.tsv")
        part_speeds = speeds if part == "train" else ()
        problems += prepare_part(out / part, utterances, faults, speeds=part_speeds, jobs=jobs)
    return problems


def unpack_audio(target: Path) -> None:
    """Bring `target` about, unless it holds this very archive already."""
    with resources.as_file(resources.files("asr.data_prep") / "digits" / "digits.tar.gz") as archive:
        digest = hashlib.sha256(archive.read_bytes()).hexdigest()
        done = target / ".done"
        if done.exists() and done.read_text(encoding="utf-8") == digest:
            return
        target.mkdir(parents=True, exist_ok=True)
        unpack(archive, target, open_console())
        done.write_text(digest, encoding="utf-8")
