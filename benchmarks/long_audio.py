"""Does a long recording lose anything, and what memory does it take?

    python -m benchmarks.long_audio --model BUNDLE --manifest MANIFEST [--hours 3] [--json]

Utterances of one chapter (LibriSpeech's ids: speaker-chapter-number) are laid end to end to recordings of one
to three minutes. The word error rate of these is compared with that of the same utterances one by one, whose
texts are put together first, so that both are scored in the same way; greedily, and as the bundle says if it
has a language model. Then all utterances, again and again, make one file of --hours, which `asr transcribe`
reads in a process of its own: its speed and peak memory.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from asr import audio, manifest
from asr.inference.decoder import LoadOptions
from asr.inference.transcriber import load_model
from asr.model.bundle import LM
from asr.scoring.wer import score, total
from benchmarks.process import run

if TYPE_CHECKING:
    from asr.manifest import Utterance

LEAST, MOST = 60.0, 180.0
"""Seconds of a recording."""


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, default=Path("exp/characters/bundle"))
    parser.add_argument("--manifest", type=Path, default=Path("data/librispeech/dev-excerpt/manifest.jsonl"))
    parser.add_argument("--hours", type=float, default=3.0, help="0 for none")
    parser.add_argument("--threads", default="2", help="of the command on the long file")
    parser.add_argument("--seed", type=int, default=0, help="of the recordings' lengths")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    utterances = manifest.read(arguments.manifest)
    recordings = list(joined(utterances, arguments.seed))
    if not recordings:
        raise SystemExit(f"{arguments.manifest}: no chapter of a minute; ids are speaker-chapter-number")
    seconds = [sum(u.duration for u in recording) for recording in recordings]
    result: dict[str, Any] = {
        "recordings": len(recordings),
        "shortest": min(seconds),
        "longest": max(seconds),
    }
    result["greedy"] = compare(arguments.model, recordings, LoadOptions(greedy=True))
    if (arguments.model / LM).exists():
        result["with_lm"] = compare(arguments.model, recordings, LoadOptions())
    if arguments.hours:
        result["long"] = long_file(arguments.model, utterances, arguments.hours, arguments.threads)
    print(json.dumps(result, indent=1) if arguments.json else table(result))


def joined(utterances: "list[Utterance]", seed: int) -> "Iterator[list[Utterance]]":
    """Neighbours within a chapter, LEAST to MOST seconds at a time; what is left of a chapter is left out."""
    random = np.random.default_rng(seed)
    chapters: dict[str, list[Utterance]] = {}
    for utterance in sorted(utterances, key=lambda u: u.id):
        chapters.setdefault(utterance.id.rsplit("-", 1)[0], []).append(utterance)
    for chapter in chapters.values():
        group: list[Utterance] = []
        wanted = random.uniform(LEAST, MOST - 35)  # no utterance is longer than 35 s
        for utterance in chapter:
            group.append(utterance)
            if sum(u.duration for u in group) >= wanted:
                yield group
                group, wanted = [], random.uniform(LEAST, MOST - 35)


def compare(bundle: Path, recordings: "list[list[Utterance]]", options: LoadOptions) -> dict[str, float]:
    """WER, deletions and insertions in % of the recordings as a whole, and of their utterances one by one."""
    model = load_model(bundle, decoding=options)
    result = {}
    for way in ("one_by_one", "whole"):
        counts = []
        for recording in recordings:
            waveforms = [audio.read(u.audio_filepath) for u in recording]
            pieces = waveforms if way == "one_by_one" else [np.concatenate(waveforms)]
            text = " ".join(transcript.text for transcript in model.transcribe_batch(pieces))
            counts.append(score(recording[0].id, " ".join(u.text for u in recording), text).words)
        words = total(counts)
        result[way] = 100 * words.rate
        result[f"{way}_deletions"] = 100 * words.deletions / words.length
        result[f"{way}_insertions"] = 100 * words.insertions / words.length
    return {**result, "difference": result["whole"] - result["one_by_one"]}


def long_file(bundle: Path, utterances: "list[Utterance]", hours: float, threads: str) -> dict[str, float]:
    """Speed and peak memory of the command on one long FLAC file."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "long.flac"
        with soundfile.SoundFile(path, "w", samplerate=16_000, channels=1) as file:
            while file.frames < hours * 3600 * 16_000:
                for utterance in utterances:
                    file.write(audio.read(utterance.audio_filepath))
                file.flush()
            seconds = file.frames / 16_000
        command = ["transcribe", str(path), "--model", str(bundle), "--threads", threads]
        done = run([sys.executable, "-m", "asr.cli", *command, "--format", "all", "--out", name])
    return {"hours": seconds / 3600, "xrt": seconds / done.seconds, "rss_mib": done.peak_mib}


def table(result: dict[str, Any]) -> str:
    """The result as lines of text."""
    lines = [f"{result['recordings']} recordings of {result['shortest']:.0f} to {result['longest']:.0f} s"]
    for key in ("greedy", "with_lm"):
        if key in result:
            row = result[key]
            lines.append(
                f"{key:8} WER one by one {row['one_by_one']:.2f} %, whole {row['whole']:.2f} %, "
                f"difference {row['difference']:+.2f} points; deletions "
                f"{row['one_by_one_deletions']:.2f} and {row['whole_deletions']:.2f} %, insertions "
                f"{row['one_by_one_insertions']:.2f} and {row['whole_insertions']:.2f} %"
            )
    if "long" in result:
        row = result["long"]
        lines.append(
            f"{row['hours']:.2f} hours: {row['xrt']:.0f} x real time, peak memory {row['rss_mib']:.0f} MiB"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
