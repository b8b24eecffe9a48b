"""LibriSpeech (openslr.org/12) and Mini LibriSpeech (openslr.org/31)."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from asr.console import option
from asr.errors import PrepareError
from asr.inference.inputs import SUFFIXES
from asr.manifest import Utterance
from asr.prepare import PrepareOptions, Problem, divide, explain_write_errors, measure, prepare_part
from data_prep import download

URL = "https://www.openslr.org/resources"


@dataclass(frozen=True)
class Subset:
    """An official archive: resource number at openslr.org, checksum, size in GB."""

    resource: int
    checksum: str
    gigabytes: float


# SHA-256 from torchaudio 2.11 (torchaudio/datasets/librispeech.py), MD5 from openslr.org (md5sum.txt).
SUBSETS = {
    "dev-clean": Subset(12, "sha256:76f87d090650617fca0cac8f88b9416e0ebf80350acb97b343a85fa903728ab3", 0.34),
    "dev-other": Subset(12, "sha256:12661c48e8c3fe1de2c1caa4c3e135193bfb1811584f11f569dd12645aa84365", 0.31),
    "test-clean": Subset(12, "sha256:39fde525e59672dc6d1551919b1478f724438a95aa55f874b576be21967e6c23", 0.35),
    "test-other": Subset(12, "sha256:d09c181bba5cf717b3dee7d4d592af11a3ee3a09e08ae025c5506f6ebe961c29", 0.33),
    "train-clean-100": Subset(
        12, "sha256:d4ddd1d5a6ab303066f14971d768ee43278a5f2a0aa43dc716b0e64ecbbbf6e2", 6.4
    ),
    "train-clean-360": Subset(
        12, "sha256:146a56496217e96c14334a160df97fffedd6e0a04e66b9c5af0d40be3c792ecf", 23.0
    ),
    "train-other-500": Subset(
        12, "sha256:ddb22f27f96ec163645d53215559df6aa36515f26e01dd70798188350adcb6d2", 31.0
    ),
    "train-clean-5": Subset(31, "md5:5df7d4e78065366204ca6845bb08f490", 0.33),
    "dev-clean-2": Subset(31, "md5:6d7ab67ac6a1d2c993d050e16d61080d", 0.13),
}


@dataclass(frozen=True, kw_only=True)
class Options(PrepareOptions):
    """Options of `asr prepare librispeech`. `speeds` does not apply to dev and test subsets."""

    out: Path = option("output folder", Path("data/librispeech"), metavar="FOLDER")
    subset: tuple[str, ...] = option(
        "train-clean-100, ... (with --corpus: all it contains)", (), metavar="NAME"
    )
    corpus: Path | None = option("local LibriSpeech tree, no download", None, metavar="FOLDER")
    url: str = option("openslr.org or a mirror of it", URL, metavar="URL")


def prepare(options: Options) -> list[Problem]:
    """Prepare each subset in `out`/<subset>; return all problems.

    Without `corpus`, archives are downloaded to `out`/downloads. A subset that fails as a whole is one
    problem, named after it. Raises PrepareError on an unknown subset.
    """
    downloads = options.out / "downloads"
    if options.corpus is not None:
        folders = _find(options.corpus, options.subset)
    else:
        _check_names(options.subset)
        folders = [downloads / "LibriSpeech" / name for name in options.subset]
    problems = []
    for folder in dict.fromkeys(folders):
        name = folder.name
        try:
            if options.corpus is None:
                with explain_write_errors(downloads):
                    _download(name, downloads, options.url)
            utterances, faults = scan(folder)
            speeds = () if name.startswith(("dev", "test")) else options.speeds
            problems += prepare_part(options.out / name, utterances, faults, speeds=speeds, jobs=options.jobs)
        except PrepareError as error:
            problems.append(Problem(name, str(error)))
            print(problems[-1], file=sys.stderr)
    return problems


def _check_names(subsets: Sequence[str]) -> None:
    known = ", ".join(f"{name} ({subset.gigabytes:g} GB)" for name, subset in SUBSETS.items())
    if not subsets:
        raise PrepareError(f"no --subset to download; choose from {known}")
    for name in subsets:
        if name not in SUBSETS:
            raise PrepareError(f"unknown subset {name!r}; choose from {known}")


def _download(name: str, downloads: Path, url: str) -> None:
    """Download and unpack a subset to `downloads`/LibriSpeech/<name>; `.done` in it marks it as complete."""
    done = downloads / "LibriSpeech" / name / ".done"
    if done.exists():
        return
    archive = downloads / f"{name}.tar.gz"
    download.fetch(
        f"{url.rstrip('/')}/{SUBSETS[name].resource}/{archive.name}", archive, SUBSETS[name].checksum
    )
    download.unpack(archive, downloads)
    if not done.parent.is_dir():
        raise PrepareError(f"{archive}: no folder LibriSpeech/{name} in the archive")
    done.touch()


def _find(corpus: Path, subsets: Sequence[str]) -> list[Path]:
    root = corpus / "LibriSpeech" if (corpus / "LibriSpeech").is_dir() else corpus
    layout = "<subset>/<speaker>/<chapter>/*.trans.txt"
    if not root.is_dir():
        raise PrepareError(f"{corpus}: no such folder; expected a LibriSpeech tree, {layout}")
    found = [path.name for path in sorted(root.iterdir()) if any(_visible(path, "trans.txt"))]
    if not found:
        raise PrepareError(f"{root}: no LibriSpeech subset; expected {layout}")
    for name in subsets:
        if name not in found:
            raise PrepareError(f"{root}: no subset {name!r}, only {', '.join(found)}")
    return [root / name for name in subsets or found]


def scan(folder: Path) -> tuple[list[Utterance], list[Problem]]:
    """Find the utterances of a subset, ordered by id; its recordings may be of another format, converted.

    Problems: malformed transcript lines, transcripts without audio, audio without transcript, recordings
    with unreadable headers.
    """
    recordings = {path.stem: path for path in _visible(folder, "*") if path.suffix.lower() in SUFFIXES}
    lines = chain.from_iterable(map(_read_transcript, _visible(folder, "trans.txt")))
    transcribed, problems = divide(
        Problem(item.id, f"transcript without audio: no {item.audio_filepath}")
        if isinstance(item, Utterance) and item.id not in recordings
        else item
        if isinstance(item, Problem)
        else replace(item, audio_filepath=recordings[item.id])
        for item in lines
    )
    names = {utterance.id for utterance in transcribed}
    for name, path in recordings.items():
        if name not in names:
            problems.append(Problem(name, f"audio without transcript: {path}"))
    utterances, faults = measure([(utterance.id, utterance) for utterance in transcribed])
    return utterances, problems + faults


def _visible(folder: Path, suffix: str) -> list[Path]:
    """Files of a subset, sorted, without hidden ones such as the `._*` that macOS leaves beside each file."""
    found = sorted(folder.glob(f"*/*/*.{suffix}"))
    return [path for path in found if not any(part.startswith(".") for part in path.parts[-4:])]


def _read_transcript(path: Path) -> Iterator[Utterance | Problem]:
    chapter = path.name.removesuffix(".trans.txt")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        yield Problem(str(path), f"cannot read the transcript ({error})")
        return
    for number, line in enumerate(lines, start=1):
        name, _, text = line.strip().partition(" ")
        if name.startswith(f"{chapter}-"):
            recording, speaker = path.parent / f"{name}.flac", chapter.split("-")[0]
            yield Utterance(name, recording, 0.0, text.strip().upper(), speaker)
        elif name:
            yield Problem(f"{path}:{number}", f"malformed line, expected '{chapter}-<number> <text>'")
