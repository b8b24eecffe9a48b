"""Decoders from the settings of a bundle and of the caller, and tuning, which writes a bundle."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import jiwer
import numpy as np
import pytest
import soundfile

from asr import manifest
from asr.cli import main
from asr.decoding.beam import DecodingOptions
from asr.decoding.spelling import letter_to_sound
from asr.errors import AsrError, BundleError, DecodingError, LanguageModelError, TextError
from asr.inference.decoder import LoadOptions
from asr.inference.transcriber import TranscribeOptions, load_model
from asr.lm.estimate import LmOptions, train
from asr.model.bundle import LEXICON, LM, read_config, resolve_bundle, write_config
from asr.scoring.tune import Development, TuneOptions, Tuning, cross_tune, tune_bundle
from tests.standin import FRAME, speak, write_bundle

SENTENCES = ["THE CAT SAT ON THE MAT", "A HAT ON THE CAT", "THE MAN SAT", "A CAT AND A HAT"] * 5

RAW = TranscribeOptions(raw=True)


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
    assert load_model(bundle).transcribe(spoken, options=RAW).text == "TIE IAT"
    with_lm = load_model(bundle, decoding=LoadOptions(lm=lm)).transcribe(spoken, options=RAW)
    assert with_lm.text == "THE HAT"
    the, hat = with_lm.words
    assert (the.start, the.end) == pytest.approx((0, 0.12 * 3 - 0.04))
    assert (hat.start, hat.end) == pytest.approx((0.12 * 4, 0.12 * 7 - 0.04))
    assert 0 < the.confidence < 0.9


def test_a_bundle_that_holds_a_language_model_uses_it(bundle: Path, lm: Path) -> None:
    (bundle / LM).write_bytes(lm.read_bytes())
    spoken = mumble("THE HAT")
    assert load_model(bundle).transcribe(spoken, options=RAW).text == "THE HAT"
    assert (
        load_model(bundle, decoding=LoadOptions(greedy=True)).transcribe(spoken, options=RAW).text
        == "TIE IAT"
    )
    (bundle / LM).write_bytes(lm.read_bytes()[:-1])
    with pytest.raises(LanguageModelError, match=r"lm\.bin: cut off or damaged"):
        load_model(bundle)


def test_lexicon_and_hotwords_without_a_language_model(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "words").write_text("HAT\nTHE\nTIE\n", encoding="utf-8")
    model = load_model(bundle, decoding=LoadOptions(lexicon=tmp_path / "words"))
    assert model.transcribe(mumble("THE HAT"), options=RAW).text == "TIE HAT"
    model = load_model(bundle, decoding=LoadOptions(settings={"lm_weight": 0}))
    options = TranscribeOptions(raw=True, hotwords=("hat",))
    assert model.transcribe(mumble("THE HAT"), options=options).text == "TIE HAT"


def test_hotwords_at_call_time(bundle: Path, lm: Path) -> None:
    for options in (LoadOptions(), LoadOptions(lm=lm, settings={"lm_weight": 0, "unknown_penalty": 0})):
        model = load_model(bundle, decoding=options)
        spoken = mumble("THE HAT")
        assert model.transcribe(spoken, options=RAW).text == "TIE IAT"
        for phrase, boost, text in (("hat", 1.0, "TIE HAT"), ("the hat", 0.8, "THE HAT")):
            hot = TranscribeOptions(raw=True, hotwords=(phrase,), hotword_boost=boost)
            assert model.transcribe(spoken, options=hot).text == text
        assert model.transcribe(spoken, options=RAW).text == "TIE IAT"
        some = TranscribeOptions(raw=True, hotwords=("hat 5", "“Hat”", "?!"))
        doubtful = model.transcribe(spoken, options=some)
        assert doubtful.text == "TIE HAT" and len(doubtful.warnings) == 2
        assert "'hat 5'" in doubtful.warnings[0] and "'?!'" in doubtful.warnings[1]
    with pytest.raises(DecodingError, match="priors"):
        load_model(bundle, decoding=LoadOptions(settings={"prior_weight": 0.5}))


@pytest.mark.parametrize("greedy", [True, False])
def test_hotwords_that_the_lexicon_lacks(tmp_path: Path, lm: Path, greedy: bool) -> None:
    """A new name is recognised where it is a hotword, and only there; other words stay as they are."""
    bundle = phone_bundle(tmp_path)
    name = " ".join(letter_to_sound().pronounce("KUBERNETES"))
    spoken = say(f"HH AE T {name} HH AE T")
    model = load_model(bundle, decoding=LoadOptions(greedy=greedy, lm=None if greedy else lm))
    assert "KUBERNETES" not in model.transcribe(spoken, options=RAW).text
    for hotwords in (("Kubernetes",), ("“Kubernetes”", "C3PO"), ("the man", "hat-Kubernetes")):
        hot = model.transcribe(
            spoken, options=TranscribeOptions(raw=True, hotwords=hotwords, hotword_boost=4.0)
        )
        assert hot.text == "HAT KUBERNETES HAT"
        assert len(hot.warnings) == ("C3PO" in hotwords)
    assert "KUBERNETES" not in model.transcribe(spoken, options=RAW).text


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
    cool = load_model(bundle).transcribe(mumble("HAT"), options=RAW).words[0].confidence
    write_config(
        bundle, replace(read_config(bundle), decoding={"greedy_temperature": 2.0, "temperature": 9.0})
    )
    warm = load_model(bundle).transcribe(mumble("HAT"), options=RAW).words[0].confidence
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
    assert model.transcribe(mumble("THE CAT SAT"), options=RAW).text == "THE CAT SAT"
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
    assert model.transcribe(speak("BACA", "ABC"), options=RAW).text == "BUT A"
    assert [word.text for word in model.align(speak("BACA", "ABC"), "BUT A").words] == ["BUT", "A"]
    for text in ("but, a.", "“But” — a!", "but-a", "BUT/a…", "‘but’ 'A'", "(But) à"):
        assert [word.text for word in model.align(speak("BACA", "ABC"), text).words] == ["BUT", "A"]
    with pytest.raises(DecodingError, match="'BAT'"):
        model.align(speak("BAC", "ABC"), "Bat.")
    with pytest.raises(TextError, match="no word"):
        model.align(speak("BAC", "ABC"), "?!")


PHONES = read_config(resolve_bundle("box")).tokenizer
SIGNS = "".join(chr(0x100 + i) for i in range(PHONES.size - 1))


def say(phones: str) -> np.ndarray:
    return speak("".join(SIGNS[token - 1] for token in PHONES.encode(phones)), SIGNS)


def phone_bundle(folder: Path) -> Path:
    """The stand-in with the phones of box, and a lexicon of few words."""
    bundle = write_bundle(folder / "arpabet", characters=SIGNS)
    assert isinstance(PHONES.units, tuple)
    write_config(bundle, replace(read_config(bundle), characters=PHONES.units))
    lines = ("HAT\tHH AE T", "THE\tDH AH", "MAN\tM AE N", "SAT\tS AE T", "ON\tAA N", "CAT\tK AE T")
    (bundle / LEXICON).write_text("\n".join(lines), encoding="utf-8")
    return bundle


def test_align_spells_new_words(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(phone_bundle(tmp_path))
    name = " ".join(letter_to_sound().pronounce("KUBERNETES"))
    soundfile.write(tmp_path / "a.wav", say(f"DH AH HH AE T Z {name}"), 16_000, subtype="FLOAT")
    assert main(["align", str(tmp_path / "a.wav"), "The hat’s Kubernetes.", "--model", bundle]) == 0
    rows = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [row[3] for row in rows] == ["THE", "HATS", "KUBERNETES"]  # a lexicon without apostrophes
    assert [float(row[0]) for row in rows] == pytest.approx([0, 0.24, 0.72], abs=0.05)
    assert main(["align", str(tmp_path / "a.wav"), "The R2D2, 和 hat", "--model", bundle]) == 1
    err = capsys.readouterr().err
    assert "'R2D2', '和'" in err and err.count("\n") == 1


def in_other_form(development_set: Path) -> Path:
    lines = [json.loads(line) for line in development_set.read_text(encoding="utf-8").splitlines()]
    texts = [{**line, "text": line["text"].capitalize().replace(" sat", ", sat") + "."} for line in lines]
    path = development_set.with_name("other.jsonl")
    path.write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    return path


def test_evaluate_notices_references_in_another_form(
    bundle: Path, development_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = in_other_form(development_set)

    def found(path: Path, *flags: str) -> tuple[dict[str, Any], str]:
        assert main(["evaluate", str(bundle), str(path), "--json", *flags]) == 0
        out, err = capsys.readouterr()
        return json.loads(out), err

    plain, silence = found(development_set)
    raw, line = found(other)
    normalized, calm = found(other, "--normalize")
    assert silence == calm == "" and line.count("\n") == 1
    assert "6 of 6 references" in line and "--normalize" in line and "'The cat, sat on the mat.'" in line
    assert raw["wer"]["rate"] > 0.8 and normalized["wer"] == plain["wer"]
    assert [f["normalized"] for f in (plain, raw, normalized)] == [False, False, True]
    noisy, _ = found(other, "--normalize", "--tempo", "1.1")
    assert all(row["normalized"] for row in noisy["conditions"])
    other.write_text(other.read_text(encoding="utf-8").replace("hat", "4"), encoding="utf-8")
    _, line = found(other, "--normalize")
    assert "cannot write" in line and "'4'" in line and line.count("\n") == 1


def test_tune_refuses_references_that_it_cannot_match(
    bundle: Path, lm: Path, development_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other, before = in_other_form(development_set), (bundle / "config.json").read_bytes()
    tune = ["tune", str(bundle), str(other), "--lm", str(lm), "--prior-weights", "0"]

    def refused() -> str:
        assert main(tune) == 1
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        assert (bundle / "config.json").read_bytes() == before and not (bundle / LM).exists()
        return err

    assert "--normalize" in refused()
    text = other.read_text(encoding="utf-8")
    for words in ("", "42", "Москва"):
        other.write_text(re.sub('"text": "[^"]*"', f'"text": "{words}"', text), encoding="utf-8")
        assert "no reference" in refused()
    other.write_text(text, encoding="utf-8")
    (development_set.parent / "5.wav").write_bytes(b"")
    assert main([*tune, "--normalize"]) == 1  # as a recording could not be read; the others were
    out, err = capsys.readouterr()
    assert "on 25 words" in out and "5.wav" in err and err.count("\n") == 1
    assert (bundle / LM).exists()


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
    assert main(["transcribe", "--raw", "--model", str(bundle), recording]) == 0
    assert capsys.readouterr().out == "THE CAT SAT ON THE MAT\n"
    hot = ["--lm-weight", "0", "--hotword", "tie", "--hotword-boost", "9"]
    assert main(["transcribe", "--raw", "--model", str(bundle), recording, *hot]) == 0
    assert capsys.readouterr().out.startswith("TIE ")
    assert main(["transcribe", "--raw", "--model", str(bundle), recording, "--hotword", "C3PO"]) == 0
    out, err = capsys.readouterr()
    assert out == "THE CAT SAT ON THE MAT\n" and "'C3PO'" in err and err.count("\n") == 1
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
