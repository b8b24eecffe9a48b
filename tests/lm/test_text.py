import bz2
import gzip
import io
import lzma
import sys
from collections import defaultdict
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import LanguageModelError
from asr.lm.ngram import Vocabulary
from asr.lm.text import STDIN, encode, read_blocks, read_lines

TEXT = "the cat\n\nsat  on\tthe é\r\nmat"


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_compressed_or_not(tmp_path: Path, compress: Callable[[bytes], bytes], size: int) -> None:
    path = tmp_path / "text"
    path.write_bytes(compress(TEXT.encode()))
    assert b"".join(block for _, block in read_blocks(path, size)).decode() == TEXT + "\n"
    assert list(read_lines(path, size)) == TEXT.split("\n")


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.BufferedReader(io.BytesIO(gzip.compress(TEXT.encode())))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
    assert list(read_lines(STDIN)) == TEXT.split("\n")


@pytest.mark.parametrize(
    ("data", "lines"),
    [
        (b"", []),
        (b"\n", [""]),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbf\n", ["a", "\ufeff"]),  # only a leading byte order mark is dropped
        (b"a\0b\n", ["a b"]),
    ],
)
def test_lines(tmp_path: Path, data: bytes, lines: list[str]) -> None:
    path = tmp_path / "text"
    path.write_bytes(data)
    assert list(read_lines(path)) == lines


@given(st.text("aé\n", max_size=30), st.integers(1, 9))
def test_blocks_know_their_line(tmp_path_factory: pytest.TempPathFactory, text: str, size: int) -> None:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text(text, encoding="utf-8")
    lines: list[str] = []
    for number, block in read_blocks(path, size):
        assert number == len(lines) + 1 and block.endswith(b"\n")
        lines += block.decode().split("\n")[:-1]
    assert lines == (text.removesuffix("\n").split("\n") if text else [])


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_damaged_archive(tmp_path: Path, compress: Callable[[bytes], bytes], damage: str) -> None:
    path = tmp_path / "text"
    data = compress(bytes(range(65, 91)) * 99)
    path.write_bytes(data[:-9] if damage == "cut" else data[:20] + bytes(20) + data[40:])
    with pytest.raises(LanguageModelError, match=r"text: cut off or damaged"):
        list(read_lines(path))


def test_unreadable_files(tmp_path: Path) -> None:
    path = tmp_path / "text"
    with pytest.raises(LanguageModelError, match=r"text: No such file"):
        list(read_lines(path))
    path.write_bytes(b"one\ntwo\nthr\xe9e\n")
    with pytest.raises(LanguageModelError, match=r"text:3: not UTF-8"):
        list(read_lines(path))


@pytest.mark.parametrize(
    ("magic", "reason"), [(b"mmap lm http://", "ARPA"), (b"PK\3\4", "zip"), (b"\x28\xb5\x2f\xfd", "zstd")]
)
def test_files_of_other_kinds(tmp_path: Path, magic: bytes, reason: str) -> None:
    (tmp_path / "text").write_bytes(magic + bytes(100))
    with pytest.raises(LanguageModelError, match=rf"text: .*{reason}"):
        list(read_lines(tmp_path / "text"))


words = st.text(min_size=1, max_size=3).filter(lambda word: not set(word) & set(" \t\r\n\v\f\0\ufeff<"))


@given(st.lists(st.lists(words)))
def test_encode(tmp_path_factory: pytest.TempPathFactory, sentences: list[list[str]]) -> None:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text("".join(" ".join(line) + "\n" for line in sentences), encoding="utf-8", newline="")
    ids = defaultdict(count(3).__next__, Vocabulary.of([]).ids())
    encoded = [id for block in encode(path, ids) for id in block.tolist()]
    names = [word.decode() for word in ids]
    expected = [["<s>", *line, "</s>"] for line in sentences]
    assert [names[id] for id in encoded] == [word for line in expected for word in line]
    assert names == list(dict.fromkeys(["<unk>", "<s>", "</s>", *(w for line in sentences for w in line)]))


@pytest.mark.parametrize("text", ["</s>", "a b\nc <s> d", "<UNK> a", "a\n<unk>"])
def test_special_words(tmp_path: Path, text: str) -> None:
    path = tmp_path / "text"
    path.write_text("x<s> <s>y <S>\n" + text + "\n")
    line = 2 + text.count("\n")
    with pytest.raises(LanguageModelError, match=rf"text:{line}: .*reserved"):
        list(encode(path, defaultdict(int)))
