import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import LanguageModelError
from asr.lm import counting, disk
from asr.lm.counting import count_ngrams, read_corpus
from asr.lm.disk import Scratch
from asr.lm.kneser_ney import FALLBACK, Discounts, find_discounts, parse_cutoffs
from asr.lm.ngram import NgramLM
from asr.lm.train import LmOptions, train
from asr.lm.vocabulary import SPECIAL
from tests.lm import plain
from tests.lm.plain import FIXTURES, Model, Ngram

Sentences = list[list[str]]

sentences = st.lists(st.lists(st.sampled_from("abcde"), max_size=6), min_size=1, max_size=25).filter(any)


def write(path: Path, text: Sentences) -> Path:
    """The text, one sentence a line."""
    path.write_text("".join(" ".join(sentence) + "\n" for sentence in text))
    return path


def trained(path: Path, order: int, **settings: object) -> NgramLM:
    """A model of the text in a file."""
    return train([path], LmOptions(order, **settings)).lm  # type: ignore[arg-type]


def count(text: Sentences, order: int) -> Counter[Ngram]:
    """How often each n-gram occurs."""
    counts: Counter[Ngram] = Counter()
    for words in text:
        padded = ["<s>", *words, "</s>"]
        for n in range(1, order + 1):
            counts.update(tuple(padded[i : i + n]) for i in range(len(padded) - n + 1))
    return counts


# --------------------------------------------------------------------------- against the definition


def kneser_ney(text: Sentences, order: int, cutoffs: tuple[int, ...], vocabulary: set[str] | None) -> Model:
    """Interpolated modified Kneser-Ney by its definition, slowly."""
    counts = count(text, order)
    words = {gram[0] for gram in counts if len(gram) == 1} | set(SPECIAL)

    def kept(gram: Ngram) -> bool:
        allowed = all(vocabulary is None or word in vocabulary or word in SPECIAL for word in gram)
        return (gram[0] in SPECIAL and len(gram) == 1) or (allowed and counts[gram] > cutoffs[len(gram) - 1])

    left: dict[Ngram, set[str]] = defaultdict(set)
    for gram in counts:
        left[gram[1:]].add(gram[0])
    adjusted = {
        gram: number if len(gram) == order or (gram[0] == "<s>") else len(left[gram])
        for gram, number in counts.items()
    } | {("<s>",): 0, ("<unk>",): 0}
    model: Model = {(): (1 / (sum(kept((word,)) for word in words) - 1), 1.0)}
    probs, weights = {(): model[()][0]}, defaultdict(lambda: 1.0)
    for n in range(1, order + 1):
        grams = [gram for gram in adjusted if len(gram) == n]
        discounts = find_discounts(np.array([adjusted[gram] for gram in grams])).values
        for context in {gram[:-1] for gram in grams}:
            here = [gram for gram in grams if gram[:-1] == context]
            total = sum(adjusted[gram] for gram in here)
            off = {g: discounts[min(adjusted[g], 3) - 1] if adjusted[g] else 0.0 for g in here}
            weights[context] = sum(off[g] if kept(g) else adjusted[g] for g in here) / total
            for g in here:
                probs[g] = (adjusted[g] - off[g]) / total + weights[context] * probs[g[1:]]
    probs[("<s>",)] = 1.0
    return {
        gram: (math.log10(probs[gram]), math.log10(weights[gram]) if len(gram) < order else 0.0)
        for gram in adjusted
        if kept(gram)
    }


@settings(max_examples=60)
@given(
    text=sentences,
    order=st.integers(1, 5),
    cutoffs=st.lists(st.integers(0, 2), min_size=5, max_size=5).map(sorted),
    words=st.one_of(st.none(), st.sets(st.sampled_from("abcde"), min_size=1)),
)
def test_estimates_are_those_of_the_definition(
    tmp_path_factory: pytest.TempPathFactory,
    text: Sentences,
    order: int,
    cutoffs: list[int],
    words: set[str] | None,
) -> None:
    folder = tmp_path_factory.mktemp("text")
    order = min(order, 2 + max(map(len, text)))
    chosen = tuple(cutoffs[:order])
    seen = {word for sentence in text for word in sentence}
    if words is not None:
        words = words & seen or seen
        (folder / "words").write_text(" ".join(sorted(words)))
    limit = None if words is None else folder / "words"
    lm = trained(write(folder / "text", text), order, cutoffs=chosen, vocabulary=limit)
    expected, model = kneser_ney(text, order, chosen, words), plain.of_lm(lm)
    assert model.keys() == expected.keys()
    for gram, values in expected.items():
        assert model[gram] == pytest.approx(values, abs=2e-6)
    for context, total in plain.sums(model):
        assert total == pytest.approx(1, abs=1e-5), context


def test_counts_and_order_of_ngrams(tmp_path: Path) -> None:
    text = [["a", "b", "a"], [], ["a", "b"]]
    scratch = Scratch(tmp_path)
    corpus = read_corpus([write(tmp_path / "text", text)], scratch)
    names: list[Ngram] = [()]
    counts: Counter[Ngram] = Counter()
    for level in count_ngrams(corpus, 3, scratch):
        keys = list(zip(level.parents.tolist(), level.words.tolist(), strict=True))
        assert keys == sorted(set(keys))
        names = [(*names[parent], corpus.vocabulary[word]) for parent, word in keys]
        counts.update(dict(zip(names, level.counts.tolist(), strict=True)))
    assert +counts == count(text, 3)
    assert counts["<unk>",] == 0


@settings(max_examples=40)
@given(text=sentences, chunk=st.integers(1, 40))
def test_many_blocks_give_what_one_gives(
    tmp_path_factory: pytest.TempPathFactory, text: Sentences, chunk: int
) -> None:
    path = write(tmp_path_factory.mktemp("text") / "text", text)
    whole = trained(path, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_CHUNK", chunk)
        for ours, theirs in zip(whole.arrays, trained(path, 3).arrays, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_on_disk_as_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = trained(FIXTURES / "text.txt.gz", 4)
    monkeypatch.setattr(disk, "_SMALL", 1)
    monkeypatch.setattr(counting, "_CHUNK", 3000)
    for ours, theirs in zip(whole.arrays, trained(FIXTURES / "text.txt.gz", 4).arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(FileNotFoundError, match="temporary files"):
        trained(FIXTURES / "tiny.txt", 2, temporary=tmp_path / "no")


def test_discounts_by_hand() -> None:
    """Four n-grams once, two twice, one three times, one four times: y = 4 / 8."""
    assert find_discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4, 9, 0])) == Discounts(
        (1 - 2 * 0.5 * 2 / 4, 2 - 3 * 0.5 * 1 / 2, 3 - 4 * 0.5 * 1 / 1), fallback=False
    )


@pytest.mark.parametrize("counts", [[], [1, 1], [1, 2], [2, 3], [1, 2, 3, 3, 3, 3], [1, 2, 3, *[4] * 20]])
def test_discounts_that_cannot_be_told(counts: list[int]) -> None:
    assert find_discounts(np.array(counts, np.uint32)) == Discounts(FALLBACK, fallback=True)


# ---------------------------------------------------------------------------------- against lmplz


@pytest.mark.parametrize(
    ("name", "order", "settings"),
    [
        ("order3", 3, {}),
        ("order5", 5, {}),
        ("order3-prune001", 3, {"cutoffs": (0, 0, 1)}),
        ("order3-prune011", 3, {"cutoffs": (0, 1)}),
        ("order3-limited", 3, {"vocabulary": FIXTURES / "limited.txt"}),
        ("order3-limited", 3, {"vocabulary": 100}),
    ],
)
def test_parity_with_lmplz(name: str, order: int, settings: dict[str, object]) -> None:
    expected = plain.of_arpa(FIXTURES / f"{name}.arpa.xz")
    model = plain.of_lm(trained(FIXTURES / "text.txt.gz", order, **settings))
    assert model.keys() == expected.keys()
    for gram, values in expected.items():
        assert model[gram] == pytest.approx(values, abs=2e-6)


def test_parity_with_lmplz_on_six_sentences() -> None:
    expected = plain.of_arpa(FIXTURES / "tiny.arpa")
    model = plain.of_lm(trained(FIXTURES / "tiny.txt", 3))
    assert model.keys() == expected.keys()
    for gram, values in expected.items():
        assert model[gram] == pytest.approx(values, abs=2e-6)


def test_pruned_models_sum_to_one() -> None:
    for cutoffs in ((0, 0, 1), (0, 1, 1), (1, 1, 2)):
        lm = trained(FIXTURES / "tiny.txt", 3, cutoffs=cutoffs)
        for context, total in plain.sums(plain.of_lm(lm)):
            assert total == pytest.approx(1, abs=1e-5), (cutoffs, context)


# ---------------------------------------------------------------------------------------- options


def test_several_texts_are_one(tmp_path: Path) -> None:
    text = [["a", "b"], ["b", "c", "c"], ["a"]]
    a, b = write(tmp_path / "a", text[:1]), write(tmp_path / "b", text[1:])
    both = train([a, b], LmOptions(2))
    whole = train([write(tmp_path / "text", text)], LmOptions(2))
    assert plain.of_lm(both.lm) == plain.of_lm(whole.lm)
    assert both.counted == whole.counted == (6, 8)


def test_equally_frequent_words_are_chosen_by_their_bytes(tmp_path: Path) -> None:
    text = write(tmp_path / "text", [["b", "c", "a", "d", "d"]])
    assert trained(text, 1, vocabulary=2).words()[3:] == ["a", "d"]
    assert trained(text, 1, vocabulary=99).words()[3:] == ["a", "b", "c", "d"]


def test_list_of_words_may_hold_more_than_the_text(tmp_path: Path) -> None:
    text = write(tmp_path / "text", [["b", "c", "a"]])
    (tmp_path / "words").write_text("a z\nb\n")
    assert trained(text, 2, vocabulary=tmp_path / "words").words()[3:] == ["a", "b"]
    (tmp_path / "words").write_text("A B <s>\n")
    with pytest.raises(LanguageModelError, match=r"words: the text holds none of these words; do they"):
        trained(text, 2, vocabulary=tmp_path / "words")


def test_cutoffs() -> None:
    assert parse_cutoffs((), 3) == (0, 0, 0)
    assert parse_cutoffs((0, 1), 4) == (0, 1, 1, 1)
    with pytest.raises(LanguageModelError, match=r"^cut-offs 0 0 1: 3 of them for a model of order 2$"):
        parse_cutoffs((0, 0, 1), 2)
    for wrong in ((1, 0), (-1,)):
        with pytest.raises(LanguageModelError, match=r"must be 0 or more and must not fall"):
            parse_cutoffs(wrong, 2)


@pytest.mark.parametrize(
    ("settings", "complaint"),
    [
        ({"order": 0}, "order 0: must be 1 to 5"),
        ({"order": 6}, "order 6: must be 1 to 5"),
        ({"order": 2, "vocabulary": 0}, "vocabulary of 0 words: must be 1 or more"),
        ({"order": 2, "entropy": -1.0}, "entropy threshold -1.0: must be 0 or more; 1e-8 is usual"),
        ({"order": 2, "entropy": math.nan}, "entropy threshold nan: must be 0 or more; 1e-8 is usual"),
    ],
)
def test_wrong_options(settings: dict[str, object], complaint: str) -> None:
    with pytest.raises(LanguageModelError) as caught:
        LmOptions(**settings)  # type: ignore[arg-type]
    assert str(caught.value) == complaint


@pytest.mark.parametrize("content", ["", "\n \n\t\n"])
def test_empty_text(tmp_path: Path, content: str) -> None:
    (tmp_path / "text").write_text(content)
    with pytest.raises(LanguageModelError, match="the text holds no words; nothing to learn from"):
        trained(tmp_path / "text", 1)


def test_text_too_short_for_the_order(tmp_path: Path) -> None:
    text = write(tmp_path / "text", [["a"], ["b"]])
    assert trained(text, 3).counts == (5, 4, 2)
    with pytest.raises(LanguageModelError, match=r"no line of the text is long enough for order 4; ask for"):
        trained(text, 5)


@pytest.mark.parametrize("word", ["<s>", "</s>", "<unk>"])
def test_special_words_in_the_text(tmp_path: Path, word: str) -> None:
    text = write(tmp_path / "text", [["a"], ["b", word]])
    with pytest.raises(LanguageModelError) as caught:
        trained(text, 2)
    assert str(caught.value) == f"{text}:2: <s>, </s> and <unk> mean something else; take them out"
