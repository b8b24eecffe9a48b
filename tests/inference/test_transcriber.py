import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asr
from asr.decoding.hypothesis import Word
from asr.errors import AsrError, AudioError, BundleError
from asr.inference import transcriber as transcriber_module
from asr.inference.transcriber import Transcriber, load_model
from asr.inference.writers import json_line, text_line
from tests.standin import speak, write_bundle

TEXT = "IT'S A TEST"


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
    result = model.transcribe(speak(TEXT))
    assert result.text == TEXT
    assert result.duration == pytest.approx(3 * 0.04 * len(TEXT))
    assert [word.text for word in result.words] == ["IT'S", "A", "TEST"]
    for word, first in zip(result.words, (0, 5, 7), strict=True):
        assert word.start == pytest.approx(first * 0.12)
        assert word.end == pytest.approx((first + len(word.text)) * 0.12 - 0.04)
        assert word.confidence == pytest.approx(1, abs=1e-3)


def test_file_path_string_and_array_agree(model: Transcriber, tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", TEXT)
    samples, rate = soundfile.read(path, dtype="float64")
    assert model.transcribe(path) == model.transcribe(str(path)) == model.transcribe(samples, rate)


def test_channels_and_rate(model: Transcriber) -> None:
    stereo = np.stack([2 * speak(TEXT), 0 * speak(TEXT)], axis=1)
    assert model.transcribe(stereo).text == TEXT
    assert model.transcribe(np.repeat(speak(TEXT), 3), sample_rate=48_000).text == TEXT


def test_a_long_recording_is_one_stream(model: Transcriber) -> None:
    text = " ".join(f"{'ABCDEFGHIJ'[i % 10]}{'KLMNOPQRST'[i // 10 % 10]}" for i in range(400))
    result = model.transcribe(speak(text))
    assert result.duration > 120
    assert result.text == text
    assert result.words[-1].end == pytest.approx(result.duration - 0.04)


@pytest.mark.parametrize("samples", [0, 1, 399])
def test_shorter_than_a_frame_is_silence(model: Transcriber, samples: int) -> None:
    result = model.transcribe(np.full(samples, 0.5, np.float32))
    assert (result.text, result.words, result.duration) == ("", (), samples / 16_000)


def test_words_end_within_the_recording(model: Transcriber) -> None:
    [word] = model.transcribe(speak("A")[: 640 + 400]).words
    assert (word.text, word.start, word.end) == ("A", 0.0, 0.065)


def test_batch_equals_one_by_one(model: Transcriber) -> None:
    recordings = [speak(text) for text in ("ONE", "TWO THREE FOUR", "", "A")]
    together = model.transcribe_batch(recordings)
    assert [result.text for result in together] == ["ONE", "TWO THREE FOUR", "", "A"]
    assert [result.text for result in map(model.transcribe, recordings)] == [r.text for r in together]


def test_posteriors_are_distributions(model: Transcriber) -> None:
    log_probs = model.posteriors(speak(TEXT))
    assert log_probs.shape == (3 * len(TEXT), 29)
    np.testing.assert_allclose(np.exp(log_probs).sum(axis=1), 1, atol=1e-4)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros(800, np.int16), "audio: samples are int16; give floats in [-1, 1]"),
        (
            np.zeros((1, 2, 800), np.float32),
            "audio: samples have shape (1, 2, 800); give [samples] or [samples, channels]",
        ),
        (np.full(800, np.nan, np.float32), "audio: the recording holds samples that are not finite"),
    ],
)
def test_arrays_that_are_refused(model: Transcriber, samples: np.ndarray, message: str) -> None:
    with pytest.raises(AudioError) as error:
        model.transcribe(samples)
    assert str(error.value) == message


def test_one_bad_file_does_not_stop_the_others(
    model: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = ["ONE", "TWO", "THREE", "FOUR", "FIVE"]
    paths = [write(tmp_path / f"{text}.wav", text) for text in texts]
    (tmp_path / "broken.wav").write_bytes(b"RIFF no more")
    paths[2:2] = [tmp_path / "none.wav", tmp_path / "broken.wav"]
    expected = ["ONE", "TWO", None, None, "THREE", "FOUR", "FIVE"]
    for group_seconds in (600.0, 0.8, 0.0):
        monkeypatch.setattr(transcriber_module, "GROUP_SECONDS", group_seconds)
        results = list(model.transcribe_files(iter(paths)))
        assert [path for path, _ in results] == paths
        assert [None if isinstance(r, AsrError) else r.text for _, r in results] == expected
        assert str(results[2][1]) == f"{paths[2]}: cannot read the recording (no such file)"
        assert isinstance(results[3][1], AudioError) and str(paths[3]) in str(results[3][1])
    assert list(model.transcribe_files([])) == []


def test_group_is_done_before_the_next_is_read(
    model: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [write(tmp_path / f"{i}.wav", "LONG ENOUGH") for i in range(20)]
    monkeypatch.setattr(transcriber_module, "GROUP_SECONDS", 3.0)  # two files
    unread = iter(paths)
    next(model.transcribe_files(unread))
    assert len(list(unread)) >= 17


def test_posteriors_that_are_nan_name_the_file(
    model: Transcriber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.wav", "A")
    monkeypatch.setattr(model._engine, "posteriors", lambda waveforms: [np.full((3, 29), np.nan)])
    [(_, error)] = model.transcribe_files([path])
    expected = f"{path}: posteriors hold NaN (first in frame 0); the model is damaged or diverged"
    assert str(error) == expected


def test_writers(model: Transcriber) -> None:
    transcript = model.transcribe(speak("A BE"))
    path = Path("dir/é.wav")
    assert text_line(path, transcript, named=False) == "A BE"
    assert text_line(path, transcript, named=True) == "dir/é.wav: A BE"
    line = json_line(path, transcript)
    assert "\n" not in line and "é" in line
    assert json.loads(line) == {
        "file": "dir/é.wav",
        "duration": 0.48,
        "text": "A BE",
        "words": [
            {"text": "A", "start": 0.0, "end": 0.08, "confidence": pytest.approx(1, abs=1e-3)},
            {"text": "BE", "start": 0.24, "end": 0.44, "confidence": pytest.approx(1, abs=1e-3)},
        ],
    }


def test_a_name_that_is_not_utf8_can_be_printed(model: Transcriber) -> None:
    path = Path(b"caf\xe9.wav".decode("utf-8", "surrogateescape"))
    transcript = model.transcribe(speak("A"))
    assert text_line(path, transcript, named=True).encode() == "caf\N{REPLACEMENT CHARACTER}.wav: A".encode()
    assert json.loads(json_line(path, transcript).encode())["file"].startswith("caf")


def test_public_interface(bundle: Path) -> None:
    assert asr.transcribe(speak(TEXT), model=bundle) == asr.load_model(str(bundle)).transcribe(speak(TEXT))
    assert asr.Word is Word and asr.Transcript is transcriber_module.Transcript
    assert dir(asr) == ["Transcript", "Word", "load_model", "transcribe"]
    with pytest.raises(AttributeError, match="module 'asr' has no attribute 'Model'"):
        asr.Model  # noqa: B018
    with pytest.raises(BundleError, match="no such folder"):
        asr.transcribe(speak(TEXT), model=bundle / "none")


def modules_after(code: str) -> set[str]:
    """Top-level modules that a fresh interpreter holds after `code`."""
    code += "\nimport sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.splitlines()[-1].split())


def test_transcribing_imports_nothing_heavy(bundle: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.flac", TEXT, rate=48_000)
    loaded = modules_after(
        f"import asr\nprint(asr.load_model({str(bundle)!r}).transcribe({str(path)!r}).text)"
    )
    assert {"numpy", "onnxruntime", "soundfile"} <= loaded
    heavy = {
        "torch",
        "torchaudio",
        "pytorch_lightning",
        "scipy",
        "matplotlib",
        "jiwer",
        "onnx",
        "rich",
    }
    assert not loaded & heavy


def test_evaluating_needs_no_torch() -> None:
    loaded = modules_after("import asr.scoring.evaluate, asr.scoring.report, asr.scoring.bootstrap")
    assert "jiwer" in loaded
    assert not loaded & {"torch", "torchaudio", "pytorch_lightning", "scipy", "matplotlib"}


def test_import_asr_alone_is_cheap() -> None:
    assert not modules_after("import asr") & {"numpy", "onnxruntime", "soundfile", "rich", "typer"}
