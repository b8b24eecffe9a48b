"""Noise, tempo, and `asr evaluate` under both, from the command line to tables and plots."""

import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from rich.console import Console

from asr import audio
from asr.cli import main
from asr.errors import AsrError, AudioError
from asr.inference.transcriber import load_model
from asr.inference.transcription import Source
from asr.manifest import Utterance
from asr.scoring.conditions import (
    CLEAN,
    TALKERS,
    Condition,
    Robustness,
    apply_condition,
    babble,
    change_tempo,
    conditions,
    evaluate_conditions,
    find_noise,
    mix,
    power,
    recorded,
    set_level,
    white,
)
from asr.scoring.evaluate import EvaluateOptions
from asr.scoring.report import plot, print_robustness
from tests import corpora
from tests.standin import record
from tests.test_cli import usage

Output = pytest.CaptureFixture[str]
FLOATS = st.floats(-1, 1, width=32)
SIGNALS = arrays.arrays(np.float32, st.integers(2, 400), elements=FLOATS).filter(lambda x: power(x) > 1e-6)
SOMEBODY = Utterance("u", Path("u.wav"), 1.0, "", "s")
TEMPOS = [0.5, 0.8, 0.9, 1.1, 1.25, 1.5, 2.0]
PNG = b"\x89PNG\r\n\x1a\n"


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
    """One utterance each: number i is a tone of 200 (i + 1) Hz, ever louder and longer."""
    result = []
    for i, speaker in enumerate(speakers):
        path = write(folder / f"u{i}.wav", tone(200 * (i + 1), 0.1 * (i + 1), 0.1 * (i + 1)))
        result.append(Utterance(f"u{i}", path, 0.1 * (i + 1), "", speaker))
    return result


def audible(noise: np.ndarray) -> set[int]:
    """Indices of `talkers` in a second of noise."""
    spectrum = np.abs(np.fft.rfft(noise, 16_000))
    return {i for i in range(10) if spectrum[200 * (i + 1)] > 0.1 * spectrum.max()}


@given(SIGNALS, st.floats(-30, 50), st.integers(0, 2**32))
def test_mixing_gives_the_snr_asked_for(speech: np.ndarray, snr: float, seed: int) -> None:
    mixed = mix(speech, white(SOMEBODY, len(speech), generator(seed)), snr)
    assert mixed.dtype == np.float32
    added = mixed.astype(np.float64) - speech
    # The tolerance is for very quiet noise, which is rounded to the precision of the speech.
    assert 10 * math.log10(power(speech) / power(added)) == pytest.approx(snr, abs=0.05)


def test_mixing_by_hand() -> None:
    speech, noise = np.array([1, -1, 1, -1], np.float32), np.array([3, 3, -1, -1], np.float32)  # of mean 1
    assert mix(speech, noise, 0).tolist() == [2, 0, 0, -2]  # beyond full scale, not clipped
    assert mix(speech, noise, 20) == pytest.approx([1.1, -0.9, 0.9, -1.1])
    shifted = mix(speech + np.float32(0.5), noise + np.float32(7), 20)  # constant offsets are ignored
    assert shifted == pytest.approx([1.6, -0.4, 1.4, -0.6], abs=1e-5)


@pytest.mark.parametrize("level", [0.0, 0.25, 1 / 3])
def test_silence_has_no_snr(level: float) -> None:
    silence, noise = np.full(16_000, level, np.float32), white(SOMEBODY, 16_000, generator())
    with pytest.raises(AudioError, match=r"a\.wav: the recording is silent"):
        mix(silence, noise, 10, "a.wav")
    with pytest.raises(AudioError, match=r"a\.wav: the noise for it is silent"):
        mix(noise, silence, 10, "a.wav")
    least = np.tile(np.array([0, 0, 0, 2**-15], np.float32), 4_000)  # of 16 bits
    assert np.isfinite(mix(least, noise, 0)).all()


def test_white_noise_is_white() -> None:
    noise = white(SOMEBODY, 160_000, generator())
    assert noise.dtype == np.float32 and power(noise) == pytest.approx(1, rel=0.02)
    bands = (np.abs(np.fft.rfft(noise)) ** 2)[1:].reshape(8, -1).mean(axis=1)
    assert bands.max() / bands.min() < 1.1


def test_babble_is_of_other_speakers(tmp_path: Path) -> None:
    utterances = talkers(tmp_path, "ann", "ann", "bob", "cy", None)
    noise = babble(utterances)
    assert audible(noise(utterances[0], 16_000, generator())) == {2, 3, 4}
    assert audible(noise(utterances[2], 16_000, generator())) == {0, 1, 3, 4}
    assert audible(noise(utterances[4], 16_000, generator())) == {0, 1, 2, 3}  # speaker unknown
    for speaker in ("ann", None):  # with one speaker only, of the other utterances
        utterances = talkers(tmp_path, speaker, speaker, speaker)
        assert audible(babble(utterances)(utterances[1], 16_000, generator())) == {0, 2}


def test_babble_is_of_six_at_equal_power(tmp_path: Path) -> None:
    utterances = talkers(tmp_path, *"abcdefghij")
    noise = babble(utterances)(utterances[0], 16_000, generator())
    assert len(audible(noise)) == TALKERS
    assert power(noise) == pytest.approx(TALKERS, rel=0.05)
    levels = [np.abs(np.fft.rfft(noise))[200 * (i + 1)] for i in audible(noise)]
    assert max(levels) / min(levels) < 1.2  # a loop has a seam
    others = {frozenset(audible(babble(utterances)(utterances[0], 16_000, generator(s)))) for s in range(5)}
    assert len(others) > 1
    again = babble(utterances[::-1])(utterances[0], 16_000, generator())
    np.testing.assert_array_equal(again, noise)


def test_babble_skips_what_it_cannot_use(tmp_path: Path) -> None:
    utterances = talkers(tmp_path, *"abcd")
    write(utterances[1].audio_filepath, np.zeros(1_000))
    utterances[2].audio_filepath.unlink()
    noise = babble(utterances)
    assert audible(noise(utterances[0], 16_000, generator())) == {3}
    utterances[3].audio_filepath.write_bytes(b"")
    assert not noise(utterances[0], 16_000, generator()).any()  # `mix` reports that
    with pytest.raises(AsrError, match="--noise babble: needs at least two utterances"):
        find_noise("babble", utterances[:1])


def test_excerpt_of_a_recording(tmp_path: Path) -> None:
    ramp = np.linspace(-1, 1, 700_000, dtype=np.float32)  # longer than a block
    write(tmp_path / "ramp.wav", ramp)
    starts = set()
    for seed in range(8):
        noise = recorded(tmp_path)(SOMEBODY, 1_000, generator(seed))
        start = int(np.abs(ramp - noise[0]).argmin())
        np.testing.assert_array_equal(noise, ramp[start : start + 1_000])
        starts.add(start)
    assert len(starts) == 8 and max(starts) > 300_000


@pytest.mark.parametrize(("seconds", "samples"), [(0.01, 500), (0.5, 8_000)])
def test_a_short_recording_is_looped_and_an_exact_one_used_whole(
    tmp_path: Path, seconds: float, samples: int
) -> None:
    write(tmp_path / "short.wav", tone(100, seconds))
    noise = recorded(tmp_path)(SOMEBODY, samples, generator())
    np.testing.assert_array_equal(noise, np.resize(tone(100, seconds), samples))


def test_recordings_of_any_format_and_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpora.record(tmp_path / "@[a]" / "below" / "a.opus", 1.0)
    write(tmp_path / "@[a]" / "b.flac", tone(300, 0.5), 8_000)
    (tmp_path / "@[a]" / "notes.txt").write_text("none")
    monkeypatch.chdir(tmp_path)
    noise = find_noise("@[a]", [])  # a name that elsewhere is a list or a pattern
    drawn = [noise(SOMEBODY, 4_000, generator(seed)) for seed in range(12)]
    assert {len(samples) for samples in drawn} == {4_000}
    assert len({np.abs(np.fft.rfft(samples)).argmax() for samples in drawn}) > 1


def test_folders_without_noise(tmp_path: Path) -> None:
    with pytest.raises(AsrError, match="--noise wite: neither white, nor babble, nor a folder") as error:
        find_noise("wite", [])
    assert error.value.status == 2
    with pytest.raises(AsrError, match=f"{tmp_path}: no recordings in it"):
        find_noise(str(tmp_path), [])
    path = write(tmp_path / "still.wav", np.zeros(16_000))
    with pytest.raises(AudioError, match=rf"{path}: silent from 0\.0 s on"):
        recorded(tmp_path)(SOMEBODY, 16_000, generator())
    path.write_text("no recording")
    with pytest.raises(AsrError, match=f"{path}: cannot read the recording"):
        find_noise(str(tmp_path), [])


@pytest.mark.parametrize("tempo", TEMPOS)
def test_length_at_another_tempo_is_exact(tempo: float) -> None:
    for samples in (0, 1, 160, 400, 1_001, 80_013):
        given = corpora.noise(6.0, 0)[:samples]
        changed = change_tempo(given, tempo)
        assert changed.dtype == np.float32
        assert len(changed) == round(samples / tempo)
        np.testing.assert_array_equal(changed, change_tempo(given, tempo))


@pytest.mark.parametrize("tempo", TEMPOS)
@pytest.mark.parametrize("hertz", [110.0, 440.0, 3_000.0])
def test_a_sine_keeps_its_frequency_and_level(tempo: float, hertz: float) -> None:
    changed = change_tempo(tone(hertz, 2.0, 0.3), tempo)[1_600:-1_600]
    spectrum = np.abs(np.fft.rfft(changed * np.hanning(len(changed)), 1 << 18))
    assert spectrum.argmax() * 16_000 / (1 << 18) == pytest.approx(hertz, abs=1.5)
    assert np.sqrt(2 * (changed**2).mean()) == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("tempo", TEMPOS)
def test_times_scale_with_the_tempo(tempo: float) -> None:
    """Bursts of noise every half second, the first and the last at the very ends."""
    seconds = np.arange(16_000 * 3) / 16_000
    bursts = (np.abs((seconds + 0.25) % 0.5 - 0.25) < 0.05) * corpora.noise(3.0, 1) * 2
    changed = change_tempo(bursts.astype(np.float32), tempo)
    loud = np.convolve(changed**2, np.ones(160) / 160, "same") > 1e-3
    for number in range(1, 6):
        middle = number * 0.5 / tempo
        found = np.flatnonzero(loud & (np.abs(np.arange(len(loud)) / 16_000 - middle) < 0.2 / tempo))
        assert (found[0] + found[-1]) / 32_000 == pytest.approx(middle, abs=0.02)
    assert loud[: round(800 / tempo)].any()


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    made = corpora.utterances(tmp_path_factory.mktemp("corpus"), 4, seconds=0.5)
    return [replace(u, speaker=name) for u, name in zip(made, "aabc", strict=True)]


def samples(source: Source) -> np.ndarray:
    return np.concatenate([block[:, 0] for block in source.blocks])


def test_list_of_conditions() -> None:
    assert conditions(EvaluateOptions()) == [CLEAN]
    noisy, paced = [Condition(20), Condition(-5)], [Condition(tempo=0.8), Condition(tempo=1.25)]
    level, silent = Condition(level=-60), Condition(silence=15)
    asked = EvaluateOptions(snr=(20, -5, 20), tempo=(0.8, 1.0, 1.25), level=(-60,), silence=(0, 15))
    found = conditions(asked)
    assert found == [CLEAN, *noisy, *paced, level, silent]
    names = ["SNR 20 dB", "SNR -5 dB", "tempo 0.8", "tempo 1.25", "level -60 dBFS", "silence 15 s"]
    assert [c.name for c in found] == ["clean", *names]


def test_level_is_set_in_16_bits_unless_that_clips() -> None:
    speech = tone(440, level=0.2)
    for level in (-60.0, -25.0, 65.0):
        found = set_level(speech, level)
        assert 10 * math.log10(power(found)) == pytest.approx(level, abs=0.05)
        steps = found * 32_768
        assert (np.abs(steps - np.round(steps)).max() < 1e-3) == (level < 0)
    with pytest.raises(AudioError, match="silent"):
        set_level(np.zeros(100, np.float32), -20)


def test_one_utterance_under_conditions(utterances: list[Utterance], tmp_path: Path) -> None:
    recording = audio.read(utterances[0].audio_filepath)
    clean = samples(apply_condition(utterances[0], CLEAN))
    np.testing.assert_array_equal(clean, recording)
    changed = samples(apply_condition(utterances[0], Condition(tempo=0.8)))
    np.testing.assert_array_equal(changed, change_tempo(recording, 0.8))
    # The noise is the same at every SNR.
    loud, quiet = (samples(apply_condition(utterances[0], Condition(snr), white)) - clean for snr in (0, 20))
    np.testing.assert_allclose(loud, 10 * quiet, atol=1e-5)
    assert power(loud) == pytest.approx(power(clean), rel=1e-4)
    padded = samples(apply_condition(utterances[0], Condition(silence=0.25)))
    np.testing.assert_array_equal(padded, np.pad(recording, 4000))
    none = replace(utterances[0], audio_filepath=tmp_path / "none.wav")
    for condition in (CLEAN, Condition(5), Condition(tempo=2)):
        with pytest.raises(AudioError, match=r"none.wav: cannot read the recording"):
            samples(apply_condition(none, condition, white))
    with pytest.raises(AudioError, match=r"u00.flac: no noise is given for SNR 5 dB"):
        samples(apply_condition(utterances[0], Condition(5)))


@pytest.mark.parametrize("name", ["white", "babble", "folder"])
def test_noise_depends_on_seed_and_id_alone(utterances: list[Utterance], tmp_path: Path, name: str) -> None:
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
    for id, seed in ((0, 2), (1, 1)):
        other = samples(apply_condition(utterances[id], condition, noise, seed))
        assert np.abs(other - first[0]).max() > 1e-3


def test_json(standin_bundle: Path, spoken_corpus: Path, capsys: Output) -> None:
    arguments = ["evaluate", str(standin_bundle), str(spoken_corpus), "--json", "--threads", "1"]
    assert main([*arguments, "--snr", "60", "-40", "--tempo", "0.8", "1.0", "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    result = json.loads(out)
    assert (result["noise"], result["seed"]) == ("white", 3)
    found = {row["condition"]: row for row in result["conditions"]}
    assert list(found) == ["clean", "SNR 60 dB", "SNR -40 dB", "tempo 0.8"]
    assert (found["SNR -40 dB"]["snr"], found["SNR -40 dB"]["tempo"]) == (-40, 1)
    assert (found["tempo 0.8"]["snr"], found["tempo 0.8"]["tempo"]) == (None, 0.8)
    # At 60 dB the stand-in makes the same errors as without noise, at -40 dB nothing is right.
    assert found["SNR 60 dB"]["wer"] == found["clean"]["wer"]
    assert (found["clean"]["wer"]["errors"], found["clean"]["wer"]["length"]) == (1, 9)
    assert found["SNR -40 dB"]["wer"]["hits"] == 0
    assert found["SNR -40 dB"]["wer"]["interval"]["unit"] == "speaker"
    clean, slow = (found[name]["audio_seconds"] for name in ("clean", "tempo 0.8"))
    assert slow == pytest.approx(clean / 0.8, abs=0.001)
    assert main(arguments) == 0
    alone = json.loads(capsys.readouterr().out)
    assert all(found["clean"][key] == alone[key] for key in ("wer", "cer", "speakers", "confidence"))


def test_table_and_plot(standin_bundle: Path, spoken_corpus: Path, capsys: Output) -> None:
    png = spoken_corpus / "new" / "curves.png"
    arguments = ["--snr", "60", "20", "--noise", "babble", "--tempo", "0.8", "1.25", "--plot", str(png)]
    assert main(["evaluate", str(standin_bundle), str(spoken_corpus), *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert [line[:10].strip() for line in lines[1:6]] == (
        ["clean", "SNR 60 dB", "SNR 20 dB", "tempo 0.8", "tempo 1.25"]
    )
    assert lines[1].split()[1] == "11.11" and lines[1].split()[-3:] == ["1", "0", "0"]
    assert lines[6] == "3 of 3 utterances scored when clean, 9 words; noise: babble, seed 0"
    assert lines[7].startswith("interval: bootstrap over 2 speakers")
    assert len(lines) == 8
    assert png.read_bytes().startswith(PNG)


def test_details_of_each_condition(standin_bundle: Path, spoken_corpus: Path, capsys: Output) -> None:
    corpora.record(spoken_corpus / "street" / "a.flac", 3.0)
    arguments = ["--snr", "60", "-40", "--tempo", "0.8", "--details", str(spoken_corpus / "d.jsonl")]
    arguments += ["--noise", str(spoken_corpus / "street"), "--json"]
    assert main(["evaluate", str(standin_bundle), str(spoken_corpus), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["noise"] == str(spoken_corpus / "street")
    names = ["d.jsonl", "d.snr--40.jsonl", "d.snr-60.jsonl", "d.tempo-0.8.jsonl"]
    assert sorted(path.name for path in spoken_corpus.glob("d.*")) == names
    assert main(["compare", str(spoken_corpus / names[0]), str(spoken_corpus / names[2])]) == 0
    assert capsys.readouterr().out.startswith("WER of B minus WER of A: +0.00 points")


def test_a_bad_recording_is_named_and_the_others_are_done(
    standin_bundle: Path, spoken_corpus: Path, capsys: Output
) -> None:
    (spoken_corpus / "u1.wav").unlink()
    soundfile.write(spoken_corpus / "u2.wav", np.zeros(16_000), 16_000)
    arguments = ["evaluate", str(standin_bundle), str(spoken_corpus), "--snr", "60", "--noise", "babble"]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert err == ""
    problems = [line for line in out.splitlines() if line.startswith("could not be scored")]
    expected = [
        ("clean", "u1", "cannot read the recording"),
        ("SNR 60 dB", "u1", "cannot read the recording"),
        ("SNR 60 dB", "u2", "the recording is silent"),
        ("SNR 60 dB", "u3", "the noise for it is silent"),  # as are all that could talk over it
    ]
    for line, (condition, name, reason) in zip(problems, expected, strict=True):
        assert f": {condition}: {name}: {spoken_corpus}/{name}.wav: {reason}" in line
    assert main([*arguments, "--json"]) == 1
    clean, noisy = json.loads(capsys.readouterr().out)["conditions"]
    assert (clean["utterances"], noisy["utterances"], noisy["wer"]["rate"]) == (2, 0, None)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_order_do_not_matter(standin_bundle: Path, tmp_path: Path, threads: int) -> None:
    """At 0 dB the stand-in makes different errors in each utterance."""
    texts = ["ONE TWO", "THREE FOUR FIVE", "SIX", "SEVEN EIGHT", "NINE TEN ONE TWO"]
    utterances = [
        Utterance(f"u{i}", record(tmp_path / f"{i}.wav", text), 1.0, text, f"s{i}")
        for i, text in enumerate(texts)
    ]
    shuffled = [utterances[i] for i in (3, 0, 4, 1, 2)]
    expected, result = (
        evaluate_conditions(load_model(standin_bundle, n), us, EvaluateOptions(snr=(0,)), white).reports
        for n, us in ((1, utterances), (threads, shuffled))
    )
    noisy = Condition(0)
    assert expected[noisy].words.errors > 0
    assert sorted(s.hypothesis for s in result[noisy].scores) == (
        sorted(s.hypothesis for s in expected[noisy].scores)
    )
    assert result[noisy].word_interval == expected[noisy].word_interval


def test_waveforms_are_made_as_they_are_needed(standin_bundle: Path, tmp_path: Path) -> None:
    """Groups hold 40 s a thread, so few recordings of 20 s are read ahead."""
    text = "A" * 166  # of 0.12 s each
    utterances = [Utterance(f"u{i}", record(tmp_path / f"{i}.wav", text), 20.0, text) for i in range(10)]
    made: list[str] = []

    def noise(utterance: Utterance, samples: int, random: np.random.Generator) -> np.ndarray:
        made.append(utterance.id)
        return white(utterance, samples, random)

    sources = (apply_condition(u, Condition(60), noise) for u in utterances)
    results = load_model(standin_bundle, 1).transcribe_sources(sources)
    next(results)
    assert len(made) <= 6
    assert len(list(results)) == 9


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--snr", "loud"], "--snr: 'loud' is not a number from -100 to 100"),
        (["--snr", "10", "nan"], "--snr: 'nan'"),
        (["--tempo", "0"], "--tempo: '0' is not a number from 0.5 to 2"),
        (["--tempo", "2.1"], "--tempo: '2.1'"),
        (["--snr", "10", "--seed", "1.5"], "--seed: '1.5'"),
        (["--snr"], "--snr: expected at least one argument"),
    ],
)
def test_wrong_usage(arguments: list[str], complaint: str, capsys: Output) -> None:
    assert usage("evaluate", "m", "d", *arguments) == 2
    assert f"argument {complaint}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("package", "arguments", "complaint"),
    [
        ("matplotlib.figure", ["--snr", "10", "--plot", "a.png"], "pip install matplotlib"),
        ("none", ["--noise", "white"], "give --snr"),
        ("none", ["--tempo", "2", "--noise", "babble"], "give --snr"),
        ("none", ["--plot", "a.png"], "give one, such as --snr"),
        (
            "none",
            ["--snr", "10", "--noise", "/none"],
            "--noise /none: neither white, nor babble, nor a folder",
        ),
        ("none", ["--snr", "10", "--plot", "."], ".: is a folder"),
    ],
)
def test_contradictions_and_missing_packages_are_reported_before_the_work(
    spoken_corpus: Path,
    package: str,
    arguments: list[str],
    complaint: str,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["evaluate", "none", str(spoken_corpus), *arguments]) == (
        2 if "give" in complaint or "neither" in complaint else 1
    )
    out, err = capsys.readouterr()
    assert out == "" and complaint in err and err.count("\n") == 1


def test_a_wide_table_fits_a_terminal_and_two_systems_a_plot(standin_bundle: Path, tmp_path: Path) -> None:
    text = "ONE TWO THREE FOUR " * 20
    utterances = [Utterance(f"u{i}", record(tmp_path / f"{i}.wav", text), 1.0, text) for i in range(3)]
    asked = EvaluateOptions(snr=(10, -12.5), tempo=(0.85,))
    result = evaluate_conditions(load_model(standin_bundle, 1), utterances, asked, white)
    file = io.StringIO()
    print_robustness(result, Console(file=file, width=80))
    assert max(map(len, file.getvalue().splitlines())) <= 80 and "SNR -12.5 dB" in file.getvalue()
    plot({"ours": result, "theirs": result}, tmp_path / "two.png")
    for part in ([CLEAN, Condition(10)], [CLEAN, Condition(tempo=0.85)], [CLEAN]):
        plot({"ours": Robustness({c: result.reports[c] for c in part}, "white", 0)}, tmp_path / "part.png")
        assert (tmp_path / "part.png").read_bytes().startswith(PNG)
