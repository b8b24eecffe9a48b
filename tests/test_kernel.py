"""Compiling loops."""

import os
import subprocess
import sys

PROGRAM = """
from asr.kernel import compiled

@compiled
def one(x):
    return x + 1

@compiled
def two(x):
    return one(x) + 1

assert two(1) == 3 and one(1.5) == 2.5
"""


def test_a_terminal_is_told_once_why_it_waits() -> None:
    master, slave = os.openpty()
    try:
        subprocess.run([sys.executable, "-c", PROGRAM], stderr=slave, check=True)
        told = os.read(master, 10_000).decode()
    finally:
        os.close(slave)
        os.close(master)
    assert told.count("\n") == 1 and "asr: compiling the decoder, once on this machine" in told


def test_a_log_is_not() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], stderr=subprocess.PIPE, check=True)
    assert done.stderr == b""
