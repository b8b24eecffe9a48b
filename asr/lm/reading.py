"""Text of any length, plain or compressed, in blocks of whole lines."""

import bz2
import gzip
import lzma
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from asr.errors import LanguageModelError

STDIN = Path("-")

_BLOCK = 1 << 20
_FORMATS: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"\xfd7zXZ\x00": lzma.open, b"BZh": bz2.open}
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class Block(NamedTuple):
    """Whole lines, each with its line end: UTF-8 as uint8[n]; `line` is the number of the first, from 1."""

    line: int
    text: np.ndarray


def read_blocks(path: Path, size: int = _BLOCK) -> Iterator[Block]:
    """The lines of a text, some `size` bytes at a time. gzip, xz and bzip2 are known by their first bytes.

    The path `-` is the standard input. Raises LanguageModelError if the file is missing, cut or not UTF-8.
    """
    line, rest = 1, b""
    with _open(path) as file:
        while data := file.read(size):
            if line == 1 and not rest:
                data = data.removeprefix(_BYTE_ORDER_MARK)
            end = data.rfind(b"\n") + 1
            if not end:
                rest += data
                continue
            block = _block(path, line, rest + data[:end])
            yield block
            line += int(np.count_nonzero(block.text == ord("\n")))
            rest = data[end:]
    if rest:
        yield _block(path, line, rest + b"\n")


def line_of(block: Block, position: int) -> tuple[int, str]:
    """Number and text of the line that holds the byte at `position`."""
    text = block.text.tobytes()
    start = text.rfind(b"\n", 0, position) + 1
    return block.line + text.count(b"\n", 0, start), text[start : text.find(b"\n", start)].decode()


def refuse_special(path: Path, block: Block, position: int) -> None:
    """Raise LanguageModelError for the word at `position` of a block, unless that is -1."""
    if position >= 0:
        line, _ = line_of(block, position)
        raise LanguageModelError(f"{path}:{line}: <s>, </s> and <unk> mean something else; take them out")


def _block(path: Path, line: int, text: bytes) -> Block:
    try:
        text.decode()
    except UnicodeDecodeError as error:
        line += text.count(b"\n", 0, error.start)
        raise LanguageModelError(f"{path}:{line}: not UTF-8; convert the text first") from None
    return Block(line, np.frombuffer(bytearray(text), np.uint8))  # writable: numba compiles once


@contextmanager
def _open(path: Path) -> Iterator[IO[bytes]]:
    try:
        with nullcontext(sys.stdin.buffer) if path == STDIN else path.open("rb") as opened:
            raw: Any = opened
            head = raw.peek(6)[:6]
            for magic, reader in _FORMATS.items():
                if head.startswith(magic):
                    with reader(raw) as file:
                        yield file
                    return
            yield raw
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise LanguageModelError(f"{path}: {error.strerror}") from None
        raise LanguageModelError(f"{path}: cut off or damaged ({error}); copy it again") from None
