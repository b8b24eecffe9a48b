"""Small corpora of noise."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import soundfile

from asr.manifest import Utterance


def noise(seconds: float, seed: int, rate: int = 16_000) -> np.ndarray:
    """Generate noise modulated at 4 Hz, like speech."""
    samples = int(seconds * rate)
    swell = 0.5 - 0.5 * np.cos(2 * np.pi * 4 * np.arange(samples) / rate)
    return (0.3 * swell * np.random.default_rng(seed).uniform(-1, 1, samples)).astype(np.float32)


def record(path: Path, seconds: float, seed: int = 0, rate: int = 16_000) -> Path:
    """Write noise in the format given by the suffix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    kinds = {".opus": ("OGG", "OPUS"), ".aif": ("AIFF", "PCM_16")}
    kind, subtype = kinds.get(path.suffix, (None, None))
    soundfile.write(path, noise(seconds, seed, rate), rate, format=kind, subtype=subtype)
    return path


def utterances(folder: Path, count: int, seconds: float = 1.0, text: str = "SO IT IS") -> list[Utterance]:
    """Record u00.flac, u01.flac and so on."""
    paths = [record(folder / f"u{i:02}.flac", seconds, i) for i in range(count)]
    return [Utterance(path.stem, path, seconds, text, "someone") for path in paths]


def librispeech(folder: Path, texts: Mapping[str, str], seconds: float = 1.0) -> Path:
    """Write a subset in LibriSpeech's layout, one utterance per id; return its folder."""
    for number, (name, text) in enumerate(texts.items()):
        speaker, chapter, _ = name.split("-")
        path = record(folder / speaker / chapter / f"{name}.flac", seconds, number)
        with (path.parent / f"{speaker}-{chapter}.trans.txt").open("a") as file:
            file.write(f"{name} {text}\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    """Return name -> bytes of all files in a folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def times(folder: Path) -> dict[str, int]:
    """Return name -> modification time of all files in a folder."""
    return {path.name: path.stat().st_mtime_ns for path in folder.iterdir() if path.is_file()}
