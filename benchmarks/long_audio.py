"""Long recordings: WER against single utterances; speed and memory.

    python -m benchmarks.long_audio [--model box] [--manifest FILE] [--hours 3]

Utterances of a speaker, in the order of their ids, are concatenated to
recordings of one to three minutes (of several speakers if none has that much).
Their WER is compared with that of the same utterances transcribed one by one,
whose texts are concatenated before scoring: greedily (models of characters),
and with the bundle's language model if any. Then utterances are repeated to a
FLAC file of --hours, which `asr transcribe` reads in a process of its own.
"""

import tempfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import soundfile

from asr import audio
from asr.inference.decoder import LoadOptions
from asr.inference.transcriber import TranscribeOptions, load_model
from asr.model.bundle import LM, read_config
from benchmarks import (
    SAMPLE_RATE,
    add_corpus,
    asr_command,
    bundle_path,
    new_parser,
    read_utterances,
    run,
    show,
    word_counts,
)

if TYPE_CHECKING:
    from asr.manifest import Utterance

LEAST, MOST = 60.0, 180.0
"""Seconds of a recording."""


def main() -> None:
    """Parse, measure, print."""
    parser = new_parser(__doc__)
    add_corpus(parser)
    parser.add_argument("--hours", type=float, default=3.0, help="length of the long file; 0: none")
    parser.add_argument("--threads", default="2", help="for the long file")
    parser.add_argument("--seed", type=int, default=0, help="of the lengths")
    arguments = parser.parse_args()
    utterances = read_utterances(arguments.manifest, arguments.utterances)
    bundle = bundle_path(arguments.model)
    recordings = list(joined(utterances, arguments.seed)) or list(
        joined(utterances, arguments.seed, mix=True)
    )
    if not recordings:
        raise SystemExit(f"{arguments.manifest}: less than {MOST:.0f} s of speech; take a larger corpus")
    seconds = [sum(u.duration for u in recording) for recording in recordings]
    result: dict[str, Any] = {
        "recordings": len(recordings),
        "shortest": min(seconds),
        "longest": max(seconds),
    }
    if read_config(bundle).tokenizer.separator is not None:
        result["greedy"] = compare(bundle, recordings, LoadOptions(greedy=True))
    if (bundle / LM).exists():
        result["with LM"] = compare(bundle, recordings, LoadOptions())
    if arguments.hours:
        result["long"] = long_file(bundle, utterances, arguments.hours, arguments.threads)
    show(result, table(result), arguments.json)


def joined(utterances: "list[Utterance]", seed: int, mix: bool = False) -> "Iterator[list[Utterance]]":
    """Group neighbours into recordings of random length, of one speaker unless `mix`; drop what remains."""
    random = np.random.default_rng(seed)
    ordered = sorted(utterances, key=lambda u: (u.speaker or "", u.id))
    longest = max((u.duration for u in utterances), default=0.0)
    for _, of_speaker in groupby(ordered, key=lambda u: None if mix else u.speaker):
        group: list[Utterance] = []
        wanted = random.uniform(LEAST, MOST - longest)
        for utterance in of_speaker:
            group.append(utterance)
            if sum(u.duration for u in group) >= wanted:
                yield group
                group, wanted = [], random.uniform(LEAST, MOST - longest)


def compare(bundle: Path, recordings: "list[list[Utterance]]", options: LoadOptions) -> dict[str, float]:
    """WER, deletions and insertions in %, for whole recordings and for single utterances."""
    model = load_model(bundle, decoding=options)
    result = {}
    for way in ("single", "whole"):
        pairs = []
        for recording in recordings:
            waveforms = [audio.read(u.audio_filepath) for u in recording]
            pieces = waveforms if way == "single" else [np.concatenate(waveforms)]
            text = " ".join(
                transcript.text
                for transcript in model.transcribe_batch(pieces, options=TranscribeOptions(raw=True))
            )
            pairs.append((" ".join(u.text for u in recording), text))
        words = word_counts(pairs)
        result[way] = 100 * words.rate
        result[f"{way}_deletions"] = 100 * words.deletions / words.length
        result[f"{way}_insertions"] = 100 * words.insertions / words.length
    return {**result, "difference": result["whole"] - result["single"]}


def long_file(bundle: Path, utterances: "list[Utterance]", hours: float, threads: str) -> dict[str, float]:
    """Speed and peak memory of `asr transcribe` on one long FLAC file."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "long.flac"
        with soundfile.SoundFile(path, "w", samplerate=SAMPLE_RATE, channels=1) as file:
            while file.frames < hours * 3600 * SAMPLE_RATE:
                for utterance in utterances:
                    file.write(audio.read(utterance.audio_filepath))
                file.flush()
            seconds = file.frames / SAMPLE_RATE
        options = ["--model", str(bundle), "--threads", threads, "--format", "all", "--out", name]
        done = run(asr_command("transcribe", str(path), *options))
    return {"hours": seconds / 3600, "xrt": seconds / done.seconds, "peak_mib": done.peak_mib}


def table(result: dict[str, Any]) -> str:
    """Format the figures as lines of text."""
    lines = [f"{result['recordings']} recordings of {result['shortest']:.0f} to {result['longest']:.0f} s"]
    lines.append(f"{'':10}{'utterances':>24}{'whole recordings':>24}{'difference':>14}")
    lines.append(f"{'':10}" + 2 * f"{'WER %':>8}{'del %':>8}{'ins %':>8}" + f"{'points':>14}")
    for key in ("greedy", "with LM"):
        if row := result.get(key):
            ways = (
                row[way + part] for way in ("single", "whole") for part in ("", "_deletions", "_insertions")
            )
            lines.append(f"{key:10}" + "".join(f"{x:8.2f}" for x in ways) + f"{row['difference']:+14.2f}")
    if long := result.get("long"):
        figures = f"{long['xrt']:.0f} times real time, peak memory {long['peak_mib']:.0f} MiB"
        lines.append(f"{long['hours']:.2f} hours in one file: {figures}")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
