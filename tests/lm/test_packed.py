"""Packed language models."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from asr.errors import LanguageModelError
from asr.lm import packed
from asr.lm.estimate import LmOptions, train
from asr.lm.ngram import NgramLM, nodes_of_order
from asr.lm.packed import LEVELS, load, save
from tests.lm.plain import FIXTURES


@pytest.fixture(scope="module")
def lm() -> NgramLM:
    return train([FIXTURES / "text.txt.gz"], LmOptions(order=4, entropy=1e-7)).lm


@pytest.fixture(scope="module")
def file(lm: NgramLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "lm.bin"
    save(lm, path)
    return path


def test_ngrams_are_kept_and_weights_rounded(lm: NgramLM, file: Path) -> None:
    loaded = load(file)
    assert loaded.counts == lm.counts and list(loaded.vocabulary) == list(lm.vocabulary)
    for name in (
        "words",
        "first_children",
        "next_states",
        "suffixes",
    ):  # so the search does not change either
        np.testing.assert_array_equal(getattr(loaded.arrays, name), getattr(lm.arrays, name))
    unigrams = nodes_of_order(lm.counts, 1)
    assert np.array_equal(loaded.arrays.log_probs[unigrams], lm.arrays.log_probs[unigrams])
    assert np.abs(loaded.arrays.log_probs - lm.arrays.log_probs).mean() < 0.01
    for n in range(2, lm.order + 1):
        assert len(np.unique(loaded.arrays.log_probs[nodes_of_order(lm.counts, n)])) <= LEVELS


def test_packing_is_small_and_idempotent(lm: NgramLM, file: Path, tmp_path: Path) -> None:
    lm.save(tmp_path / "plain.bin")
    assert file.stat().st_size < (tmp_path / "plain.bin").stat().st_size / 3
    save(load(file), tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == file.read_bytes()
    assert load(tmp_path / "plain.bin").score(["THE", "MAN"]) == lm.score(["THE", "MAN"])  # loads both kinds


@given(arrays(np.float32, st.integers(0, 900), elements=st.floats(-9, 1, width=16)))
def test_levels(values: np.ndarray) -> None:
    table, codes = packed._quantize(values)
    assert len(table) <= LEVELS and codes.dtype == np.uint8
    assert np.array_equal(table[codes] == 0, values == 0)
    if len(np.unique(values)) <= LEVELS:
        assert np.array_equal(table[codes], values)


def test_a_single_value_of_a_sign_keeps_its_sign() -> None:
    values = np.append(-np.random.default_rng(0).random(5000), 0.001).astype(np.float32)
    for signed in (values, -values):
        table, codes = packed._quantize(signed)
        assert np.array_equal(np.sign(table[codes]), np.sign(signed))


def test_many_values_are_quantised_closely() -> None:
    values = np.random.default_rng(0).normal(-3, 1, 100_000).astype(np.float32)
    table, codes = packed._quantize(values)
    assert np.abs(table[codes] - values).mean() < 0.01


@given(st.lists(st.lists(st.integers(0, 99_999), unique=True).map(sorted), max_size=20).filter(any))
def test_gaps(contexts: list[list[int]]) -> None:
    words = np.array([word for context in contexts for word in context], np.uint32)
    children = np.array([len(context) for context in contexts], np.uint32)
    assert np.array_equal(packed._words(packed._gaps(words, children), children), words)


def test_damage(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    half = len(content) // 2
    path = tmp_path / "lm.bin"
    for cut in (20, 60, half):  # in the header, between sections, in a section
        path.write_bytes(content[:cut])
        with pytest.raises(LanguageModelError, match=r"lm\.bin: cut off or damaged"):
            load(path)
    for place in (*range(12, 60), half):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(LanguageModelError, match=r"lm\.bin: cut off or damaged"):
            load(path)
    path.write_bytes(content[:8] + b"\x09" + content[9:])
    with pytest.raises(LanguageModelError, match=r"lm\.bin: version 9"):
        load(path)
    with pytest.raises(LanguageModelError, match=r"no\.bin: No such file"):
        load(tmp_path / "no.bin")
