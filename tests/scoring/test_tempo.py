import sys

import numpy as np
import pytest

from asr.errors import AsrError
from asr.scoring.tempo import change_tempo
from tests import corpora

TEMPOS = [0.5, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0]


@pytest.mark.parametrize("tempo", TEMPOS)
def test_the_length_is_exact(tempo: float) -> None:
    for samples in (0, 1, 160, 400, 1_001, 80_013):
        changed = change_tempo(corpora.noise(6.0, 0)[:samples], tempo)
        assert changed.dtype == np.float32
        assert len(changed) == round(samples / tempo)


@pytest.mark.parametrize("tempo", TEMPOS)
@pytest.mark.parametrize("hertz", [110.0, 440.0, 3_000.0])
def test_a_sine_keeps_its_frequency_and_level(tempo: float, hertz: float) -> None:
    sine = 0.3 * np.sin(2 * np.pi * hertz * np.arange(32_000) / 16_000).astype(np.float32)
    changed = change_tempo(sine, tempo)[1_600:-1_600]
    spectrum = np.abs(np.fft.rfft(changed * np.hanning(len(changed)), 1 << 18))
    assert spectrum.argmax() * 16_000 / (1 << 18) == pytest.approx(hertz, abs=1.5)
    assert np.sqrt(2 * (changed**2).mean()) == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("tempo", TEMPOS)
def test_everything_is_where_it_belongs(tempo: float) -> None:
    """Bursts of noise every half second, the first and the last at the very ends."""
    place = np.arange(16_000 * 3) / 16_000
    bursts = (np.abs((place + 0.25) % 0.5 - 0.25) < 0.05) * corpora.noise(3.0, 1) * 2
    changed = change_tempo(bursts.astype(np.float32), tempo)
    loud = np.convolve(changed**2, np.ones(160) / 160, "same") > 1e-3
    for number in range(1, 6):
        middle = number * 0.5 / tempo
        found = np.flatnonzero(loud & (np.abs(np.arange(len(loud)) / 16_000 - middle) < 0.2 / tempo))
        assert (found[0] + found[-1]) / 32_000 == pytest.approx(middle, abs=0.02)
    assert loud[: round(800 / tempo)].any()


def test_the_same_each_time() -> None:
    samples = corpora.noise(1.0, 3)
    np.testing.assert_array_equal(change_tempo(samples, 0.8), change_tempo(samples, 0.8))


def test_without_pyav(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(AsrError) as error:
        change_tempo(corpora.noise(1.0, 0), 0.8)
    assert str(error.value) == "PyAV is not installed; --tempo needs pip install 'asr[media]'"
