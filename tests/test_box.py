"""The model that ships."""

from pathlib import Path

import numpy as np
import pytest

import asr
from asr.cli import main
from asr.decoding.hotwords import Hotword
from asr.inference.decoder import LoadOptions
from asr.model.bundle import BOX, LEXICON, LM, resolve_bundle
from asr.model.info import read_info
from asr.scoring.wer import score, total
from tests.corpora import noise
from tests.training.test_overfit import real_speech

FOLDER = resolve_bundle(BOX)
LIMIT = 30_000_000
"""Bytes."""


def test_it_is_whole_and_small() -> None:
    info = read_info(FOLDER)
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= LIMIT
    assert {LM, LEXICON} <= info.files.keys()
    assert info.lm_ngrams is not None and info.lexicon_words is not None
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for said in ("CC BY 4.0", "Panayotov", "Carnegie Mellon", "accents", "noise", "WER"):
        assert said in card


def test_a_path_is_a_path() -> None:
    assert resolve_bundle("./box") == Path("box") and resolve_bundle("elsewhere/box") == Path("elsewhere/box")


def test_silence_and_noise_pass() -> None:
    model = asr.load_model(threads=1)
    assert model.transcribe(np.zeros(60 * 16_000, np.float32)).text == ""  # of several windows
    assert isinstance(model.transcribe(noise(2.0, 0)).text, str)


def test_it_is_what_commands_take(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    assert str(FOLDER) in capsys.readouterr().out


@pytest.mark.parametrize("command", [["tune", "box", "dev"], ["export", "box"]])
def test_it_stays_as_it_is(
    command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # where no folder has that name
    assert main(command) == 1
    assert capsys.readouterr().err.startswith("asr: box: ")


def test_it_takes_text_as_people_write_it() -> None:
    decoder = asr.load_model(threads=1, decoding=LoadOptions(greedy=True)).decoder
    for text, words in (
        ("The father.", "THE FATHER"),
        ("the father’s tea", "THE FATHER'S TEA"),
        ("father-in-law", "FATHER IN LAW"),
        ("Steam up, and canvas", "STEAM UP AND CANVAS"),
        ("But their father in barns.", "BUT THEIR FATHER IN BARNS"),
        ("“Kubernetes”, says O’Brien; Brexit?", "KUBERNETES SAYS O'BRIEN BREXIT"),
    ):
        spelt = decoder.spell(text)
        assert " ".join(word for word, _ in spelt) == words and all(tokens for _, tokens in spelt)
        hotwords, faults = decoder.fit_hotwords([Hotword(text), Hotword("C3PO")])
        assert hotwords == (Hotword(words),) and len(faults) == 1 and "'C3PO'" in faults[0]


def test_it_knows_english(shared_data: Path) -> None:
    model, raw = asr.load_model(threads=1), asr.TranscribeOptions(raw=True)
    scores = [
        score("", text, model.transcribe(a, options=raw).text)
        for a, text in real_speech(shared_data / "dev-excerpt.tar")
    ]
    assert total(s.words for s in scores).rate < 0.5
