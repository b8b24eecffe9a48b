"""Live sessions: independence of packets, commits, endpoints, the second pass, bounded memory."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr.decoding.types import Word
from asr.inference.decoder import LoadOptions
from asr.inference.live import (
    Committed,
    Endpoint,
    Endpointer,
    Event,
    Final,
    LiveOptions,
    LiveSession,
    LiveWindow,
    Partial,
)
from asr.inference.transcriber import TranscribeOptions, Transcriber, load_model
from tests.standin import FRAME, speak, write_bundle

BEAM = LoadOptions(settings={"beam": 8})
TEXT = "IT IS A TEST OF LIVE SPEECH"

RAW = TranscribeOptions(raw=True)


@pytest.fixture(scope="module", params=[LoadOptions(), BEAM], ids=["greedy", "beam"])
def model(request: pytest.FixtureRequest, standin_bundle: Path) -> Transcriber:
    return load_model(standin_bundle, threads=1, decoding=request.param)


def silence(seconds: float) -> np.ndarray:
    return np.zeros(int(seconds * 16_000), dtype=np.float32)


def listen(session: LiveSession, packets: Iterable[np.ndarray]) -> list[Event]:
    events = [event for packet in packets for event in session.push(packet)]
    return events + session.finish()


def committed(events: Iterable[Event]) -> list[Word]:
    return [word for event in events if isinstance(event, Committed) for word in event.words]


def text(words: Iterable[Word]) -> str:
    return " ".join(word.text for word in words)


def finals(events: Iterable[Event]) -> list[Final]:
    return [event for event in events if isinstance(event, Final)]


def test_events_of_an_utterance(model: Transcriber) -> None:
    """Partials grow, words are committed while speech goes on, and the final equals a transcription."""
    samples = np.concatenate([silence(1), speak(TEXT)])
    session = LiveSession(model, options=RAW)
    events = [event for i in range(0, len(samples), 1600) for event in session.push(samples[i : i + 1600])]
    assert len(committed(events)) >= 4
    events += session.finish()
    whole = model.transcribe(samples)
    [final] = finals(events)
    assert final.text == text(committed(events)) == TEXT
    for words in (final.words, committed(events)):
        times = [time for w in words for time in (w.start, w.end)]
        assert times == pytest.approx([time for w in whole.words for time in (w.start, w.end)])
        assert all(w.confidence == pytest.approx(1, abs=1e-3) for w in words)
    partials = [event for event in events if isinstance(event, Partial)]
    assert any(partial.unstable for partial in partials) and partials[-1].start == pytest.approx(1.0)
    [endpoint] = [event for event in events if isinstance(event, Endpoint)]
    assert (endpoint.start, endpoint.end) == (final.start, final.end)
    assert endpoint.end == pytest.approx(len(samples) / 16_000, abs=0.04)


@cache
def seeing_far() -> Transcriber:
    """A stand-in whose frames also depend on 5 frames to either side."""
    import tempfile

    folder = Path(tempfile.mkdtemp())
    return load_model(write_bundle(folder / "bundle", reach=5), threads=1)


@cache
def spoken() -> np.ndarray:
    return np.concatenate([speak("A TEST"), silence(1.2), speak("OF CUTS"), silence(0.3)])


def posteriors(packets: Sequence[np.ndarray]) -> tuple[np.ndarray, list[Event]]:
    model, rows = seeing_far(), []
    session = LiveSession(model, options=RAW)
    events: list[Event] = []

    def run() -> None:
        while window := session.next_window():
            log_probs = model.engine.run([window])[0]
            if window.final is None:
                rows.append(log_probs[: len(log_probs) - window.ahead])
            events.extend(session.feed(window, log_probs))

    for packet in packets:
        session.receive(packet)
        run()
    session.close()
    run()
    return np.concatenate([np.zeros((0, 29), np.float32), *rows]), events


@given(st.lists(st.integers(0, 70_000), max_size=30), st.integers(0, 70_000))
@settings(max_examples=25)
def test_packets_do_not_matter_and_chunks_equal_the_whole(cuts: list[int], length: int) -> None:
    samples = spoken()[:length]
    log_probs, events = posteriors(np.split(samples, sorted(min(cut, length) for cut in cuts)))
    whole = seeing_far().engine.posteriors(samples)
    assert log_probs.shape == whole.shape
    np.testing.assert_allclose(np.exp(log_probs), np.exp(whole), atol=1e-5)
    assert events == posteriors([samples])[1]


def test_single_samples_as_packets(model: Transcriber) -> None:
    samples = speak("SO IT IS")
    assert listen(LiveSession(model, options=RAW), np.split(samples, len(samples))) == listen(
        LiveSession(model, options=RAW), [samples]
    )


@given(st.integers(0, 10**6), st.sampled_from([0.0, 0.3]))
@settings(max_examples=20)
def test_nothing_is_taken_back(seed: int, hold: float) -> None:
    """Whatever the posteriors are, committed words stay, in order, and partials begin with them."""
    random = np.random.default_rng(seed)
    model = noisy()
    session = LiveSession(model, LiveOptions(chunk=0.2, hold=hold, commit_age=0.4, pause=0.3), RAW)
    words: list[Word] = []
    stretch: list[Word] = []

    def check(events: list[Event]) -> None:
        for event in events:
            if isinstance(event, Committed):
                words.extend(event.words)
                stretch.extend(event.words)
            elif isinstance(event, Endpoint):
                stretch.clear()
            elif isinstance(event, Partial):
                assert event.stable == text(stretch)

    def run() -> None:
        while window := session.next_window():
            logits = 6.0 * (random.random((window.keep_to - window.keep_from, 29)) ** 8).astype(np.float32)
            logits[random.random(len(logits)) < 0.5, 0] += 6.0
            check(session.feed(window, logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))))

    for _ in range(60):
        session.receive(silence(0.2))
        run()
    session.close()
    run()
    assert all(a.end <= b.start + 1e-6 for a, b in pairwise(words)) and words
    assert words[-1].end <= 12.0


@cache
def noisy() -> Transcriber:
    import tempfile

    return load_model(write_bundle(Path(tempfile.mkdtemp()) / "bundle"), threads=1, decoding=BEAM)


def test_pauses_end_stretches(model: Transcriber) -> None:
    parts = [
        silence(3),
        speak("ONE TWO"),
        silence(1),
        speak("THREE FOUR "),
        silence(0.4),
        speak("FIVE"),
        silence(5),
    ]
    events = listen(LiveSession(model, options=RAW), [np.concatenate(parts)])
    assert [final.text for final in finals(events)] == ["ONE TWO", "THREE FOUR FIVE"]
    assert text(committed(events)) == "ONE TWO THREE FOUR FIVE"
    ends = [event.end for event in events if isinstance(event, Endpoint)]
    said = [final.words[-1].end for final in finals(events)]
    assert ends == pytest.approx([end + 0.7 for end in said], abs=0.05)


@pytest.mark.parametrize("samples", [0, 1, 399, 400, 16_000 * 30])
def test_silence_has_no_events(model: Transcriber, samples: int) -> None:
    assert listen(LiveSession(model, options=RAW), [np.zeros(samples, np.float32)]) == []


def test_long_speech_is_cut_between_words(model: Transcriber) -> None:
    """Without a pause of its own, a stretch ends in the longest gap; no word is lost, doubled or split."""
    sentence = "AND SO IT GOES ON AND ON "
    samples = np.concatenate([speak(sentence * 3), silence(0.32), speak(sentence * 9)])
    events = listen(
        LiveSession(model, LiveOptions(longest=12.0), RAW), np.split(samples, range(0, len(samples), 5000))
    )
    assert text(committed(events)) == (sentence * 12).strip()
    assert " ".join(final.text for final in finals(events)) == (sentence * 12).strip()
    assert len(finals(events)) >= 3
    assert finals(events)[0].text == (sentence * 3).strip()
    assert all(final.end - final.start <= 12.0 for final in finals(events))


def test_an_endless_word_is_bounded(model: Transcriber) -> None:
    session = LiveSession(model, LiveOptions(longest=4.0), RAW)
    events = listen(session, [speak("A" * 200)])
    assert "".join(word.text for word in committed(events)).count("A") > 180


def test_one_pass(model: Transcriber) -> None:
    samples = [np.concatenate([speak("ONE TWO"), silence(1), speak("THREE")])]
    events = listen(LiveSession(model, LiveOptions(two_pass=False), RAW), samples)
    assert [word for final in finals(events) for word in final.words] == committed(events)


def test_finals_are_readable(model: Transcriber) -> None:
    events = listen(LiveSession(model), [speak("IT IS A TEST")])
    assert [word.text for word in committed(events)] == ["it", "is", "a", "test"]
    partials = [f"{event.stable} {event.unstable}" for event in events if isinstance(event, Partial)]
    assert partials and all("it is a test".startswith(partial.strip()) for partial in partials)
    assert [final.text for final in finals(events)] == ["It is a test."]


def test_hotwords_and_n_best(standin_bundle: Path) -> None:
    model = load_model(standin_bundle, threads=1, decoding=LoadOptions(settings={"beam_threshold": 1e4}))
    asked = TranscribeOptions(hotwords=("TEST",), n_best=3, raw=True)
    [final] = finals(listen(LiveSession(model, options=asked), [speak(TEXT)]))
    assert final.text == TEXT and len(final.n_best) == 3 and final.n_best[0].text == TEXT
    [warning] = LiveSession(model, options=TranscribeOptions(hotwords=("7", "TEST"))).warnings
    assert "'7'" in warning


def test_windows_of_several_sessions_share_batches(model: Transcriber) -> None:
    """Windows may be computed elsewhere, and second passes later."""
    texts = ["ONE TWO THREE", "FOUR FIVE", "SIX"]
    sessions = [LiveSession(model, options=RAW) for _ in texts]
    for session, said in zip(sessions, texts, strict=True):
        session.receive(np.concatenate([speak(said), silence(1), speak("MORE")]))
        session.close()
    late: list[tuple[int, LiveWindow]] = []
    events: list[list[Event]] = [[] for _ in texts]
    jobs: list[tuple[int, LiveWindow]]
    while jobs := [(i, w) for i, session in enumerate(sessions) for w in iter(session.next_window, None)]:
        late += [job for job in jobs if job[1].final]
        if jobs := [job for job in jobs if not job[1].final]:
            outputs = model.engine.run([window for _, window in jobs])
            for (i, window), output in zip(jobs, outputs, strict=True):
                events[i] += sessions[i].feed(window, output)
    for i, window in reversed(late):
        events[i] += sessions[i].feed(window, model.engine.run([window])[0])
    for said, found in zip(texts, events, strict=True):
        assert text(committed(found)) == f"{said} MORE"
        assert {final.stretch: final.text for final in finals(found)} == {0: said, 1: "MORE"}


class FakeEngine:
    """Posteriors without a model: a letter every tenth frame, a space after every fifth letter."""

    def __init__(self, model: Transcriber) -> None:
        self.grid = model.engine.grid

    def run(self, windows: Sequence[LiveWindow]) -> list[np.ndarray]:
        outputs = []
        for window in windows:
            levels = np.rint(window.samples[::FRAME] * 32).astype(int)[window.keep_from : window.keep_to]
            outputs.append(np.full((len(levels), 29), -12.0, np.float32))
            outputs[-1][np.arange(len(levels)), levels] = -1e-3
        return outputs


def test_memory_is_bounded_over_an_hour(model: Transcriber) -> None:
    fake: Any = FakeEngine(model)
    session = LiveSession(replace(model, engine=fake), LiveOptions(chunk=2.0), RAW)
    minute = np.concatenate([speak("LIVE WORDS FOR A LONG TIME " * 11), silence(25)])
    most, words = 0, 0
    for _ in range(60):
        for second in np.split(minute, range(0, len(minute), 16_000)):
            words += len(committed(session.push(second)))
            most = max(most, session._recorder.held)
            assert session._stream._count < 25 * 25 and len(session._words) < 200
            assert len(session._endpointer._blanks) <= 25 * 25
    assert words == 60 * 6 * 11
    assert most < 45 * 16_000


def test_endpointer_cuts_the_longest_run_of_blanks() -> None:
    endpointer = Endpointer(pause=8, silence=30, longest=40)
    frames = [False] * 10 + [True] * 7 + [False] * 13 + [True] * 5 + [False] * 5
    assert [endpointer.end(flag) for flag in frames] == [False] * 39 + [True]
    assert endpointer.cut() == 7  # in the second half, the middle of frames 30 to 34
    assert [endpointer.end(True) for _ in range(8)] == [False] * 7 + [True]
    assert endpointer.cut() == 0
    assert [endpointer.end(True) for _ in range(30)] == [False] * 29 + [True]
