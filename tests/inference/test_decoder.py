"""Decoders from the settings of a bundle and of the caller, and tuning, which writes a bundle."""

import json
from dataclasses import replace
from pathlib import Path

import jiwer
import numpy as np
import pytest
import soundfile

from asr import manifest
from asr.cli import main
from asr.decoding.beam import DecodingOptions
from asr.errors import AsrError, BundleError, DecodingError, LanguageModelError, TextError
from asr.inference.decoder import LoadOptions
from asr.inference.transcriber import TranscribeOptions, load_model
from asr.lm.estimate import LmOptions, train
from asr.model.bundle import LM, read_config, write_config
from asr.scoring.tune import Development, TuneOptions, Tuning, cross_tune, tune_bundle
from tests.standin import FRAME, speak, write_bundle

SENTENCES = ["THE CAT SAT ON THE MAT", "A HAT ON THE CAT", "THE MAN SAT", "A CAT AND A HAT"] * 5


def mumble(text: str, doubt: float = 0.52) -> np.ndarray:
    """Speak with each H a little nearer to I, the next letter, than to H."""
    waveform = speak(text).reshape(-1, FRAME)
    for place in [i for i, c in enumerate(text) if c == "H"]:
        waveform[3 * place : 3 * place + 2] += doubt / 32
    return waveform.ravel()


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lm")
    (folder / "text").write_text("\n".join(SENTENCES), encoding="utf-8")
    train([folder / "text"], LmOptions(order=2)).lm.save(folder / "lm.bin")
    return folder / "lm.bin"


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_bundle(tmp_path / "bundle")


def test_a_language_model_decides_where_the_ear_doubts(bundle: Path, lm: Path) -> None:
    spoken = mumble("THE HAT")
    assert load_model(bundle).transcribe(spoken).text == "TIE IAT"
    with_lm = load_model(bundle, decoding=LoadOptions(lm=lm)).transcribe(spoken)
    assert with_lm.text == "THE HAT"
    the, hat = with_lm.words
    assert (the.start, the.end) == pytest.approx((0, 0.12 * 3 - 0.04))
    assert (hat.start, hat.end) == pytest.approx((0.12 * 4, 0.12 * 7 - 0.04))
    assert 0 < the.confidence < 0.9


def test_a_bundle_that_holds_a_language_model_uses_it(bundle: Path, lm: Path) -> None:
    (bundle / LM).write_bytes(lm.read_bytes())
    spoken = mumble("THE HAT")
    assert load_model(bundle).transcribe(spoken).text == "THE HAT"
    assert load_model(bundle, decoding=LoadOptions(greedy=True)).transcribe(spoken).text == "TIE IAT"
    (bundle / LM).write_bytes(lm.read_bytes()[:-1])
    with pytest.raises(LanguageModelError, match=r"lm\.bin: cut off or damaged"):
        load_model(bundle)


def test_lexicon_and_hotwords_without_a_language_model(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("HAT\nTHE\nTIE\n", encoding="utf-8")
    model = load_model(bundle, decoding=LoadOptions(lexicon=tmp_path / "words"))
    assert model.transcribe(mumble("THE HAT")).text == "TIE HAT"
    model = load_model(bundle, decoding=LoadOptions(settings={"lm_weight": 0}))
    options = TranscribeOptions(hotwords=("hat",))
    assert model.transcribe(mumble("THE HAT"), options=options).text == "TIE HAT"


def test_hotwords_at_call_time(bundle: Path, lm: Path) -> None:
    for options in (LoadOptions(), LoadOptions(lm=lm, settings={"lm_weight": 0, "unknown_penalty": 0})):
        model = load_model(bundle, decoding=options)
        spoken = mumble("THE HAT")
        assert model.transcribe(spoken).text == "TIE IAT"
        for phrase, boost, text in (("hat", 1.0, "TIE HAT"), ("the hat", 0.8, "THE HAT")):
            hot = TranscribeOptions(hotwords=(phrase,), hotword_boost=boost)
            assert model.transcribe(spoken, options=hot).text == text
        assert model.transcribe(spoken).text == "TIE IAT"
        with pytest.raises(DecodingError, match="'5'"):  # before anything is read
            next(model.transcribe_files([Path("none")], TranscribeOptions(hotwords=("hat 5",))))
    with pytest.raises(DecodingError, match="priors"):
        load_model(bundle, decoding=LoadOptions(settings={"prior_weight": 0.5}))


def test_settings_of_a_bundle(bundle: Path, lm: Path) -> None:
    config = read_config(bundle)
    write_config(bundle, replace(config, decoding={"lm_weight": 0.0, "word_bonus": 1.5, "temperature": 2.0}))
    decoder = load_model(bundle, decoding=LoadOptions(lm=lm)).decoder
    assert (decoder.options, decoder.temperature) == (DecodingOptions(lm_weight=0.0, word_bonus=1.5), 2.0)
    for key, value in (("loudness", 1), ("beam", 0), *(("temperature", value) for value in (0, "x", None))):
        write_config(bundle, replace(config, decoding={key: value}))
        with pytest.raises(BundleError, match=f"^{bundle}: .*{key}.*run asr tune"):
            load_model(bundle)


def test_confidence_has_the_temperature_of_the_bundle(bundle: Path) -> None:
    cool = load_model(bundle).transcribe(mumble("HAT")).words[0].confidence
    write_config(
        bundle, replace(read_config(bundle), decoding={"greedy_temperature": 2.0, "temperature": 9.0})
    )
    warm = load_model(bundle).transcribe(mumble("HAT")).words[0].confidence
    assert 0 < cool < warm < 1
    assert warm == pytest.approx(cool**0.5)


@pytest.fixture
def development_set(tmp_path: Path) -> Path:
    """Two speakers who mumble, and what each said last is written down wrong."""
    utterances = []
    for i, text in enumerate([*SENTENCES[:4], "A MAN SAT ON A HAT", "CAT MAN HAT TIE"]):
        path = tmp_path / f"{i}.wav"
        said = text if i < 4 else text.replace("MAN", "MAT")
        soundfile.write(path, mumble(said), 16_000, subtype="FLOAT")
        utterances.append(manifest.Utterance(str(i), path, 1.0, text, speaker="ab"[i % 2]))
    manifest.write(tmp_path / "manifest.jsonl", utterances)
    return tmp_path / "manifest.jsonl"


POOR = {"lm_weight": 0.0, "word_bonus": 0.0, "unknown_penalty": 0.0}


def test_tuning_finds_weights_and_puts_all_into_the_bundle(
    bundle: Path, lm: Path, development_set: Path
) -> None:
    no_priors = TuneOptions(prior_weights=(0.0,))  # they would do the rest's work here
    tuned = tune_bundle(bundle, [development_set], LoadOptions(lm=lm, settings=POOR), no_priors)
    first, *_ = tuned.tuning.trials
    assert first[:2] == (0.0, 0.0)
    assert tuned.tuning.errors <= min(errors for *_, errors in tuned.tuning.trials) < first[2]
    assert tuned.tuning.words == 29 and tuned.tuning.options.lm_weight > 0
    assert np.exp(tuned.tuning.options.priors).sum() == pytest.approx(1, abs=1e-3)
    assert (bundle / LM).read_bytes() == lm.read_bytes()
    model = load_model(bundle)
    assert model.decoder.options == tuned.tuning.options
    assert model.transcribe(mumble("THE CAT SAT")).text == "THE CAT SAT"
    # Again, with what the bundle holds now: nothing better is found.
    again = tune_bundle(bundle, [development_set], LoadOptions(), no_priors)
    assert again.tuning.errors <= tuned.tuning.errors


def test_tuning_takes_priors_where_they_help(bundle: Path, lm: Path, development_set: Path) -> None:
    with pytest.raises(AsrError, match=f"^{bundle}: .*no language model"):
        tune_bundle(bundle, [development_set], LoadOptions())
    tuned = tune_bundle(bundle, [development_set], LoadOptions(lm=lm, settings=POOR), TuneOptions())
    assert tuned.tuning.options.prior_weight > 0
    assert load_model(bundle).decoder.options == tuned.tuning.options


def test_cross_tuning_keeps_speakers_apart(
    bundle: Path, lm: Path, development_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(bundle, decoding=LoadOptions(lm=lm))
    utterances = manifest.read(development_set)
    posteriors = [model.posteriors(u.audio_filepath) for u in utterances]
    decoder = model.decoder
    assert decoder.beam
    options = {"ab"[i]: DecodingOptions(lm_weight=0.5 + i) for i in range(2)}
    tuned_on = []

    def tune(development: Development, *_: object) -> Tuning:
        (speaker,) = {u.speaker for u in development.utterances}
        assert development.utterances == [u for u in utterances if u.speaker == speaker]
        tuned_on.append(speaker)
        return Tuning(options[speaker], 0, 0, ())

    monkeypatch.setattr("asr.scoring.tune.tune", tune)
    development = Development(decoder.beam, posteriors, utterances)
    errors = cross_tune(development, decoder.options, TuneOptions())
    assert sorted(tuned_on) == ["a", "b"]
    expected = 0
    for u, log_probs in zip(utterances, posteriors, strict=True):
        other = options["b" if u.speaker == "a" else "a"]
        said = decoder.beam.decode(log_probs, other)[0].text
        expected += round(jiwer.wer(u.text, said) * len(u.text.split()))
    assert errors == expected > 0
    assert cross_tune(development.part([0]), decoder.options, TuneOptions()) is None


def test_align(bundle: Path) -> None:
    model = load_model(bundle)
    aligned = model.align(mumble("THE HAT"), "the hat!")
    assert aligned.text == "THE HAT"
    assert [(w.text, w.start, w.end) for w in aligned.words] == [
        ("THE", 0.0, pytest.approx(0.32)),
        ("HAT", pytest.approx(0.48), pytest.approx(0.80)),
    ]
    with pytest.raises(TextError, match="the model has no token for '5'"):
        model.align(speak("FIVE"), "5")
    with pytest.raises(DecodingError, match="need"):
        model.align(speak("A"), "A LONG STORY")


def test_align_by_phones(tmp_path: Path) -> None:
    bundle = write_bundle(tmp_path / "phones", characters="ABC")
    config = read_config(bundle)
    write_config(bundle, replace(config, characters=("AH", "B", "T")))
    with pytest.raises(DecodingError, match="lexicon"):
        load_model(bundle).align(speak("BAC", "ABC"), "BUT")
    lexicon = tmp_path / "lexicon.txt"
    lexicon.write_text("BUT\tB AH T\nA\tAH\n", encoding="utf-8")
    model = load_model(bundle, decoding=LoadOptions(lexicon=lexicon))
    assert model.transcribe(speak("BACA", "ABC")).text == "BUT A"
    assert [word.text for word in model.align(speak("BACA", "ABC"), "BUT A").words] == ["BUT", "A"]
    with pytest.raises(DecodingError, match="'BAT'"):
        model.align(speak("BAC", "ABC"), "BAT")


def test_the_commands(
    bundle: Path, lm: Path, development_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tune", str(bundle), str(development_set), "--lm", str(lm), "--beam", "20"]) == 0
    printed = capsys.readouterr().out
    assert "WER" in printed and "NCE" in printed
    assert read_config(bundle).decoding["beam"] == 20
    assert main(["evaluate", str(bundle), str(development_set), "--json"]) == 0
    tuned = json.loads(capsys.readouterr().out)
    assert main(["evaluate", str(bundle), str(development_set), "--json", "--greedy"]) == 0
    greedy = json.loads(capsys.readouterr().out)
    assert tuned["wer"]["rate"] < greedy["wer"]["rate"]
    assert tuned["confidence"]["words"] > 0
    recording = str(tmp_path / "0.wav")
    assert main(["transcribe", "--model", str(bundle), recording]) == 0
    assert capsys.readouterr().out == "THE CAT SAT ON THE MAT\n"
    hot = ["--lm-weight", "0", "--hotword", "tie", "--hotword-boost", "9"]
    assert main(["transcribe", "--model", str(bundle), recording, *hot]) == 0
    assert capsys.readouterr().out.startswith("TIE ")
    (tmp_path / "text").write_text("The cat sat on the mat.", encoding="utf-8")
    assert main(["align", recording, str(tmp_path / "text"), "--model", str(bundle)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("\t")[3] for line in lines] == ["THE", "CAT", "SAT", "ON", "THE", "MAT"]
    assert main(["align", recording, "the cat", "--model", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"] == "THE CAT"
    (tmp_path / "latin1").write_bytes("Ça".encode("latin-1"))
    for text, complaint in (
        ("talk.txt", "talk.txt: no such file; give a text, or a file that holds it"),
        (str(tmp_path / "latin1"), f"{tmp_path / 'latin1'}: not UTF-8 (byte 0)"),
        ("9", "the model has no token for '9' in '9'; spell it out"),
    ):
        assert main(["align", recording, text, "--model", str(bundle)]) == 1
        assert capsys.readouterr().err == f"asr: {complaint}\n"
