"""Reference n-gram models as plain dicts, slow and obviously right."""

import lzma
import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

from asr.lm.ngram import NgramLM

FIXTURES = Path(__file__).parent / "fixtures"

Ngram = tuple[str, ...]
Model = dict[Ngram, tuple[float, float]]
"""log10 probability and backoff weight of each n-gram."""


def of_arpa(path: Path) -> Model:
    """Read an ARPA file."""
    data = path.read_bytes()
    text = (lzma.decompress(data) if path.suffix == ".xz" else data).decode()
    rows = (line.split("\t") for line in text.split("\n") if "\t" in line)
    return {tuple(gram.split(" ")): (float(prob), float(*rest or [0])) for prob, gram, *rest in rows}


def of_lm(lm: NgramLM) -> Model:
    """Convert the arrays of a model."""
    words, arrays = list(lm.vocabulary), lm.arrays
    names: list[Ngram] = [()]
    for parent, (first, last) in enumerate(pairwise(arrays.first_children.tolist())):
        assert first == len(names)
        names += [(*names[parent], words[word]) for word in arrays.words[first:last].tolist()]
    backoffs = arrays.backoffs.tolist() + [0.0] * (len(names) - len(arrays.backoffs))
    values = zip(arrays.log_probs.tolist(), backoffs, strict=True)
    return dict(list(zip(names, values, strict=True))[1:])


def score(model: Model, context: Ngram, word: str) -> float:
    """Compute log10 P(word | context) by the definition of backing off."""
    if (*context, word) in model:
        return model[(*context, word)][0]
    if not context:
        return model[("<unk>",)][0]
    return model.get(context, (0.0, 0.0))[1] + score(model, context[1:], word)


def score_sentence(model: Model, words: Sequence[str]) -> float:
    """Compute log10 P(words </s>)."""
    order = max(map(len, model))
    known = ["<s>", *(word if (word,) in model else "<unk>" for word in words), "</s>"]
    return sum(score(model, tuple(known[max(0, i - order + 1) : i]), known[i]) for i in range(1, len(known)))


def sums(model: Model) -> Iterator[tuple[Ngram, float]]:
    """Yield each context and the sum of the probabilities of all words, which should be one."""
    words = [ngram[0] for ngram in model if len(ngram) == 1 and ngram != ("<s>",)]
    order = max(map(len, model))
    for context in [(), *(ngram for ngram in model if len(ngram) < order and ngram[-1] != "</s>")]:
        yield context, math.fsum(10 ** score(model, context, word) for word in words)


def assert_same_arrays(a: NgramLM, b: NgramLM) -> None:
    """Compare all arrays of two models for equality."""
    for name, ours, theirs in zip(a.arrays._fields, a.arrays, b.arrays, strict=True):
        np.testing.assert_array_equal(ours, theirs, err_msg=name)
        assert ours.dtype == theirs.dtype
