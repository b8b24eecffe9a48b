"""One transcription in an empty home: no socket, no file but those it needs, and nothing left behind."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import soundfile

import asr
from tests.corpora import noise

PACKAGE = Path(asr.__file__).parent
SYSTEM = ("/usr", "/lib", "/lib64", "/etc", "/proc", "/sys", "/dev", sys.prefix, sys.base_prefix)

AUDITED = """
import sys

def note(event, details):
    writes = event == "open" and isinstance(details[0], str) and set(details[1] or "") & set("wax+")
    if writes or event.startswith("socket."):
        print(event, *map(str, details), file=sys.stderr)

sys.addaudithook(note)
from asr.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """Arguments for the model that ships, which prints one line."""
    (tmp_path / "home").mkdir()
    soundfile.write(tmp_path / "a.flac", noise(2.0, 0), 16_000)
    return ["transcribe", "--threads", "1", "--format", "txt", str(tmp_path / "a.flac")]


def environment(tmp_path: Path) -> dict[str, str]:
    """As a user has it: by its source, ONNX Runtime reports nothing where CI is set."""
    left_out = ("CI", "ORT_DISABLE_TELEMETRY", "XDG_CACHE_HOME", "PYTHONPYCACHEPREFIX")
    own = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path), "PYTHONPATH": str(PACKAGE.parent)}
    return {key: value for key, value in os.environ.items() if key not in left_out} | own


def run(command: list[str], tmp_path: Path) -> str:
    """Run a command where nothing is left of it but the text; return its standard error."""
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert {p.name for p in tmp_path.iterdir()} - {"trace"} == {"home", "a.flac", "a.txt"}
    assert {p.relative_to(tmp_path / "home").parts[:2] for p in (tmp_path / "home").rglob("*.*")} <= {
        (".cache", "numba")
    }
    return done.stderr


def test_as_python_sees_it(command: list[str], tmp_path: Path) -> None:
    events = run([sys.executable, "-c", AUDITED, *command], tmp_path)
    caches = [str(PACKAGE), str(tmp_path), os.environ.get("NUMBA_CACHE_DIR", str(PACKAGE))]
    for line in events.splitlines():
        assert line.startswith("open ") and any(place in line for place in (*caches, os.devnull))


@pytest.mark.skipif(shutil.which("strace") is None, reason="no strace")
def test_as_the_kernel_sees_it(command: list[str], tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    strace = ["strace", "-f", "-qq", "-e", "trace=network,open,openat,creat", "-o", str(trace)]
    if subprocess.run([*strace, "true"], capture_output=True).returncode:
        pytest.skip("strace may not trace here")
    assert run([*strace, sys.executable, "-m", "asr.cli", *command], tmp_path) == ""
    cache = os.environ.get("NUMBA_CACHE_DIR", str(PACKAGE))
    own = (str(PACKAGE.parent), str(tmp_path), cache, sysconfig.get_paths()["purelib"])
    for line in trace.read_text(errors="replace").splitlines():
        assert not re.search(r"\b(socket|connect|sendto|sendmsg|sendmmsg|bind)\(", line), line
        opened = re.search(r'"((?:[^"\\]|\\.)*)", ([A-Z_|]+).*= \d+$', line)
        if opened:
            path = str((tmp_path / opened[1]).resolve())
            writes = re.search("WRONLY|RDWR|CREAT", opened[2]) and path != os.devnull
            assert path.startswith((str(tmp_path), str(PACKAGE), cache) if writes else (*own, *SYSTEM)), line
