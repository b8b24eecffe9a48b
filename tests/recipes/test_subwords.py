"""Words in pieces are the words."""

import json
from pathlib import Path

import pytest

from asr.data_prep.lexicon import words_of
from asr.decoding.lexicon import read_lexicon
from asr.text import Tokenizer
from recipes.librispeech.subwords import main, spell
from tests.training.corpus import make_corpus
from tests.training.runs import start, write_recipe

pytest.importorskip("sentencepiece")

TEXTS = ["THE OTHER BROTHER BREATHED", "HE BATHED THERE AND THEN", "WHETHER THE WEATHER OR ANOTHER"]


def test_pieces_make_up_their_words() -> None:
    words = ["BROTHER", "THEATRE", "O", "ZEBRA"]
    units, spellings = spell(TEXTS, words, 20)
    assert len(units) == len(set(units)) == 20
    assert sorted(spellings) == ["BROTHER", "O", "THEATRE"]  # no text has a Z
    for word, (pieces,) in spellings.items():
        assert "".join(pieces) == f"_{word}" and set(pieces) <= set(units)


def test_a_model_is_trained_on_them(tmp_path: Path) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    out = tmp_path / "subwords"
    assert main(["--train", str(corpus), "--words", str(corpus), "--size", "11", "--out", str(out)]) == 0
    units = json.loads((out / "units.yaml").read_text())["data"]["units"]
    lexicon = read_lexicon(out / "lexicon.txt", Tokenizer(tuple(units)))
    assert set(lexicon.first_spellings()) == words_of(corpus)
    bundle = start(write_recipe(tmp_path, corpus, max_epochs=1), f"--config={out / 'units.yaml'}")
    assert json.loads((bundle / "config.json").read_text())["characters"] == units


def test_more_pieces_than_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    flags = ["--train", str(corpus), "--words", str(corpus), "--out", str(tmp_path / "out")]
    capsys.readouterr()
    assert main([*flags, "--size", "5000"]) == 1
    err = capsys.readouterr().err
    assert "cannot be put in 5000 pieces" in err and err.count("\n") == 1
