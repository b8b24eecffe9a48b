"""Evaluate live recognition: what is shown when, how often it changes, and what that costs in errors."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise, takewhile
from typing import Any, NamedTuple

import numpy as np

from asr import audio, console
from asr.audio import SAMPLE_RATE
from asr.decoding.types import Word
from asr.errors import AsrError
from asr.inference.live import Committed, Endpoint, Event, Final, LiveOptions, LiveSession, Partial
from asr.inference.transcriber import TranscribeOptions, Transcriber
from asr.manifest import Utterance
from asr.scoring.evaluate import Problem
from asr.scoring.wer import Counts, UtteranceScore, score, total

PACKET = SAMPLE_RATE // 10
"""Samples per packet: 0.1 s."""


class Timed(NamedTuple):
    """An event, the seconds of audio that had arrived, and the time at which it was shown."""

    event: Event
    arrived: float
    shown: float


@dataclass
class Display:
    """Words on a screen: those committed, then those that may still change."""

    committed: list[str] = field(default_factory=list)
    stretch: list[str] = field(default_factory=list)  # committed since the last endpoint
    unstable: list[str] = field(default_factory=list)
    taken_back: int = 0

    def apply(self, event: Event) -> bool:
        """Update the display; returns whether it is complete, which it is not between two events of a set."""
        if isinstance(event, Committed):
            texts = [word.text for word in event.words]
            self.committed += texts
            self.stretch += texts
        elif isinstance(event, Partial):
            stable, self.unstable = event.stable.split(" "), event.unstable.split()
            same = _common(stable, self.stretch)
            self.taken_back += len(self.stretch) - same
        elif isinstance(event, Endpoint):
            self.stretch, self.unstable = [], []
        return isinstance(event, Partial | Endpoint)


@dataclass(frozen=True)
class Trace:
    """Measures of one utterance; latencies are in seconds.

    Attributes:
        latencies: Of each word, from its end to when it was first shown and never changed after. The audio
            that had arrived is the clock, so that computing takes no time.
        computed: The same, with the time that computing took.
        commits: From the end of each word to its commit; without the time of computing.
        first: From the start of the first word to the first text with it.
        changed: Words shown that later changed.
        taken_back: Committed words that changed.
    """

    committed: tuple[Word, ...]
    final: tuple[Word, ...]
    latencies: tuple[float, ...]
    computed: tuple[float, ...]
    commits: tuple[float, ...]
    first: tuple[float, ...]
    changed: int
    taken_back: int
    audio_seconds: float
    processing_seconds: float


def run(session: LiveSession, samples: np.ndarray, real_time: bool) -> tuple[list[Timed], float]:
    """Feed a recording packet by packet: the events, and the seconds of processing.

    A packet arrives when its last sample has been spoken, and waits until those before it are processed. In
    real time that is waited for; otherwise it is reckoned from the measured times.
    """
    events: list[Timed] = []
    begin, processing, free = time.perf_counter(), 0.0, 0.0
    for start in (*range(0, len(samples), PACKET), len(samples)):
        packet = samples[start : start + PACKET]
        arrived = (start + len(packet)) / SAMPLE_RATE
        if real_time:
            time.sleep(max(0.0, begin + arrived - time.perf_counter()))
            free = time.perf_counter() - begin
        before = time.perf_counter()
        found = session.push(packet) if len(packet) else session.finish()
        seconds = time.perf_counter() - before
        processing += seconds
        free = max(free, arrived) + seconds
        events += [Timed(event, arrived, free) for event in found]
    return events, processing


def trace(events: Sequence[Timed], true: Sequence[Word], seconds: float, processing: float) -> Trace:
    """Measure the events of a session; `true` are the committed words with their true times."""
    display, screens = Display(), [(0.0, 0.0, list[str]())]
    committed: list[Word] = []
    commits: list[float] = []
    final: list[Word] = []
    for event, arrived, shown in events:
        if isinstance(event, Committed):
            committed += event.words
            commits += [arrived] * len(event.words)
        elif isinstance(event, Final):
            final += event.words
        if display.apply(event):
            screens.append((arrived, shown, display.committed + display.unstable))
    since = [screens[_shown_since(screens, i, word.text)] for i, word in enumerate(committed)]
    named = [arrived for arrived, _, words in screens if words[:1] == [w.text for w in true[:1]]]
    ends = [word.end for word in true]
    return Trace(
        tuple(committed),
        tuple(final),
        tuple(arrived - end for (arrived, _, _), end in zip(since, ends, strict=True)),
        tuple(shown - end for (_, shown, _), end in zip(since, ends, strict=True)),
        tuple(at - end for at, end in zip(commits, ends, strict=True)),
        tuple(at - word.start for at, word in zip(named[:1], true[:1], strict=False)),
        sum(len(a) - _common(a, b) for (_, _, a), (_, _, b) in pairwise(screens)),
        display.taken_back,
        seconds,
        processing,
    )


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the common prefix."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=False)))


def _shown_since(screens: Sequence[tuple[float, float, list[str]]], place: int, text: str) -> int:
    """Index of the first screen from which on the word at a place is `text`."""
    index = len(screens)
    while index > 0 and screens[index - 1][2][place : place + 1] == [text]:
        index -= 1
    return index


@dataclass(frozen=True)
class LiveReport:
    """Result of a live evaluation, summed over utterances.

    Attributes:
        committed, final, whole: Scores of the committed words, of the second pass and of whole utterances.
        delay: Mean seconds from a sample to its posteriors, without computing.
    """

    committed: tuple[UtteranceScore, ...]
    final: tuple[UtteranceScore, ...]
    whole: tuple[UtteranceScore, ...]
    traces: tuple[Trace, ...]
    problems: tuple[Problem, ...]
    delay: float
    real_time: bool

    def to_dict(self) -> dict[str, Any]:
        """All measures; latencies in seconds, None where there is none."""
        traces = self.traces
        words = sum(len(t.committed) for t in traces)
        seconds = sum(t.audio_seconds for t in traces)
        whole = total(s.words for s in self.whole)
        return {
            "utterances": len(self.whole),
            "committed": _wer(total(s.words for s in self.committed), whole),
            "final": _wer(total(s.words for s in self.final), whole),
            "whole": _wer(whole, whole),
            "model_delay": round(self.delay, 3),
            "latency": _quantiles([x for t in traces for x in t.latencies]),
            "latency_with_computing": _quantiles([x for t in traces for x in t.computed]),
            "commit_latency": _quantiles([x for t in traces for x in t.commits]),
            "first_partial": _quantiles([x for t in traces for x in t.first]),
            "unstable_word_ratio": _ratio(sum(t.changed for t in traces), words),
            "taken_back": sum(t.taken_back for t in traces),
            "audio_seconds": round(seconds, 3),
            "real_time": self.real_time,
            "real_time_factor": _ratio(sum(t.processing_seconds for t in traces), seconds),
            "problems": [{"id": p.id, "reason": p.reason} for p in self.problems],
        }

    def to_json(self) -> str:
        """`to_dict` as JSON text."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def to_text(self) -> str:
        """A few lines for people."""
        return "\n".join(_lines(self.to_dict()))


def _wer(counts: Counts, whole: Counts) -> dict[str, Any]:
    relative = counts.errors / whole.errors - 1 if whole.errors else None
    return {"wer": _ratio(counts.errors, counts.length), "errors": counts.errors, "words": counts.length} | (
        {} if counts is whole else {"relative": None if relative is None else round(relative, 4)}
    )


def _ratio(a: float, b: float) -> float | None:
    return round(a / b, 4) if b else None


def _quantiles(values: Sequence[float]) -> dict[str, float | None]:
    if not values:
        return dict.fromkeys(("mean", "p50", "p90", "p99"))
    found = {f"p{q}": round(float(np.percentile(values, q)), 3) for q in (50, 90, 99)}
    return {"mean": round(float(np.mean(values)), 3), **found}


_LATENCIES = {
    "latency": "user-perceived latency of words",
    "latency_with_computing": "  with the time of computing",
    "commit_latency": "latency of commits",
    "first_partial": "first partial after the first word begins",
}


def _lines(row: dict[str, Any]) -> Iterator[str]:
    for key, name in (("whole", "whole utterances"), ("committed", "committed words"), ("final", "finals")):
        found = row[key]
        relative = found.get("relative")
        change = "" if relative is None else f", {100 * relative:+.1f} % relative"
        yield f"WER, {name:17} {_show(found['wer'], 100)} % ({found['errors']} of {found['words']}{change})"
    yield f"mean delay of the model {row['model_delay']:.2f} s (half a chunk and the look-ahead)"
    for key, name in _LATENCIES.items():
        shown = ", ".join(f"{q} {_show(value)} s" for q, value in row[key].items())
        yield f"{name:42} {shown}"
    changed = _show(row["unstable_word_ratio"])
    yield f"unstable partial word ratio {changed}, words taken back {row['taken_back']}"
    clock = "real time" if row["real_time"] else "simulated time: packets of 0.1 s arrive as they end"
    yield f"{row['audio_seconds'] / 60:.1f} min in {clock}; real-time factor {_show(row['real_time_factor'])}"
    for problem in row["problems"]:
        yield f"could not be scored: {problem['id']}: {problem['reason']}"


def _show(value: float | None, factor: int = 1) -> str:
    return "n/a" if value is None else f"{factor * value:.2f}"


def evaluate_live(
    model: Transcriber,
    utterances: Sequence[Utterance],
    live: LiveOptions = LiveOptions(),
    options: TranscribeOptions = TranscribeOptions(),
    real_time: bool = False,
    progress: bool = False,
) -> LiveReport:
    """Evaluate live sessions, one per utterance, against transcriptions of whole utterances."""
    scores: list[tuple[UtteranceScore, UtteranceScore, UtteranceScore]] = []
    traces: list[Trace] = []
    problems: list[Problem] = []
    length = sum(u.duration for u in utterances)
    options = replace(options, raw=True, numbers=False)  # as the references are
    _warm_up(model, live, options)
    with console.progress("listening", length, show=progress) as update:
        for u in utterances:
            try:
                found, whole = _evaluate(model, audio.read(u.audio_filepath), live, options, real_time)
            except AsrError as error:
                problems.append(Problem(u.id, str(error)))
                continue
            texts = (" ".join(w.text for w in words) for words in (found.committed, found.final))
            made = [score(u.id, u.text, text, u.speaker) for text in (*texts, whole)]
            scores.append((made[0], made[1], made[2]))
            traces.append(found)
            update(seconds=found.audio_seconds)
    committed, final, whole_scores = zip(*scores, strict=True) if scores else ((), (), ())
    delay = live.chunk / 2 + live.look_ahead
    return LiveReport(committed, final, whole_scores, tuple(traces), tuple(problems), delay, real_time)


def _warm_up(model: Transcriber, live: LiveOptions, options: TranscribeOptions) -> None:
    """Compile what the first session would have to wait for."""
    session = LiveSession(model, live, options)
    noise = np.random.default_rng(0).standard_normal(2 * SAMPLE_RATE).astype(np.float32)
    session.push(noise / 10)
    session.finish()


def _evaluate(
    model: Transcriber, samples: np.ndarray, live: LiveOptions, options: TranscribeOptions, real_time: bool
) -> tuple[Trace, str]:
    """The trace of a recording, and its text by a transcription of the whole."""
    whole = model.transcribe(samples, options=options).text
    events, processing = run(LiveSession(model, live, options), samples, real_time)
    words = [word for timed in events if isinstance(timed.event, Committed) for word in timed.event.words]
    return trace(events, _align(model, samples, words), len(samples) / SAMPLE_RATE, processing), whole


def _align(model: Transcriber, samples: np.ndarray, words: Sequence[Word]) -> Sequence[Word]:
    """Times of the committed words by forced alignment with the whole; as committed if that is impossible."""
    if not words:
        return words
    try:
        spelt = model.decoder.spell(" ".join(word.text for word in words))
        return model.decoder.time(model.engine.posteriors(samples), spelt)
    except AsrError:
        return words
