"""Noise for speech: white, the babble of other speakers, recordings; and how it is mixed in.

The signal-to-noise ratio is that of mean powers over the whole utterance, pauses included, in decibels, as of
torchaudio.functional.add_noise; but of powers about the mean, as a constant offset is no sound.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from asr import audio
from asr.audio import SAMPLE_RATE
from asr.errors import AsrError, AudioError, UsageError
from asr.inference.inputs import find_recordings
from asr.manifest import Utterance

Noise = Callable[[Utterance, int, np.random.Generator], np.ndarray]
"""Makes `float32[samples]` of noise, at any level, for an utterance, by no other chance than that of the
generator. Raises AudioError."""

TALKERS = 6
"""Utterances that make up babble."""

SILENT = 1e-12
"""Mean power below this is silence: -120 dB of full scale, where rounding to 16 bits has -101 dB."""


def find_noise(name: str, utterances: Sequence[Utterance]) -> Noise:
    """Noise by its name: white, babble (of `utterances`), or a folder of recordings.

    Raises AsrError where that is neither, or has nothing to make noise of.
    """
    if name == "white":
        return white
    if name == "babble":
        return Babble(utterances)
    if not Path(name).is_dir():
        raise UsageError(f"--noise {name}: neither white, nor babble, nor a folder of recordings")
    return Recorded(Path(name))


def power(samples: np.ndarray) -> float:
    """Mean power of `[samples]` about their mean; 0 of none."""
    return float(np.var(samples, dtype=np.float64)) if len(samples) else 0.0


def mix(speech: np.ndarray, noise: np.ndarray, snr: float, name: str = "audio") -> np.ndarray:
    """Add `noise` to `speech`, both `float32[samples]`, `snr` dB below it -> `float32[samples]`.

    The speech keeps its level, so the sum may leave [-1, 1]. Raises AudioError where either is silent.
    """
    powers = power(speech), power(noise)
    for what, found in zip(("recording", "noise for it"), powers, strict=True):
        if found < SILENT:
            raise AudioError(f"{name}: the {what} is silent, so no signal-to-noise ratio can be had")
    gain = np.sqrt(powers[0] / powers[1]) * 10 ** (-snr / 20)
    mixed: np.ndarray = speech + np.float32(gain) * (noise - noise.mean(dtype=np.float64).astype(np.float32))
    return mixed


def white(utterance: Utterance, samples: int, random: np.random.Generator) -> np.ndarray:
    """Gaussian noise, as loud at all frequencies."""
    return random.standard_normal(samples, dtype=np.float32)


class Babble:
    """The sum of TALKERS other utterances at equal power, each from anywhere in it on, and looped.

    Other speakers' only, where there are any; what is silent or cannot be read is passed over. Raises
    AsrError where there is no other utterance.
    """

    def __init__(self, utterances: Sequence[Utterance]) -> None:
        if len(utterances) < 2:
            raise AsrError("--noise babble: needs two utterances at least; take white, or more of them")
        self._utterances = sorted(utterances, key=lambda u: u.id)  # so that their order does not matter

    def others(self, utterance: Utterance) -> list[Utterance]:
        """Who may talk over an utterance."""
        others = [u for u in self._utterances if u.id != utterance.id]
        strangers = [u for u in others if u.speaker != utterance.speaker]
        return strangers if strangers and utterance.speaker is not None else others

    def __call__(self, utterance: Utterance, samples: int, random: np.random.Generator) -> np.ndarray:
        """See Noise."""
        others = self.others(utterance)
        total, talkers = np.zeros(samples, dtype=np.float32), 0
        for place in random.permutation(len(others)):
            try:
                voice = audio.read(others[place].audio_filepath)
            except AudioError:
                continue  # evaluation names it where its own turn comes
            voice = np.resize(np.roll(voice, -int(random.integers(max(1, len(voice))))), samples)
            if (loudness := power(voice)) >= SILENT:
                total += (voice - voice.mean()) / np.float32(np.sqrt(loudness))
                talkers += 1
            if talkers == TALKERS:
                break
        return total


class Recorded:
    """A random stretch of one of a folder's recordings, looped where that is too short.

    Raises AsrError where there is none, or one of them is no recording.
    """

    def __init__(self, folder: Path) -> None:
        recordings, errors = find_recordings([str(folder.absolute())])
        if errors:
            raise errors[0]
        self._paths = [recording.path for recording in recordings]
        for path in self._paths:
            audio.stated_duration(path)  # opens it: better now than in the midst of the work

    def __call__(self, utterance: Utterance, samples: int, random: np.random.Generator) -> np.ndarray:
        """See Noise."""
        path = self._paths[random.integers(len(self._paths))]
        spare = int(audio.duration(path) * SAMPLE_RATE) - samples
        start = int(random.integers(max(0, spare) + 1))
        stretch = _stretch(path, start, samples)
        if power(stretch) < SILENT:
            raise AudioError(f"{path}: silent from {start / SAMPLE_RATE:.1f} s on; take it out of the noise")
        return np.resize(stretch, samples)


def _stretch(path: Path, start: int, samples: int) -> np.ndarray:
    """`float32[at most samples]` of a recording from a sample on; no more of it is held in memory."""
    parts: list[np.ndarray] = [np.zeros(0, np.float32)]
    seen = 0
    for block in audio.stream(path):
        parts.append(block[max(0, start - seen) : max(0, start + samples - seen), 0].copy())
        seen += len(block)
        if seen >= start + samples:
            break
    return np.concatenate(parts)
