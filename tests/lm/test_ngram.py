import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import LanguageModelError
from asr.lm import ngram
from asr.lm.ngram import BEGIN, END, UNKNOWN, NgramLM, NgramTable, score_word, score_words
from asr.lm.vocabulary import Vocabulary
from tests.lm import plain
from tests.lm.plain import Model, Ngram

WORDS = ["a", "b", "é", "ab"]


def build(model: Model) -> NgramLM:
    """A model whose n-grams of each order but the first need their prefix, not their suffix."""
    vocabulary = Vocabulary.of(gram[0] for gram in model if len(gram) == 1)
    node = {(): 0}
    tables = []
    for order in range(1, max(map(len, model)) + 1):
        grams = [gram for gram in model if len(gram) == order]
        keys = {gram: (node[gram[:-1]], vocabulary.id(gram[-1])) for gram in grams}
        grams.sort(key=keys.__getitem__)
        node |= {gram: len(node) + i for i, gram in enumerate(grams)}
        tables.append(
            NgramTable(
                np.array([keys[gram][0] for gram in grams], np.uint32),
                np.array([keys[gram][1] for gram in grams], np.uint32),
                np.array([model[gram][0] for gram in grams], np.float32),
                np.array([model[gram][1] for gram in grams], np.float32),
            )
        )
    return NgramLM.build(vocabulary, tables)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Any model of order 1 to 4 over WORDS; half of the backoff weights are 0."""
    order = draw(st.integers(1, 4))
    unigrams = [("<unk>",), ("<s>",), ("</s>",), *((word,) for word in WORDS)]
    grams: list[Ngram] = list(unigrams)
    longest = list(unigrams)
    for _ in range(2, order + 1):
        longer = [(*gram, word[0]) for gram in longest for word in unigrams]
        longest = draw(st.lists(st.sampled_from(longer), unique=True, min_size=1, max_size=12))
        grams += longest
    value = st.floats(-4, 0, width=32)
    backoff = st.one_of(st.just(0.0), st.floats(-2, 1, width=32))
    return {gram: (draw(value), draw(backoff) if len(gram) < order else 0.0) for gram in grams}


sentences = st.lists(st.sampled_from([*WORDS, "unheard", "z"]), max_size=8)


@given(models(), sentences)
def test_scores_are_those_of_backing_off_by_its_definition(model: Model, sentence: list[str]) -> None:
    lm = build(model)
    assert plain.of_lm(lm) == model
    assert lm.score(sentence) == pytest.approx(plain.score_sentence(model, sentence), abs=1e-5)


@given(models(), sentences)
def test_states_are_the_shortest_that_tell_the_future(model: Model, sentence: list[str]) -> None:
    lm = build(model)
    names = [(), *plain.of_lm(lm)]
    context: Ngram = ("<s>",)
    state = lm.begin_state
    for word in sentence:
        _, state = score_word(lm.arrays, state, lm.word_id(word))
        context = (*context, word if (word,) in model else "<unk>")
        suffixes = [context[i:] for i in range(len(context) + 1)]
        live = (s for s in suffixes if not s or (s in model and (model[s][1] or _has_children(model, s))))
        assert names[state] == next(s for s in live if len(s) < lm.order)


def _has_children(model: Model, context: Ngram) -> bool:
    return any(gram[:-1] == context for gram in model)


def test_known_model() -> None:
    """By hand: P(b | <s> a) by the trigram, P(</s> | a b) backs off twice."""
    model = {
        ("<unk>",): (-3.0, 0.0), ("<s>",): (-99.0, -0.5), ("</s>",): (-1.0, 0.0), ("a",): (-0.5, -0.25),
        ("b",): (-0.75, -0.125), ("<s>", "a"): (-0.25, -0.0625), ("a", "b"): (-0.375, -2.0),
        ("<s>", "a", "b"): (-0.03125, 0.0),
    }  # fmt: skip
    lm = build(model)
    assert lm.order == 3
    assert lm.counts == (5, 2, 1)
    assert lm.score(["a", "b"]) == -0.25 - 0.03125 + (-2.0 - 0.125 - 1.0)
    assert lm.score(["c"]) == -0.5 - 3.0 - 1.0
    assert lm.score([]) == -0.5 - 1.0
    log_probs = np.zeros(2)
    state = score_words(lm.arrays, lm.begin_state, np.array([lm.word_id("a"), lm.word_id("b")]), log_probs)
    assert log_probs.tolist() == [-0.25, -0.03125]
    assert list(plain.of_lm(lm))[state - 1] == ("a", "b")


def test_words_are_numbered_by_their_bytes() -> None:
    lm = build({(word,): (-1.0, 0.0) for word in ("<unk>", "<s>", "</s>", "é", "b", "ab", "a", "Z", "語")})
    assert lm.words() == ["<unk>", "<s>", "</s>", "Z", "a", "ab", "b", "é", "語"]
    assert [lm.word_id(word) for word in lm.words()] == list(range(9))
    assert [lm.word(i) for i in range(9)] == lm.words()
    assert tuple(map(lm.word_id, ("<unk>", "<s>", "</s>"))) == (UNKNOWN, BEGIN, END)
    for word in ("", "aa", "c", "ê", "\udcff", "語語", "A"):
        assert lm.word_id(word) == UNKNOWN
    with pytest.raises(IndexError):
        lm.word(9)


@given(model=models())
def test_file_holds_the_model(tmp_path_factory: pytest.TempPathFactory, model: Model) -> None:
    lm = build(model)
    path = tmp_path_factory.mktemp("lm") / "lm.bin"
    lm.save(path)
    loaded = NgramLM.load(path)
    assert loaded.words() == lm.words()
    assert loaded.counts == lm.counts
    for ours, theirs in zip(lm.arrays, loaded.arrays, strict=True):
        assert ours.dtype == theirs.dtype
        assert theirs.flags.writeable and theirs.flags.c_contiguous and theirs.flags.aligned
        np.testing.assert_array_equal(ours, theirs)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A model in a file."""
    path = tmp_path / "lm.bin"
    build({(word,): (-1.0, 0.0) for word in ("<unk>", "<s>", "</s>", "a", "b")}).save(path)
    return path


def complaint(path: Path) -> str:
    """What `load` says about the file."""
    with pytest.raises(LanguageModelError) as caught:
        NgramLM.load(path)
    return str(caught.value)


def test_loading_does_not_change_the_file_nor_share_it(saved: Path) -> None:
    before = saved.read_bytes()
    lm = NgramLM.load(saved)
    lm.arrays.log_probs[:] = 7
    assert saved.read_bytes() == before
    assert NgramLM.load(saved).arrays.log_probs[1] == -1


def test_cut_file(saved: Path) -> None:
    data = saved.read_bytes()
    for size in (*range(8, 64), 100, len(data) - 1):
        saved.write_bytes(data[:size])
        assert complaint(saved).startswith(f"{saved}: cut off ")
    saved.write_bytes(data[:-1])
    assert complaint(saved) == (
        f"{saved}: cut off or damaged ({len(data) - 1} bytes, expected {len(data)}); copy it again"
    )
    saved.write_bytes(data + b"x")
    assert "cut off or damaged" in complaint(saved)


@pytest.mark.parametrize("content", [b"", b"asr", b"\\data\\\nngram 1=3\n", b"\0" * 200])
def test_foreign_file(saved: Path, content: bytes) -> None:
    saved.write_bytes(content)
    assert complaint(saved) == f"{saved}: not a language model; make one with asr lm train or asr lm import"


def test_other_version_and_damage(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[8] = 2
    saved.write_bytes(data)
    assert complaint(saved) == (
        f"{saved}: version 2 of the format, this asr reads 1; update asr or make it anew"
    )
    data[8] = 1
    for position in range(12, ngram._HEADER_SIZE):
        damaged = data.copy()
        damaged[position] ^= 1
        saved.write_bytes(damaged)
        assert complaint(saved) == f"{saved}: its header is damaged; copy it again"


def test_no_file(tmp_path: Path) -> None:
    assert complaint(tmp_path / "lm.bin") == f"{tmp_path / 'lm.bin'}: No such file or directory"
    assert complaint(tmp_path) == f"{tmp_path}: Is a directory"


def test_too_many_ngrams() -> None:
    with pytest.raises(LanguageModelError, match=r"^4294967296 n-grams: 4294967294 is the limit"):
        ngram.NgramBuilder([3, 2**32 - 3])


def test_loads_in_a_time_that_does_not_depend_on_the_size(tmp_path: Path) -> None:
    """A gigabyte, most of it holes in the file, loads as fast as a hundred bytes."""
    path = tmp_path / "lm.bin"
    counts, text = (3, 80_000_000), b"<unk><s></s>"
    layout, size = ngram._layout(counts, len(text))
    with path.open("wb") as file:
        file.write(ngram._header(counts, len(text)))
        file.truncate(size)
    with pytest.raises(LanguageModelError) as error:
        NgramLM.load(path)
    assert str(error.value) == f"{path}: damaged inside; copy it again"
    (_, nodes, _), (_, contexts, first_children), offsets, words = layout[0], *layout[-3:]
    with path.open("r+b") as file:
        for place, value in (
            (first_children, np.uint32(1)),
            (first_children + 4 * (contexts - 1), np.uint32(nodes)),
            (offsets[2] + 24, np.int64(len(text))),
            (words[2], np.frombuffer(text, np.uint8)),
        ):
            file.seek(place)
            file.write(value.tobytes())
    start = time.perf_counter()
    lm = NgramLM.load(path)
    assert time.perf_counter() - start < 0.5
    assert lm.counts == counts
