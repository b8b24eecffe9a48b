"""Word error rates of a torch model on clean, noisy and fast speech, by greedy decoding."""

import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from asr import audio, manifest
from asr.decoding.greedy import greedy
from asr.features.logmel import LogMel
from asr.frames import FrameGrid
from asr.manifest import Utterance
from asr.model.acoustic import AcousticModel
from asr.scoring import wer
from asr.scoring.conditions import Condition, mix
from asr.text import Tokenizer
from asr.training.augment import change_tempo

Speech = list[tuple[Utterance, np.ndarray]]
"""Utterances and their samples, `float32[N]` at 16 kHz."""


CONDITIONS = {
    "clean": Condition(),
    "20 dB": Condition(snr=20),
    "10 dB": Condition(snr=10),
    "5 dB": Condition(snr=5),
    "tempo 1.25": Condition(tempo=1.25),
}


def read_speech(folder: Path) -> Speech:
    """All of a prepared part."""
    utterances = manifest.read(folder / "manifest.jsonl")
    return [(utterance, audio.read(utterance.audio_filepath)) for utterance in utterances]


def add_noise(samples: np.ndarray, snr: float, name: str) -> np.ndarray:
    """White noise that depends on the utterance's name alone, so that all models hear the same."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return mix(samples, random.standard_normal(len(samples), dtype=np.float32), snr, name)


def features(name: str, samples: np.ndarray, condition: Condition) -> tuple[Tensor, Tensor]:
    """Log-mel `float32[1, T, F]` and length `int64[1]` of `float32[N]` samples at 16 kHz."""
    if condition.snr is not None:
        samples = add_noise(samples, condition.snr, name)
    mel, lengths = LogMel()(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    if condition.tempo != 1.0:  # of features, which takes no PyAV, unlike asr.scoring.tempo
        factor = torch.tensor([condition.tempo])
        mel, lengths = change_tempo(mel, lengths, factor, condition.tempo)
    return mel, lengths


@torch.inference_mode()
def error_rate(model: AcousticModel, speech: Speech, condition: Condition) -> float:
    """WER over all utterances, in words of the references."""
    tokenizer, counts = Tokenizer(), wer.Counts()
    for utterance, samples in speech:
        log_probs, lengths = model(*features(utterance.id, samples, condition))
        text = greedy(log_probs[0, : int(lengths[0])].numpy(), tokenizer, FrameGrid().frame_seconds).text
        counts = counts + wer.score(utterance.id, utterance.text, text).words
    return counts.rate
