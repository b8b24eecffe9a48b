"""Readable text by the tagger that ships."""

import io
import sys
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.cli import main
from asr.decoding.types import Word
from asr.errors import AsrError
from asr.formatting.marks import MARKS, SENTENCE_END, parse
from asr.formatting.readable import LOOKAHEAD, LiveFormatter, format_text, format_words
from asr.formatting.tagger import CONTEXT, DATA, WINDOW, Tagger, load

STORY = (
    "when i came to london in the spring i knew nobody there was a small house near the river where an old "
    "woman lived with her cat and she asked me what do you want i told her that i was looking for a room but "
    "she only laughed and said that john smith had taken the last one yesterday it was raining and i was "
    "very tired so i sat down on the steps and waited"
)


def timed(text: str, pauses: dict[int, float] | None = None) -> list[Word]:
    """Words of 0.3 s with these pauses after some of them."""
    words = text.split()
    steps = [0.3 + (pauses or {}).get(i, 0.02) for i in range(len(words))]
    starts = accumulate(steps, initial=0.0)
    return [Word(word, start, start + 0.3, 0.9) for word, start in zip(words, starts, strict=False)]


def plain(text: str) -> list[str]:
    return [token.form.lower() for token in parse(text)]


def test_known_answers() -> None:
    assert format_text("WHERE ARE YOU GOING") == "Where are you going?"
    assert format_text("I THINK THAT I'LL GO TO LONDON").startswith("I think that I'll go to London")


def test_only_case_and_marks_change() -> None:
    for text in (STORY, STORY.upper()):
        formatted = format_text(text)
        assert plain(formatted) == plain(text)
        assert (
            formatted.count(".") + formatted.count("?") >= 3 and "London" in formatted and " I " in formatted
        )
    assert format_text(STORY) == format_text(STORY.upper())


@given(st.lists(st.text(st.characters(exclude_categories=("Cs", "Zs")), min_size=1, max_size=8), max_size=12))
@settings(max_examples=50)
def test_any_text_keeps_its_words(words: list[str]) -> None:
    text = " ".join(" ".join(words).split())
    letters = [c for c in text.casefold() if c.isalnum()]
    assert [c for c in format_text(text).casefold() if c.isalnum()] == letters


def test_text_that_is_formatted_already() -> None:
    text = '"No, never," said Mr. McCall -- quietly; "I will NOT go."'
    assert format_text(text) == text
    assert format_text("THEY CAME, THEY SAW. I LEFT") == "They came, they saw. I left"
    assert format_text("WE LEFT; THE MAN, THE DOG? THE CAT").startswith("We left; the man, the dog? ")
    assert format_text(format_text(STORY)) == format_text(STORY)


@pytest.mark.parametrize("text", ["", " \n ", "é", "中文", "42", "-- ... !", "'", "''", "C++ & Rust", "ß"])
def test_odd_texts(text: str) -> None:
    found = format_text(text)
    assert found.casefold().startswith(text.strip().casefold()) and len(found) <= len(text) + 3
    assert format_text(f"HELLO {text} THERE").casefold().startswith("hello")


def test_ten_thousand_words_without_a_pause() -> None:
    text = " ".join([STORY] * 140)
    formatted = format_text(text)
    assert plain(formatted) == plain(text)
    assert formatted.count(".") > 140


def test_windows_agree_with_a_single_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    words = (STORY.split() * 6)[: 4 * WINDOW + 7]
    marks, cases = load().tag(words)
    monkeypatch.setattr("asr.formatting.tagger.WINDOW", len(words) + 2)
    whole, whole_cases = load().tag(words)
    assert len(marks) == len(words) > 4 * (WINDOW - 2 * CONTEXT)
    assert (marks == whole).mean() > 0.97 and (cases == whole_cases).mean() > 0.98


def test_a_common_word_has_a_capital_only_after_a_sentence() -> None:
    tokens = parse(format_text(" ".join([STORY] * 5)))
    common = {"a", "and", "but", "he", "in", "it", "she", "that", "the", "there", "was", "when"}
    for before, token in pairwise(tokens):
        capital = token.form.lower() in common and token.form[0].isupper()
        assert MARKS[before.mark] in SENTENCE_END or not capital


def test_words_of_other_windows_do_not_matter() -> None:
    words = STORY.split() * 6
    marks, _ = load().tag(words)
    changed, _ = load().tag([*words[:-1], "nonsense"])
    assert np.array_equal(marks[: -2 * WINDOW], changed[: -2 * WINDOW])


def test_times_and_confidences_are_kept() -> None:
    words = timed(STORY)
    formatted = format_words(words)
    assert [(w.start, w.end, w.confidence) for w in formatted] == [
        (w.start, w.end, w.confidence) for w in words
    ]
    assert format_words([]) == []


def test_a_pause_ends_a_sentence() -> None:
    for text, place in (
        ("he said nothing more the door was open", 3),
        ("the train was late we waited for an hour", 3),
        ("i do not know him he lives in paris", 4),
    ):
        words = format_words(timed(text, {place: 1.2}))
        assert [i for i, word in enumerate(words[:-1]) if word.text[-1] in ".?!"] == [place]
        assert words[place + 1].text[0].isupper()


def test_numbers_become_one_word() -> None:
    words = timed("the twenty first of may nineteen eighty four was one of them")
    found = format_words(words, numbers=True)
    assert {"21st", "1984"} <= {word.text.strip(".,;:") for word in found} and len(found) == len(words) - 3
    assert (found[1].start, found[1].end) == (words[1].start, words[2].end)
    assert "1984" in format_text("IT WAS NINETEEN EIGHTY FOUR", numbers=True)


def live(words: list[Word], step: int) -> list[Word]:
    formatter, found = LiveFormatter(), []
    for i in range(0, len(words), step):
        found += formatter.push(words[i : i + step])
        assert len(found) == max(0, min(i + step, len(words)) - LOOKAHEAD)
    return found + formatter.finish()


def test_live_text_is_nearly_the_same() -> None:
    words = timed(" ".join([STORY] * 3))
    whole, found = format_words(words), live(words, 1)
    assert [(w.start, w.end) for w in found] == [(w.start, w.end) for w in words]
    assert plain(" ".join(w.text for w in found)) == plain(" ".join(w.text for w in words))
    assert sum(a.text == b.text for a, b in zip(whole, found, strict=True)) > 0.9 * len(words)
    assert found[0].text[0].isupper() and found[-1].text[-1] in ".?!"


def test_live_text_after_an_endpoint_starts_with_a_capital() -> None:
    formatter = LiveFormatter()
    assert formatter.push(timed("it was late")) == [] == formatter.push([])
    assert [word.text.strip(".,!?") for word in formatter.finish()] == ["It", "was", "late"]
    formatter.push(timed("and then"))
    assert formatter.finish()[0].text.startswith("And")
    assert formatter.finish() == []


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in DATA.iterdir()) < 4e6


def test_a_missing_tagger_is_named(tmp_path: object) -> None:
    with pytest.raises(AsrError, match="tagger cannot be loaded"):
        Tagger(tmp_path)  # type: ignore[arg-type]


def test_asr_format(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    lines = "WHERE ARE YOU GOING\n\nIT WAS NINETEEN EIGHTY FOUR\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(lines.encode())))
    assert main(["format", "--numbers"]) == 0
    first, empty, last = capsys.readouterr().out.splitlines()
    assert (first, empty) == ("Where are you going?", "") and last.startswith("It was 1984")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xff\n")))
    assert main(["format"]) == 1
    assert "UTF-8" in capsys.readouterr().err
