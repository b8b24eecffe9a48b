"""Run every command and every Python block of README.md, in order, in one folder.

`pip install` is covered by test_packaging.py; `make test` is what runs these tests.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import soundfile

from tests import corpora

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(sh|python)\n(.*?)```", README, re.DOTALL)
COMMANDS = [
    line.split("#")[0].strip()
    for kind, block in BLOCKS
    for line in (block.splitlines() if kind == "sh" else [])
    if line.split("#")[0].strip()
]
# Options that keep a run short. Nothing is downloaded: a small tree stands in for LibriSpeech.
SHORT = (
    "--trainer.max_epochs=1 --trainer.limit_train_batches=2 --trainer.limit_val_batches=1 "
    "--trainer.devices=1 --model.architecture.hidden=16"
)
ADDITIONS = {
    "asr train recipes": f" {SHORT}",
    "asr prepare librispeech": " --corpus tree",
    "make demo": f" STAMP= ASR=asr DEMO_FLAGS='{SHORT}'",
}
NOT_HERE = ("make test", "pip install")  # the run that this test is part of; test_packaging.py


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder like a fresh clone, with the files that the README's commands refer to."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("recipes", "Makefile", "asr", "data_prep"):
        (folder / name).symlink_to(ROOT / name)
    text = {f"84-121-000{i}": "SO IT IS" for i in range(4)}
    for subset in ("train-clean-5", "dev-clean-2"):
        corpora.librispeech(folder / "tree" / "LibriSpeech" / subset, text, seconds=2.0)
    for i in range(4):
        corpora.record(folder / "recordings" / f"{i}.flac", 2.0, i).with_suffix(".txt").write_text(
            "So it is."
        )
    (folder / "text.txt").write_text("ONE TWO THREE\nSEVEN SEVEN ONE\nTWO FOUR\n", encoding="utf-8")
    soundfile.write(folder / "talk.flac", corpora.noise(1.5, 9), 16_000)
    return folder


def run(command: str | list[str], place: Path) -> "subprocess.CompletedProcess[str]":
    env = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    shell = isinstance(command, str)
    return subprocess.run(
        command, shell=shell, cwd=place, env=env, capture_output=True, text=True, timeout=280
    )


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith(NOT_HERE)])
def test_command(command: str, place: Path) -> None:
    if command.startswith("asr train recipes/digits/digits.yaml") and "mine" not in command:
        shutil.rmtree(place / "exp" / "digits", ignore_errors=True)  # made by `make demo`
    added = next((text for start, text in ADDITIONS.items() if command.startswith(start)), "")
    process = run(command + added, place)
    assert process.returncode == 0, process.stderr[-2000:]
    if "--out texts" in command:
        assert sorted(path.name for path in (place / "texts").iterdir()) == [f"{i}.txt" for i in range(4)]
    elif "--format" in command:
        assert all((place / "recordings" / f"{i}.srt").exists() for i in range(4))
    else:
        assert process.stdout + process.stderr


@pytest.mark.parametrize("block", [block for kind, block in BLOCKS if kind == "python"])
def test_python(block: str, place: Path) -> None:
    process = run([sys.executable, "-c", block], place)
    assert process.returncode == 0, process.stderr[-2000:]


def test_the_readme_has_the_two_commands_and_all_blocks_are_found() -> None:
    assert {"make demo", "make test"} <= set(COMMANDS)
    assert len(COMMANDS) >= 30


def test_make_test_runs_the_whole_suite() -> None:
    lines = subprocess.run(
        ["make", "-n", "-C", str(ROOT), "test", "STAMP="], capture_output=True, text=True, check=True
    ).stdout
    assert ".venv/bin/python -m pytest\n" in lines


def test_the_file_tree_is_true() -> None:
    tree = README.split("## What is where")[1].split("```")[1]
    listed = {Path(name).name for name in re.findall(r"[\w{},/]+\.(?:py|yaml)", tree)}
    folders = ("asr", "data_prep", "benchmarks", "recipes")
    present = {path.name for folder in folders for path in (ROOT / folder).rglob("*.py")}
    assert {name for name in listed if name.endswith(".py")} == present | {"__init__.py"}
