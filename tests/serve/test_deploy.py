"""The steps of the Dockerfile and the unit in docs/, without Docker and systemd."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.serve.conftest import ROUTE, TEXT, recording

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
UNIT = (ROOT / "docs" / "asr.service").read_text()
# Only /tmp can be written, and holds the bundle alone.
READ_ONLY = """
set -e
mount -t tmpfs tmp /mnt
cp -r "$1" /mnt/bundle && chmod -R a+rX /mnt && chmod 1777 /mnt
mount --move /mnt /tmp
mount -o remount,bind,ro /
shift; exec "$@"
"""
STRANGER = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"]


def test_the_image_is_made_for_the_server() -> None:
    assert re.search(r"^FROM python:3\.\d+-slim$", DOCKERFILE, re.MULTILINE)
    for needed in ("USER 10001", "HEALTHCHECK", "/health", "[serve]", "asr warm-up", "NUMBA_CACHE_DIR"):
        assert needed in DOCKERFILE
    sent = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    assert {"pyproject.toml", "asr", "data_prep", "constraints.txt"} <= set(sent)
    assert all((ROOT / name).exists() for name in sent)


def test_commands_of_image_and_unit_are_understood() -> None:
    entry = re.search(r"ENTRYPOINT \[(.*)\]", DOCKERFILE)
    exec_ = re.search(r"ExecStart=\S+/asr (.*)", UNIT)
    assert entry and exec_
    for arguments in (re.findall(r'"([^"]*)"', entry[1])[1:], exec_[1].split()):
        command = [sys.executable, "-m", "asr.cli", *arguments, "--help"]
        assert subprocess.run(command, capture_output=True, timeout=60).returncode == 0
    refused = subprocess.run(
        [sys.executable, "-m", "asr.cli", *re.findall(r'"([^"]*)"', entry[1])[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        env={key: value for key, value in os.environ.items() if key != "ASR_API_KEY"},
    )
    assert refused.returncode == 2 and "ASR_API_KEY" in refused.stderr


@pytest.fixture
def contained(standin_bundle: Path) -> Iterator[tuple[str, int]]:
    """Address and process of a server that can write to /tmp only, as a user without rights if possible."""
    inside = ["unshare", "-m", "bash", "-c", READ_ONLY, "-", str(standin_bundle)]
    if not shutil.which("unshare") or subprocess.run([*inside, "true"], capture_output=True).returncode:
        pytest.skip("no mount namespaces here")
    python = [*STRANGER, sys.executable]
    if subprocess.run([*python, "-c", ""], capture_output=True).returncode:
        python = [sys.executable]  # it lies where other users may not go
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from asr.cli import main; sys.exit(main())"
    arguments = ["-c", code, "serve", "--raw", "--model", "/tmp/bundle", "--port", "0", "--threads", "1"]
    environment = {"PATH": os.environ["PATH"], "ASR_API_KEY": "secret", "HOME": "/nonexistent"}
    with subprocess.Popen(
        [*inside, *python, *arguments], stderr=subprocess.PIPE, text=True, env=environment, cwd="/"
    ) as process:
        assert process.stderr
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                yield found[0], process.pid
                break
        else:
            pytest.fail("".join(lines))
        process.terminate()


def test_a_read_only_system(contained: tuple[str, int]) -> None:
    url, _ = contained
    end = time.monotonic() + 120
    while httpx2.get(f"{url}/health", timeout=30).status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.2)
    files = {"file": ("a.wav", recording())}
    assert httpx2.post(url + ROUTE, files=files, timeout=60).status_code == 401
    answer = httpx2.post(url + ROUTE, files=files, headers={"authorization": "Bearer secret"}, timeout=60)
    assert answer.json()["text"] == TEXT
