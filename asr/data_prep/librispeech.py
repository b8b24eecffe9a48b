"""LibriSpeech (openslr.org/12) and Mini LibriSpeech (openslr.org/31)."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from asr.data_prep import download
from asr.data_prep.common import clear_errors, durations, prepare_part
from asr.data_prep.screen import open_console
from asr.errors import AudioError, PrepareError
from asr.features.extraction import Problem
from asr.manifest import Utterance

URL = "https://www.openslr.org/resources"


@dataclass(frozen=True)
class Subset:
    """An official archive: its resource number at openslr.org, its checksum, its size in GB."""

    resource: int
    checksum: str
    gigabytes: float


# openslr.org publishes MD5 sums (md5sum.txt beside the archives). The SHA-256 sums of resource 12 are those
# of torchaudio 2.11 (torchaudio/datasets/librispeech.py); for resource 31 there are only the MD5 sums.
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


def prepare(
    subsets: Sequence[str],
    corpus: Path | None,
    out: Path,
    url: str | None = None,
    speeds: Sequence[float] = (),
    jobs: int = 1,
) -> list[Problem]:
    """Prepare each subset in `out`/<subset>; return all problems.

    With `corpus`, its subsets are used (all that are found, where none is named); without, the named ones
    are downloaded to `out`/downloads from `url` (a mirror of openslr.org/resources) or openslr.org.
    `speeds` adds copies to all subsets but dev and test ones. A subset that fails as a whole is a problem
    by its name. Raises PrepareError on an unknown subset.
    """
    console = open_console()
    if corpus is not None:
        folders = {folder.name: folder for folder in _find(corpus, subsets)}
    else:
        _check_names(subsets)
        folders = {name: out / "downloads" / "LibriSpeech" / name for name in subsets}
    problems = []
    for name, folder in folders.items():
        try:
            if corpus is None:
                with clear_errors(out / "downloads"):
                    _download(name, out / "downloads", url or URL, console)
            utterances, faults = scan(folder)
            copies = () if name.startswith(("dev", "test")) else speeds
            problems += prepare_part(out / name, utterances, faults, speeds=copies, jobs=jobs)
        except PrepareError as error:
            console.print(f"{name}: {error}")
            problems.append(Problem(name, str(error)))
    return problems


def _check_names(subsets: Sequence[str]) -> None:
    known = ", ".join(f"{name} ({subset.gigabytes:g} GB)" for name, subset in SUBSETS.items())
    if not subsets:
        raise PrepareError(f"no subset is named for download; choose from {known}")
    for name in subsets:
        if name not in SUBSETS:
            raise PrepareError(f"unknown subset {name!r}; choose from {known}")


def _download(name: str, downloads: Path, url: str, console: Console) -> None:
    """Bring `downloads`/LibriSpeech/<name> about; its file `.done` says that it is complete."""
    done = downloads / "LibriSpeech" / name / ".done"
    if done.exists():
        return
    archive = downloads / f"{name}.tar.gz"
    source = f"{url.rstrip('/')}/{SUBSETS[name].resource}/{archive.name}"
    download.fetch(source, archive, SUBSETS[name].checksum, console)
    download.unpack(archive, downloads, console)
    if not done.parent.is_dir():
        raise PrepareError(f"{archive}: no folder LibriSpeech/{name} in the archive")
    done.touch()


def _find(corpus: Path, subsets: Sequence[str]) -> list[Path]:
    root = corpus / "LibriSpeech" if (corpus / "LibriSpeech").is_dir() else corpus
    layout = "<subset>/<speaker>/<chapter>/*.trans.txt"
    if not root.is_dir():
        raise PrepareError(f"{corpus}: no such folder; expected a LibriSpeech tree, {layout}")
    found = [path for path in sorted(root.iterdir()) if any(path.glob("*/*/*.trans.txt"))]
    if not found:
        raise PrepareError(f"{root}: no LibriSpeech subset is there; expected {layout}")
    names = [path.name for path in found]
    for name in subsets:
        if name not in names:
            raise PrepareError(f"{root}: no subset {name!r} is there, only {', '.join(names)}")
    return [root / name for name in dict.fromkeys(subsets or names)]


def scan(folder: Path) -> tuple[list[Utterance], list[Problem]]:
    """The utterances of a subset, by id, and what is wrong with it.

    Problems are malformed lines of transcripts, transcripts without audio, audio without transcript and
    recordings whose header cannot be read.
    """
    recordings = {path.stem: path for path in sorted(folder.glob("*/*/*.flac"))}
    utterances: list[Utterance] = []
    problems: list[Problem] = []
    for transcript in sorted(folder.glob("*/*/*.trans.txt")):
        for item in _read_transcript(transcript):
            if isinstance(item, Problem):
                problems.append(item)
            elif item.id not in recordings:
                problems.append(Problem(item.id, f"transcript without audio: no {item.audio_filepath}"))
            else:
                utterances.append(item)
    transcribed = {utterance.id for utterance in utterances}
    for name, path in recordings.items():
        if name not in transcribed:
            problems.append(Problem(name, f"audio without transcript: {path}"))
    measured = []
    lengths = durations([utterance.audio_filepath for utterance in utterances])
    for utterance, length in zip(utterances, lengths, strict=True):
        if isinstance(length, AudioError):
            problems.append(Problem(utterance.id, str(length)))
        else:
            measured.append(replace(utterance, duration=length))
    return measured, problems


def _read_transcript(path: Path) -> Iterator[Utterance | Problem]:
    chapter = path.name.removesuffix(".trans.txt")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        yield Problem(str(path), f"cannot read the transcript ({error})")
        return
    for number, line in enumerate(lines, start=1):
        name, _, text = line.strip().partition(" ")
        if name.startswith(f"{chapter}-"):
            yield Utterance(name, path.parent / f"{name}.flac", 0.0, text.strip(), chapter.split("-")[0])
        elif name:
            yield Problem(f"{path}:{number}", f"malformed line, expected '{chapter}-<number> <text>'")
