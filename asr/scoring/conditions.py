"""Utterances under conditions: with noise, or at another tempo.

What is made of an utterance depends on nothing but the seed, its id, and what the noise is made of: not on
the order, the other conditions, batches or threads. At all signal-to-noise ratios an utterance has the same
noise, louder or quieter.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from asr.errors import AudioError
from asr.inference.pipeline import Source
from asr.manifest import Utterance
from asr.scoring.evaluate import recording_of
from asr.scoring.noise import Noise, mix
from asr.scoring.tempo import change_tempo


@dataclass(frozen=True)
class Condition:
    """Noise at a signal-to-noise ratio in dB, or none; and how many times as fast as spoken."""

    snr: float | None = None
    tempo: float = 1.0

    @property
    def name(self) -> str:
        """As in tables: clean, SNR 20 dB, tempo 0.8."""
        if self.snr is not None:
            return f"SNR {self.snr:g} dB"
        return "clean" if self.tempo == 1 else f"tempo {self.tempo:g}"


CLEAN = Condition()


def conditions(snrs: Sequence[float] = (), tempos: Sequence[float] = ()) -> list[Condition]:
    """Clean, each signal-to-noise ratio, each tempo without noise; each once."""
    noisy, paced = (Condition(snr=snr) for snr in snrs), (Condition(tempo=tempo) for tempo in tempos)
    return list(dict.fromkeys([CLEAN, *noisy, *paced]))


def apply_condition(
    utterance: Utterance, condition: Condition, noise: Noise | None = None, seed: int = 0
) -> Source:
    """The utterance under a condition; it is read, whole, when its blocks are.

    That may raise AudioError, also where the recording is silent and noise is asked for.
    """
    recording = recording_of(utterance)
    if condition == CLEAN:
        return recording
    return Source(_altered(recording, utterance, condition, noise, seed), recording.name)


def _altered(
    recording: Source, utterance: Utterance, condition: Condition, noise: Noise | None, seed: int
) -> Iterator[np.ndarray]:
    samples = np.concatenate([block[:, 0] for block in recording.blocks])
    if condition.tempo != 1:
        samples = change_tempo(samples, condition.tempo)
    if condition.snr is not None:
        if noise is None:
            raise AudioError(f"{recording.name}: no noise is given for {condition.name}")
        random = _random(seed, utterance.id)
        samples = mix(samples, noise(utterance, len(samples), random), condition.snr, recording.name)
    yield samples[:, None]


def _random(seed: int, id: str) -> np.random.Generator:
    digest = hashlib.sha256(id.encode("utf-8", "surrogatepass")).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:16], "big")])
