"""A prepared corpus of noise, with the lengths of LibriSpeech's utterances."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from asr import manifest
from asr.features.logmel import LogMelConfig
from asr.features.store import Entry, Summary, shard_path, write_meta

# Of train-clean-5, a part of train-clean-100, in steps of 5 %: seconds.
QUANTILES = (
    *(1.87, 4.07, 6.32, 8.63, 10.0, 11.34, 12.26, 12.73, 13.21, 13.63, 13.92),
    *(14.21, 14.49, 14.7, 14.93, 15.17, 15.37, 15.53, 15.78, 16.05, 17.27),
)

CHARACTERS = 14.6
"""A second, in train-clean-5."""

_SHARD = 500
"""Utterances."""


def write_corpus(folder: Path, hours: float, seed: int = 0) -> None:
    """Write manifest and features of so many hours. The audio files that it names do not exist."""
    generator = np.random.default_rng(seed)
    config = LogMelConfig()
    utterances, entries, shards = [], [], {}
    folder.mkdir(parents=True)
    number, left = 0, hours * 3600
    while left > 0:
        durations = np.interp(generator.random(_SHARD), np.linspace(0, 1, len(QUANTILES)), QUANTILES)
        durations = durations[: int(np.searchsorted(durations.cumsum(), left)) + 1]
        left -= durations.sum()
        frames = (durations * 100).astype(int)
        starts = np.concatenate(([0], frames.cumsum()))
        for i, duration in enumerate(durations):
            id = f"noise-{number}-{i}"
            letters = generator.choice(list("ETAOIN SHRDLU"), int(duration * CHARACTERS))
            text = " ".join("".join(letters).split()) or "A"
            utterances.append(manifest.Utterance(id, folder / f"{id}.flac", float(duration), text))
            entries.append(Entry(id, 1.0, number, int(starts[i]), int(frames[i])))
        path = shard_path(folder, number)
        np.save(
            path, generator.standard_normal((int(starts[-1]), config.mels), np.float32).astype(np.float16)
        )
        shards[path.name] = path.stat().st_size
        number += 1
    manifest.write(folder / "manifest.jsonl", utterances)
    (folder / "index.jsonl").write_text("".join(json.dumps(asdict(e)) + "\n" for e in entries))
    count = sum(entry.frames for entry in entries)
    mean, std = [0.0] * config.mels, [1.0] * config.mels
    write_meta(folder, Summary(len(entries), count, mean, std, [1.0], shards))
