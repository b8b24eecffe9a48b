"""LibriSpeech from a local tree, and from a web server that behaves and misbehaves."""

import hashlib
import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import soundfile

from asr import manifest
from asr.errors import PrepareError
from asr.features.store import FeatureStore
from asr.prepare import Problem
from data_prep import download, librispeech
from data_prep.librispeech import SUBSETS, Options, Subset, scan
from tests import corpora
from tests.data_prep.server import Server, serve

TEXTS = {"84-121-0000": "GO DO YOU HEAR", "84-121-0001": "BUT NOT SO", "174-50-0000": "IT'S HER"}


def prepare(
    subset: Sequence[str], corpus: Path | None, out: Path, url: str = "", speeds: Sequence[float] = ()
) -> list[Problem]:
    return librispeech.prepare(
        Options(subset=tuple(subset), corpus=corpus, out=out, url=url, speeds=tuple(speeds))
    )


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Make a tree of two subsets."""
    corpora.librispeech(tmp_path / "corpus" / "LibriSpeech" / "dev-clean", TEXTS)
    corpora.librispeech(tmp_path / "corpus" / "LibriSpeech" / "my-own", {"1-2-0000": "I AM"})
    (tmp_path / "corpus" / "LibriSpeech" / "README.TXT").write_text("not a subset")
    return tmp_path / "corpus"


def test_scan(corpus: Path) -> None:
    utterances, problems = scan(corpus / "LibriSpeech" / "dev-clean")
    assert problems == []
    assert {u.id: u.text for u in utterances} == TEXTS
    assert {u.id: u.speaker for u in utterances} == {name: name.split("-")[0] for name in TEXTS}
    assert {u.duration for u in utterances} == {1.0}
    assert all(u.audio_filepath.stem == u.id and u.audio_filepath.exists() for u in utterances)


def test_what_other_systems_add_to_a_tree_is_ignored(corpus: Path) -> None:
    root = corpus / "LibriSpeech"
    for path in [path for path in root.rglob("*") if path.is_file()]:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7\0")
        if path.name.endswith(".trans.txt"):
            path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    for name in (".Trashes/84/121", "__MACOSX/84/121", "dev-clean/.hidden/9"):
        (root / name).mkdir(parents=True)
    for name in (".Trashes/84/121/84-121", "__MACOSX/84/121/._84-121", "dev-clean/.hidden/9/9-9"):
        (root / f"{name}.trans.txt").write_bytes(b"\xff")
    assert [folder.name for folder in librispeech._find(corpus, [])] == ["dev-clean", "my-own"]
    utterances, problems = scan(root / "dev-clean")
    assert problems == []
    assert {u.id: u.text for u in utterances} == TEXTS


def test_a_converted_tree(corpus: Path) -> None:
    """Other formats and small letters."""
    root = corpus / "LibriSpeech" / "dev-clean"
    for path in root.rglob("*.flac"):
        soundfile.write(path.with_suffix(".wav"), *soundfile.read(path))
        path.unlink()
    for path in root.rglob("*.trans.txt"):
        names = [line.partition(" ") for line in path.read_text().splitlines()]
        path.write_text("".join(f"{name} {text.lower()}\n" for name, _, text in names))
    utterances, problems = scan(root)
    assert problems == []
    assert {u.id: u.text for u in utterances} == TEXTS
    assert {u.audio_filepath.suffix for u in utterances} == {".wav"}


@pytest.mark.parametrize("below", ["", "LibriSpeech"])
def test_prepare_all_subsets(corpus: Path, tmp_path: Path, below: str) -> None:
    out = tmp_path / "out"
    assert prepare([], corpus / below, out) == []
    assert {u.id for u in manifest.read(out / "dev-clean" / "manifest.jsonl")} == set(TEXTS)
    assert {u.id for u in manifest.read(out / "my-own" / "manifest.jsonl")} == {"1-2-0000"}
    assert len(FeatureStore(out / "dev-clean").entries) == 3


def test_prepare_one_subset(corpus: Path, tmp_path: Path) -> None:
    prepare(["my-own"], corpus, tmp_path / "out", speeds=[1.1])
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["my-own"]
    assert set(FeatureStore(tmp_path / "out" / "my-own").entries) == {("1-2-0000", 1.0), ("1-2-0000", 1.1)}


def test_every_kind_of_damage_is_reported(corpus: Path, tmp_path: Path) -> None:
    chapter = corpus / "LibriSpeech" / "dev-clean" / "84" / "121"
    transcript = chapter / "84-121.trans.txt"
    with transcript.open("a") as file:
        file.write("84-121-0002 NOBODY READ THIS\n\n84-122-0000 ANOTHER CHAPTER\n84-121-0003\nJUST WORDS\n")
        file.write("84-121-0004 CAFÉ NO 5\n84-121-0005 BROKEN\n84-121-0000 ONCE MORE\n")
    for number in (3, 4, 9):
        corpora.record(chapter / f"84-121-000{number}.flac", 1.0)
    (chapter / "84-121-0005.flac").write_bytes(b"fLaC")
    other = corpus / "LibriSpeech" / "dev-clean" / "174" / "50" / "174-50.trans.txt"
    other.write_bytes(b"174-50-0000 \xff\n")
    out = tmp_path / "out"
    problems = prepare(["dev-clean"], corpus, out)
    expected = [
        problems[0],
        Problem("84-121-0002", f"transcript without audio: no {chapter}/84-121-0002.flac"),
        Problem(f"{transcript}:5", "malformed line, expected '84-121-<number> <text>'"),
        Problem(f"{transcript}:7", "malformed line, expected '84-121-<number> <text>'"),
        Problem("174-50-0000", f"audio without transcript: {other.parent}/174-50-0000.flac"),
        Problem("84-121-0009", f"audio without transcript: {chapter}/84-121-0009.flac"),
        Problem(
            "84-121-0005", f"{chapter}/84-121-0005.flac: cannot read the recording (Format not recognised)"
        ),
        Problem("84-121-0003", "the text is empty"),
        Problem("84-121-0004", "characters outside the vocabulary: '5É' in 'CAFÉ NO 5'"),
        Problem("84-121-0000", f"duplicate id; {chapter}/84-121-0000.flac is left out"),
    ]
    assert problems == expected
    assert problems[0].name == str(other)
    assert problems[0].reason.startswith("cannot read the transcript ('utf-8' codec can't decode byte 0xff")
    lines = [f"{problem.name}\t{problem.reason}\n" for problem in expected]
    assert (out / "dev-clean" / "problems.txt").read_text() == "".join(lines)
    rows = manifest.read(out / "dev-clean" / "manifest.jsonl")
    assert {row.id: row.text for row in rows} == {n: t for n, t in TEXTS.items() if n.startswith("84")}
    assert prepare(["dev-clean"], corpus, out) == expected


def test_one_bad_subset_does_not_stop_the_others(corpus: Path, tmp_path: Path) -> None:
    for path in (corpus / "LibriSpeech" / "dev-clean").rglob("*.flac"):
        path.unlink()
    out = tmp_path / "out"
    problems = prepare([], corpus, out)
    reason = f"{out}/dev-clean: no usable utterance; see {out}/dev-clean/problems.txt"
    assert problems == [Problem("dev-clean", reason)]
    assert (out / "my-own" / "meta.json").exists()


@pytest.mark.parametrize(
    ("subsets", "where", "reason"),
    [
        (["dev-other"], "", "{root}/LibriSpeech: no subset 'dev-other', only dev-clean, my-own"),
        ([], "nowhere", "{root}/nowhere: no such folder"),
        ([], "empty", "{root}/empty: no LibriSpeech subset"),
    ],
)
def test_no_such_corpus(corpus: Path, tmp_path: Path, subsets: list[str], where: str, reason: str) -> None:
    (corpus / "empty").mkdir()
    with pytest.raises(PrepareError) as error:
        prepare(subsets, corpus / where, tmp_path / "out")
    assert str(error.value).startswith(reason.format(root=corpus))


@pytest.mark.parametrize(
    ("subsets", "start"), [([], "no --subset to download"), (["dev"], "unknown subset 'dev'")]
)
def test_nothing_is_downloaded_by_mistake(tmp_path: Path, subsets: list[str], start: str) -> None:
    with pytest.raises(PrepareError) as error:
        prepare(subsets, None, tmp_path)
    assert str(error.value).startswith(f"{start}; choose from dev-clean (0.34 GB), dev-other (0.31 GB), ")
    assert all(name in str(error.value) for name in SUBSETS)


def test_checksums_are_well_formed() -> None:
    lengths = {"md5": 32, "sha256": 64}
    for subset in SUBSETS.values():
        algorithm, digest = subset.checksum.split(":")
        assert len(digest) == lengths[algorithm]
        assert set(digest) <= set("0123456789abcdef")
    assert len({subset.checksum for subset in SUBSETS.values()}) == 9


def pack(folder: Path, *more: tuple[str, bytes]) -> bytes:
    """Pack LibriSpeech/<folder> and further members into a tar.gz."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        tar.add(folder, f"LibriSpeech/{folder.name}")
        for name, content in more:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


@pytest.fixture
def mirror(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve dev-clean, with a matching checksum in SUBSETS."""
    monkeypatch.setattr(download, "RETRY_AFTER", ())
    with serve() as server:
        offer(server, monkeypatch, pack(corpus / "LibriSpeech" / "dev-clean"))
        yield server


def offer(server: Server, monkeypatch: pytest.MonkeyPatch, archive: bytes) -> None:
    server.files["/12/dev-clean.tar.gz"] = archive
    checksum = f"sha256:{hashlib.sha256(archive).hexdigest()}"
    monkeypatch.setitem(SUBSETS, "dev-clean", Subset(12, checksum, 0.0))


def test_download_and_prepare(mirror: Server, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert prepare(["dev-clean"], None, out, f"{mirror.url}/") == []
    rows = manifest.read(out / "dev-clean" / "manifest.jsonl")
    assert {row.id: row.text for row in rows} == TEXTS
    assert rows[0].audio_filepath.is_relative_to(out / "downloads" / "LibriSpeech" / "dev-clean")
    assert len(FeatureStore(out / "dev-clean").entries) == 3
    before = corpora.times(out / "dev-clean")
    assert prepare(["dev-clean"], None, out, mirror.url) == []
    assert mirror.requests == [("/12/dev-clean.tar.gz", None)]
    assert corpora.times(out / "dev-clean") == before
    (out / "downloads" / "dev-clean.tar.gz").unlink()  # to free space
    assert prepare(["dev-clean"], None, out, mirror.url) == []
    assert len(mirror.requests) == 1


def test_corrupted_download(mirror: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mirror.files["/12/dev-clean.tar.gz"] += b"!"
    out = tmp_path / "out"
    (problem,) = prepare(["dev-clean"], None, out, mirror.url)
    assert problem.reason.startswith("dev-clean.tar.gz: wrong checksum sha256:")
    assert SUBSETS["dev-clean"].checksum in problem.reason
    assert capsys.readouterr().err == f"{problem}\n"
    assert list((out / "downloads").iterdir()) == []


def test_interrupted_unpacking_resumes(
    mirror: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    extract, calls = tarfile.TarFile.extract, []

    def stop_at_the_third(self: tarfile.TarFile, *arguments: object, **options: object) -> None:
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        extract(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(tarfile.TarFile, "extract", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        prepare(["dev-clean"], None, out, mirror.url)
    assert prepare(["dev-clean"], None, out, mirror.url) == []
    assert len(mirror.requests) == 1
    assert {u.id for u in manifest.read(out / "dev-clean" / "manifest.jsonl")} == set(TEXTS)


@pytest.mark.parametrize(
    ("subset", "more", "reason"),
    [
        ("dev-clean", [("../../escaped.txt", b"gotcha")], "refused, '../../escaped.txt' would be"),
        ("my-own", [], "no folder LibriSpeech/dev-clean in the archive"),
    ],
)
def test_unusable_archive(
    mirror: Server,
    corpus: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    subset: str,
    more: list[tuple[str, bytes]],
    reason: str,
) -> None:
    offer(mirror, monkeypatch, pack(corpus / "LibriSpeech" / subset, *more))
    out = tmp_path / "out"
    (problem,) = prepare(["dev-clean"], None, out, mirror.url)
    assert problem.name == "dev-clean"
    assert problem.reason.startswith(f"{out}/downloads/dev-clean.tar.gz: {reason}")
    assert not list(tmp_path.rglob("escaped.txt"))
    assert not (out / "dev-clean").exists()
