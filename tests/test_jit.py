"""The cache of compiled code: damaged, full, unwritable, built into an image. Real processes."""

import ctypes
import os
import pwd
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import asr
from asr import jit, jit_cache, warm_up
from tests.standin import write_bundle
from tests.test_cli import record

PACKAGE = Path(asr.__file__).parent
COMMAND = [sys.executable, "-m", "asr.cli"]


def run(*arguments: str | Path, **settings: Any) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, **{key: str(value) for key, value in settings.pop("env", {}).items()}}
    return subprocess.run([*COMMAND, *arguments], env=env, capture_output=True, text=True, **settings)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compiled code of all functions, from nothing, and a model and a recording of its own."""
    folder = tmp_path_factory.mktemp("jit")
    done = run("warm-up", env={"NUMBA_CACHE_DIR": folder / "cache"})
    assert done.returncode == 0 and done.stdout.startswith(f"compiled code is in {folder}/cache/decoding_")
    [line] = done.stderr.splitlines()
    assert "compiling" in line and "once on this machine" in line
    write_bundle(folder / "bundle")
    record(folder / "a.wav", "ONE TWO")
    return folder


def transcribe(folder: Path, *flags: str, **settings: Any) -> list[str]:
    """Transcribe, which uses the functions of asr.decoding.align; return the lines on standard error."""
    done = run("transcribe", "--raw", "--model", folder / "bundle", folder / "a.wav", *flags, **settings)
    assert (done.returncode, done.stdout) == (0, "ONE TWO\n"), done.stderr
    return done.stderr.splitlines()


def find(cache: Path, function: str, suffix: str) -> Path:
    [path] = cache.glob(f"*/align.{function}-*{suffix}")
    return path


def test_all_functions_are_compiled_ahead(folder: Path) -> None:
    assert callable(warm_up.compile_all)  # its import has all modules imported
    names = {path.name.split("-")[0] for path in (folder / "cache").rglob("*.nbi")}
    wanted = [k.py_func for k in jit.KERNELS if (k.py_func.__module__ or "").startswith("asr.")]
    assert len(wanted) > 40
    assert names == {f"{Path(f.__code__.co_filename).stem}.{f.__qualname__}" for f in wanted}


def test_damaged_files_are_replaced(folder: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    shutil.copytree(folder / "cache", cache)
    env = {"NUMBA_CACHE_DIR": cache}
    assert transcribe(folder, env=env) == []
    find(cache, "_score_words", ".nbi").write_bytes(b"")
    path = find(cache, "_trace", ".nbi")
    path.write_bytes(path.read_bytes()[:-20])
    find(cache, "_advance", ".1.nbc").write_bytes(b"")
    path = find(cache, "_forward", ".1.nbc")
    content = path.read_bytes()
    middle = len(content) // 2
    path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    [line] = transcribe(folder, env=env)
    assert "compiling" in line
    assert transcribe(folder, env=env) == []
    shutil.rmtree(cache)
    cache.write_text("a file in the folder's place")
    [line] = transcribe(folder, env=env)
    assert "at each start" in line and "NUMBA_CACHE_DIR" in line


def test_a_full_disk(folder: Path, tmp_path: Path) -> None:
    def no_large_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    env = {"NUMBA_CACHE_DIR": tmp_path / "cache"}
    [line] = transcribe(folder, env=env, preexec_fn=no_large_files)
    assert "compiling" in line
    assert not [path for path in tmp_path.rglob("*") if path.stat().st_size > 4096 and path.is_file()]
    assert transcribe(folder, "--quiet", env=env, preexec_fn=no_large_files) == []
    done = run("warm-up", env={"NUMBA_CACHE_DIR": "/dev/null/none"}, timeout=600)
    assert done.returncode == 1 and "NUMBA_CACHE_DIR" in done.stderr.splitlines()[-1]


def no_privileges() -> None:
    """Root may write anywhere; a root without this capability may not."""
    if os.geteuid() == 0:
        pr_capbset_drop, cap_dac_override = 24, 1
        ctypes.CDLL(None).prctl(pr_capbset_drop, cap_dac_override)


@pytest.mark.skipif(sys.platform != "linux", reason="capabilities of Linux")
def test_a_package_that_may_only_be_read(folder: Path, tmp_path: Path) -> None:
    """Its own compiled code is used; without any, and with no other place, it is compiled each time."""
    home, site = tmp_path / "home", tmp_path / "site"
    home.mkdir()
    shutil.copytree(PACKAGE, site / "asr", ignore=shutil.ignore_patterns("__pycache__", "box"))
    shutil.copytree(PACKAGE.parent / "data_prep", site / "data_prep", ignore=shutil.ignore_patterns("data"))
    cache = site / "asr" / "decoding" / "__pycache__"
    [compiled] = (folder / "cache").glob("decoding_*")
    shutil.copytree(compiled, cache)
    env = {"HOME": home, "PYTHONPATH": site, "NUMBA_CACHE_DIR": "", "XDG_CACHE_HOME": home / ".cache"}
    settings: dict[str, Any] = {"env": env, "preexec_fn": no_privileges, "cwd": tmp_path}
    try:
        for path in (*site.rglob("*"), site, home):
            path.chmod(0o555 if path.is_dir() else 0o444)
        assert transcribe(folder, **settings) == []
        cache.chmod(0o755)
        for path in cache.iterdir():
            path.unlink()
        cache.chmod(0o555)
        [line] = transcribe(folder, **settings)
        assert "at each start" in line and "NUMBA_CACHE_DIR" in line
        home.chmod(0o755)
        [line] = transcribe(folder, **settings)
        assert "once on this machine" in line
        assert transcribe(folder, **settings) == []
        assert {path.relative_to(home).parts[:2] for path in home.rglob("*.nbi")} == {(".cache", "numba")}
        assert {path.name for path in tmp_path.iterdir()} == {"home", "site"}
    finally:
        for path in (*site.rglob("*"), site, home):
            if path.is_dir():
                path.chmod(0o755)


def test_a_user_without_name_and_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for name in ("HOME", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"):
        monkeypatch.delenv(name, raising=False)
    assert jit_cache.folders(jit.__file__) == [PACKAGE / "__pycache__"]


INNER = "from asr.jit import compiled\n@compiled\ndef one(x):\n    return x + {}\n"
OUTER = "from asr.jit import compiled\nfrom inner import one\n@compiled\ndef two(x):\n    return one(x)\n"


def test_a_change_in_another_module_is_noticed(tmp_path: Path) -> None:
    """Compiled code holds the functions that it calls; copies with other times stay valid."""
    code = "import outer; found = outer.two(1); made = outer.two.dispatcher\n"
    code += "print(found, made._cache.kept, sum(made._cache_hits.values()))"
    command, found = [sys.executable, "-c", code], []
    (tmp_path / "outer.py").write_text(OUTER)
    for number in (1, 1, 2):
        (tmp_path / "inner.py").write_text(INNER.format(number))
        found.append(subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout)
    assert found == ["2 True 0\n", "2 True 1\n", "3 True 0\n"]
