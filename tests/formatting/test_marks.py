"""Marks and cases: reading them from text and writing them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.formatting.marks import CAPITAL, LOWER, MARKS, UPPER, attach, case_of, ends_sentence, parse, recase
from asr.formatting.pauses import EDGES, UNKNOWN, bucket, seconds
from asr.formatting.vocabulary import Vocabulary


def title(word: str, capital: bool) -> str:
    return word.capitalize() if capital else word.lower()


def shown(text: str) -> str:
    return " ".join(token.form + MARKS[token.mark] for token in parse(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"I tell you, Jinny," said he.', "I tell you, Jinny, said he."),
        ("Don't go -- wait; (please) wait: now!", "Don't go-- wait; please wait: now!"),
        ('"No!" she cried, "never?"', "No! she cried, never?"),
        ("Mr. Hall met Dr. J. R. Gray, of St. Ives.", "Mister Hall met Doctor J R Gray, of Saint Ives."),
        ("It was I. He left.", "It was I. He left."),
        ("to-day, at the boys' school", "to day, at the boys school"),
        ("Well... I think so... maybe", "Well. I think so-- maybe"),
        ("'Yes,' he said, ''tis true.'", "Yes, he said, tis true."),
        ("What?! -- no", "What? no"),
        ("... , 42 % --", ""),
        ("", ""),
    ],
)
def test_reading(text: str, expected: str) -> None:
    assert shown(text) == expected


@pytest.mark.parametrize(
    ("form", "case"),
    [
        ("word", LOWER),
        ("Word", CAPITAL),
        ("I", CAPITAL),
        ("I'll", CAPITAL),
        ("McCall", CAPITAL),
        ("BBC", UPPER),
    ],
)
def test_cases(form: str, case: int) -> None:
    assert case_of(form) == case


WORDS = st.lists(
    st.tuples(
        st.from_regex(r"[a-z]{2,6}('[a-z])?", fullmatch=True), st.sampled_from(MARKS), st.integers(0, 2)
    ),
    max_size=20,
)


@given(WORDS)
def test_what_is_written_can_be_read(words: list[tuple[str, str, int]]) -> None:
    """Marks come back exactly, words but for their case; titles are spelt out."""
    plain, marks, cases = zip(*words, strict=True) if words else ((), (), ())
    texts = recase(plain, marks, cases, title)
    assert [text.lower() for text in texts] == list(plain)
    # A period before a small letter belongs to an abbreviation, so none is written.
    for before, text in zip(marks, texts[1:], strict=False):
        assert before != "." or not text[0].islower()
    abbreviations = {"st", "mr", "dr", "mrs", "col", "gen", "rev", "esq", "capt", "prof", "lieut", "messrs"}
    if not abbreviations & set(plain):
        read = parse(" ".join(map(attach, texts, marks)))
        assert [(token.form, MARKS[token.mark]) for token in read] == list(zip(texts, marks, strict=True))


def test_i_and_the_start_of_a_sentence_have_a_capital() -> None:
    texts = recase(
        ["I", "THINK", "I'M", "BBC", "HE", "IS"], ["", "", "", ".", "", ""], [0, 0, 0, 2, 0, 0], title
    )
    assert texts == ["I", "think", "I'm", "BBC", "He", "is"]
    assert recase(["AND"], [""], [LOWER], title, begins=False) == ["and"]


def test_the_end_of_a_sentence() -> None:
    assert ends_sentence("it.", "The") and ends_sentence("it?", "") and ends_sentence("it!", "'Tis")
    assert not ends_sentence("Never!", "she") and not ends_sentence("it,", "The")


def test_unknown_words_are_told_apart_by_their_last_letters() -> None:
    vocabulary = Vocabulary(["the", "McCall"])
    known, first, second, third = vocabulary.encode(["MCCALL", "RUNNINGLY", "'walkingly'", "xyz"])
    assert known == 3 and first == second != third
    assert max(first, third) < vocabulary.size
    words = ("MCCALL", "THE", "'TIS", "ÉCOLE", "")
    assert [vocabulary.spell(word, True) for word in words] == ["McCall", "The", "'Tis", "École", ""]
    assert [vocabulary.spell(word, False) for word in words] == ["McCall", "the", "'tis", "école", ""]


def test_pauses_by_length() -> None:
    values = [0.0, *EDGES]
    assert (
        bucket(seconds(bucket([*values]))).tolist()
        == bucket(values).tolist()
        == list(range(1, len(values) + 1))
    )
    assert bucket([float("nan"), -0.01, 99.0]).tolist() == [UNKNOWN, 1, len(values)]
