"""Score readable text: punctuation, capitals, and words with both."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import jiwer

from asr import console
from asr.errors import AsrError, ManifestError
from asr.formatting.marks import MARKS, SENTENCE_END, Token, case_of, parse
from asr.inference.transcriber import TranscribeOptions, Transcriber, file_source
from asr.scoring.evaluate import Problem, read_all
from asr.scoring.wer import Counts, total

SENTENCES = "sentence"
"""Key of the ends of sentences, whatever their mark."""


@dataclass(frozen=True)
class MarkCounts:
    """Marks in the references and in the hypotheses, and those that agree."""

    expected: int
    found: int
    hits: int

    @property
    def precision(self) -> float:
        """Share of the found marks that are right."""
        return self.hits / max(1, self.found)

    @property
    def recall(self) -> float:
        """Share of the expected marks that are found."""
        return self.hits / max(1, self.expected)

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        return 2 * self.hits / max(1, self.expected + self.found)


@dataclass(frozen=True)
class FormattedReport:
    """Counts by mark and for SENTENCES; matching words and those of equal case; words with marks and case.

    In `words` each mark is a word of its own.
    """

    marks: dict[str, MarkCounts]
    matched: int
    same_case: int
    words: Counts
    problems: tuple[Problem, ...] = ()

    @property
    def case_accuracy(self) -> float:
        """Share of the correctly recognised words whose case is right."""
        return self.same_case / max(1, self.matched)

    def to_text(self) -> str:
        """A table, one row per mark."""
        lines = [f"{'':10}{'precision':>10}{'recall':>10}{'F1':>10}{'expected':>10}{'found':>10}"]
        for name, c in self.marks.items():
            rates = "".join(f"{100 * rate:>10.1f}" for rate in (c.precision, c.recall, c.f1))
            lines.append(f"{name:10}{rates}{c.expected:>10}{c.found:>10}")
        lines.append(f"case accuracy {100 * self.case_accuracy:.2f} % of {self.matched} recognised words")
        lines.append(f"WER with case and punctuation {100 * self.words.rate:.2f} % of {self.words.length}")
        return "\n".join([*lines, *(f"not scored: {p.id}: {p.reason}" for p in self.problems)])

    def to_json(self) -> str:
        """All counts and rates as JSON text."""
        marks = {
            name: {**asdict(c), "precision": c.precision, "recall": c.recall, "f1": c.f1}
            for name, c in self.marks.items()
        }
        row = {
            "marks": marks,
            "case_accuracy": self.case_accuracy,
            "wer": {"rate": self.words.rate if self.words.length else None, **asdict(self.words)},
            "problems": [asdict(problem) for problem in self.problems],
        }
        return json.dumps(row, indent=1, ensure_ascii=False, allow_nan=False)


def tally(pairs: Iterable[tuple[Sequence[Token], Sequence[Token]]]) -> FormattedReport:
    """Compare references and hypotheses, whose words are aligned in lower case."""
    expected, found, hits = Counter[str](), Counter[str](), Counter[str]()
    matched, same_case, words = 0, 0, []
    for reference, hypothesis in pairs:
        expected.update(_kinds(reference))
        found.update(_kinds(hypothesis))
        for a, b in _aligned(reference, hypothesis):
            kinds = Counter(_kinds([a])) & Counter(_kinds([b]))
            hits.update(kinds)
            if a.form.lower() == b.form.lower():
                matched += 1
                same_case += case_of(a.form) == case_of(b.form)
        words.append(_count(_spelt(reference), _spelt(hypothesis)))
    rows = {kind: MarkCounts(expected[kind], found[kind], hits[kind]) for kind in (*MARKS[1:], SENTENCES)}
    return FormattedReport(rows, matched, same_case, total(words) if words else Counts())


def _kinds(tokens: Iterable[Token]) -> Iterator[str]:
    for token in tokens:
        if mark := MARKS[token.mark]:
            yield mark
            if mark in SENTENCE_END:
                yield SENTENCES


def _aligned(reference: Sequence[Token], hypothesis: Sequence[Token]) -> Iterator[tuple[Token, Token]]:
    """Pairs of words in the same place, equal or not."""
    ours, theirs = (" ".join(token.form.lower() for token in tokens) for tokens in (reference, hypothesis))
    if ours == theirs:
        yield from zip(reference, hypothesis, strict=True)
    elif ours and theirs:
        for part in jiwer.process_words(ours, theirs).alignments[0]:
            if part.type in ("equal", "substitute"):
                words = reference[part.ref_start_idx : part.ref_end_idx]
                yield from zip(words, hypothesis[part.hyp_start_idx : part.hyp_end_idx], strict=True)


def _count(reference: str, hypothesis: str) -> Counts:
    found = jiwer.process_words(reference, hypothesis)
    return Counts(found.hits, found.substitutions, found.deletions, found.insertions)


def _spelt(tokens: Iterable[Token]) -> str:
    return " ".join(f"{token.form} {MARKS[token.mark]}" for token in tokens)


def evaluate_formatted(
    model: Transcriber,
    manifests: Sequence[Path],
    options: TranscribeOptions = TranscribeOptions(),
    progress: bool = False,
) -> FormattedReport:
    """Score readable transcripts against the manifests' `formatted` or, without it, `text`.

    Raises ManifestError if there is no punctuation in the references.
    """
    utterances = read_all(manifests)
    references = [parse(u.formatted or u.text) for u in utterances]
    if not any(token.mark for tokens in references for token in tokens):
        raise ManifestError(f"{manifests[0]}: no text has punctuation; give it with the key 'formatted'")
    pairs, problems = [], []
    with console.progress("transcribing", sum(u.duration for u in utterances), show=progress) as update:
        sources = (file_source(u.audio_filepath, options=u.part) for u in utterances)
        options = replace(options, raw=False)
        results = model.transcribe_sources(sources, options, lambda done: update(seconds=done))
        for utterance, reference, result in zip(utterances, references, results, strict=True):
            if isinstance(result, AsrError):
                problems.append(Problem(utterance.id, str(result)))
            else:
                pairs.append((reference, parse(result.text)))
    return replace(tally(pairs), problems=tuple(problems))
