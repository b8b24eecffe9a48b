"""Compilation of inner loops."""

from typing import Any

from asr.jit import compiled, on_first_compilation


def test_compilation_is_announced_once_and_only_within_the_context() -> None:
    told: list[str] = []
    code: dict[str, Any] = {}
    exec("def one(x):\n    return x + 1\n", code)  # functions without a file are never cached
    one = compiled(code["one"])
    with on_first_compilation(lambda: told.append("compiling")):
        assert one(1) == 2 and one(1.5) == 2.5
    assert one(1j) == 1 + 1j
    assert told == ["compiling"]
