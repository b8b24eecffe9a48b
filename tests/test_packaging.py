"""Wheel and editable install contain both packages with their data and work outside the checkout."""

import os
import re
import shutil
import site
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests.standin import speak, write_bundle

ROOT = Path(__file__).parent.parent
PACKAGES = ("asr", "data_prep")

# -S hides an asr installed in site-packages; the dependencies there are added as a plain path.
RUN = """
import site, sys
install, dependencies, *arguments = sys.argv[1:]
site.addsitedir(install)
sys.path += dependencies.split(":")
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Copy the sources, so that nothing is built in the checkout and nothing stale is packaged."""
    folder = tmp_path_factory.mktemp("source")
    for name in PACKAGES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    return folder


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--no-build-isolation", "-w", folder, source)
    (wheel,) = folder.glob("asr-*.whl")
    return wheel


@pytest.fixture(scope="module", params=["wheel", "editable"])
def installed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the wheel, or with the files of an editable install."""
    folder = tmp_path_factory.mktemp("installed")
    if request.param == "wheel":
        what: list[str | Path] = [request.getfixturevalue("wheel")]
    else:
        what = ["--no-build-isolation", "-e", request.getfixturevalue("source")]
    pip("install", "--no-deps", "--no-index", "--target", folder, *what)
    return folder


def run(installed: Path, folder: Path, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    dependencies = os.pathsep.join(site.getsitepackages())
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return subprocess.run(
        [sys.executable, "-S", "-c", RUN + code, str(installed), dependencies, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_contents_of_the_wheel(wheel: Path, tmp_path: Path) -> None:
    assert wheel.stat().st_size < 35e6
    shutil.unpack_archive(wheel, tmp_path, "zip")
    information = wheel.name.removesuffix("-py3-none-any.whl") + ".dist-info"
    assert {path.name for path in tmp_path.iterdir()} == {*PACKAGES, information}
    for package, *folders in (("asr", "box", "formatting/data", "serve/page"), ("data_prep", "data")):
        code = (path for kind in ("*.py", "*.npz") for path in (ROOT / package).rglob(kind))
        files = {str(path.relative_to(ROOT)) for path in code}
        data = (path for folder in folders for path in (ROOT / package / folder).iterdir())
        files |= {str(path.relative_to(ROOT)) for path in data}
        packaged = (path for path in (tmp_path / package).rglob("*") if path.is_file())
        assert files == {str(path.relative_to(tmp_path)) for path in packaged}
    metadata = (tmp_path / information / "METADATA").read_text()
    base = re.findall(r"^Requires-Dist: (\w+)(?!.*extra)", metadata, re.M)
    assert "torch" not in base and len(set(base)) == 8


def test_transcribe_without_torch(installed: Path, tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle")
    soundfile.write(tmp_path / "talk.wav", speak("SO IT IS"), 16_000)
    code = "sys.modules['torch'] = None; from asr.cli import main; sys.exit(main(arguments))"
    done = run(installed, tmp_path, code, "transcribe", "--model", "bundle", "talk.wav")
    assert done.stdout.startswith("So it is"), done.stderr


def test_prepare_digits_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    code = "from data_prep import digits; digits.PARTS = ('dev',)\n"  # one part of three, to save time
    code += "from asr.cli import main; sys.exit(main(arguments))"
    done = run(installed, tmp_path, code, "prepare", "digits", "--jobs", "1")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert done.stderr.startswith("data/digits/dev: 120 utterances, ")
    assert (tmp_path / "data" / "digits" / "dev" / "meta.json").exists()
