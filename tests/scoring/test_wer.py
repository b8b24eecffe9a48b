import json
import math
import random
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import ManifestError
from asr.scoring.wer import Counts, align, read_details, score, total, write_details

SENTENCES = st.lists(st.sampled_from(["A", "B", "CC", "D'S"]), max_size=7).map(" ".join)


@pytest.mark.parametrize(
    ("reference", "hypothesis", "counts"),
    [
        ("THE CAT SAT", "THE CAT SAT", Counts(3, 0, 0, 0)),
        ("THE CAT SAT", "THE BAT SAT", Counts(2, 1, 0, 0)),
        ("THE CAT SAT", "THE SAT", Counts(2, 0, 1, 0)),
        ("THE CAT SAT", "THE OLD CAT SAT", Counts(3, 0, 0, 1)),
        ("THE CAT SAT", "", Counts(0, 0, 3, 0)),
        ("", "THE CAT", Counts(0, 0, 0, 2)),
        ("", "", Counts(0, 0, 0, 0)),
        ("A B C D", "X A C D", Counts(3, 0, 1, 1)),
        ("  THE \t CAT\n", "THE  CAT", Counts(2, 0, 0, 0)),
    ],
)
def test_words_by_hand(reference: str, hypothesis: str, counts: Counts) -> None:
    assert score("u", reference, hypothesis).words == counts


def test_characters_by_hand() -> None:
    # A space is a character: joining two words is one deletion.
    assert score("u", "IT IS", "ITIS").characters == Counts(4, 0, 1, 0)
    assert score("u", "CAT", "CUTS").characters == Counts(2, 1, 0, 1)
    assert score("u", "A  B", "A B").characters == Counts(3, 0, 0, 0)


def test_rates() -> None:
    counts = Counts(hits=6, substitutions=1, deletions=3, insertions=2)
    assert (counts.length, counts.errors, counts.rate) == (10, 6, 0.6)
    assert score("u", "A", "B C D").words.rate == 3.0
    assert math.isnan(Counts(insertions=2).rate)
    assert total([Counts(substitutions=1), Counts(hits=9)]).rate == 0.1  # not the mean of rates


def edit_distance(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    """Levenshtein distance by its recursive definition."""

    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        swap = distance(i - 1, j - 1) + (a[i - 1] != b[j - 1])
        return min(swap, distance(i - 1, j) + 1, distance(i, j - 1) + 1)

    return distance(len(a), len(b))


@given(SENTENCES, SENTENCES)
def test_errors_are_minimal(reference: str, hypothesis: str) -> None:
    result = score("u", reference, hypothesis)
    for counts, a, b in (
        (result.words, tuple(reference.split()), tuple(hypothesis.split())),
        (result.characters, tuple(reference), tuple(hypothesis)),
    ):
        assert counts.errors == edit_distance(a, b)
        assert counts.length == len(a)
        assert counts.hits + counts.substitutions + counts.insertions == len(b)


@given(st.lists(st.tuples(SENTENCES, SENTENCES), max_size=8), st.randoms())
def test_corpus_counts_are_sums(pairs: list[tuple[str, str]], shuffler: random.Random) -> None:
    scores = [score(str(i), *pair) for i, pair in enumerate(pairs)]
    whole = total(s.words for s in scores)
    assert whole.errors == sum(edit_distance(tuple(r.split()), tuple(h.split())) for r, h in pairs)
    assert whole.length == sum(len(r.split()) for r, _ in pairs)
    shuffler.shuffle(scores)
    cut = len(scores) // 3
    assert total([total(s.words for s in scores[:cut]), total(s.words for s in scores[cut:])]) == whole


def test_alignment_in_three_lines() -> None:
    assert align("QUITE A BIT OF SENTENCE", "QUITE BIT OF AN SENTENCES").splitlines() == [
        "REF: QUITE A BIT OF **  SENTENCE",
        "HYP: QUITE * BIT OF AN SENTENCES",
        "           D         I         S",
    ]
    assert align("", "A B").splitlines() == ["REF: * *", "HYP: A B", "     I I"]
    assert align("A B", "").splitlines() == ["REF: A B", "HYP: * *", "     D D"]
    assert align("", "").splitlines() == ["REF:", "HYP:"]
    words = ["ONE", "TWO", "THREE", "FOUR"] * 10
    lines = align(" ".join(words), "ONE TWO THREE FIVE " * 10, width=40).splitlines()
    assert max(map(len, lines)) <= 40
    assert "".join(line[5:] + " " for line in lines if line.startswith("REF")).split() == words


def test_details_round_trip(tmp_path: Path) -> None:
    scores = [score("1", "É B", "E B", "me"), score("2", "", "A")]
    write_details(tmp_path / "details.jsonl", scores)
    lines = (tmp_path / "details.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(lines[0]) == {
        "id": "1",
        "speaker": "me",
        "reference": "É B",
        "hypothesis": "E B",
        "words": {"hits": 1, "substitutions": 1, "deletions": 0, "insertions": 0},
        "characters": {"hits": 2, "substitutions": 1, "deletions": 0, "insertions": 0},
    }
    assert read_details(tmp_path / "details.jsonl") == scores


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "3"}', '{"id": "3", "words": {"hit": 1}}'])
def test_damaged_details(tmp_path: Path, line: str) -> None:
    path = tmp_path / "details.jsonl"
    write_details(path, [score("1", "A", "A")])
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")
    with pytest.raises(ManifestError, match=f"{path}:2: not a line of"):
        read_details(path)
    with pytest.raises(ManifestError, match="cannot read the details"):
        read_details(tmp_path / "none.jsonl")
