import bz2
import gzip
import io
import lzma
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import LanguageModelError
from asr.lm.disk import Scratch
from asr.lm.reading import STDIN, line_of, read_blocks
from asr.lm.vocabulary import SPECIAL
from asr.lm.words import Words, encode

TEXT = "the cat\n\nsat  on\tthe é\r\nmat"


def text_of(path: Path, size: int = 5) -> str:
    """What all blocks hold together."""
    return b"".join(block.text.tobytes() for block in read_blocks(path, size)).decode()


@pytest.mark.parametrize("compress", [bytes, gzip.compress, lzma.compress, bz2.compress])
@pytest.mark.parametrize("size", [1, 5, 1000])
def test_compressed_or_not(tmp_path: Path, compress: Callable[[bytes], bytes], size: int) -> None:
    path = tmp_path / "text"
    path.write_bytes(compress(TEXT.encode()))
    assert text_of(path, size) == TEXT + "\n"


def test_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.BufferedReader(io.BytesIO(gzip.compress(TEXT.encode())))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(pipe))
    assert text_of(STDIN) == TEXT + "\n"


def test_empty_file_has_no_block(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"")
    assert list(read_blocks(path)) == []


def test_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"\xef\xbb\xbfa\n\xef\xbb\xbf\n")
    assert text_of(path, 1000) == "a\n\ufeff\n"


@given(st.text("a\n", max_size=30), st.integers(1, 9))
def test_blocks_know_their_line(tmp_path_factory: pytest.TempPathFactory, text: str, size: int) -> None:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_text(text)
    lines = []
    for block in read_blocks(path, size):
        for position, byte in enumerate(block.text):
            if byte == ord("\n"):
                lines.append(line_of(block, position))
    expected = text.removesuffix("\n").split("\n") if text else []
    assert lines == list(enumerate(expected, 1))


def complaint(path: Path) -> str:
    """What is said about a file."""
    with pytest.raises(LanguageModelError) as caught:
        text_of(path)
    return str(caught.value)


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, bz2.compress])
def test_cut_or_damaged_archive(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "text"
    data = compress(bytes(range(65, 91)) * 99)
    path.write_bytes(data[:-9])
    assert complaint(path).startswith(f"{path}: cut off or damaged (")
    path.write_bytes(data[:20] + bytes(20) + data[40:])
    assert complaint(path).startswith(f"{path}: cut off or damaged (")


def test_not_utf8(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"one\ntwo\nthr\xe9e\n")
    assert complaint(path) == f"{path}:3: not UTF-8; convert the text first"


def test_no_file(tmp_path: Path) -> None:
    assert complaint(tmp_path / "text") == f"{tmp_path / 'text'}: No such file or directory"


# ------------------------------------------------------------------------------------------------ words


@given(st.lists(st.text(min_size=1, max_size=3).filter(lambda w: not set(w) & set(" \t\r\n\0")), max_size=60))
def test_words_are_numbered_as_they_come(words: list[str]) -> None:
    numbers = {word: i for i, word in enumerate(dict.fromkeys([*SPECIAL, *words]))}
    table = Words()
    for some in (words[:30], words[30:]):
        text = np.frombuffer(bytearray(" ".join(some).encode() + b"\n"), np.uint8)
        table.reserve(len(text), len(text))
        ids = np.empty(2 * len(text), np.uint32)
        table.count, used, _ = encode(table.table, table.count, text, True, ids)
        assert ids[:used].tolist() == [1, *(numbers[word] if numbers[word] > 2 else 0 for word in some), 2]
    assert table.count == len(numbers)
    vocabulary, ids = table.vocabulary()
    assert vocabulary.words() == [*SPECIAL, *sorted(numbers.keys() - set(SPECIAL), key=str.encode)]
    assert [vocabulary[i] for i in ids] == list(numbers)
    again, same = Words.of(vocabulary).vocabulary()
    assert again.words() == vocabulary.words()
    assert same.tolist() == list(range(len(numbers)))


def test_many_words() -> None:
    """The table grows over and over."""
    table = Words()
    for start in range(0, 20_000, 1000):
        line = " ".join(f"w{i}" for i in range(start, start + 1000)) + "\n"
        text = np.frombuffer(bytearray(line.encode()), np.uint8)
        table.reserve(len(text) // 2 + 1, len(text))
        ids = np.empty(2 * len(text), np.uint32)
        table.count, used, special = encode(table.table, table.count, text, True, ids)
        assert ids[1 : used - 1].tolist() == list(range(3 + start, 1003 + start))
        assert special == -1
    assert table.vocabulary()[0].words()[3:] == sorted(f"w{i}" for i in range(20_000))


def test_special_words_are_pointed_out() -> None:
    text = np.frombuffer(bytearray(b"a b\nc </s> d <s>\n"), np.uint8)
    table = Words()
    ids = np.empty(2 * len(text), np.uint32)
    assert encode(table.table, table.count, text, True, ids)[2] == 6


# ------------------------------------------------------------------------------------------------ disk


def test_arrays_leave_nothing_behind(tmp_path: Path) -> None:
    scratch = Scratch(tmp_path)
    for length in (0, 1000, 1_000_000):
        array = scratch.array(length, np.uint64)
        assert type(array) is np.ndarray
        assert array.shape == (length,)
        assert array.flags.writeable
        assert not array.any()
        array[:] = np.arange(length)
        assert array.sum() == length * (length - 1) // 2
        assert list(tmp_path.iterdir()) == []


def test_no_room(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="temporary files") as caught:
        Scratch(tmp_path).array(1 << 55, np.uint8)
    assert caught.value.filename == str(tmp_path)
    with pytest.raises(FileNotFoundError, match="temporary files"):
        Scratch(tmp_path / "no").array(1 << 20, np.uint8)
