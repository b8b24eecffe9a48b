import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from asr.errors import AsrError, AudioError
from asr.manifest import Utterance
from asr.scoring.noise import TALKERS, Babble, Recorded, find_noise, mix, power, white
from tests import corpora

FLOATS = st.floats(-1, 1, width=32)
SIGNALS = arrays.arrays(np.float32, st.integers(2, 400), elements=FLOATS).filter(lambda x: power(x) > 1e-6)
SOMEBODY = Utterance("u", Path("u.wav"), 1.0, "", "s")


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def tone(hertz: float, seconds: float = 1.0, level: float = 0.5) -> np.ndarray:
    phase = 2 * np.pi * hertz * np.arange(round(16_000 * seconds)) / 16_000
    return (level * np.sin(phase)).astype(np.float32)


def write(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(path, samples, rate, subtype="FLOAT" if path.suffix == ".wav" else None)
    return path


def talkers(folder: Path, *speakers: str | None) -> list[Utterance]:
    """An utterance each: number i is a tone of 200 (i + 1) Hz, ever louder and longer."""
    result = []
    for i, speaker in enumerate(speakers):
        path = write(folder / f"u{i}.wav", tone(200 * (i + 1), 0.1 * (i + 1), 0.1 * (i + 1)))
        result.append(Utterance(f"u{i}", path, 0.1 * (i + 1), "", speaker))
    return result


def heard(noise: np.ndarray) -> set[int]:
    """Which of `talkers` are in a second of noise."""
    spectrum = np.abs(np.fft.rfft(noise, 16_000))
    return {i for i in range(10) if spectrum[200 * (i + 1)] > 0.1 * spectrum.max()}


# ------------------------------------------------------------------------------------------------- mixing


@given(SIGNALS, st.floats(-30, 50), st.integers(0, 2**32))
def test_the_ratio_is_what_was_asked_for(speech: np.ndarray, snr: float, seed: int) -> None:
    noise = white(SOMEBODY, len(speech), generator(seed))
    mixed = mix(speech, noise, snr)
    assert mixed.dtype == np.float32
    added = mixed.astype(np.float64) - speech
    # What is added is rounded to the floats about the speech; very quiet noise shows that.
    assert 10 * math.log10(power(speech) / power(added)) == pytest.approx(snr, abs=0.05)


def test_mixing_by_hand() -> None:
    speech = np.array([1, -1, 1, -1], np.float32)
    noise = np.array([3, 3, -1, -1], np.float32)  # [2, 2, -2, -2] about its mean
    assert mix(speech, noise, 0).tolist() == [2, 0, 0, -2]  # beyond full scale, and not clipped
    assert mix(speech, noise, 20) == pytest.approx([1.1, -0.9, 0.9, -1.1])


def test_a_constant_offset_is_no_sound() -> None:
    speech, noise = tone(300), white(SOMEBODY, 16_000, generator())
    plain = mix(speech, noise, 10) - speech
    shifted = mix(speech + np.float32(0.5), noise + np.float32(7), 10) - (speech + np.float32(0.5))
    np.testing.assert_allclose(shifted, plain, atol=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.25, 1 / 3])
def test_silence_has_no_ratio(level: float) -> None:
    silence, noise = np.full(16_000, level, np.float32), white(SOMEBODY, 16_000, generator())
    with pytest.raises(AudioError) as error:
        mix(silence, noise, 10, "a.wav")
    assert str(error.value) == "a.wav: the recording is silent, so no signal-to-noise ratio can be had"
    with pytest.raises(AudioError) as error:
        mix(noise, silence, 10, "a.wav")
    assert str(error.value) == "a.wav: the noise for it is silent, so no signal-to-noise ratio can be had"


def test_the_least_that_16_bits_hold_is_no_silence() -> None:
    bits = np.tile(np.array([0, 0, 0, 2**-15], np.float32), 4_000)
    assert np.isfinite(mix(bits, white(SOMEBODY, 16_000, generator()), 0)).all()


def test_white_noise_is_white() -> None:
    noise = white(SOMEBODY, 160_000, generator())
    assert noise.dtype == np.float32 and power(noise) == pytest.approx(1, rel=0.02)
    bands = (np.abs(np.fft.rfft(noise)) ** 2)[1:].reshape(8, -1).mean(axis=1)
    assert bands.max() / bands.min() < 1.1


# ------------------------------------------------------------------------------------------------- babble


def test_babble_is_of_other_speakers(tmp_path: Path) -> None:
    utterances = talkers(tmp_path, "ann", "ann", "bob", "cy", None)
    babble = Babble(utterances)
    assert heard(babble(utterances[0], 16_000, generator())) == {2, 3, 4}
    assert heard(babble(utterances[2], 16_000, generator())) == {0, 1, 3, 4}
    assert heard(babble(utterances[4], 16_000, generator())) == {0, 1, 2, 3}  # who that was nobody knows


def test_babble_of_one_speaker_is_of_the_other_utterances(tmp_path: Path) -> None:
    for speaker in ("ann", None):
        utterances = talkers(tmp_path, speaker, speaker, speaker)
        assert heard(Babble(utterances)(utterances[1], 16_000, generator())) == {0, 2}


def test_babble_is_of_six_at_equal_power(tmp_path: Path) -> None:
    utterances = talkers(tmp_path, *"abcdefghij")
    noise = Babble(utterances)(utterances[0], 16_000, generator())
    assert len(heard(noise)) == TALKERS
    assert power(noise) == pytest.approx(TALKERS, rel=0.05)
    levels = [np.abs(np.fft.rfft(noise))[200 * (i + 1)] for i in heard(noise)]
    assert max(levels) / min(levels) < 1.2  # a loop has a seam
    others = {frozenset(heard(Babble(utterances)(utterances[0], 16_000, generator(s)))) for s in range(5)}
    assert len(others) > 1


def test_babble_does_not_depend_on_the_order(tmp_path: Path) -> None:
    utterances = talkers(tmp_path, *"abcdefgh")
    one, other = (Babble(u)(utterances[3], 9_000, generator(5)) for u in (utterances, utterances[::-1]))
    np.testing.assert_array_equal(one, other)


def test_babble_passes_over_what_it_cannot_use(tmp_path: Path) -> None:
    utterances = talkers(tmp_path, *"abcd")
    write(utterances[1].audio_filepath, np.zeros(1_000))
    utterances[2].audio_filepath.unlink()
    babble = Babble(utterances)
    assert heard(babble(utterances[0], 16_000, generator())) == {3}
    utterances[3].audio_filepath.write_bytes(b"")
    assert not babble(utterances[0], 16_000, generator()).any()  # which `mix` says


def test_babble_of_one_utterance(tmp_path: Path) -> None:
    with pytest.raises(AsrError) as error:
        find_noise("babble", talkers(tmp_path, "a"))
    assert str(error.value) == "--noise babble: needs two utterances at least; take white, or more of them"


# --------------------------------------------------------------------------------------------- recordings


def test_a_stretch_of_a_recording(tmp_path: Path) -> None:
    # Longer than a block that is read at a time.
    ramp = np.linspace(-1, 1, 700_000, dtype=np.float32)
    write(tmp_path / "ramp.wav", ramp)
    starts = set()
    for seed in range(8):
        noise = Recorded(tmp_path)(SOMEBODY, 1_000, generator(seed))
        start = int(np.abs(ramp - noise[0]).argmin())
        np.testing.assert_array_equal(noise, ramp[start : start + 1_000])
        starts.add(start)
    assert len(starts) == 8 and max(starts) > 300_000


def test_a_short_recording_is_looped(tmp_path: Path) -> None:
    samples = tone(100, 0.01)
    write(tmp_path / "short.wav", samples)
    noise = Recorded(tmp_path)(SOMEBODY, 500, generator())
    np.testing.assert_array_equal(noise, np.resize(samples, 500))


def test_the_exact_length_is_used_whole(tmp_path: Path) -> None:
    write(tmp_path / "exact.wav", tone(100, 0.5))
    np.testing.assert_array_equal(Recorded(tmp_path)(SOMEBODY, 8_000, generator()), tone(100, 0.5))


def test_recordings_of_any_kind_and_rate(tmp_path: Path) -> None:
    corpora.record(tmp_path / "below" / "a.opus", 1.0)
    write(tmp_path / "b.flac", tone(300, 0.5), 8_000)
    (tmp_path / "notes.txt").write_text("none")
    noise = Recorded(tmp_path)
    drawn = [noise(SOMEBODY, 4_000, generator(seed)) for seed in range(12)]
    assert {len(samples) for samples in drawn} == {4_000}
    assert len({np.abs(np.fft.rfft(samples)).argmax() for samples in drawn}) > 1


def test_a_silent_recording(tmp_path: Path) -> None:
    path = write(tmp_path / "still.wav", np.zeros(16_000))
    with pytest.raises(AudioError) as error:
        Recorded(tmp_path)(SOMEBODY, 16_000, generator())
    assert str(error.value) == f"{path}: silent from 0.0 s on; take it out of the noise"


def test_folders_that_are_no_noise(tmp_path: Path) -> None:
    with pytest.raises(AsrError) as error:
        find_noise("wite", [])
    assert str(error.value) == "--noise wite: neither white, nor babble, nor a folder of recordings"
    assert error.value.status == 2
    with pytest.raises(AsrError) as error:
        find_noise(str(tmp_path), [])
    assert str(error.value).startswith(f"{tmp_path}: no recordings in it (no name ends in ")
    (tmp_path / "broken.wav").write_text("no recording")
    with pytest.raises(AsrError) as error:
        find_noise(str(tmp_path), [])
    assert str(error.value) == f"{tmp_path}/broken.wav: cannot read the recording (Format not recognised)"


def test_a_folder_by_any_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "@[a]" / "a.wav", tone(100))
    monkeypatch.chdir(tmp_path)
    assert len(find_noise("@[a]", [])(replace(SOMEBODY, id="x"), 100, generator())) == 100
