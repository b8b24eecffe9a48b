import io
import multiprocessing
import pickle
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr
from asr import audio
from asr.decoding.types import Word
from asr.errors import AsrError, AudioError, BundleError
from asr.inference import pipeline as pipeline_module
from asr.inference.decoder import LoadOptions
from asr.inference.transcriber import TranscribeOptions, Transcriber, load_model
from asr.inference.transcript import Transcript
from asr.inference.transcription import Source
from asr.inference.writers import json_line
from tests.standin import FRAME, speak, write_bundle

TEXT = "IT'S A TEST"

Options = partial(TranscribeOptions, raw=True)
RAW = Options()


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture(scope="module")
def model(bundle: Path) -> Transcriber:
    return load_model(bundle, threads=1)


def write(path: Path, text: str, rate: int = 16_000) -> Path:
    soundfile.write(path, np.repeat(speak(text), rate // 16_000), rate, subtype="PCM_16")
    return path


def test_text_words_and_duration(model: Transcriber) -> None:
    result = model.transcribe(speak(TEXT), options=RAW)
    assert result.text == TEXT
    assert result.duration == pytest.approx(3 * 0.04 * len(TEXT))
    assert [word.text for word in result.words] == ["IT'S", "A", "TEST"]
    for word, first in zip(result.words, (0, 5, 7), strict=True):
        assert word.start == pytest.approx(first * 0.12)
        assert word.end == pytest.approx((first + len(word.text)) * 0.12 - 0.04)
        assert word.confidence == pytest.approx(1, abs=1e-3)


def test_files_arrays_channels_and_rates_agree(model: Transcriber, tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", TEXT)
    samples, rate = soundfile.read(path, dtype="float64")
    assert (
        model.transcribe(path, options=RAW)
        == model.transcribe(str(path), options=RAW)
        == model.transcribe(samples, rate, options=RAW)
    )
    stereo = np.stack([2 * speak(TEXT), 0 * speak(TEXT)], axis=1)
    assert model.transcribe(stereo, options=RAW).text == TEXT
    assert model.transcribe(np.repeat(speak(TEXT), 3), sample_rate=48_000, options=RAW).text == TEXT


def test_layouts_types_and_sources(model: Transcriber, tmp_path: Path) -> None:
    """Channels first, integer PCM, bytes and open files give the same text; anything else is refused."""
    speech = speak(TEXT)
    content = write(tmp_path / "a.wav", TEXT).read_bytes()
    with (tmp_path / "a.wav").open("rb") as file:
        accepted = [
            *(speech[None], np.stack([speech, speech]), (speech * 2**15).astype(np.int16)),
            *((speech * 2.0**31).astype(np.int32), content, io.BytesIO(content), file),
            np.stack([speech, -speech]),
        ]
        results = [model.transcribe(recording, options=RAW) for recording in accepted]
    assert [result.text for result in results] == [TEXT] * len(accepted)
    assert "opposite phase" in results[-1].warnings[0]
    with (tmp_path / "a.wav").open(errors="replace") as text, pytest.raises(AudioError, match="rb"):
        model.transcribe(text)  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="a list is no recording"):
        model.transcribe([0.0] * 800)  # type: ignore[arg-type]


def test_a_part_of_a_recording(model: Transcriber, tmp_path: Path) -> None:
    """Times count from the start of the recording, not of the part."""
    path = write(tmp_path / "a.flac", TEXT)
    middle = Options(start=5 * 0.12, end=6 * 0.12)
    for recording in (path, audio.read(path)):
        part = model.transcribe(recording, options=middle)
        assert [(word.text, word.start) for word in part.words] == [("A", pytest.approx(0.6))]
        assert part.duration == pytest.approx(0.72)
    with pytest.raises(AudioError, match="shorter than 60 s"):
        model.transcribe(path, options=Options(start=60))
    with pytest.raises(AudioError, match="select nothing"):
        Options(start=2, end=1)


def test_a_long_recording_is_one_stream(model: Transcriber) -> None:
    text = " ".join(f"{'ABCDEFGHIJ'[i % 10]}{'KLMNOPQRST'[i // 10 % 10]}" for i in range(400))
    result = model.transcribe(speak(text), options=RAW)
    assert result.duration > 120
    assert result.text == text
    assert result.words[-1].end == pytest.approx(result.duration - 0.04)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_shorter_than_a_frame_is_silence(model: Transcriber, samples: int) -> None:
    result = model.transcribe(np.full(samples, 0.5, np.float32), options=RAW)
    assert (result.text, result.words, result.duration) == ("", (), samples / 16_000)


def test_words_end_within_the_recording(model: Transcriber) -> None:
    [word] = model.transcribe(speak("A")[: 640 + 400], options=RAW).words
    assert (word.text, word.start, word.end) == ("A", 0.0, 0.065)


def test_posteriors_are_distributions(model: Transcriber) -> None:
    log_probs = model.posteriors(speak(TEXT))
    assert log_probs.shape == (3 * len(TEXT), 29)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "reason"),
    [
        (np.zeros(800, np.int64), "int64"),
        (np.full(800, 12_345.0, np.float32), "samples reach 12345"),
        (np.zeros((1, 2, 800), np.float32), r"shape \(1, 2, 800\)"),
        (np.full(800, np.nan, np.float32), "not finite"),
    ],
)
def test_unsuitable_arrays(model: Transcriber, samples: np.ndarray, reason: str) -> None:
    with pytest.raises(AudioError, match=reason):
        model.transcribe(samples, options=RAW)


def test_one_bad_file_does_not_stop_the_others(
    model: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["ONE", "TWO", "THREE", "FOUR", "FIVE"]
    paths = [write(tmp_path / f"{text}.wav", text) for text in texts]
    (tmp_path / "broken.wav").write_bytes(b"RIFF no more")
    paths[2:2] = [tmp_path / "none.wav", tmp_path / "broken.wav"]
    expected = ["ONE", "TWO", None, None, "THREE", "FOUR", "FIVE"]
    for group_seconds in (600.0, 0.8, 0.0):
        monkeypatch.setattr(pipeline_module, "GROUP_SECONDS", group_seconds)
        results = list(model.transcribe_files(iter(paths), RAW))
        assert [path for path, _ in results] == paths
        assert [None if isinstance(r, AsrError) else r.text for _, r in results] == expected
        assert str(paths[2]) in str(results[2][1]) and "no such file" in str(results[2][1])
        assert isinstance(results[3][1], AudioError) and str(paths[3]) in str(results[3][1])
    assert list(model.transcribe_files([])) == []


def test_one_group_is_read_ahead(model: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write(tmp_path / f"{i}.wav", "LONG ENOUGH") for i in range(20)]
    opened: list[Path] = []
    stream = audio.stream
    monkeypatch.setattr(audio, "stream", lambda p, *rest: opened.append(p) or stream(p, *rest))
    monkeypatch.setattr(pipeline_module, "GROUP_SECONDS", 3.0)  # three files
    unread = iter(paths)
    next(model.transcribe_files(unread, RAW))
    assert 1 <= len(opened) <= 2 * 3 and len(list(unread)) >= 20 - 2 * 3


def test_threads_and_groups_change_nothing(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["A", "BE", "SEE"], size)) for size in (1, 900, 3, 0, 20, 450, 2, 2)]
    recordings = [speak(text) for text in texts]
    expected = load_model(bundle, threads=1).transcribe_batch(recordings, options=RAW)
    assert [transcript.text for transcript in expected] == texts
    for threads, group_seconds in ((1, 7.0), (3, 20.0), (8, 600.0)):
        monkeypatch.setattr(pipeline_module, "GROUP_SECONDS", group_seconds)
        assert load_model(bundle, threads).transcribe_batch(recordings, options=RAW) == expected


def test_eight_threads_share_a_model(model: Transcriber) -> None:
    texts = [f"{a} AND {b}" for a in ("ONE", "TWO") for b in ("CAT", "DOG", "BIRD", "FISH")]
    with ThreadPoolExecutor(8) as pool:
        for _ in range(3):
            options = [Options(hotwords=(text[:3],)) for text in texts]
            results = pool.map(lambda t, o: model.transcribe(speak(t), options=o).text, texts, options)
            assert list(results) == texts


def test_an_interrupted_run_leaves_nothing_behind(model: Transcriber, tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.wav", "WORDS") for i in range(3)]
    before = threading.active_count()
    results = model.transcribe_files(paths, RAW)
    next(results)
    results.close()
    assert threading.active_count() == before


def test_damage_at_the_end_of_a_long_file_affects_only_that_file(
    model: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline_module, "GROUP_SECONDS", 20.0)
    paths = [write(tmp_path / f"{i}.flac", "WORDS " * 150) for i in range(3)]
    paths[1].write_bytes(paths[1].read_bytes()[:-100])
    first, second, third = (result for _, result in model.transcribe_files(paths, RAW))
    assert isinstance(second, Transcript) and second.incomplete and second.text.startswith("WORDS WORDS")
    assert '"incomplete": "' in json_line(paths[1], second)
    [(_, refused)] = model.transcribe_files(paths[1:2], Options(strict=True))
    assert isinstance(refused, AudioError) and "cut off or damaged" in str(refused)
    assert isinstance(first, Transcript) and first == third and first.text == " ".join(["WORDS"] * 150)


def test_split_channels(model: Transcriber) -> None:
    both = np.stack([speak("LEFT" + 20 * " "), speak(10 * " " + "RIGHT" + 9 * " ")], axis=1)
    assert model.transcribe(both, options=Options(channel=0)).text == "LEFT"
    assert model.transcribe(both, options=Options(channel=1)).text == "RIGHT"
    split = model.transcribe(both, options=Options(channel="split"))
    assert [(segment.channel, segment.text) for segment in split.segments] == [(0, "LEFT"), (1, "RIGHT")]
    with pytest.raises(AudioError, match="channel"):
        model.transcribe(both, options=Options(channel=2))
    with pytest.raises(AudioError, match="no channel left; it has 2, counted from 0"):
        model.transcribe(both, options=Options(channel="left"))  # type: ignore[arg-type]
    with pytest.raises(AudioError, match="one channel at a time"):
        model.posteriors(both, channel="split")  # type: ignore[arg-type]
    assert len(model.posteriors(both.astype(np.float16), 8_000, channel=1)) == 2 * 72


def test_n_best(model: Transcriber) -> None:
    assert model.transcribe(speak("A"), options=RAW).n_best == ()
    between = np.repeat(np.array([3.5, 0], dtype=np.float32) / 32, FRAME)  # as likely A as B
    n_best = model.transcribe(between, options=Options(n_best=3)).n_best
    assert {entry.text for entry in n_best} == {"A", "B"}
    assert [entry.score for entry in n_best] == pytest.approx([np.log(0.5)] * 2, abs=1e-3)


def test_progress_sums_to_the_duration(model: Transcriber, tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i}.wav", "WORDS " * i) for i in (1, 2, 200)]
    seconds: list[float] = []
    results = list(model.transcribe_files(paths, RAW, on_audio=seconds.append))
    assert sum(seconds) == pytest.approx(
        sum(r.duration for _, r in results if isinstance(r, Transcript)), abs=0.1
    )


@pytest.mark.parametrize("samples", [1, 399])
def test_a_file_shorter_than_a_frame(model: Transcriber, tmp_path: Path, samples: int) -> None:
    path = tmp_path / "short.wav"
    soundfile.write(path, np.zeros(samples), 16_000)
    [(_, error)] = model.transcribe_files([path], RAW)
    assert f"{path}: too short" in str(error) and f"{samples / 16_000:.3f} s" in str(error)


def test_posteriors_that_are_nan_name_the_file(
    model: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.wav", "A")
    monkeypatch.setattr(model.engine, "run", lambda windows: [np.full((3, 29), np.nan) for _ in windows])
    [(_, error)] = model.transcribe_files([path], RAW)
    assert str(error).startswith(f"{path}: ") and "NaN" in str(error)


def test_sources_that_fail_do_not_stop_the_others(model: Transcriber) -> None:
    def blocks(text: str, fails: bool) -> Iterator[np.ndarray]:
        yield speak(text)[:, None]
        if fails:
            raise AudioError(f"{text}: cannot go on")

    sources = (Source(blocks(text, text == "TWO"), text) for text in ("ONE", "TWO", "SIX"))
    one, two, six = model.transcribe_sources(sources, RAW)
    assert isinstance(one, Transcript) and isinstance(six, Transcript)
    assert (one.text, str(two), six.text) == ("ONE", "TWO: cannot go on", "SIX")


def transcribe_in_worker(model: Transcriber, recording: np.ndarray) -> Transcript:
    return model.transcribe(recording)


def test_a_model_goes_to_spawned_processes(bundle: Path) -> None:
    model = load_model(bundle, 2, LoadOptions(settings={"beam": 7}))
    copy = pickle.loads(pickle.dumps(model))
    assert (copy.decoder.options, copy.threads) == (model.decoder.options, 2)
    assert copy.decoder.options.beam == 7
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.apply(transcribe_in_worker, (model, speak(TEXT))) == model.transcribe(speak(TEXT))


def test_public_interface(bundle: Path) -> None:
    assert asr.transcribe(speak(TEXT), model=bundle) == asr.load_model(str(bundle)).transcribe(speak(TEXT))
    assert asr.Word is Word and asr.Transcript is Transcript
    assert dir(asr) == sorted(asr.__all__) and all(getattr(asr, name) for name in asr.__all__)
    with pytest.raises(AttributeError, match="module 'asr' has no attribute 'Model'"):
        asr.Model  # noqa: B018
    with pytest.raises(BundleError, match="no such folder"):
        asr.transcribe(speak(TEXT), model=bundle / "none")


HEAVY = {"torch", "torchaudio", "pytorch_lightning", "lightning", "scipy", "matplotlib"}


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `code`."""
    code += "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_transcribing_imports_nothing_heavy(bundle: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", TEXT, rate=48_000)
    arguments = ["transcribe", str(path), "--model", str(bundle), "--out", str(tmp_path), "--format", "all"]
    loaded = modules_after(f"from asr.cli import main; assert main({arguments!r}) == 0")
    assert {"numpy", "onnxruntime", "av"} <= loaded
    loaded |= modules_after(
        f"import asr\nprint(asr.load_model({str(bundle)!r}).transcribe({str(path)!r}).text)"
    )
    assert not loaded & {*HEAVY, "jiwer", "onnx", "rich"}


def test_imports() -> None:
    loaded = modules_after("import asr.scoring.conditions, asr.scoring.report, asr.scoring.bootstrap")
    assert "jiwer" in loaded and not loaded & HEAVY
    telemetry = "import asr.inference.engine, os; assert os.environ['ORT_DISABLE_TELEMETRY'] == '1'"
    assert "onnxruntime" in modules_after(telemetry)
    assert not modules_after("import asr") & {"numpy", "onnxruntime", "av", "rich", "typer"}
    code = (
        "from asr.cli import main\nfor command in {}:\n try: main([command, '-h'])\n except SystemExit: pass"
    )
    loaded = modules_after(code.format(["transcribe", "align", "evaluate", "tune", "lm"]))
    assert not loaded & {"numba", "llvmlite", *HEAVY}
