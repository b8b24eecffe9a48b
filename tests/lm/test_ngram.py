import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import LanguageModelError
from asr.lm import ngram
from asr.lm.ngram import BEGIN, END, UNKNOWN, NgramBuilder, NgramLM, Vocabulary, score_word, score_words
from tests.lm import plain
from tests.lm.plain import Model, Ngram

WORDS = ["a", "b", "é", "ab"]


def build(model: Model) -> NgramLM:
    """Build a model in which every n-gram needs its prefix, but not its suffix."""
    vocabulary = Vocabulary.of(gram[0] for gram in model if len(gram) == 1)
    orders = [[gram for gram in model if len(gram) == n] for n in range(1, max(map(len, model)) + 1)]
    builder = NgramBuilder([len(grams) for grams in orders])
    node = {(): 0}
    for grams in orders:
        keys = {gram: (node[gram[:-1]], vocabulary.id(gram[-1])) for gram in grams}
        grams.sort(key=keys.__getitem__)
        node |= {gram: len(node) + i for i, gram in enumerate(grams)}
        rows = np.array([(*keys[gram], *model[gram]) for gram in grams])
        parents, words = rows[:, :2].T.astype(np.uint32)
        builder.add(parents, words, *rows[:, 2:].T.astype(np.float32))
    return builder.finish(vocabulary)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """Draw a model of order 1 to 4 over WORDS; half of the backoff weights are 0."""
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
def test_scores_against_the_definition(model: Model, sentence: list[str]) -> None:
    lm = build(model)
    assert plain.of_lm(lm) == model
    assert lm.score(sentence) == pytest.approx(plain.score_sentence(model, sentence), abs=1e-5)


@given(models(), sentences)
def test_states_are_the_longest_live_contexts(model: Model, sentence: list[str]) -> None:
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
    """P(b | <s> a) is a trigram, P(</s> | a b) backs off twice."""
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


def test_word_ids_are_in_byte_order() -> None:
    vocabulary = Vocabulary.of(["<unk>", "<s>", "</s>", "é", b"b", "ab", "a", "Z", "語", "a"])
    words = ["<unk>", "<s>", "</s>", "Z", "a", "ab", "b", "é", "語"]
    assert list(vocabulary) == words
    assert [vocabulary.id(word) for word in words] == list(range(9))
    assert [vocabulary[i] for i in range(9)] == words
    assert list(vocabulary.take(np.arange(9) % 4 < 3)) == [word for i, word in enumerate(words) if i % 4 < 3]
    assert (words.index("<unk>"), words.index("<s>"), words.index("</s>")) == (UNKNOWN, BEGIN, END)
    for word in ("", "aa", "c", "ê", "\udcff", "語語", "A"):
        assert vocabulary.id(word) == UNKNOWN
    with pytest.raises(IndexError):
        vocabulary[9]


@given(model=models())
def test_save_and_load(tmp_path_factory: pytest.TempPathFactory, model: Model) -> None:
    lm = build(model)
    path = tmp_path_factory.mktemp("lm") / "lm.bin"
    lm.save(path)
    loaded = NgramLM.load(path)
    assert list(loaded.vocabulary) == list(lm.vocabulary)
    assert loaded.counts == lm.counts
    plain.assert_same_arrays(lm, loaded)
    for array in loaded.arrays:
        assert array.flags.writeable and array.flags.c_contiguous and array.flags.aligned


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """Save a model of unigrams."""
    path = tmp_path / "lm.bin"
    build({(word,): (-1.0, 0.0) for word in ("<unk>", "<s>", "</s>", "a", "b")}).save(path)
    return path


def test_loading_does_not_share_the_file(saved: Path) -> None:
    before = saved.read_bytes()
    NgramLM.load(saved).arrays.log_probs[:] = 7
    assert saved.read_bytes() == before
    assert NgramLM.load(saved).arrays.log_probs[1] == -1


def test_damaged_files(saved: Path) -> None:
    data = saved.read_bytes()
    foreign = [b"", b"asr", b"\\data\\\nngram 1=3\n", b"\0" * 200]
    cuts = [data[:size] for size in (*range(8, 64), 100, len(data) - 1)]
    flipped = [data[:i] + bytes([data[i] ^ 1]) + data[i + 1 :] for i in range(12, ngram._HEADER_SIZE)]
    for contents, cause in (
        (foreign, "not a language model"),
        ([*cuts, data + b"x"], "cut off"),
        ([data[:8] + b"\2" + data[9:]], "version 2"),
        (flipped, "the header is damaged"),
    ):
        for content in contents:
            saved.write_bytes(content)
            with pytest.raises(LanguageModelError, match=rf"lm\.bin: {cause}"):
                NgramLM.load(saved)


def test_unreadable_files(tmp_path: Path) -> None:
    for path, cause in ((tmp_path / "lm.bin", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(LanguageModelError, match=f"{path}: {cause}"):
            NgramLM.load(path)


def test_too_many_ngrams() -> None:
    with pytest.raises(LanguageModelError, match=r"^4294967296 n-grams: 4294967294 is the limit"):
        NgramBuilder([3, 2**32 - 3])


def test_loads_in_constant_time(tmp_path: Path) -> None:
    """A sparse file of a gigabyte loads as fast as a hundred bytes."""
    path = tmp_path / "lm.bin"
    counts, text = (3, 80_000_000), b"<unk><s></s>"
    layout, size = ngram._layout(counts, len(text))
    with path.open("wb") as file:
        file.write(ngram._header(counts, len(text)))
        file.truncate(size)
    with pytest.raises(LanguageModelError, match=r"lm\.bin: damaged inside"):
        NgramLM.load(path)
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
