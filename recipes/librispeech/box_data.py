"""Prepare the data of box.sh: features at three speeds, the accented split and the noise split.

    python -m recipes.librispeech.box_data CORPORA DATA

CORPORA holds LibriSpeech/{train-clean-5,train-extra,dev-excerpt}, other-english/manifest.jsonl,
accented-english/manifest.jsonl and noise/<class>/<fold>-*.flac (ESC-10). What it lacks is named, and the exit
status is 1; what is prepared already is not prepared again.

Run: the same splits and features, by hand, on two CPU cores. This script: on small synthetic corpora only.
"""

import json
import sys
from pathlib import Path

from asr.console import exit_code, print_error
from asr.errors import AsrError
from asr.files import atomic_write
from asr.prepare import Problem
from data_prep import folder, librispeech

SPEEDS = (0.9, 1.1)
PARTS = ("train-clean-5", "train-extra", "dev-excerpt")
HELD_OUT_FOLD = "5"
SAMPLING_PLUS = ("1-40730-A", "2-96460-A")  # this licence forbids some uses


def main(corpora: Path, data: Path) -> int:
    """Prepare everything; returns the exit status."""
    problems: list[Problem] = []
    tables = {"other-english": corpora / "other-english" / "manifest.jsonl"}
    missing = [path for path in (corpora / "LibriSpeech" / part for part in PARTS) if not path.is_dir()]
    parts = tuple(part for part in PARTS if corpora / "LibriSpeech" / part not in missing)
    if parts:
        tree = corpora / "LibriSpeech"
        problems += librispeech.prepare(
            librispeech.Options(out=data / "librispeech", subset=parts, corpus=tree, speeds=SPEEDS)
        )
    accented = corpora / "accented-english" / "manifest.jsonl"
    if accented.exists():
        tables |= split_speakers(accented, data)
    for name, table in tables.items():
        if table.exists():
            speeds = () if name.endswith("-dev") else SPEEDS
            problems += folder.prepare(folder.Options(folder=table, out=data / name, speeds=speeds))
    missing += [path for path in (*tables.values(), accented) if not path.exists()]
    if not split_noise(corpora / "noise", data):
        missing.append(corpora / "noise")
    for path in missing:
        print_error(f"{path}: missing; box.sh goes on without it with --allow-missing")
    return 1 if missing or any(problem.speed == 1.0 for problem in problems) else 0


def split_speakers(table: Path, data: Path) -> dict[str, Path]:
    """Write DATA/accented-{train,dev}.jsonl by the list of held-out speakers; returns both paths."""
    lines = Path(__file__).with_name("accented-dev.txt").read_text(encoding="utf-8").splitlines()
    held_out = {line for line in lines if not line.startswith("#")}
    rows = [json.loads(line) for line in table.read_text(encoding="utf-8").splitlines()]
    if not held_out & {row["speaker"] for row in rows}:
        raise AsrError(f"{table}: none of the held-out speakers (accented-dev.txt)")
    paths = {name: data / f"{name}.jsonl" for name in ("accented-train", "accented-dev")}
    for row in rows:
        row["audio_filepath"] = str(table.parent.resolve() / row["audio_filepath"])
    for name, path in paths.items():
        with atomic_write(path) as file:
            chosen = [row for row in rows if (row["speaker"] in held_out) == name.endswith("-dev")]
            file.writelines(f"{json.dumps(row)}\n" for row in chosen)
    return paths


def split_noise(noise: Path, data: Path) -> int:
    """Link the recordings in DATA/noise-{train,dev}; returns their number."""
    clips = [path for path in sorted(noise.glob("*/*.flac")) if path.stem not in SAMPLING_PLUS]
    for clip in clips:
        part = "noise-dev" if clip.name.startswith(HELD_OUT_FOLD) else "noise-train"
        link = data / part / f"{clip.parent.name}-{clip.name}"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(clip.resolve())
    return len(clips)


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(exit_code(lambda: main(Path(sys.argv[1]), Path(sys.argv[2]))))
