"""Readable transcripts: segments, paragraphs, subtitles, and the options that choose them."""

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import asr
from asr.cli import main
from asr.decoding.types import Word
from asr.errors import AsrError, UsageError
from asr.inference.subtitles import WIDTH, cues
from asr.inference.transcript import Segment, Transcript, format_transcript, segments
from asr.inference.writers import FORMATS, text_line
from asr.text import Tokenizer
from tests.standin import speak


def timed(text: str, gaps: dict[int, float] | None = None, start: float = 0.0) -> list[Word]:
    words = []
    for i, word in enumerate(text.split()):
        words.append(Word(word, start, start + 0.3, 0.9))
        start += 0.35 + (gaps or {}).get(i, 0.0)
    return words


def transcript(words: list[Word]) -> Transcript:
    return Transcript(tuple(segments(words, sentences=True)), words[-1].end, formatted=True)


def test_segments_break_at_sentences_and_pauses() -> None:
    words = timed('He left. "Never!" she cried, and went -- then? The end.', {6: 0.7})
    texts = [segment.text for segment in segments(words, sentences=True)]
    assert texts == ["He left.", '"Never!" she cried, and went', "-- then?", "The end."]
    assert len(segments(words)) == 2  # as plain words, only at the pause


def test_paragraphs_break_at_long_pauses_after_a_sentence() -> None:
    words = timed("One two. Three, four. Five.", {1: 1.0, 2: 2.0, 3: 2.0})
    found = transcript(words)
    assert found.paragraphs == ("One two. Three, four.", "Five.")
    assert FORMATS["txt"](found, Path("a")) == "One two. Three, four.\nFive.\n"
    assert text_line(Path("a"), found, named=False) == "One two. Three, four.\nFive."
    assert text_line(Path("a"), found, named=True) == f"a: {found.text}"
    raw = Transcript(tuple(segments(timed("ONE TWO", {0: 5.0}))), 9.0)
    assert raw.paragraphs == ("ONE TWO",)


def test_channels_are_formatted_apart() -> None:
    parts = [Segment(tuple(timed("WHERE ARE YOU GOING", start=i)), channel=i) for i in (0, 1)]
    found = format_transcript(Transcript(tuple(parts), 9.0))
    assert [(s.channel, s.text) for s in found.segments] == [(i, "Where are you going?") for i in (0, 1)]
    assert format_transcript(Transcript((), 1.0)).segments == ()


def test_subtitles_end_with_sentences_and_clauses() -> None:
    text = (
        "I came home late that night. The house was dark, and nobody was there to open the door for me. "
        "I called, but there was no answer."
    )
    found = cues(transcript(timed(text)))
    ends = [cue.lines[-1][-1] for cue in found]
    assert all(end in ".,;" for end in ends) and ends.count(".") >= 2
    assert " ".join(line for cue in found for line in cue.lines) == text
    assert all(len(line) <= WIDTH for cue in found for line in cue.lines)
    assert all(a.end <= b.start for a, b in pairwise(found))


def test_a_line_breaks_after_a_clause() -> None:
    [cue] = cues(transcript(timed("When he saw it, he went to the door and out")))
    assert cue.lines[0] == "When he saw it,"


@pytest.fixture(scope="module")
def model(standin_bundle: Path) -> asr.Transcriber:
    return asr.load_model(standin_bundle, threads=1)


def test_readable_by_default(model: asr.Transcriber) -> None:
    spoken = speak("WHERE ARE YOU GOING")
    raw = model.transcribe(spoken, options=asr.TranscribeOptions(raw=True))
    readable = model.transcribe(spoken)
    assert (raw.text, raw.formatted) == ("WHERE ARE YOU GOING", False)
    assert (readable.text, readable.formatted) == ("Where are you going?", True)
    assert [(w.start, w.end) for w in raw.words] == [(w.start, w.end) for w in readable.words]
    assert model.transcribe(np.zeros(16_000, np.float32)).text == ""
    numbers = model.transcribe(speak("TWENTY FIVE MEN"), options=asr.TranscribeOptions(numbers=True))
    assert numbers.words[0].text == "25"


def test_options_that_do_not_fit() -> None:
    with pytest.raises(UsageError, match="raw"):
        asr.TranscribeOptions(raw=True, numbers=True)


def test_numbers_need_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "text_to_num", None)
    with pytest.raises(AsrError, match=r"asr\[numbers\]"):
        asr.TranscribeOptions(numbers=True)


def test_only_english_is_formatted() -> None:
    assert Tokenizer().is_english and Tokenizer("abcz '").is_english and Tokenizer(("B", "IY")).is_english
    assert not Tokenizer(" abcä").is_english and not Tokenizer("АБВ").is_english


@pytest.mark.parametrize("asked", [["--raw"], []])
def test_the_command(
    standin_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], asked: list[str]
) -> None:
    import soundfile

    soundfile.write(tmp_path / "a.wav", speak("WHERE ARE YOU GOING"), 16_000)
    command = ["transcribe", str(tmp_path / "a.wav"), "--model", str(standin_bundle), *asked]
    assert main(command) == 0
    assert capsys.readouterr().out == ("WHERE ARE YOU GOING\n" if asked else "Where are you going?\n")
    assert main([*command, "--format", "all"]) == 0
    for name in FORMATS:
        content = (tmp_path / "a").with_suffix(f".{name}").read_text()
        assert ("WHERE ARE" if asked else "Where are") in content
