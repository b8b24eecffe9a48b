"""Language models in little space."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from asr.errors import LanguageModelError
from asr.lm import packed
from asr.lm.ngram import NgramLM
from asr.lm.packed import LEVELS, load, save
from asr.lm.train import LmOptions, train

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="module")
def lm() -> NgramLM:
    return train([FIXTURES / "text.txt.gz"], LmOptions(order=4, entropy=1e-7)).lm


@pytest.fixture(scope="module")
def file(lm: NgramLM, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("packed") / "lm.bin"
    save(lm, path)
    return path


def test_ngrams_stay_and_weights_are_near(lm: NgramLM, file: Path) -> None:
    loaded = load(file)
    assert loaded.counts == lm.counts and loaded.words() == lm.words()
    assert np.array_equal(loaded.arrays.words, lm.arrays.words)
    assert np.array_equal(loaded.arrays.first_children, lm.arrays.first_children)
    start = 1 + lm.counts[0]
    assert np.array_equal(loaded.arrays.log_probs[1:start], lm.arrays.log_probs[1:start])
    assert np.abs(loaded.arrays.log_probs - lm.arrays.log_probs).mean() < 0.01
    # What is a state does not change, so neither does the search.
    assert np.array_equal(loaded.arrays.next_states, lm.arrays.next_states)
    assert np.array_equal(loaded.arrays.suffixes, lm.arrays.suffixes)
    for n in range(2, lm.order + 1):
        nodes = slice(1 + sum(lm.counts[: n - 1]), 1 + sum(lm.counts[:n]))
        assert len(np.unique(loaded.arrays.log_probs[nodes])) <= LEVELS


def test_it_is_small_and_packing_again_changes_nothing(lm: NgramLM, file: Path, tmp_path: Path) -> None:
    lm.save(tmp_path / "plain.bin")
    assert file.stat().st_size < (tmp_path / "plain.bin").stat().st_size / 3
    save(load(file), tmp_path / "again.bin")
    assert (tmp_path / "again.bin").read_bytes() == file.read_bytes()


def test_models_that_are_not_packed_are_loaded_too(lm: NgramLM, tmp_path: Path) -> None:
    lm.save(tmp_path / "plain.bin")
    sentence = ["THE", "MAN"]
    assert load(tmp_path / "plain.bin").score(sentence) == lm.score(sentence)


@given(arrays(np.float32, st.integers(0, 900), elements=st.floats(-9, 1, width=16)))
def test_levels(values: np.ndarray) -> None:
    table, codes = packed._quantize(values)
    assert len(table) <= LEVELS and codes.dtype == np.uint8
    assert np.array_equal(table[codes] == 0, values == 0)
    if len(np.unique(values)) <= LEVELS:
        assert np.array_equal(table[codes], values)


def test_a_lonely_sign_keeps_it() -> None:
    values = np.append(-np.random.default_rng(0).random(5000), 0.001).astype(np.float32)
    for signed in (values, -values):
        table, codes = packed._quantize(signed)
        assert np.array_equal(np.sign(table[codes]), np.sign(signed))


def test_many_values_go_to_a_near_level() -> None:
    values = np.random.default_rng(0).normal(-3, 1, 100_000).astype(np.float32)
    table, codes = packed._quantize(values)
    assert np.abs(table[codes] - values).mean() < 0.01


@given(st.lists(st.lists(st.integers(0, 99_999), unique=True).map(sorted), max_size=20))
def test_gaps(contexts: list[list[int]]) -> None:
    words = np.array([word for context in contexts for word in context], np.uint32)
    children = np.array([len(context) for context in contexts], np.uint32)
    if not len(words):
        return
    assert np.array_equal(packed._words(packed._gaps(words, children), children), words)


@pytest.mark.parametrize("place", range(12, 60))
def test_each_byte_of_the_header_counts(file: Path, tmp_path: Path, place: int) -> None:
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    (tmp_path / "lm.bin").write_bytes(content)
    with pytest.raises(LanguageModelError, match="cut off or damaged"):
        load(tmp_path / "lm.bin")


@pytest.mark.parametrize("damage", ["cut", "flipped", "header", "version", "sections"])
def test_damage_is_told(file: Path, tmp_path: Path, damage: str) -> None:
    content = bytearray(file.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "flipped":
        content[len(content) // 2] ^= 1
    elif damage == "sections":
        content = content[:60]  # between two
    elif damage == "header":
        content = content[:20]
    else:
        content[8] = 9
    path = tmp_path / "lm.bin"
    path.write_bytes(content)
    with pytest.raises(LanguageModelError, match=r"lm\.bin: (cut off or damaged|version 9)"):
        load(path)


def test_what_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(LanguageModelError, match="No such file"):
        load(tmp_path / "lm.bin")
