"""Evaluate a model on manifests: transcribe every utterance and score it against its text."""

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from asr import console, manifest
from asr.console import option
from asr.errors import AsrError, ManifestError, UsageError
from asr.inference.transcriber import TranscribeOptions, Transcriber, file_source
from asr.inference.transcription import Source
from asr.manifest import Utterance
from asr.scoring.bootstrap import Interval, interval
from asr.scoring.calibration import JudgedWord, Quality, judge, measure
from asr.scoring.wer import Counts, UtteranceScore, score, total
from asr.text import normalize


@dataclass(frozen=True)
class EvaluateOptions:
    """Conditions to evaluate besides clean speech, one at a time. Raises UsageError for noise without SNR."""

    snr: tuple[float, ...] = option("add noise at this SNR in dB", (), metavar="DB", least=-100, most=100)
    noise: str | None = option("white (default), babble, or a folder", None)
    tempo: tuple[float, ...] = option("change the speaking rate, 0.5 to 2", (), least=0.5, most=2)
    level: tuple[float, ...] = option(
        "set the RMS level in dB of full scale", (), metavar="DBFS", least=-120, most=120
    )
    silence: tuple[float, ...] = option(
        "add seconds of silence before and after", (), metavar="SECONDS", least=0, most=3600
    )
    seed: int = option("seed of the noise", 0, least=0)
    normalize: bool = option("normalize case and punctuation of the references to the model's", False)

    def __post_init__(self) -> None:
        if self.noise is not None and not self.snr:
            raise UsageError("--noise names the kind of noise; give --snr for its level")

    @property
    def altered(self) -> bool:
        """True if any condition besides clean speech is asked for."""
        return bool(self.snr or self.tempo or self.level or self.silence)


@dataclass(frozen=True)
class Problem:
    """Utterance that could not be scored, and the reason."""

    id: str
    reason: str


class SpeakerScore(NamedTuple):
    """Counts summed over the utterances of one speaker."""

    speaker: str
    utterances: int
    words: Counts
    characters: Counts


@dataclass(frozen=True)
class Report:
    """Result of an evaluation. Rates are fractions; `processing_seconds` include reading and decoding.

    `normalized` tells whether the references were.
    """

    scores: tuple[UtteranceScore, ...]
    problems: tuple[Problem, ...]
    word_interval: Interval | None
    character_interval: Interval | None
    confidence: Quality
    audio_seconds: float
    processing_seconds: float
    normalized: bool = False

    @property
    def words(self) -> Counts:
        """Word counts of the corpus; their `rate` is the WER."""
        return total(s.words for s in self.scores)

    @property
    def characters(self) -> Counts:
        """Character counts of the corpus; their `rate` is the CER."""
        return total(s.characters for s in self.scores)

    @property
    def real_time_factor(self) -> float:
        """Processing time per second of audio; NaN without audio."""
        return self.processing_seconds / self.audio_seconds if self.audio_seconds else math.nan

    @property
    def speakers(self) -> list[SpeakerScore]:
        """Scores by speaker, highest WER first. Utterances without a speaker are left out."""
        groups: dict[str, list[UtteranceScore]] = {}
        for s in self.scores:
            if s.speaker is not None:
                groups.setdefault(s.speaker, []).append(s)
        rows = (
            SpeakerScore(name, len(g), total(s.words for s in g), total(s.characters for s in g))
            for name, g in sorted(groups.items())
        )
        return sorted(rows, key=lambda row: -row.words.rate if row.words.length else math.inf)

    def worst(self, count: int) -> list[UtteranceScore]:
        """Utterances with the most word errors, shortest first if equal; none without errors."""
        wrong = [s for s in self.scores if s.words.errors]
        return sorted(wrong, key=lambda s: (-s.words.errors, s.words.length, s.id))[:count]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the single utterances (see `write_details`); NaN becomes None."""
        return {
            "utterances": len(self.scores),
            "normalized": self.normalized,
            "wer": _row(self.words, self.word_interval),
            "cer": _row(self.characters, self.character_interval),
            "confidence": {key: _number(value) for key, value in asdict(self.confidence).items()},
            "audio_seconds": round(self.audio_seconds, 3),
            "processing_seconds": round(self.processing_seconds, 3),
            "real_time_factor": _number(self.real_time_factor),
            "speakers": [
                {"speaker": name, "utterances": count, "wer": _row(words), "cer": _row(characters)}
                for name, count, words, characters in self.speakers
            ],
            "problems": [asdict(problem) for problem in self.problems],
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)


def _row(counts: Counts, confidence: Interval | None = None) -> dict[str, Any]:
    row = {"rate": _number(counts.rate), "errors": counts.errors, "length": counts.length, **asdict(counts)}
    return {**row, "interval": asdict(confidence)} if confidence else row


def _number(value: float) -> float | None:
    return value if math.isfinite(value) else None


def summarize(
    scores: Sequence[UtteranceScore],
    problems: Sequence[Problem] = (),
    judged: Sequence[JudgedWord] = (),
    audio_seconds: float = 0.0,
    processing_seconds: float = 0.0,
) -> Report:
    """Report on scored utterances, with 95 % intervals and the quality of the confidences."""
    intervals = interval(scores, lambda s: s.words), interval(scores, lambda s: s.characters)
    quality = measure(judged)
    return Report(tuple(scores), tuple(problems), *intervals, quality, audio_seconds, processing_seconds)


def evaluate(
    model: Transcriber,
    manifests: Sequence[Path],
    progress: bool = False,
    options: TranscribeOptions = TranscribeOptions(),
) -> Report:
    """Score a model against the texts in manifests, unnormalised. Raises ManifestError."""
    return evaluate_utterances(model, read_all(manifests), progress=progress, options=options)


def evaluate_utterances(
    model: Transcriber,
    utterances: Sequence[Utterance],
    source_of: Callable[[Utterance], Source] = lambda u: file_source(u.audio_filepath, options=u.part),
    progress: bool = False,
    title: str = "transcribing",
    options: TranscribeOptions = TranscribeOptions(),
) -> Report:
    """Evaluate utterances on the audio that `source_of` gives; `title` labels the progress bar."""
    scores: list[UtteranceScore] = []
    problems: list[Problem] = []
    judged: list[JudgedWord] = []
    audio_seconds, begin = 0.0, time.perf_counter()
    length = sum(u.duration for u in utterances)
    with console.progress(title, length, show=progress) as update:
        options = replace(options, raw=True, numbers=False)
        sources = (source_of(u) for u in utterances)
        transcripts = model.transcribe_sources(sources, options, lambda done: update(seconds=done))
        for utterance, transcript in zip(utterances, transcripts, strict=True):
            if isinstance(transcript, AsrError):
                problems.append(Problem(utterance.id, str(transcript)))
                continue
            audio_seconds += transcript.duration
            scores.append(score(utterance.id, utterance.text, transcript.text, utterance.speaker))
            judged.extend(judge(utterance.text, transcript.words, utterance.speaker or ""))
    return summarize(scores, problems, judged, audio_seconds, time.perf_counter() - begin)


def read_all(manifests: Sequence[Path]) -> list[Utterance]:
    """Read several manifests. Raises ManifestError if an id occurs in two of them."""
    utterances: dict[str, Utterance] = {}
    for path in manifests:
        for utterance in manifest.read(path):
            if (name := utterance.id) in utterances:
                raise ManifestError(f"{path}: id {name!r} is also in another manifest; evaluate one by one")
            utterances[utterance.id] = utterance
    return list(utterances.values())


def normalized(utterances: Sequence[Utterance], characters: str | None) -> Sequence[Utterance]:
    """Normalize references to the characters of a model; None (phones without a lexicon) changes none."""
    if characters is None:
        return utterances
    return [replace(u, text=normalize(u.text, characters)) for u in utterances]


def other_form(utterances: Sequence[Utterance], characters: str | None) -> str | None:
    """Describe the references that `normalized` would change, other than in white space; None if none."""
    pairs = zip(utterances, normalized(utterances, characters), strict=True)
    changed = [u.text for u, plain in pairs if u.text.split() != plain.text.split()]
    return (
        None
        if not changed
        else (
            f"{len(changed)} of {len(utterances)} references differ from what the model writes in case or "
            f"punctuation, such as {changed[0][:60]!r}"
        )
    )


def reference_doubt(utterances: Sequence[Utterance], characters: str | None) -> str | None:
    """Describe in a line why references cannot be matched by the model; None if they can."""
    if fault := other_form(utterances, characters):
        return f"{fault}; these count as errors, --normalize makes them alike"
    unknown = set("".join(u.text for u in utterances if characters is not None)).difference(characters or "")
    letters = "".join(sorted(c for c in unknown if not c.isspace()))
    return f"references hold characters that the model cannot write: {letters[:60]!r}" if letters else None
