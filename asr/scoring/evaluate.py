"""Evaluation of a model on manifests."""

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from asr import manifest
from asr.errors import AsrError, ManifestError
from asr.inference.pipeline import Source
from asr.inference.transcriber import TranscribeOptions, Transcriber, file_source
from asr.manifest import Utterance
from asr.scoring.bootstrap import Interval, interval
from asr.scoring.calibration import JudgedWord, Quality, judge, measure
from asr.scoring.wer import Counts, UtteranceScore, score, total


@dataclass(frozen=True)
class Problem:
    """An utterance that could not be scored: its id and why."""

    id: str
    reason: str


@dataclass(frozen=True)
class SpeakerScore:
    """Sums over the utterances of one speaker."""

    speaker: str
    utterances: int
    words: Counts
    characters: Counts


@dataclass(frozen=True)
class Report:
    """What an evaluation found. Rates are fractions; `audio_seconds` of scored speech took
    `processing_seconds` to read from disk, transcribe and decode."""

    scores: tuple[UtteranceScore, ...]
    problems: tuple[Problem, ...]
    word_interval: Interval | None
    character_interval: Interval | None
    confidence: Quality
    audio_seconds: float
    processing_seconds: float

    @property
    def words(self) -> Counts:
        """Sum over all utterances; its `rate` is the WER."""
        return total(s.words for s in self.scores)

    @property
    def characters(self) -> Counts:
        """Sum over all utterances; its `rate` is the CER."""
        return total(s.characters for s in self.scores)

    @property
    def real_time_factor(self) -> float:
        """Processing time a second of audio; NaN without audio."""
        return self.processing_seconds / self.audio_seconds if self.audio_seconds else math.nan

    @property
    def speakers(self) -> list[SpeakerScore]:
        """One row a speaker, the highest WER first; utterances without a speaker have no row."""
        groups: dict[str, list[UtteranceScore]] = {}
        for s in self.scores:
            if s.speaker is not None:
                groups.setdefault(s.speaker, []).append(s)
        rows = [
            SpeakerScore(name, len(g), total(s.words for s in g), total(s.characters for s in g))
            for name, g in sorted(groups.items())
        ]
        return sorted(rows, key=lambda row: -row.words.rate if row.words.length else math.inf)

    def worst(self, count: int) -> list[UtteranceScore]:
        """The utterances with the most word errors, shortest first among equals; none without errors."""
        wrong = [s for s in self.scores if s.words.errors]
        return sorted(wrong, key=lambda s: (-s.words.errors, s.words.length, s.id))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single utterances (see `write_details`); what has no value is None."""
        return {
            "utterances": len(self.scores),
            "wer": _row(self.words, self.word_interval),
            "cer": _row(self.characters, self.character_interval),
            "confidence": {key: _number(value) for key, value in asdict(self.confidence).items()},
            "audio_seconds": round(self.audio_seconds, 3),
            "processing_seconds": round(self.processing_seconds, 3),
            "real_time_factor": _number(self.real_time_factor),
            "speakers": [
                {
                    "speaker": s.speaker,
                    "utterances": s.utterances,
                    "wer": _row(s.words),
                    "cer": _row(s.characters),
                }
                for s in self.speakers
            ],
            "problems": [asdict(problem) for problem in self.problems],
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)


def _row(counts: Counts, confidence: Interval | None = None) -> dict[str, Any]:
    row = {"rate": _number(counts.rate), "errors": counts.errors, "length": counts.length, **asdict(counts)}
    return row if confidence is None else {**row, "interval": asdict(confidence)}


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def summarize(
    scores: Sequence[UtteranceScore],
    problems: Sequence[Problem] = (),
    judged: Sequence[JudgedWord] = (),
    audio_seconds: float = 0.0,
    processing_seconds: float = 0.0,
    seed: int = 0,
) -> Report:
    """Sum up scores, with 95 % intervals, and confidences."""
    return Report(
        scores=tuple(scores),
        problems=tuple(problems),
        word_interval=interval(scores, lambda s: s.words, seed),
        character_interval=interval(scores, lambda s: s.characters, seed),
        confidence=measure(judged),
        audio_seconds=audio_seconds,
        processing_seconds=processing_seconds,
    )


def recording_of(utterance: Utterance) -> Source:
    """The utterance's recording as it is."""
    return file_source(utterance.audio_filepath)


def evaluate(
    model: Transcriber,
    manifests: Sequence[Path],
    progress: bool = False,
    seed: int = 0,
    options: TranscribeOptions = TranscribeOptions(),
) -> Report:
    """Transcribe the utterances of all manifests and score them against their texts as they stand there.

    What cannot be read or decoded is not scored but listed in the report's `problems`. `progress` shows a
    bar on standard error where that is a terminal. Raises ManifestError.
    """
    return evaluate_utterances(model, read_all(manifests), progress=progress, seed=seed, options=options)


def evaluate_utterances(
    model: Transcriber,
    utterances: Sequence[Utterance],
    source_of: Callable[[Utterance], Source] = recording_of,
    progress: bool = False,
    title: str = "transcribing",
    seed: int = 0,
    options: TranscribeOptions = TranscribeOptions(),
) -> Report:
    """As `evaluate`, of what `source_of` makes of each utterance; `title` stands before the bar."""
    scores: list[UtteranceScore] = []
    problems: list[Problem] = []
    judged: list[JudgedWord] = []
    audio_seconds = 0.0
    begin = time.perf_counter()
    transcripts = model.transcribe_sources((source_of(u) for u in utterances), options)
    tracked = _tracked(transcripts, len(utterances), title) if progress else transcripts
    for utterance, transcript in zip(utterances, tracked, strict=True):
        if isinstance(transcript, AsrError):
            problems.append(Problem(utterance.id, str(transcript)))
            continue
        audio_seconds += transcript.duration
        scores.append(score(utterance.id, utterance.text, transcript.text, utterance.speaker))
        judged.extend(judge(utterance.text, transcript.words, utterance.speaker or ""))
    return summarize(scores, problems, judged, audio_seconds, time.perf_counter() - begin, seed)


def read_all(manifests: Sequence[Path]) -> list[Utterance]:
    """The utterances of several manifests. Raises ManifestError where an id stands in two."""
    utterances: dict[str, Utterance] = {}
    for path in manifests:
        for utterance in manifest.read(path):
            if utterance.id in utterances:
                raise ManifestError(
                    f"{path}: the id {utterance.id!r} stands in two manifests; evaluate them one by one"
                )
            utterances[utterance.id] = utterance
    return list(utterances.values())


def _tracked(items: Iterable[Any], count: int, title: str) -> Iterable[Any]:
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(items, title, count, console=console, transient=True, disable=not sys.stderr.isatty())
