from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from asr import audio
from asr.errors import AudioError
from asr.inference.pipeline import Source
from asr.manifest import Utterance
from asr.scoring.conditions import CLEAN, Condition, apply_condition, conditions
from asr.scoring.noise import find_noise, power, white
from asr.scoring.tempo import change_tempo
from tests import corpora


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    made = corpora.utterances(tmp_path_factory.mktemp("corpus"), 4, seconds=0.5)
    return [replace(u, speaker=name) for u, name in zip(made, "aabc", strict=True)]


def samples(source: Source) -> np.ndarray:
    return np.concatenate([block[:, 0] for block in source.blocks])


def test_which_conditions() -> None:
    assert conditions() == [CLEAN]
    noisy, paced = [Condition(20), Condition(-5)], [Condition(tempo=0.8), Condition(tempo=1.25)]
    assert conditions([20, -5, 20], [0.8, 1.0, 1.25]) == [CLEAN, *noisy, *paced]
    names = [c.name for c in conditions([20, -2.5], [0.8])]
    assert names == ["clean", "SNR 20 dB", "SNR -2.5 dB", "tempo 0.8"]


def test_clean_is_the_recording(utterances: list[Utterance]) -> None:
    clean = samples(apply_condition(utterances[0], CLEAN))
    np.testing.assert_array_equal(clean, audio.read(utterances[0].audio_filepath))


def test_tempo(utterances: list[Utterance]) -> None:
    clean = audio.read(utterances[0].audio_filepath)
    changed = samples(apply_condition(utterances[0], Condition(tempo=0.8)))
    np.testing.assert_array_equal(changed, change_tempo(clean, 0.8))


def test_the_same_noise_at_every_ratio(utterances: list[Utterance]) -> None:
    clean = samples(apply_condition(utterances[0], CLEAN))
    loud, quiet = (samples(apply_condition(utterances[0], Condition(snr), white)) - clean for snr in (0, 20))
    np.testing.assert_allclose(loud, 10 * quiet, atol=1e-5)
    assert power(loud) == pytest.approx(power(clean), rel=1e-4)


@pytest.mark.parametrize("name", ["white", "babble", "folder"])
def test_nothing_but_seed_and_id_decides(utterances: list[Utterance], tmp_path: Path, name: str) -> None:
    if name == "folder":
        for i in range(3):
            corpora.record(tmp_path / f"{i}.wav", 1.0, 10 + i)
        name = str(tmp_path)
    condition = Condition(5)
    noise = find_noise(name, utterances)
    first = [samples(apply_condition(u, condition, noise, 1)) for u in utterances]
    again = find_noise(name, utterances[::-1])
    for u, expected in reversed(list(zip(utterances, first, strict=True))):
        np.testing.assert_array_equal(samples(apply_condition(u, condition, again, 1)), expected)
    for other in (
        apply_condition(utterances[0], condition, noise, 2),
        apply_condition(utterances[1], condition, noise, 1),
    ):
        assert np.abs(samples(other) - first[0]).max() > 1e-3


def test_what_cannot_be_had_is_named(utterances: list[Utterance], tmp_path: Path) -> None:
    none = replace(utterances[0], audio_filepath=tmp_path / "none.wav")
    for condition in (CLEAN, Condition(5), Condition(tempo=2)):
        with pytest.raises(AudioError, match=r"none.wav: cannot read the recording \(no such file\)"):
            samples(apply_condition(none, condition, white))
    with pytest.raises(AudioError, match=r"u00.flac: no noise is given for SNR 5 dB"):
        samples(apply_condition(utterances[0], Condition(5)))
