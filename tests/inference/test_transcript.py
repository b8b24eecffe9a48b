from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.types import Alternative, Hypothesis, Word
from asr.inference.transcript import PAUSE, Segment, Transcript, assemble, segments


def word(text: str, start: float, end: float) -> Word:
    return Word(text, start, end, 0.9)


def test_a_pause_ends_a_segment() -> None:
    words = [word("A", 0, 0.1), word("B", 0.69, 0.8), word("C", 1.4, 1.5), word("D", 9, 9.1)]
    assert [segment.text for segment in segments(words)] == ["A B", "C", "D"]
    assert [(segment.start, segment.end) for segment in segments(words)] == [(0, 0.8), (1.4, 1.5), (9, 9.1)]
    assert {segment.channel for segment in segments(words, 3)} == {3}
    assert segments([]) == []


@given(st.integers(0, 100_000))
def test_when_a_pause_begins_does_not_matter(frame: int) -> None:
    before, pause = word("A", 0, frame * 0.04), round(PAUSE / 0.04)
    assert len(segments([before, word("B", (frame + pause) * 0.04, 9e9)])) == 2
    assert len(segments([before, word("B", (frame + pause - 1) * 0.04, 9e9)])) == 1


@given(st.lists(st.integers(0, 30), max_size=20))
def test_segments_hold_all_words_in_order(times: list[int]) -> None:
    edges = [0.0]
    for time in times:
        edges.append(edges[-1] + time * 0.04)
    words = [word(str(i), a, b) for i, (a, b) in enumerate(zip(edges[::2], edges[1::2], strict=False))]
    made = segments(words)
    assert [w for segment in made for w in segment.words] == words
    for a, b in pairwise(made):
        assert b.start - a.end > PAUSE - 1e-6
    for segment in made:
        for first, second in pairwise(segment.words):
            assert second.start - first.end < PAUSE - 1e-6


def test_channels_take_turns() -> None:
    left = Hypothesis((word("YES", 0, 0.5), word("GOOD", 4, 4.5)), -1, (Alternative("YES GOOD", -1),) * 2)
    right = Hypothesis((word("NO", 2, 2.5),), -1)
    transcript = assemble([left, right], 5, split=True)
    assert transcript.text == "YES NO GOOD"
    assert [segment.channel for segment in transcript.segments] == [0, 1, 0]
    assert [w.text for w in transcript.words] == ["YES", "NO", "GOOD"]
    assert transcript.n_best == ()


def test_one_channel() -> None:
    alternatives = (Alternative("YES", -1), Alternative("JES", -2))
    hypothesis = Hypothesis((word("YES", 0, 0.52),), -1, alternatives)
    expected = Transcript((Segment((word("YES", 0, 0.5),)),), 0.5, alternatives)
    assert assemble([hypothesis], 0.5, split=False) == expected
    silence = assemble([Hypothesis((), 0, alternatives[:1])], 0.5, split=True)
    assert silence == Transcript((), 0.5) and (silence.text, silence.words) == ("", ())
