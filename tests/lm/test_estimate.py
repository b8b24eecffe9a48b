import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.errors import LanguageModelError
from asr.lm import estimate
from asr.lm.estimate import (
    FALLBACK,
    LmOptions,
    count_ngrams,
    disk_array,
    find_discounts,
    prune,
    read_corpus,
    train,
)
from asr.lm.ngram import SPECIAL, NgramLM
from tests.lm import plain
from tests.lm.plain import FIXTURES, Model, Ngram, assert_same_arrays
from tests.lm.test_ngram import build

Sentences = list[list[str]]

sentences = st.lists(st.lists(st.sampled_from("abcde"), max_size=6), min_size=1, max_size=25).filter(any)


def write(path: Path, text: Sentences) -> Path:
    """Write one sentence per line."""
    path.write_text("".join(" ".join(sentence) + "\n" for sentence in text))
    return path


def trained(path: Path, order: int, **settings: object) -> NgramLM:
    """Train on the text in a file."""
    return train([path], LmOptions(order, **settings)).lm  # type: ignore[arg-type]


def count(text: Sentences, order: int) -> Counter[Ngram]:
    """Count n-grams."""
    counts: Counter[Ngram] = Counter()
    for words in text:
        padded = ["<s>", *words, "</s>"]
        for n in range(1, order + 1):
            counts.update(tuple(padded[i : i + n]) for i in range(len(padded) - n + 1))
    return counts


# --------------------------------------------------------------------------- against the definition


def kneser_ney(text: Sentences, order: int, cutoffs: tuple[int, ...], vocabulary: set[str] | None) -> Model:
    """Interpolated modified Kneser-Ney by its definition."""
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
        discounts = find_discounts(np.array([adjusted[gram] for gram in grams]))
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
def test_estimates_against_the_definition(
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
    vocabulary, tokens = read_corpus([write(tmp_path / "text", text)])
    names: list[Ngram] = [()]
    counts: Counter[Ngram] = Counter()
    for level in count_ngrams(vocabulary, tokens, 3):
        keys = list(zip(level.parents.tolist(), level.words.tolist(), strict=True))
        assert keys == sorted(set(keys))
        names = [(*names[parent], vocabulary[word]) for parent, word in keys]
        counts.update(dict(zip(names, level.counts.tolist(), strict=True)))
    assert +counts == count(text, 3)
    assert counts["<unk>",] == 0


@settings(max_examples=40)
@given(text=sentences, chunk=st.integers(1, 40))
def test_small_blocks(tmp_path_factory: pytest.TempPathFactory, text: Sentences, chunk: int) -> None:
    path = write(tmp_path_factory.mktemp("text") / "text", text)
    whole = trained(path, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "_CHUNK", chunk)
        assert_same_arrays(whole, trained(path, 3))


def test_on_disk_as_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    whole = trained(FIXTURES / "text.txt.gz", 4)
    monkeypatch.setattr(estimate, "_SMALL", 1)
    monkeypatch.setattr(estimate, "_CHUNK", 3000)
    assert_same_arrays(whole, trained(FIXTURES / "text.txt.gz", 4, temporary=tmp_path))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError, match="temporary files"):
        trained(FIXTURES / "tiny.txt", 2, temporary=tmp_path / "no")


def test_disk_arrays(tmp_path: Path) -> None:
    for length in (0, 1000, 1_000_000):
        array = disk_array(length, np.uint64, tmp_path)
        assert type(array) is np.ndarray
        assert array.shape == (length,) and array.flags.writeable and not array.any()
        array[:] = np.arange(length)
        assert array.sum() == length * (length - 1) // 2
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(OSError, match="temporary files") as caught:
        disk_array(1 << 55, np.uint8, tmp_path)
    assert caught.value.filename == str(tmp_path)


def test_discounts_by_hand() -> None:
    """Four n-grams occur once, two twice, one three times, one four times: y = 4 / 8."""
    discounts = (1 - 2 * 0.5 * 2 / 4, 2 - 3 * 0.5 * 1 / 2, 3 - 4 * 0.5 * 1 / 1)
    assert find_discounts(np.array([1, 1, 1, 1, 2, 2, 3, 4, 9, 0])) == discounts


@pytest.mark.parametrize("counts", [[], [1, 1], [1, 2], [2, 3], [1, 2, 3, 3, 3, 3], [1, 2, 3, *[4] * 20]])
def test_fallback_discounts(counts: list[int]) -> None:
    assert find_discounts(np.array(counts, np.uint32)) == FALLBACK


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
        ("tiny", 3, {}),
    ],
)
def test_parity_with_lmplz(name: str, order: int, settings: dict[str, object]) -> None:
    tiny = name == "tiny"
    expected = plain.of_arpa(FIXTURES / ("tiny.arpa" if tiny else f"{name}.arpa.xz"))
    model = plain.of_lm(trained(FIXTURES / ("tiny.txt" if tiny else "text.txt.gz"), order, **settings))
    assert model.keys() == expected.keys()
    for gram, values in expected.items():
        assert model[gram] == pytest.approx(values, abs=2e-6)


# ---------------------------------------------------------------------------------------- options


def test_several_texts_are_one(tmp_path: Path) -> None:
    text = [["a", "b"], ["b", "c", "c"], ["a"]]
    a, b = write(tmp_path / "a", text[:1]), write(tmp_path / "b", text[1:])
    both = train([a, b], LmOptions(2))
    whole = train([write(tmp_path / "text", text)], LmOptions(2))
    assert plain.of_lm(both.lm) == plain.of_lm(whole.lm)
    assert both.counted == whole.counted == (6, 8)


def test_vocabulary(tmp_path: Path) -> None:
    """Equally frequent words are chosen in byte order; a list may name words that the text lacks."""
    text, listed = write(tmp_path / "text", [["b", "c", "a", "d", "d"]]), tmp_path / "words"
    listed.write_text("a z\nb\n")
    for limit, words in ((2, ["a", "d"]), (99, ["a", "b", "c", "d"]), (listed, ["a", "b"])):
        assert list(trained(text, 2, vocabulary=limit).vocabulary)[3:] == words
    listed.write_text("A B <s>\n")
    with pytest.raises(LanguageModelError, match=r"words: the text has none of these words"):
        trained(text, 2, vocabulary=listed)


def test_cutoffs_are_padded() -> None:
    assert LmOptions(3).cutoffs == (0, 0, 0)
    assert LmOptions(4, (0, 1)).cutoffs == (0, 1, 1, 1)


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"order": 0}, "order 0"),
        ({"order": 6}, "order 6"),
        ({"order": 2, "vocabulary": 0}, "vocabulary of 0 words"),
        ({"order": 2, "entropy": -1.0}, "entropy threshold -1.0"),
        ({"order": 2, "entropy": math.nan}, "entropy threshold nan"),
        ({"order": 2, "cutoffs": (0, 0, 1)}, "cut-offs 0 0 1: 3 of them for a model of order 2"),
        ({"order": 2, "cutoffs": (1, 0)}, "cut-offs 1 0: .* must not fall"),
        ({"order": 2, "cutoffs": (-1,)}, "cut-offs -1: must be 0 or more"),
    ],
)
def test_wrong_options(settings: dict[str, object], cause: str) -> None:
    with pytest.raises(LanguageModelError, match=f"^{cause}"):
        LmOptions(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("", "the text has no words"),
        ("\n \n\t\n", "the text has no words"),
        ("a\nb\n", r"no line of the text is long enough for order 4; ask for 3"),
        ("a\nb <s>\n", r"text:2: <s>, </s> and <unk> are reserved"),
    ],
)
def test_unusable_text(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "text").write_text(text)
    with pytest.raises(LanguageModelError, match=cause):
        trained(tmp_path / "text", 5)


def test_short_sentences(tmp_path: Path) -> None:
    assert trained(write(tmp_path / "text", [["a"], ["b"]]), 3).counts == (5, 4, 2)


# -------------------------------------------------------------------------------- entropy pruning


@pytest.fixture(scope="module")
def lm() -> NgramLM:
    """A model of six sentences."""
    return trained(FIXTURES / "tiny.txt", 3)


def loss(model: Model, gram: Ngram) -> float:
    """Compute the relative increase of the perplexity without the n-gram, summing over all words.

    It follows from the relative entropy of the two distributions after the context, weighted by P(context).
    """
    context = gram[:-1]
    words = [g[0] for g in model if len(g) == 1 and g != ("<s>",)]
    weight = 1.0
    for i, word in enumerate(context):
        weight *= 10 ** model[("</s>",)][0] if word == "<s>" else 10 ** model[context[: i + 1]][0]
    seen = [g[-1] for g in model if g[:-1] == context and g != gram]
    before = {word: 10 ** plain.score(model, context, word) for word in words}
    shorter = {word: 10 ** plain.score(model, context[1:], word) for word in words}
    left = (1 - sum(before[w] for w in seen)) / (1 - sum(shorter[w] for w in seen))
    after = {word: before[word] if word in seen else left * shorter[word] for word in words}
    return math.expm1(weight * sum(before[w] * math.log(before[w] / after[w]) for w in words))


@pytest.mark.parametrize("threshold", [1e-4, 1e-3, 3e-3, 1e-2, 1.0])
def test_prunes_ngrams_below_the_threshold(lm: NgramLM, threshold: float) -> None:
    model, pruned = plain.of_lm(lm), plain.of_lm(prune(lm, threshold))
    expected = set(model)
    for n in (3, 2):
        prefixes = {gram[:-1] for gram in expected}
        losses = {gram: loss(model, gram) for gram in model if len(gram) == n and gram not in prefixes}
        assert all(abs(value / threshold - 1) > 1e-3 for value in losses.values()), "too close to tell"
        expected -= {gram for gram, value in losses.items() if value < threshold}
    assert set(pruned) == expected
    assert {gram: pruned[gram][0] for gram in pruned} == {gram: model[gram][0] for gram in pruned}
    for context, total in plain.sums(pruned):
        assert total == pytest.approx(1, abs=1e-5), context


def test_a_threshold_of_zero_changes_nothing(lm: NgramLM) -> None:
    same = prune(lm, 0)
    assert list(same.vocabulary) == list(lm.vocabulary)
    for name, ours, theirs in zip(lm.arrays._fields, lm.arrays, same.arrays, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5 if name == "backoffs" else 0)


def test_pruned_models_are_linked_again(lm: NgramLM) -> None:
    pruned = prune(lm, 3e-3)
    assert_same_arrays(pruned, build(plain.of_lm(pruned)))


def test_unigrams_are_never_pruned() -> None:
    lm = trained(FIXTURES / "tiny.txt", 1)
    assert plain.of_lm(prune(lm, 1.0)) == plain.of_lm(lm)


@pytest.mark.parametrize("threshold", [-1.0, math.nan, math.inf])
def test_wrong_threshold(lm: NgramLM, threshold: float) -> None:
    with pytest.raises(LanguageModelError, match=f"^entropy threshold {threshold}"):
        prune(lm, threshold)
