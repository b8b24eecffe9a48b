"""Downloads survive interruptions and are verified; archives cannot write outside their target."""

import hashlib
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from asr.errors import PrepareError
from data_prep import download
from data_prep.download import fetch, unpack
from tests.data_prep.server import Server, serve

CONTENT = np.random.default_rng(0).bytes(300_000)
SHA256 = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
MD5 = f"md5:{hashlib.md5(CONTENT).hexdigest()}"
AGAIN = "run the same command again to resume"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(download, "RETRY_AFTER", ())
    with serve() as server:
        server.files["/a.tar.gz"] = CONTENT
        yield server


def get(server: Server, folder: Path) -> None:
    fetch(f"{server.url}/a.tar.gz", folder / "a.tar.gz", SHA256)


@pytest.mark.parametrize("checksum", [SHA256, MD5])
def test_download(server: Server, tmp_path: Path, checksum: str) -> None:
    target = tmp_path / "downloads" / "a.tar.gz"
    fetch(f"{server.url}/a.tar.gz", target, checksum)
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]
    fetch(f"{server.url}/a.tar.gz", target, checksum)
    assert server.requests == [("/a.tar.gz", None)]


def test_interrupted_download_resumes_in_the_next_run(server: Server, tmp_path: Path) -> None:
    server.cuts = [150_000]
    url, target = f"{server.url}/a.tar.gz", tmp_path / "a.tar.gz"
    with pytest.raises(PrepareError) as error:
        fetch(url, target, SHA256)
    assert str(error.value) == f"{url}: the connection broke after 150000 of 300000 bytes; {AGAIN}"
    assert (tmp_path / "a.tar.gz.part").read_bytes() == CONTENT[:150_000]
    fetch(url, target, SHA256)
    assert target.read_bytes() == CONTENT
    assert server.requests == [("/a.tar.gz", None), ("/a.tar.gz", "bytes=150000-")]


def test_interrupted_download_resumes_in_the_same_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "RETRY_AFTER", (0.0, 0.0))
    server.cuts = [100_000, 100_000, 0, 50_000]  # more interruptions than retries, but most with progress
    get(server, tmp_path)
    assert (tmp_path / "a.tar.gz").read_bytes() == CONTENT
    starts = [f"bytes={start}-" for start in (100_000, 200_000, 200_000, 250_000)]
    assert [asked for _, asked in server.requests] == [None, *starts]


@pytest.mark.parametrize(
    ("part", "ranges", "asked"),
    [
        (CONTENT[:1_000], False, ["bytes=1000-"]),  # the server ignores ranges
        (CONTENT, True, ["bytes=300000-"]),  # complete, not verified yet
    ],
)
def test_part_of_an_earlier_run(
    server: Server, tmp_path: Path, part: bytes, ranges: bool, asked: list[str | None]
) -> None:
    server.ranges = ranges
    (tmp_path / "a.tar.gz.part").write_bytes(part)
    get(server, tmp_path)
    assert (tmp_path / "a.tar.gz").read_bytes() == CONTENT
    assert [header for _, header in server.requests] == asked


def test_corrupted_download(server: Server, tmp_path: Path) -> None:
    corrupted = b"x" + CONTENT[1:]
    server.files["/a.tar.gz"] = corrupted
    with pytest.raises(PrepareError) as error:
        get(server, tmp_path)
    found = f"sha256:{hashlib.sha256(corrupted).hexdigest()}"
    assert str(error.value).startswith(f"a.tar.gz: wrong checksum {found}, expected {SHA256}; ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", ["404 Not Found", f"503 Service Unavailable; {AGAIN}"])
def test_error_of_the_server(server: Server, tmp_path: Path, answer: str) -> None:
    server.errors = [int(answer.split()[0])]
    with pytest.raises(PrepareError) as error:
        get(server, tmp_path)
    assert str(error.value) == f"{server.url}/a.tar.gz: the server answered {answer}"


def test_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "RETRY_AFTER", ())
    with serve() as server:
        url = f"{server.url}/a.tar.gz"
    with pytest.raises(PrepareError, match=rf"^{url}: no connection after 0 bytes \(.*\); {AGAIN}$"):
        fetch(url, tmp_path / "a.tar.gz", SHA256)


@pytest.mark.parametrize("url", ["nonsense", "file:///etc/passwd"])
def test_nonsense_url(tmp_path: Path, url: str) -> None:
    with pytest.raises(PrepareError, match=f"{url}: not a URL"):
        fetch(url, tmp_path / "a.tar.gz", SHA256)


def archive(path: Path, *members: tuple[tarfile.TarInfo, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def link(name: str, target: str, kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def test_unpack(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", (tarfile.TarInfo("x/y/z.txt"), b"hello"))
    unpack(path, tmp_path / "target")
    assert (tmp_path / "target" / "x" / "y" / "z.txt").read_bytes() == b"hello"


@pytest.mark.parametrize("name", ["../escaped.txt", "x/../../escaped.txt"])
def test_members_outside_the_target_are_refused(tmp_path: Path, name: str) -> None:
    path = archive(tmp_path / "a.tar.gz", (tarfile.TarInfo(name), b"gotcha"))
    with pytest.raises(PrepareError, match=f"{path}: refused, {name!r} would be .* outside"):
        unpack(path, tmp_path / "target")
    assert not list(tmp_path.rglob("escaped.txt"))


def test_an_absolute_name_is_taken_below_the_target(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.tar.gz", (tarfile.TarInfo(f"{tmp_path}/escaped.txt"), b"gotcha"))
    unpack(path, tmp_path / "target")
    assert list(tmp_path.glob("*.txt")) == []


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    path = archive(tmp_path / "a.tar.gz", (link("x", "..", kind), b""))
    with pytest.raises(PrepareError, match=f"{path}: refused, 'x' "):
        unpack(path, tmp_path / "target")
    assert not (tmp_path / "target" / "x").exists()


@pytest.mark.parametrize("damage", ["cut", "flipped", "no archive"])
def test_damaged_archive(tmp_path: Path, damage: str) -> None:
    path = archive(tmp_path / "a.tar.gz", (tarfile.TarInfo("x"), CONTENT))
    whole = path.read_bytes()
    middle = len(whole) // 2
    flipped = b"".join((whole[:middle], bytes(b ^ 0xFF for b in whole[middle:][:64]), whole[middle + 64 :]))
    path.write_bytes({"cut": whole[:middle], "flipped": flipped, "no archive": b"hello"}[damage])
    with pytest.raises(PrepareError, match=rf"^{path}: the archive is damaged \(.*delete it"):
        unpack(path, tmp_path / "target")
