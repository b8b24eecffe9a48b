"""Word and character error rates, counted by jiwer per utterance and summed over the corpus."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, astuple, dataclass
from pathlib import Path

import jiwer

from asr.errors import ManifestError
from asr.files import atomic_write


@dataclass(frozen=True)
class Counts:
    """Outcomes of minimum-edit alignments of hypotheses with references."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def length(self) -> int:
        """Words (or characters) in the references."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per reference word; NaN if the references are empty."""
        return self.errors / self.length if self.length else math.nan


@dataclass(frozen=True)
class UtteranceScore:
    """Reference, hypothesis and counts of one utterance."""

    id: str
    speaker: str | None
    reference: str
    hypothesis: str
    words: Counts
    characters: Counts


def score(id: str, reference: str, hypothesis: str, speaker: str | None = None) -> UtteranceScore:
    """Align one utterance. White space is collapsed; spaces count as characters.

    With an empty reference every word of the hypothesis is an insertion.
    """
    reference, hypothesis = " ".join(reference.split()), " ".join(hypothesis.split())
    words, characters = (
        Counts(output.hits, output.substitutions, output.deletions, output.insertions)
        for output in (
            jiwer.process_words(reference, hypothesis),
            jiwer.process_characters(reference, hypothesis),
        )
    )
    return UtteranceScore(id, speaker, reference, hypothesis, words, characters)


def total(counts: Iterable[Counts]) -> Counts:
    """Sum over a corpus. Its rate is the corpus error rate, which a mean of rates is not."""
    return Counts(*map(sum, zip(*map(astuple, counts), strict=True)))


def align(reference: str, hypothesis: str, width: int = 100) -> str:
    """Three lines REF, HYP and error marks (S, D, I), in blocks of at most `width` columns."""
    output = jiwer.process_words(" ".join(reference.split()), " ".join(hypothesis.split()))
    picture = jiwer.visualize_alignment(output, show_measures=False, skip_correct=False, line_width=width)
    return "\n".join(line.rstrip() for line in picture.splitlines()[2:])  # without jiwer's headline


def write_details(path: Path, scores: Sequence[UtteranceScore]) -> None:
    """Write one JSON object per utterance and line, with the fields of UtteranceScore."""
    with atomic_write(path) as file:
        file.writelines(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in scores)


def read_details(path: Path) -> list[UtteranceScore]:
    """Read the output of `write_details`. Raises ManifestError with the line number."""
    scores = []
    try:
        lines = path.read_text(encoding="utf-8").rstrip("\n").split("\n")  # splitlines() splits at U+2028 too
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot read the details ({error})") from None
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            words, characters = (Counts(**row.pop(key)) for key in ("words", "characters"))
            scores.append(UtteranceScore(**row, words=words, characters=characters))
        except (ValueError, TypeError, KeyError, AttributeError):
            raise ManifestError(f"{path}:{number}: not a line of `asr evaluate --details`") from None
    return scores
