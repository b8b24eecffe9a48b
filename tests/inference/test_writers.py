import html
import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.types import Alternative, Word
from asr.inference.subtitles import Cue, cues
from asr.inference.transcript import Segment, Transcript, segments
from asr.inference.writers import FORMATS, json_line, text_line, word_table

NAME = Path("talks/a b.wav")

WORDS = (Word("IT'S", 0.12, 0.4, 0.98766), Word("ME", 0.4444, 0.8, 1.0), Word("AGAIN", 3661.5, 3663.0, 0.5))
ONE = Transcript(tuple(segments(WORDS)), 3700.00049)
TWO = Transcript((Segment(WORDS[:2], 0), Segment((Word("R&B", 2.0, 3.5, 1.0),), 1)), 4.0)
EMPTY = Transcript((), 2.5)


def written(kind: str, transcript: Transcript) -> str:
    return FORMATS[kind](transcript, NAME)


def test_the_formats() -> None:
    assert list(FORMATS) == ["txt", "srt", "vtt", "json", "tsv"]
    assert written("txt", ONE) == "IT'S ME AGAIN\n"
    assert written("txt", TWO) == "0: IT'S ME\n1: R&B\n"
    assert written("srt", ONE) == (
        "1\n00:00:00,120 --> 00:00:01,120\nIT'S ME\n\n2\n01:01:01,500 --> 01:01:03,000\nAGAIN\n"
    )
    assert written("srt", TWO).endswith("\n\n2\n00:00:02,000 --> 00:00:03,500\nR&B\n")
    assert written("vtt", ONE) == (
        "WEBVTT\n\n00:00:00.120 --> 00:00:01.120\nIT'S ME\n\n01:01:01.500 --> 01:01:03.000\nAGAIN\n"
    )
    assert written("vtt", TWO).endswith("\n\n00:00:02.000 --> 00:00:03.500\n<v Channel 1>R&amp;B\n")
    assert written("tsv", ONE) == "start\tend\ttext\n120\t800\tIT'S ME\n3661500\t3663000\tAGAIN\n"


def test_hours_need_not_fit_two_digits() -> None:
    late = Transcript((Segment((Word("LATE", 360_000.0, 360_002.0, 1.0),)),), 360_002.0)
    assert "100:00:00,000 --> 100:00:02,000" in written("srt", late)


def test_json() -> None:
    first = {"text": "IT'S", "start": 0.12, "end": 0.4, "confidence": 0.9877}
    second = {"text": "ME", "start": 0.444, "end": 0.8, "confidence": 1.0}
    third = {"text": "AGAIN", "start": 3661.5, "end": 3663.0, "confidence": 0.5}
    text = written("json", ONE)
    assert text.count("\n") == 1
    assert json.loads(text) == {
        "file": "talks/a b.wav",
        "duration": 3700.0,
        "text": "IT'S ME AGAIN",
        "segments": [
            {"start": 0.12, "end": 0.8, "text": "IT'S ME", "words": [first, second]},
            {"start": 3661.5, "end": 3663.0, "text": "AGAIN", "words": [third]},
        ],
        "words": [first, second, third],
    }
    assert [segment["channel"] for segment in json.loads(written("json", TWO))["segments"]] == [0, 1]


def test_json_with_alternatives() -> None:
    transcript = Transcript((), 1.0, (Alternative("É", -1.23456), Alternative("E", -2.0)))
    line = json_line(NAME, transcript)
    assert json.loads(line)["n_best"] == [{"text": "É", "score": -1.2346}, {"text": "E", "score": -2.0}]
    assert "É" in line


def test_an_empty_transcript() -> None:
    expected_text = {"txt": "\n", "srt": "\n", "vtt": "WEBVTT\n", "tsv": "start\tend\ttext\n"}
    assert {kind: written(kind, EMPTY) for kind in expected_text} == expected_text
    expected = {"file": "talks/a b.wav", "duration": 2.5, "text": "", "segments": [], "words": []}
    assert json.loads(written("json", EMPTY)) == expected


def test_words_and_lines_on_a_terminal() -> None:
    rows = ["0.12\t0.40\t0.988\tIT'S", "0.44\t0.80\t1.000\tME", "3661.50\t3663.00\t0.500\tAGAIN"]
    assert word_table(ONE).splitlines() == rows
    assert word_table(EMPTY) == ""
    assert text_line(NAME, ONE, named=False) == "IT'S ME AGAIN"
    assert text_line(NAME, ONE, named=True) == "talks/a b.wav: IT'S ME AGAIN"
    assert text_line(Path("a\nb.wav"), EMPTY, named=True) == "a\\nb.wav: "


def test_a_name_that_is_not_utf8_can_be_printed() -> None:
    path = Path(b"caf\xe9\n.wav".decode("utf-8", "surrogateescape"))
    name = "caf\N{REPLACEMENT CHARACTER}"
    assert text_line(path, ONE, named=True).encode() == f"{name}\\n.wav: IT'S ME AGAIN".encode()
    assert json.loads(json_line(path, ONE).encode())["file"] == f"{name}\n.wav"
    assert all(function(ONE, path).encode() for function in FORMATS.values())


words = st.lists(
    st.tuples(
        st.text("AB<>&'-É1\u4e2d", min_size=1, max_size=60), st.integers(0, 3_000), st.integers(0, 3_000)
    ),
    max_size=15,
)


def spoken(said: list[tuple[str, int, int]], channel: int | None) -> list[Segment]:
    made, time = [], 0
    for text, pause, length in said:
        made.append(Word(text, (time + pause) / 1000, (time + pause + length) / 1000, 1.0))
        time += pause + length
    return segments(made, channel)


@st.composite
def transcripts(draw: st.DrawFn) -> Transcript:
    channels = draw(st.sampled_from([(None,), (0, 1)]))
    parts = [segment for channel in channels for segment in spoken(draw(words), channel)]
    parts.sort(key=lambda segment: segment.start)
    return Transcript(tuple(parts), max((segment.end for segment in parts), default=0.0) + 1)


def parse(text: str, clock: str) -> list[tuple[float, float, list[str]]]:
    """The blocks below a line with two times; the lines before it are no concern of a player."""
    found = []
    for block in text.strip("\n").split("\n\n"):
        lines = block.split("\n")
        for i, line in enumerate(lines):
            if match := re.fullmatch(f"{clock} --> {clock}", line):
                h, m, s, h2, m2, s2 = (float(value.replace(",", ".")) for value in match.groups())
                found.append((3600 * h + 60 * m + s, 3600 * h2 + 60 * m2 + s2, lines[i + 1 :]))
                break
    return found


def check(found: list[tuple[float, float, list[str]]], expected: list[Cue]) -> None:
    assert [lines for _, _, lines in found] == [list(cue.lines) for cue in expected]
    for (start, end, _), cue in zip(found, expected, strict=True):
        assert (start, end) == (pytest.approx(cue.start), pytest.approx(cue.end))


@given(transcripts())
def test_srt_is_read_back(transcript: Transcript) -> None:
    text = written("srt", transcript)
    check(parse(text, r"(\d\d):([0-5]\d):([0-5]\d,\d{3})"), cues(transcript))
    numbers = [block.split("\n")[0] for block in text.strip("\n").split("\n\n") if block]
    assert numbers == [str(i + 1) for i in range(len(numbers))]


@given(transcripts())
def test_vtt_is_read_back(transcript: Transcript) -> None:
    text = written("vtt", transcript)
    assert text.startswith("WEBVTT\n")
    found, expected = parse(text, r"(\d\d):([0-5]\d):([0-5]\d\.\d{3})"), cues(transcript)
    voices = [re.match("<v Channel ([01])>", lines[0]) for _, _, lines in found]
    assert [voice and int(voice[1]) for voice in voices] == [cue.channel for cue in expected]
    plain = [
        (start, end, [html.unescape(re.sub("^<v Channel [01]>", "", line)) for line in lines])
        for start, end, lines in found
    ]
    check(plain, expected)
    for (_, _, lines), voice in zip(found, voices, strict=True):
        assert "\n".join(lines)[voice.end() if voice else 0 :].count("<") == 0


@given(transcripts())
def test_tables_and_objects_are_read_back(transcript: Transcript) -> None:
    rows = [line.split("\t") for line in written("tsv", transcript).split("\n")[1:-1]]
    assert [row[2] for row in rows] == [segment.text for segment in transcript.segments]
    assert [(int(row[0]) / 1000, int(row[1]) / 1000) for row in rows] == [
        (segment.start, segment.end) for segment in transcript.segments
    ]
    row = json.loads(written("json", transcript))
    assert [word for segment in row["segments"] for word in segment["words"]] == row["words"]
    assert " ".join(word["text"] for word in row["words"]) == row["text"] == transcript.text


@given(transcripts(), st.sampled_from(list(FORMATS)))
def test_files_end_in_one_newline(transcript: Transcript, kind: str) -> None:
    text = written(kind, transcript)
    assert text.endswith("\n") and not text.endswith("\n\n")
