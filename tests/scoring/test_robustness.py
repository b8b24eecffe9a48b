"""`asr evaluate` under conditions, from the command line to the picture."""

import io
import json
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from rich.console import Console

from asr import manifest
from asr.cli import main
from asr.inference.transcriber import load_model
from asr.manifest import Utterance
from asr.scoring.conditions import CLEAN, Condition, apply_condition, conditions
from asr.scoring.noise import white
from asr.scoring.robustness import Robustness, measure, plot, print_robustness
from tests import corpora
from tests.standin import speak
from tests.test_cli import record, usage

Output = pytest.CaptureFixture[str]
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """Three utterances by two speakers; the stand-in makes one word error in nine."""
    spoken = {"u1": ("ONE TWO THREE", "s1"), "u2": ("FOUR FIVE SIX", "s1"), "u3": ("SEVEN EIGHT NINE", "s2")}
    rows = []
    for name, (text, speaker) in spoken.items():
        path = record(tmp_path / f"{name}.wav", text.replace("FIVE", "FINE"))
        rows.append(Utterance(name, path, len(speak(text)) / 16_000, text, speaker))
    manifest.write(tmp_path / "manifest.jsonl", rows)
    return tmp_path


def test_json(standin_bundle: Path, corpus: Path, capsys: Output) -> None:
    arguments = ["evaluate", str(standin_bundle), str(corpus), "--json", "--threads", "1"]
    assert main([*arguments, "--snr", "60", "-40", "--tempo", "0.8", "1.0", "--seed", "3"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    result = json.loads(out)
    assert (result["noise"], result["seed"]) == ("white", 3)
    found = {row["condition"]: row for row in result["conditions"]}
    assert list(found) == ["clean", "SNR 60 dB", "SNR -40 dB", "tempo 0.8"]
    assert (found["SNR -40 dB"]["snr"], found["SNR -40 dB"]["tempo"]) == (-40, 1)
    assert (found["tempo 0.8"]["snr"], found["tempo 0.8"]["tempo"]) == (None, 0.8)
    # Noise that the stand-in hardly hears changes nothing; in noise that is all it hears nothing is right.
    assert found["SNR 60 dB"]["wer"] == found["clean"]["wer"]
    assert (found["clean"]["wer"]["errors"], found["clean"]["wer"]["length"]) == (1, 9)
    assert found["SNR -40 dB"]["wer"]["hits"] == 0
    assert found["SNR -40 dB"]["wer"]["interval"]["unit"] == "speaker"
    clean, slow = (found[name]["audio_seconds"] for name in ("clean", "tempo 0.8"))
    assert slow == pytest.approx(clean / 0.8, abs=0.001)
    assert main(arguments) == 0
    alone = json.loads(capsys.readouterr().out)
    assert all(found["clean"][key] == alone[key] for key in ("wer", "cer", "speakers", "confidence"))


def test_table_and_picture(standin_bundle: Path, corpus: Path, capsys: Output) -> None:
    png = corpus / "new" / "curves.png"
    arguments = ["--snr", "60", "20", "--noise", "babble", "--tempo", "0.8", "1.25", "--plot", str(png)]
    assert main(["evaluate", str(standin_bundle), str(corpus), *arguments]) == 0
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


def test_details_of_each_condition(standin_bundle: Path, corpus: Path, capsys: Output) -> None:
    arguments = ["--snr", "60", "-40", "--tempo", "0.8", "--details", str(corpus / "d.jsonl")]
    assert main(["evaluate", str(standin_bundle), str(corpus), *arguments]) == 0
    names = ["d.jsonl", "d.snr--40.jsonl", "d.snr-60.jsonl", "d.tempo-0.8.jsonl"]
    assert sorted(path.name for path in corpus.glob("d.*")) == names
    capsys.readouterr()
    assert main(["compare", str(corpus / names[0]), str(corpus / names[2])]) == 0
    assert capsys.readouterr().out.startswith("WER of B minus WER of A: +0.00 points")


def test_a_bad_recording_is_named_and_the_others_are_done(
    standin_bundle: Path, corpus: Path, capsys: Output
) -> None:
    (corpus / "u1.wav").unlink()
    soundfile.write(corpus / "u2.wav", np.zeros(16_000), 16_000)
    arguments = ["evaluate", str(standin_bundle), str(corpus), "--snr", "60", "--noise", "babble"]
    assert main(arguments) == 1
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert [line for line in lines if line.startswith("could not be scored")] == [
        f"could not be scored: clean: u1: {corpus}/u1.wav: cannot read the recording (no such file)",
        f"could not be scored: SNR 60 dB: u1: {corpus}/u1.wav: cannot read the recording (no such file)",
        f"could not be scored: SNR 60 dB: u2: {corpus}/u2.wav: the recording is silent, so no "
        "signal-to-noise ratio can be had",
        # All that could talk over it is silent.
        f"could not be scored: SNR 60 dB: u3: {corpus}/u3.wav: the noise for it is silent, so no "
        "signal-to-noise ratio can be had",
    ]
    assert main([*arguments, "--json"]) == 1
    clean, noisy = json.loads(capsys.readouterr().out)["conditions"]
    assert (clean["utterances"], noisy["utterances"], noisy["wer"]["rate"]) == (2, 0, None)


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_and_order_do_not_matter(standin_bundle: Path, tmp_path: Path, threads: int) -> None:
    """At 0 dB the stand-in errs in its own way on each utterance."""
    texts = ["ONE TWO", "THREE FOUR FIVE", "SIX", "SEVEN EIGHT", "NINE TEN ONE TWO"]
    utterances = [
        Utterance(f"u{i}", record(tmp_path / f"{i}.wav", text), 1.0, text, f"s{i}")
        for i, text in enumerate(texts)
    ]
    asked = conditions([0])
    expected = measure(load_model(standin_bundle, 1), utterances, asked, white).reports[Condition(0)]
    assert expected.words.errors > 0
    shuffled = [utterances[i] for i in (3, 0, 4, 1, 2)]
    result = measure(load_model(standin_bundle, threads), shuffled, asked, white).reports[Condition(0)]
    assert sorted(s.hypothesis for s in result.scores) == sorted(s.hypothesis for s in expected.scores)
    assert result.word_interval == expected.word_interval


def test_waveforms_are_made_as_they_are_needed(standin_bundle: Path, tmp_path: Path) -> None:
    """Groups hold 40 s a thread: with recordings of 20 s few are read ahead of what is done."""
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


# --------------------------------------------------------------------------------------------- complaints


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--snr", "loud"], "argument --snr: 'loud' is not a number of decibels from -100 to 100"),
        (["--snr", "inf"], "argument --snr: 'inf' is not a number of decibels from -100 to 100"),
        (["--snr", "10", "nan"], "argument --snr: 'nan' is not a number of decibels from -100 to 100"),
        (["--tempo", "0"], "argument --tempo: '0' is not a tempo from 0.5 to 2"),
        (["--tempo", "nan"], "argument --tempo: 'nan' is not a tempo from 0.5 to 2"),
        (["--tempo", "2.1"], "argument --tempo: '2.1' is not a tempo from 0.5 to 2"),
        (["--snr", "10", "--seed", "1.5"], "argument --seed: '1.5' is not a whole number from 0"),
        (["--snr"], "argument --snr: expected at least one argument"),
    ],
)
def test_wrong_usage(arguments: list[str], complaint: str, capsys: Output) -> None:
    assert usage("evaluate", "m", "d", *arguments) == 2
    assert complaint in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--noise", "white"], "--noise says what the noise is; give --snr for how loud"),
        (["--tempo", "2", "--noise", "babble"], "--noise says what the noise is; give --snr for how loud"),
        (["--plot", "a.png"], "--plot draws word error rates against conditions; give --snr or --tempo"),
        (
            ["--snr", "10", "--noise", "/none"],
            "--noise /none: neither white, nor babble, nor a folder of recordings",
        ),
    ],
)
def test_contradictions(
    standin_bundle: Path, corpus: Path, arguments: list[str], complaint: str, capsys: Output
) -> None:
    assert main(["evaluate", str(standin_bundle), str(corpus), *arguments]) == 2
    assert capsys.readouterr() == ("", f"asr: {complaint}\n")


@pytest.mark.parametrize(
    ("package", "arguments", "complaint"),
    [
        ("av", ["--tempo", "0.8"], "PyAV is not installed; --tempo needs pip install 'asr[media]'"),
        (
            "matplotlib.figure",
            ["--snr", "10", "--plot", "a.png"],
            "matplotlib is not installed; --plot needs pip install matplotlib",
        ),
    ],
)
def test_what_is_not_installed_is_said_before_the_work(
    corpus: Path,
    package: str,
    arguments: list[str],
    complaint: str,
    capsys: Output,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["evaluate", "none", str(corpus), *arguments]) == 1
    assert capsys.readouterr() == ("", f"asr: {complaint}\n")


def test_one_utterance_is_no_babble(standin_bundle: Path, corpus: Path, capsys: Output) -> None:
    manifest.write(corpus / "one.jsonl", manifest.read(corpus / "manifest.jsonl")[:1])
    arguments = [str(standin_bundle), str(corpus / "one.jsonl"), "--snr", "10", "--noise", "babble"]
    assert main(["evaluate", *arguments]) == 1
    complaint = "asr: --noise babble: needs two utterances at least; take white, or more of them\n"
    assert capsys.readouterr() == ("", complaint)


def test_a_picture_that_cannot_be_written(standin_bundle: Path, corpus: Path, capsys: Output) -> None:
    arguments = ["evaluate", str(standin_bundle), str(corpus), "--snr", "10", "--plot", str(corpus)]
    assert main(arguments) == 1
    assert capsys.readouterr() == ("", f"asr: {corpus}: is a folder; name a file\n")


# ---------------------------------------------------------------------------------------------- rendering


def test_a_wide_table_fits_a_terminal_and_two_systems_a_picture(standin_bundle: Path, tmp_path: Path) -> None:
    text = "ONE TWO THREE FOUR " * 20
    utterances = [Utterance(f"u{i}", record(tmp_path / f"{i}.wav", text), 1.0, text) for i in range(3)]
    result = measure(load_model(standin_bundle, 1), utterances, conditions([10, -12.5], [0.85]), white)
    file = io.StringIO()
    print_robustness(result, Console(file=file, width=80))
    assert "…" not in file.getvalue() and "SNR -12.5 dB" in file.getvalue()
    plot({"ours": result, "theirs": result}, tmp_path / "two.png")
    for asked in ([CLEAN, Condition(10)], [CLEAN, Condition(tempo=0.85)], [CLEAN]):
        part = Robustness({c: result.reports[c] for c in asked}, "white", 0)
        plot({"ours": part}, tmp_path / "part.png")
        assert (tmp_path / "part.png").read_bytes().startswith(PNG)


def test_noise_of_a_folder(standin_bundle: Path, corpus: Path, capsys: Output) -> None:
    corpora.record(corpus / "street" / "a.flac", 3.0)
    arguments = ["--snr", "40", "--noise", str(corpus / "street"), "--json"]
    assert main(["evaluate", str(standin_bundle), str(corpus), *arguments]) == 0
    assert json.loads(capsys.readouterr().out)["noise"] == str(corpus / "street")
