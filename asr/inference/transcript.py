"""Results of a transcription."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from asr.decoding.types import Alternative, Hypothesis, Word

PAUSE = 0.6  # seconds without a word that end a segment


@dataclass(frozen=True)
class Segment:
    """Words of one channel without a pause; `channel` is None unless channels were transcribed separately."""

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
    `warnings` are other reasons to doubt the text.
    """

    segments: tuple[Segment, ...]
    duration: float
    n_best: tuple[Alternative, ...] = ()
    incomplete: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def words(self) -> tuple[Word, ...]:
        """Words of all segments."""
        return tuple(word for segment in self.segments for word in segment.words)

    @property
    def text(self) -> str:
        """All words, joined by spaces."""
        return " ".join(segment.text for segment in self.segments)


def segments(words: Sequence[Word], channel: int | None = None) -> list[Segment]:
    """Split words where PAUSE seconds or more lie between two of them."""
    pauses = [round(b.start - a.end, 3) for a, b in pairwise(words)]  # rounded, as 2.4 - 1.8 < 0.6
    edges = [i for i, pause in enumerate(pauses, start=1) if pause >= PAUSE]
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
