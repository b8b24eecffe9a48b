"""Word and character error rates, counted by jiwer one utterance at a time and summed."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jiwer

from asr.errors import ManifestError
from asr.files import atomic_write


@dataclass(frozen=True)
class Counts:
    """Outcomes of aligning hypotheses with references at the least number of errors."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def length(self) -> int:
        """Words (or characters) of the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors a reference word; NaN where the references hold no word."""
        return self.errors / self.length if self.length else math.nan

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.hits + other.hits,
            self.substitutions + other.substitutions,
            self.deletions + other.deletions,
            self.insertions + other.insertions,
        )


@dataclass(frozen=True)
class UtteranceScore:
    """Reference and hypothesis of one utterance, with its counts at words and at characters."""

    id: str
    speaker: str | None
    reference: str
    hypothesis: str
    words: Counts
    characters: Counts


def score(id: str, reference: str, hypothesis: str, speaker: str | None = None) -> UtteranceScore:
    """Align one utterance. Runs of white space count as one space, spaces count as characters.

    An empty reference is allowed; every word of its hypothesis is an insertion.
    """
    reference, hypothesis = (" ".join(text.split()) for text in (reference, hypothesis))
    words = jiwer.process_words(reference, hypothesis)
    characters = jiwer.process_characters(reference, hypothesis)
    return UtteranceScore(id, speaker, reference, hypothesis, _counts(words), _counts(characters))


def _counts(output: Any) -> Counts:
    return Counts(output.hits, output.substitutions, output.deletions, output.insertions)


def total(counts: Iterable[Counts]) -> Counts:
    """The sum over a corpus, whose rate is the corpus's error rate (a mean of rates is not)."""
    return sum(counts, Counts())


def align(reference: str, hypothesis: str, width: int = 100) -> str:
    """Three lines REF, HYP and marks (S, D, I), in blocks that keep to `width` columns."""
    output = jiwer.process_words(" ".join(reference.split()), " ".join(hypothesis.split()))
    picture = jiwer.visualize_alignment(output, show_measures=False, skip_correct=False, line_width=width)
    lines = picture.splitlines()[2:]  # without jiwer's headline
    return "\n".join(line.rstrip() for line in lines)


def write_details(path: Path, scores: Sequence[UtteranceScore]) -> None:
    """One JSON object a line and utterance: id, speaker, reference, hypothesis, counts."""
    with atomic_write(path) as file:
        file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in scores)


def read_details(path: Path) -> list[UtteranceScore]:
    """Read what `write_details` wrote. Raises ManifestError that names the line."""
    scores = []
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")  # strings may hold U+2028
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot read the details ({error})") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            words, characters = Counts(**row.pop("words")), Counts(**row.pop("characters"))
            scores.append(UtteranceScore(**row, words=words, characters=characters))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ManifestError(f"{path}:{number}: not a line of `asr evaluate --details`") from None
    return scores
