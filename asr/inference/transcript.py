"""Results of a transcription."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from asr.decoding.types import Alternative, Hypothesis, Word
from asr.formatting.marks import ends_sentence
from asr.formatting.readable import format_words

PAUSE = 0.6  # seconds without a word that end a segment
PARAGRAPH = 1.5  # seconds after a sentence that end a paragraph


@dataclass(frozen=True)
class Segment:
    """Words of one channel without a pause; if formatted, of one sentence at most.

    `channel` is None unless channels were transcribed separately.
    """

    words: tuple[Word, ...]
    channel: int | None = None

    @property
    def start(self) -> float:
        """Start of the first word in seconds."""
        return self.words[0].start

    @property
    def end(self) -> float:
        """End of the last word in seconds."""
        return self.words[-1].end

    @property
    def text(self) -> str:
        """All words, joined by spaces."""
        return " ".join(word.text for word in self.words)


@dataclass(frozen=True)
class Transcript:
    """Transcript of a recording; segments are sorted by start.

    `duration` is the second at which it ends. `incomplete` is what is missing of the recording, if anything;
    `warnings` are other reasons to doubt the text. `formatted` words have punctuation and capitals.
    """

    segments: tuple[Segment, ...]
    duration: float
    n_best: tuple[Alternative, ...] = ()
    incomplete: str | None = None
    warnings: tuple[str, ...] = ()
    formatted: bool = False

    @property
    def words(self) -> tuple[Word, ...]:
        """Words of all segments."""
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def text(self) -> str:
        """All words, joined by spaces."""
        return " ".join(segment.text for segment in self.segments)

    @property
    def paragraphs(self) -> tuple[str, ...]:
        """The text; if formatted, split where a pause of PARAGRAPH seconds follows a sentence."""
        parts = [[segment.text for segment in self.segments[:1]]]
        for a, b in pairwise(self.segments):
            if self.formatted and b.start - a.end >= PARAGRAPH and ends_sentence(a.text, b.text):
                parts.append([])
            parts[-1].append(b.text)
        return tuple(" ".join(part) for part in parts)


def segments(words: Sequence[Word], channel: int | None = None, sentences: bool = False) -> list[Segment]:
    """Split words where PAUSE seconds or more lie between two of them, and if `sentences` after each one."""
    pauses = [round(b.start - a.end, 3) for a, b in pairwise(words)]  # rounded, as 2.4 - 1.8 < 0.6
    ends = [sentences and ends_sentence(a.text, b.text) for a, b in pairwise(words)]
    edges = [i for i, (pause, end) in enumerate(zip(pauses, ends, strict=True), 1) if end or pause >= PAUSE]
    bounds = [0, *edges, len(words)] if words else []
    return [Segment(tuple(words[a:b]), channel) for a, b in pairwise(bounds)]


def assemble(
    hypotheses: Sequence[Hypothesis], duration: float, split: bool, start: float = 0.0
) -> Transcript:
    """Combine one hypothesis per channel; `split` labels the segments with their channel.

    `duration` seconds were transcribed, from `start` on, which is added to all times. The n-best list is
    dropped if it has one entry, or if there are several channels.
    """
    parts = []
    for channel, hypothesis in enumerate(hypotheses):
        # The last frame may end a few milliseconds after the recording.
        words = [w if w.end <= duration else replace(w, end=duration) for w in hypothesis.words]
        if start:
            words = [replace(w, start=w.start + start, end=w.end + start) for w in words]
        parts += segments(words, channel if split else None)
    n_best = hypotheses[0].n_best if len(hypotheses) == 1 else ()
    parts.sort(key=lambda part: part.start)
    return Transcript(tuple(parts), start + duration, n_best if len(n_best) > 1 else ())


def format_transcript(transcript: Transcript, numbers: bool = False) -> Transcript:
    """Add punctuation and capitals, and digits if `numbers`; each channel is formatted by itself."""
    parts: list[Segment] = []
    for channel in dict.fromkeys(segment.channel for segment in transcript.segments):
        words = [w for segment in transcript.segments if segment.channel == channel for w in segment.words]
        parts += segments(format_words(words, numbers), channel, sentences=True)
    parts.sort(key=lambda part: part.start)
    return replace(transcript, segments=tuple(parts), formatted=True)
