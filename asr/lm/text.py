"""Text files: decompression, lines, words to ids. Words are separated by ASCII white space or NUL."""

import bz2
import gzip
import lzma
import re
import sys
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any

import numpy as np

from asr.errors import LanguageModelError

STDIN = Path("-")

_RESERVED = re.compile(rb"<(?<!\S<)(?:s|/s|unk|UNK)>(?!\S)")
_BLOCK = 1 << 20
_FORMATS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}
_OTHERS = {
    b"mmap lm ": "KenLM's binary form; give the ARPA file that it was made of",
    b"PK\3\4": "a zip archive; unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed by zstd; decompress it first",
}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


def read_blocks(path: Path, size: int = _BLOCK) -> Iterator[tuple[int, bytes]]:
    """Read a text in blocks of about `size` bytes: (number of the first line, whole lines).

    Every line ends in a newline, NUL becomes a space. gzip, xz and bzip2 are detected by their first bytes;
    `-` is standard input. Raises LanguageModelError if the file is missing, truncated or not UTF-8.
    """
    number = 1
    with _open(path) as file:
        while block := file.read(size) + file.readline():
            if number == 1:
                block = block.removeprefix(_BYTE_ORDER_MARK)
            block += b"\n" * (not block.endswith(b"\n") and block != b"")
            try:
                block.decode()
            except UnicodeDecodeError as error:
                number += block.count(b"\n", 0, error.start)
                raise LanguageModelError(f"{path}:{number}: not UTF-8; convert the text first") from None
            if block:
                yield number, block.replace(b"\0", b" ")
            number += block.count(b"\n")


def read_lines(path: Path, size: int = _BLOCK) -> Iterator[str]:
    """Read the lines of a text without their line ends; see `read_blocks`."""
    for _, block in read_blocks(path, size):
        yield from block.decode().split("\n")[:-1]


def encode(path: Path, ids: Mapping[bytes, int]) -> Iterator[np.ndarray]:
    """Yield the word ids of a text block by block (uint32), with those of <s> and </s> around each line.

    `ids` handles new words in `__missing__`. Raises LanguageModelError if the text cannot be read or
    contains a special word.
    """
    for number, block in read_blocks(path):
        if match := _RESERVED.search(block):
            number += block.count(b"\n", 0, match.start())
            raise LanguageModelError(f"{path}:{number}: <s>, </s> and <unk> are reserved; remove them")
        words = (b"<s> " + block[:-1].replace(b"\n", b" </s> <s> ") + b" </s>").split()
        yield np.fromiter(map(ids.__getitem__, words), np.uint32, len(words))


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        with nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb") as opened:
            raw: Any = opened
            head = raw.peek(8)[:8]
            for magic, reason in _OTHERS.items():
                if head.startswith(magic):
                    raise LanguageModelError(f"{path}: {reason}")
            formats = [reader for magic, reader in _FORMATS.items() if head.startswith(magic)]
            with formats[0](raw) if formats else nullcontext(raw) as file:
                yield file
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise LanguageModelError(f"{path}: {error.strerror}") from None
        raise LanguageModelError(f"{path}: cut off or damaged ({error}); copy it again") from None
