"""Evaluation under noise, at other speaking rates, at other levels and between stretches of silence.

The altered audio of an utterance depends only on the seed, its id and the noise material: not on the order
of utterances, on other conditions, batches or threads. At every SNR an utterance gets the same noise, scaled.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np

from asr import audio
from asr.audio import SAMPLE_RATE
from asr.errors import AsrError, AudioError, UsageError
from asr.inference.inputs import find_recordings
from asr.inference.transcriber import TranscribeOptions, Transcriber, file_source
from asr.inference.transcription import Source
from asr.manifest import Utterance
from asr.scoring.evaluate import EvaluateOptions, Report, evaluate_utterances, normalized

Noise = Callable[[Utterance, int, np.random.Generator], np.ndarray]
"""(utterance, samples, generator) -> `float32[samples]` of noise at any level. Raises AudioError."""

TALKERS = 6  # utterances in babble noise
SILENT = 1e-12  # mean power below this is silence: -120 dB of full scale (16-bit rounding has -101 dB)
_LEAD, _TAIL = SAMPLE_RATE // 50, SAMPLE_RATE // 5  # silence that atempo may drop at the start and the end


@dataclass(frozen=True)
class Condition:
    """One alteration of the recordings; all fields at their defaults are clean speech.

    Attributes:
        snr: Noise at this SNR in dB.
        tempo: Speaking rate relative to the original.
        level: RMS level in dB of full scale, in 16-bit samples, or in floats where those would clip.
        silence: Seconds of digital silence before and after.
    """

    snr: float | None = None
    tempo: float = 1.0
    level: float | None = None
    silence: float = 0.0

    @property
    def changed(self) -> tuple[str, float] | None:
        """Name and value of the field that is not at its default, None for clean speech."""
        return next(((f.name, v) for f in fields(self) if (v := getattr(self, f.name)) != f.default), None)

    @property
    def name(self) -> str:
        """Label in tables: clean, SNR 20 dB, tempo 0.8, level -60 dBFS, silence 15 s."""
        kind, value = self.changed or ("clean", 0.0)
        return LABELS[kind].format(value)


LABELS = {
    "clean": "clean",
    "snr": "SNR {:g} dB",
    "tempo": "tempo {:g}",
    "level": "level {:g} dBFS",
    "silence": "silence {:g} s",
}
CLEAN = Condition()


def conditions(options: EvaluateOptions) -> list[Condition]:
    """Clean speech, then each alteration by itself, without duplicates."""
    altered = (Condition(**{kind: v}) for kind in list(LABELS)[1:] for v in getattr(options, kind))
    return list(dict.fromkeys([CLEAN, *altered]))


@dataclass(frozen=True)
class Robustness:
    """Report for each condition; `noise` is the name of the noise."""

    reports: dict[Condition, Report]
    noise: str
    seed: int

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single utterances."""
        rows = [{"condition": c.name, **asdict(c), **r.to_dict()} for c, r in self.reports.items()]
        return {"noise": self.noise, "seed": self.seed, "conditions": rows}

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)


def noise_for(options: EvaluateOptions, utterances: Sequence[Utterance]) -> Noise | None:
    """Find the noise before a model is loaded. Raises AsrError."""
    return find_noise(options.noise or "white", utterances) if options.snr else None


def evaluate_conditions(
    model: Transcriber,
    utterances: Sequence[Utterance],
    options: EvaluateOptions,
    noise: Noise | None = None,
    progress: bool = False,
    transcribing: TranscribeOptions = TranscribeOptions(),
) -> Robustness:
    """Evaluate a model under each condition of `options`, with `noise` from `noise_for`."""
    if options.normalize:
        utterances = normalized(utterances, model.decoder.characters)
    reports = {}
    for condition in conditions(options):
        source_of = partial(apply_condition, condition=condition, noise=noise, seed=options.seed)
        found = evaluate_utterances(model, utterances, source_of, progress, condition.name, transcribing)
        reports[condition] = replace(found, normalized=options.normalize)
    return Robustness(reports, options.noise or "white", options.seed)


def apply_condition(
    utterance: Utterance, condition: Condition, noise: Noise | None = None, seed: int = 0
) -> Source:
    """Source of the altered utterance, which is read as a whole when its blocks are.

    Reading may raise AudioError, also if noise is asked for and the recording is silent.
    """
    recording = file_source(utterance.audio_filepath, options=utterance.part)

    def altered() -> Iterator[np.ndarray]:
        samples = np.concatenate([block[:, 0] for block in recording.blocks])
        if condition.tempo != 1:
            samples = change_tempo(samples, condition.tempo)
        if condition.snr is not None:
            if noise is None:
                raise AudioError(f"{recording.name}: no noise is given for {condition.name}")
            digest = hashlib.sha256(utterance.id.encode("utf-8", "surrogatepass")).digest()
            random = np.random.default_rng([seed, int.from_bytes(digest[:16], "big")])
            samples = mix(samples, noise(utterance, len(samples), random), condition.snr, recording.name)
        if condition.level is not None:
            samples = set_level(samples, condition.level, recording.name)
        yield np.pad(samples, round(condition.silence * SAMPLE_RATE))[:, None]

    return recording if condition == CLEAN else Source(altered(), recording.name)


def find_noise(name: str, utterances: Sequence[Utterance]) -> Noise:
    """Noise by name: white, babble (from `utterances`), or a folder of recordings. Raises AsrError."""
    if name == "white":
        return white
    if name == "babble":
        return babble(utterances)
    if not Path(name).is_dir():
        raise UsageError(f"--noise {name}: neither white, nor babble, nor a folder of recordings")
    return recorded(Path(name))


def power(samples: np.ndarray) -> float:
    """Mean power of `[samples]` about their mean; 0 if empty."""
    return float(np.var(samples, dtype=np.float64)) if len(samples) else 0.0


def mix(speech: np.ndarray, noise: np.ndarray, snr: float, name: str = "audio") -> np.ndarray:
    """Add noise to speech at `snr` dB; all `float32[samples]`.

    The SNR is the ratio of mean powers over the whole utterance, pauses included, without constant offsets.
    The speech keeps its level, so the sum may leave [-1, 1]. Raises AudioError if either is silent.
    """
    powers = power(speech), power(noise)
    for kind, found in zip(("recording", "noise for it"), powers, strict=True):
        if found < SILENT:
            raise AudioError(f"{name}: the {kind} is silent, so the signal-to-noise ratio is undefined")
    gain = np.float32(np.sqrt(powers[0] / powers[1]) * 10 ** (-snr / 20))
    mixed: np.ndarray = speech + gain * (noise - noise.mean(dtype=np.float64).astype(np.float32))
    return mixed


def set_level(samples: np.ndarray, level: float, name: str = "audio") -> np.ndarray:
    """Scale `float32[samples]` to an RMS level in dB of full scale, in 16 bits unless that would clip.

    Raises AudioError if they are silent.
    """
    if (found := power(samples)) < SILENT:
        raise AudioError(f"{name}: the recording is silent, so its level cannot be set")
    scaled = samples * np.float32(10 ** (level / 20) / np.sqrt(found))
    if np.abs(scaled).max() >= 1:
        return scaled
    rounded: np.ndarray = np.round(scaled * 32_768) / np.float32(32_768)
    return rounded


def white(utterance: Utterance, samples: int, random: np.random.Generator) -> np.ndarray:
    """White Gaussian noise."""
    return random.standard_normal(samples, dtype=np.float32)


def babble(utterances: Sequence[Utterance]) -> Noise:
    """Sum of TALKERS other utterances at equal power, each looped from a random start.

    Utterances of other speakers are preferred; silent and unreadable ones are skipped. Raises AsrError if
    there is no other utterance.
    """
    if len(utterances) < 2:
        raise AsrError("--noise babble: needs at least two utterances; use white noise or more of them")
    everyone = sorted(utterances, key=lambda u: u.id)  # makes the result independent of order

    def noise(utterance: Utterance, samples: int, random: np.random.Generator) -> np.ndarray:
        others = [u for u in everyone if u.id != utterance.id]
        if utterance.speaker is not None:
            others = [u for u in others if u.speaker != utterance.speaker] or others
        total, talkers = np.zeros(samples, dtype=np.float32), 0
        for index in random.permutation(len(others)):
            try:
                voice = audio.read(others[index].audio_filepath, options=others[index].part)
            except AudioError:
                continue  # evaluation reports it as that utterance's own problem
            voice = np.resize(np.roll(voice, -int(random.integers(max(1, len(voice))))), samples)
            if (loudness := power(voice)) >= SILENT:
                total += (voice - voice.mean()) / np.float32(np.sqrt(loudness))
                talkers += 1
            if talkers == TALKERS:
                break
        return total

    return noise


def recorded(folder: Path) -> Noise:
    """Random excerpt of a random recording in a folder, looped if too short. Raises AsrError."""
    recordings, errors = find_recordings([str(folder.absolute())])
    if errors:
        raise errors[0]
    for recording in recordings:
        audio.stated_duration(recording.path)  # opens it, so that errors come before the work

    def noise(utterance: Utterance, samples: int, random: np.random.Generator) -> np.ndarray:
        path = recordings[random.integers(len(recordings))].path
        spare = int(audio.duration(path) * SAMPLE_RATE) - samples
        start = int(random.integers(max(0, spare) + 1))
        excerpt = _excerpt(path, start, samples)
        if power(excerpt) < SILENT:
            raise AudioError(f"{path}: silent from {start / SAMPLE_RATE:.1f} s on; remove it from the noise")
        return np.resize(excerpt, samples)

    return noise


def _excerpt(path: Path, start: int, samples: int) -> np.ndarray:
    """At most `samples` samples from `start` on, without holding the rest of the recording in memory."""
    parts: list[np.ndarray] = [np.zeros(0, np.float32)]
    seen = 0
    for block in audio.stream(path):
        parts.append(block[max(0, start - seen) : max(0, start + samples - seen), 0].copy())
        seen += len(block)
        if seen >= start + samples:
            break
    return np.concatenate(parts)


def change_tempo(samples: np.ndarray, tempo: float) -> np.ndarray:
    """Change the speaking rate but not the pitch, by FFmpeg's `atempo` (WSOLA; Verhelst & Roelands 1993).

    `float32[samples]` at 16 kHz -> `float32[round(samples / tempo)]`, for a tempo from 0.5 to 2.
    """
    graph = av.filter.Graph()
    time_base = Fraction(1, SAMPLE_RATE)
    source = graph.add_abuffer(sample_rate=SAMPLE_RATE, format="flt", layout="mono", time_base=time_base)
    graph.link_nodes(source, graph.add("atempo", str(tempo)), graph.add("abuffersink")).configure()
    padded = np.pad(samples.astype(np.float32, copy=False), (_LEAD, _TAIL))
    frame = av.AudioFrame.from_ndarray(padded[None], format="flt", layout="mono")
    frame.sample_rate = SAMPLE_RATE
    graph.push(frame)
    graph.push(None)
    parts: list[np.ndarray] = []
    with suppress(av.BlockingIOError, av.EOFError):
        while True:
            parts.append(graph.pull().to_ndarray()[0])
    changed: np.ndarray = np.concatenate(parts)[: round(len(samples) / tempo)]
    return changed
