"""A prepared corpus that a tiny model can learn: each letter is a chord of its own."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

from asr.manifest import Utterance
from asr.prepare import prepare_part

WORDS = ("BE", "SO", "IT", "NO")
_LETTERS = sorted(set("".join(WORDS)))


def sing(text: str, generator: np.random.Generator) -> np.ndarray:
    """0.2 s a letter: a tone of its own; spaces are near silence."""
    time = np.arange(3200) / 16_000
    parts = []
    for letter in text:
        level = 0.0 if letter == " " else 0.3
        pitch = 0.0 if letter == " " else 300.0 * 1.45 ** _LETTERS.index(letter)
        parts.append(level * np.hanning(3200) * np.sin(2 * np.pi * pitch * time))
    samples = np.concatenate(parts)
    return (samples + 0.003 * generator.standard_normal(len(samples))).astype(np.float32)


def make_corpus(
    folder: Path, count: int = 8, seed: int = 0, speeds: Sequence[float] = (), words: int = 3
) -> Path:
    """Prepare `count` utterances of one to `words` words in `folder`."""
    generator = np.random.default_rng(seed)
    audio = folder / "audio"
    audio.mkdir(parents=True)
    utterances = []
    for number in range(count):
        text = " ".join(generator.choice(WORDS, size=1 + number % words))
        path = audio / f"{folder.name}-{number:02}.flac"
        samples = sing(text, generator)
        soundfile.write(path, samples, 16_000)
        utterances.append(Utterance(path.stem, path, len(samples) / 16_000, text, f"speaker{number % 2}"))
    assert not prepare_part(folder, utterances, speeds=speeds)
    return folder
