import gzip
import lzma
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from asr.errors import LanguageModelError
from asr.lm import arpa
from asr.lm.arpa import read_arpa, write_arpa
from asr.lm.ngram import NgramLM
from asr.lm.text import read_blocks
from tests.lm import plain
from tests.lm.plain import FIXTURES, Model
from tests.lm.test_ngram import build, models

SMALL = """\
some words before

\\data\\
ngram 1=5
ngram 2=3
ngram 3=1

\\1-grams:
-1\t<unk>
-99\t<s>\t-0.5
-1.5\t</s>
-0.25\ta\t-0.125
-0.75\tb\t-.0625

\\2-grams:
-0.5\t<s> a\t-1
-1e-1\ta b\t+0.25
-2.5E+0\tb </s>

\\3-grams:
-0.375\t<s> a b

\\end\\
"""


def read(tmp_path: Path, text: str) -> NgramLM:
    """Read an ARPA file with that text."""
    path = tmp_path / "lm.arpa"
    path.write_text(text)
    return read_arpa(path)


def test_small_file(tmp_path: Path) -> None:
    assert plain.of_lm(read(tmp_path, SMALL)) == {
        ("<unk>",): (-1, 0), ("<s>",): (-99, -0.5), ("</s>",): (-1.5, 0), ("a",): (-0.25, -0.125),
        ("b",): (-0.75, -0.0625), ("<s>", "a"): (-0.5, -1), ("a", "b"): (np.float32(-0.1), 0.25),
        ("b", "</s>"): (-2.5, 0), ("<s>", "a", "b"): (-0.375, 0),
    }  # fmt: skip


@pytest.mark.parametrize("name", ["order3", "order5", "order3-prune001", "order3-limited"])
def test_file_of_lmplz(name: str) -> None:
    """lmplz sorts n-grams by their last words."""
    path = FIXTURES / f"{name}.arpa.xz"
    expected, model = plain.of_arpa(path), plain.of_lm(read_arpa(path))
    assert model.keys() == expected.keys()
    for gram, values in expected.items():
        assert model[gram] == pytest.approx(values, rel=1e-7, abs=1e-9)


@pytest.mark.parametrize("name", ["order3", "order5", "order3-prune001", "order3-prune011", "order3-limited"])
def test_scores_of_kenlm(name: str) -> None:
    """Score 1,000 sentences, some with unknown words."""
    columns = lzma.decompress((FIXTURES / "scores.tsv.xz").read_bytes()).decode().splitlines()
    column = columns[0].split("\t").index(name)
    scores = [float(line.split("\t")[column]) for line in columns[1:]]
    sentences = gzip.decompress((FIXTURES / "sentences.txt.gz").read_bytes()).decode().splitlines()
    lm = read_arpa(FIXTURES / f"{name}.arpa.xz")
    assert len(sentences) == len(scores) == 1000
    assert [lm.score(sentence.split()) for sentence in sentences] == pytest.approx(scores, abs=1e-4)


@given(model=models())
def test_writing_and_reading_is_exact(tmp_path_factory: pytest.TempPathFactory, model: Model) -> None:
    lm, path = build(model), tmp_path_factory.mktemp("lm") / "lm.arpa"
    write_arpa(lm, path)
    back = read_arpa(path)
    assert back.counts == lm.counts
    assert list(back.vocabulary) == list(lm.vocabulary)
    plain.assert_same_arrays(lm, back)


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".bz2"])
def test_written_compressed(tmp_path: Path, suffix: str) -> None:
    lm = read(tmp_path, SMALL)
    a, b = tmp_path / f"a{suffix}", tmp_path / f"b{suffix}"
    write_arpa(lm, a)
    write_arpa(lm, b)
    assert a.read_bytes() == b.read_bytes()
    assert not a.read_bytes().startswith(b"\\data")
    assert plain.of_lm(read_arpa(a)) == plain.of_lm(lm)


def test_order_and_layout_of_the_lines_do_not_matter(tmp_path: Path) -> None:
    """Shuffled rows, Windows line ends, spaces for tabs, weights of zero, empty lines."""
    expected = plain.of_lm(read(tmp_path, SMALL))
    sections = SMALL.split("\n\n")
    shuffle = random.Random(0).shuffle
    for _ in range(5):
        mixed = []
        for section in sections:
            head, *rows = section.split("\n")
            if head.endswith("-grams:"):
                shuffle(rows)
            mixed.append("\n".join([head, *rows]))
        assert plain.of_lm(read(tmp_path, "\n\n".join(mixed))) == expected
    assert plain.of_lm(read(tmp_path, SMALL.replace("\n", " \r\n").replace("\t", " "))) == expected
    assert plain.of_lm(read(tmp_path, SMALL.replace("\n", "\n\n \n"))) == expected
    assert plain.of_lm(read(tmp_path, SMALL.replace("\t</s>\n", "\t</s>\t0\n", 1))) == expected
    assert plain.of_lm(read(tmp_path, SMALL[SMALL.index("\\data") :].rstrip("\n"))) == expected


def test_capital_unknown(tmp_path: Path) -> None:
    expected = plain.of_lm(read(tmp_path, SMALL))
    text = SMALL.replace("<unk>", "<UNK>")
    assert plain.of_lm(read(tmp_path, text)) == expected
    text = text.replace("b </s>", "b <UNK>")
    assert plain.of_lm(read(tmp_path, text))[("b", "<unk>")] == (-2.5, 0)


def test_missing_unknown_word_is_very_unlikely(tmp_path: Path) -> None:
    lm = read(tmp_path, SMALL.replace("-1\t<unk>\n", "").replace("1=5", "1=4"))
    assert lm.score(["z"]) == -0.5 - 100 - 1.5
    assert lm.counts == (5, 3, 1)


def test_missing_suffixes(tmp_path: Path) -> None:
    """SRILM's cut-offs may leave `<s> a b` without `a b`; backing off skips it."""
    lm = read(tmp_path, SMALL.replace("-1e-1\ta b\t+0.25\n", "").replace("2=3", "2=2"))
    assert lm.score(["a", "b", "b"]) == -0.5 - 0.375 + (-0.0625 - 0.75) - 2.5


def test_empty_order(tmp_path: Path) -> None:
    lm = read(tmp_path, SMALL.replace("3=1", "3=0").replace("-0.375\t<s> a b\n", ""))
    assert lm.counts == (5, 3, 0)
    assert lm.score(["a", "b"]) == pytest.approx(-0.5 + (-1 - 0.1) + (0.25 - 2.5))


FIELDS = "expected a log probability"
NUMBER, WORD = "a number is missing or malformed", "one of its words is not among the 1-grams"


@pytest.mark.parametrize(
    ("text", "wrong", "line", "cause"),
    [
        ("ngram 2=3", "ngram 2=4", 20, "only 3 2-grams before this line, \\data\\ announces 4"),
        ("ngram 2=3", "ngram 2=2", 18, "more 2-grams than \\data\\ announces: '-2.5E+0\\tb </s>'"),
        ("ngram 1=5", "ngram 1=6", 15, "only 5 1-grams before this line, \\data\\ announces 6"),
        ("ngram 1=5", "ngram 1=4", 13, "more 1-grams than \\data\\ announces: '-0.75\\tb\\t-.0625'"),
        ("ngram 2=3", "ngram 3=3", 5, "expected 'ngram 2=...' or '\\1-grams:': 'ngram 3=3'"),
        ("ngram 2=3", "ngram 2=x", 5, "expected 'ngram 2=...' or '\\1-grams:': 'ngram 2=x'"),
        ("ngram 2=3", "ngram 2=5000000000", 8, "5000000006 n-grams; 4294967294 at most can be read"),
        ("-0.25\ta", "0.25\ta", 12, f"{NUMBER}, or a log probability above 0: '0.25\\ta\\t-0.125'"),
        ("-0.25\ta", "nan\ta", 12, NUMBER),
        ("-0.25\ta", "-inf\ta", 12, NUMBER),
        ("-0.25\ta", "-1e99\ta", 12, NUMBER),
        ("-0.25\ta", "-0.2.5\ta", 12, NUMBER),
        ("-0.125", "-0.125e", 12, NUMBER),
        ("-0.75\tb\t-.0625", "-0.75", 13, FIELDS),
        ("-0.75\tb\t", "-0.75\tb b\t", 13, FIELDS),
        ("-0.375\t<s> a b", "-0.375\t<s> a", 21, FIELDS),
        ("\ta b\t", "\ta\t", 17, f"{WORD}: '-1e-1\\ta\\t+0.25'"),
        ("b </s>", "c </s>", 18, f"{WORD}: '-2.5E+0\\tc </s>'"),
        ("<s> a b", "b a b", 21, "its first 2 words are not among the 2-grams"),
        ("-0.75\tb\t", "-0.75\ta\t", 13, "the word is there twice: '-0.75\\ta\\t-.0625'"),
        ("\\2-grams:", "\\3-grams:", 15, "expected '\\2-grams:': '\\3-grams:'"),
        ("\\end\\", "\\4-grams:", 23, "expected '\\end\\': '\\4-grams:'"),
        ("-99\t<s>\t-0.5", "-99\tc\t-0.5", 15, "no 1-gram <s>"),
        ("-1.5\t</s>", "-1.5\t</S>", 15, "no 1-gram </s>"),
    ],
)
def test_bad_lines(tmp_path: Path, text: str, wrong: str, line: int, cause: str) -> None:
    with pytest.raises(LanguageModelError, match=re.escape(f"lm.arpa:{line}: {cause}")):
        read(tmp_path, SMALL.replace(text, wrong, 1))


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        (SMALL.replace("b </s>", "a b", 1), "a 2-gram that ends in 'b' is there twice"),
        (
            SMALL.replace("3=1", "3=2").replace("<s> a b\n", "<s> a b\n-1\t<s> a b\n"),
            "a 3-gram that ends in 'b' is there twice",
        ),
        (SMALL.replace("3=1", "3=1\nngram 4=1\nngram 5=1\nngram 6=1"), "a model of order 6"),
        ("\\data\\\n\\1-grams:\n", "a model of order 0"),
        ("", "not an ARPA file"),
        ("no model\n" * 1000, "not an ARPA file"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, cause: str) -> None:
    with pytest.raises(LanguageModelError, match=rf"lm\.arpa.*{cause}"):
        read(tmp_path, text)


def test_every_truncation_is_detected(tmp_path: Path) -> None:
    for size in range(len(SMALL.rstrip("\n")) - 1):
        with pytest.raises(LanguageModelError, match=r"lm\.arpa"):
            read(tmp_path, SMALL[:size])


def test_small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    path = FIXTURES / "order3.arpa.xz"
    whole = read_arpa(path)
    monkeypatch.setattr(arpa, "read_blocks", lambda path: read_blocks(path, 999))
    monkeypatch.setattr(arpa, "_ROWS", 7)
    plain.assert_same_arrays(whole, read_arpa(path))


def test_damage_is_an_error_or_another_model(tmp_path: Path) -> None:
    """Changing any byte yields a model or an error of one line."""
    dice = random.Random(1)
    for _ in range(400):
        position = dice.randrange(len(SMALL))
        text = SMALL[:position] + dice.choice("\n\t -.0159eE\\<abs\0") + SMALL[position + 1 :]
        try:
            score = read(tmp_path, text).score(["a", "b", "c"])
        except LanguageModelError as error:
            assert str(error).count("\n") == 0
        else:
            assert math.isfinite(score)
