"""Times here are whole milliseconds, as cues have them."""

from functools import cache
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asr.decoding.types import Word
from asr.inference.subtitles import Cue, cues
from asr.inference.transcript import Segment, Transcript, segments

Spoken = tuple[str, int, int]
"""A word, the pause before it, its length."""


def words_of(spoken: list[Spoken]) -> list[Word]:
    words, time = [], 0
    for text, pause, length in spoken:
        words.append(Word(text, (time + pause) / 1000, (time + pause + length) / 1000, 1.0))
        time += pause + length
    return words


def transcript(spoken: list[Spoken], after: int = 0) -> Transcript:
    words = words_of(spoken)
    end = words[-1].end if words else 0.0
    return Transcript(tuple(segments(words)), (round(1000 * end) + after) / 1000)


def ms(seconds: float) -> int:
    milliseconds = round(1000 * seconds)
    assert seconds == milliseconds / 1000
    return milliseconds


def shown(made: list[Cue]) -> list[tuple[int, int, str]]:
    return [(ms(cue.start), ms(cue.end), "/".join(cue.lines)) for cue in made]


def spread(texts: str, length: int = 300, pause: int = 50) -> list[Spoken]:
    return [(text, pause, length) for text in texts.split()]


def test_one_line_where_that_is_enough() -> None:
    assert cues(transcript([], 5_000)) == []
    assert shown(cues(transcript(spread("A " * 20 + "AB", 100)))) == [(50, 3150, "A " * 20 + "AB")]
    [(_, _, text)] = shown(cues(transcript(spread("A " * 20 + "ABC", 100))))
    assert text == "A A A A A A A A A A A/A A A A A A A A A ABC"


def test_lines_are_balanced_and_the_first_is_not_longer_than_needed() -> None:
    [(_, _, text)] = shown(cues(transcript(spread("AAAAAAAAAA BBBBBBBBBB CCCCCCCCCC DDDDDDDDDD E", 500))))
    assert text == "AAAAAAAAAA BBBBBBBBBB/CCCCCCCCCC DDDDDDDDDD E"
    [(_, _, text)] = shown(cues(transcript(spread("AAAAAAAAAAAAAAA BBBBBBBBBBBBBBB CCCCCCCCCCCCCCC", 900))))
    assert text == "AAAAAAAAAAAAAAA/BBBBBBBBBBBBBBB CCCCCCCCCCCCCCC"


def test_cues_are_balanced_and_end_at_the_longest_pause() -> None:
    spoken = spread("ABCDEFGHI " * 10, 400)  # 100 characters; 84 and 14 would fit as well
    assert [len(" ".join(cue.lines)) for cue in cues(transcript(spoken))] == [49, 49]
    spoken[3] = ("PAUSE", 450, 400)
    assert [cue.lines[0].split()[0] for cue in cues(transcript(spoken))] == ["ABCDEFGHI", "PAUSE"]


def test_a_pause_between_segments_is_a_break_though_all_would_fit() -> None:
    spoken = [("ONE", 0, 1000), ("TWO", 600, 1000), ("THREE", 100, 1000)]
    assert shown(cues(transcript(spoken))) == [(0, 1000, "ONE"), (1600, 3700, "TWO THREE")]


def test_seven_seconds_are_the_most() -> None:
    spoken = [("ONE", 0, 3000), ("TWO", 100, 3000), ("THREE", 100, 800)]
    assert len(cues(transcript(spoken))) == 1
    spoken[2] = ("THREE", 100, 801)
    assert len(cues(transcript(spoken))) == 2
    cry = [("OH", 500, 9000), ("NO", 0, 1000)]
    assert shown(cues(transcript(cry))) == [(500, 7500, "OH"), (9500, 10500, "NO")]


def test_a_short_word_is_shown_on_or_else_before() -> None:
    assert shown(cues(transcript([("YES", 3000, 200)], after=5000))) == [(3000, 4000, "YES")]
    assert shown(cues(transcript([("YES", 3000, 200)], after=300))) == [(2500, 3500, "YES")]
    assert shown(cues(transcript([("YES", 400, 200)], after=300))) == [(0, 900, "YES")]  # all that there is
    between = [("ONE", 0, 2000), ("YES", 3000, 200), ("TWO", 700, 2000)]
    assert shown(cues(transcript(between)))[1] == (4900, 5900, "YES")
    joined = [("ONE", 0, 2000), ("YES", 700, 100), ("TWO", 650, 2000)]  # between short pauses
    assert shown(cues(transcript(joined))) == [(0, 2000, "ONE"), (2700, 5450, "YES TWO")]


def test_what_is_crammed_is_shown_as_long_as_can_be() -> None:
    full = "X" * 42
    spoken = [(full, 0, 200), (full, 0, 200), (full, 0, 200), (full, 0, 200), (full, 0, 3000)]
    made = shown(cues(transcript(spoken)))
    assert [(start, end) for start, end, _ in made] == [(0, 400), (400, 800), (800, 3800)]


def test_a_word_that_fits_no_line_is_broken() -> None:
    word = "".join(chr(ord("A") + i % 26) for i in range(100))
    made = shown(cues(transcript([("SO", 0, 1000), (word, 0, 10_000), ("WELL", 0, 500)])))
    lines = [line for _, _, text in made for line in text.split("/")]
    assert lines == ["SO", word[:42], word[42:84], f"{word[84:]} WELL"]
    assert [start for start, _, _ in made] == sorted(start for start, _, _ in made)


def test_channels_are_by_themselves() -> None:
    left = [Segment((Word("LEFT", 1.0, 3.0, 1.0),), 0), Segment((Word("AGAIN", 5.0, 7.0, 1.0),), 0)]
    right = [Segment((Word("RIGHT", 2.0, 2.1, 1.0),), 1)]
    made = cues(Transcript((left[0], right[0], left[1]), 8.0))
    assert [(cue.channel, cue.start, cue.end) for cue in made] == [(0, 1, 3), (1, 2, 3), (0, 5, 7)]


lengths = st.one_of(st.integers(0, 600), st.integers(0, 9_000))
pauses = st.one_of(st.integers(0, 100), st.integers(0, 700), st.integers(0, 4_000))
short_words = st.tuples(st.integers(1, 14).map("X".__mul__), pauses, lengths)
any_words = st.tuples(st.one_of(st.integers(1, 14), st.integers(15, 150)).map("X".__mul__), pauses, lengths)


def named(spoken: list[Spoken]) -> list[Spoken]:
    """The same, with words that can be told apart."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    return [(letters[i % 26] * len(text), pause, length) for i, (text, pause, length) in enumerate(spoken)]


def check_layout(made: list[Cue], duration: int) -> None:
    ends = [0, *(ms(cue.end) for cue in made)]
    starts = [*(ms(cue.start) for cue in made), duration]
    for i, cue in enumerate(made):
        assert 1 <= len(cue.lines) <= 2
        assert all(1 <= len(line) <= 42 and line == line.strip() for line in cue.lines)
        assert ends[i] <= starts[i] <= ends[i + 1] <= starts[i + 1]
        length = ends[i + 1] - starts[i]
        assert length <= 7_000
        assert length >= 1_000 or (starts[i] == ends[i] and ends[i + 1] == starts[i + 1])


@given(st.lists(any_words, max_size=30), st.integers(0, 3_000))
def test_cues_keep_to_the_limits_and_hold_all_words(spoken: list[Spoken], after: int) -> None:
    spoken = named(spoken)
    whole = transcript(spoken, after)
    made = cues(whole)
    check_layout(made, ms(whole.duration))
    lines = [line for cue in made for line in cue.lines]
    assert "".join(lines).replace(" ", "") == "".join(text for text, _, _ in spoken)
    if all(len(text) <= 42 for text, _, _ in spoken):
        assert " ".join(lines) == whole.text


@given(st.lists(st.tuples(st.text("AB", min_size=1, max_size=50), *[st.floats(-5, 50)] * 2), max_size=12))
def test_times_that_make_no_sense_do_no_harm(said: list[tuple[str, float, float]]) -> None:
    words = [Word(text, start, end, 1.0) for text, start, end in said]
    made = cues(Transcript((Segment(tuple(words)),) if words else (), 1.0))
    check_layout(made, max((ms(cue.end) for cue in made), default=0))
    assert "".join("".join(cue.lines) for cue in made).replace(" ", "") == "".join(w.text for w in words)


def bounds_of(made: list[Cue]) -> list[tuple[int, int]]:
    """The words, by number, of each cue; none is broken."""
    bounds, at = [], 0
    for cue in made:
        count = sum(len(line.split()) for line in cue.lines)
        bounds.append((at, at + count))
        at += count
    return bounds


class Costs:
    """Plain restatement of the rules."""

    def __init__(self, spoken: list[Spoken], after: int) -> None:
        self.texts = [text for text, _, _ in spoken]
        words = words_of(spoken)
        self.starts = [ms(word.start) for word in words]
        self.ends = [min(ms(word.end), ms(word.start) + 7_000) for word in words]
        self.limit = ms(words[-1].end) + after

    def room(self, a: int, b: int) -> int:
        """Milliseconds that words [a, b) can count on."""
        first = (self.ends[a - 1] + self.starts[a]) // 2 if a else 0
        last = (self.ends[b - 1] + self.starts[b]) // 2 if b < len(self.texts) else self.limit
        return last - first

    def fit(self, a: int, b: int) -> bool:
        parts = [(" ".join(self.texts[a:i]), " ".join(self.texts[i:b])) for i in range(a + 1, b + 1)]
        lines = any(max(map(len, part)) <= 42 for part in parts)
        return lines and self.ends[b - 1] - self.starts[a] <= 7_000

    def cost(self, a: int, b: int) -> float:
        empty = 1 - sum(len(text) + 1 for text in self.texts[a:b]) / 86
        pause = sum(self.starts[i] - self.ends[i - 1] for i in range(a + 1, b)) / 500
        room = self.room(a, b) / 1_000
        return empty**2 + pause + (1_000 * (2 - room) if room < 1 else 0)


@given(st.lists(short_words, min_size=1, max_size=9), st.integers(0, 3_000))
def test_no_other_way_to_cut_costs_less(spoken: list[Spoken], after: int) -> None:
    costs = Costs(spoken, after)

    @cache
    def least(a: int) -> float:
        ends = [b for b in range(a + 1, len(spoken) + 1) if costs.fit(a, b)]
        return min((costs.cost(a, b) + least(b) for b in ends), default=0)

    bounds = bounds_of(cues(transcript(spoken, after)))
    assert all(costs.fit(a, b) for a, b in bounds)
    assert sum(costs.cost(a, b) for a, b in bounds) == pytest.approx(least(0))


@given(st.lists(short_words, min_size=1, max_size=30), st.integers(0, 3_000))
@example([("X", 0, 100), ("X", 600, 100), ("X", 600, 100)], 0)
def test_what_follows_from_the_costs(spoken: list[Spoken], after: int) -> None:
    costs, made = Costs(spoken, after), cues(transcript(spoken, after))
    bounds = bounds_of(made)
    for (a, b), cue in zip(bounds, made, strict=True):
        start, end = ms(cue.start), ms(cue.end)
        natural = costs.ends[b - 1] - costs.starts[a]
        assert start <= costs.starts[a] and end >= costs.ends[b - 1]  # shown while the words are spoken
        assert end - start <= max(natural, 1_000)  # and no longer than needed
        for i in range(a + 1, b):
            if costs.starts[i] - costs.ends[i - 1] >= 500:  # only if a cue would be too short otherwise
                assert costs.room(a, i) < 1_000 or costs.room(i, b) < 1_000
    for (a, b), (_, c) in pairwise(bounds):
        if costs.fit(a, c):  # what is too short and can be joined was joined
            assert costs.room(a, b) >= 1_000 and costs.room(b, c) >= 1_000
    if all(costs.room(a, b) >= 1_000 for a, b in bounds):
        assert all(ms(cue.end) - ms(cue.start) >= 1_000 for cue in made)
