import os
import stat
import threading
from pathlib import Path

import pytest

from asr.files import atomic_write


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_text_and_bytes(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "new" / "folder" / "a.txt") as file:
        file.write("é\n")
    assert (tmp_path / "new" / "folder" / "a.txt").read_bytes() == "é\n".encode()
    with atomic_write(tmp_path / "b.bin", "wb") as file:
        file.write(b"\xff\x00")
    assert (tmp_path / "b.bin").read_bytes() == b"\xff\x00"
    assert names(tmp_path) == ["b.bin", "new"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_failure_keeps_the_old_file(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), atomic_write(path) as file:
        file.write("new" * 100_000)
        file.flush()
        assert path.read_text() == "old"
        raise error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_follow_the_umask(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with atomic_write(tmp_path / "a.txt") as file:
            file.write("x")
    finally:
        after = os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == mode
    assert after == umask


def test_symbolic_link_is_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "elsewhere" / "a.txt", tmp_path / "link"
    target.parent.mkdir()
    target.write_text("old")
    link.symlink_to(target)
    with atomic_write(link) as file:
        file.write("new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert names(target.parent) == ["a.txt"]


def test_pipe_is_written_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    received: list[str] = []
    reader = threading.Thread(target=lambda: received.append(pipe.read_text()))
    reader.start()
    with atomic_write(pipe) as file:
        file.write("through")
    reader.join(timeout=10)
    assert received == ["through"]
    assert pipe.is_fifo()


def test_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IsADirectoryError), atomic_write(tmp_path):
        pass


def test_long_name(tmp_path: Path) -> None:
    path = tmp_path / ("é" * 120 + ".txt")  # 244 bytes; the limit is 255
    with atomic_write(path) as file:
        file.write("x")
    assert names(tmp_path) == [path.name]


def test_error_names_the_target_file(tmp_path: Path) -> None:
    path = tmp_path / ("a" * 300)
    with pytest.raises(OSError, match="File name too long"), atomic_write(path):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError), atomic_write(tmp_path / "file" / "a.txt"):
        pass


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(PermissionError) as error, atomic_write(tmp_path / "a.txt"):
        pass
    assert error.value.filename == str(tmp_path / "a.txt")
    tmp_path.chmod(0o700)


def test_names_that_are_not_utf8(tmp_path: Path) -> None:
    with atomic_write(tmp_path / "a.txt") as file:
        file.write(os.fsdecode(b"caf\xe9"))
    assert (tmp_path / "a.txt").read_bytes() == rb"caf\udce9"
