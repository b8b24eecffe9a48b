import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import BundleError
from asr.frames import FrameGrid
from asr.inference import engine as engine_module
from asr.inference.engine import Chunker, Engine, batches
from asr.model.bundle import read_config, write_config
from tests.standin import graph, speak, write_bundle


def make_engine(folder: Path, reach: int = 0) -> Engine:
    write_bundle(folder, reach=reach)
    return Engine(folder, read_config(folder))


def single_pass(folder: Path, waveform: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(folder / "model.onnx")
    inputs = {"waveforms": waveform[None], "lengths": np.array([len(waveform)])}
    log_probs: np.ndarray = session.run(["log_probs"], inputs)[0][0]
    return log_probs


def noise(samples: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, samples).astype(np.float32)


@dataclasses.dataclass
class Recorder:
    """Stands before a session and notes the shapes that pass."""

    session: Any
    shapes: list[tuple[int, ...]] = dataclasses.field(default_factory=list)

    def run(self, outputs: list[str], inputs: dict[str, np.ndarray]) -> Any:
        self.shapes.append(inputs["waveforms"].shape)
        return self.session.run(outputs, inputs)


def test_batch_of_many_equals_each_alone(tmp_path: Path) -> None:
    engine = make_engine(tmp_path, reach=3)
    waveforms = [noise(n, n) for n in (16_000, 400, 31_999, 399, 0, 1_040, 48_000)]
    chunkers = [engine.chunker() for _ in waveforms]
    assert not any([*chunker.push(w)] for chunker, w in zip(chunkers, waveforms, strict=True))
    windows = [window for chunker in chunkers for window in chunker.end()]
    results = engine.run(windows)
    assert [len(result) for result in results] == [25, 1, 50, 2, 75]
    for window, result in zip(windows, results, strict=True):
        assert result.dtype == np.float32 and result.shape[1] == 29
        np.testing.assert_allclose(result, single_pass(tmp_path, window.samples), atol=1e-3)


@pytest.mark.parametrize("samples", [0, 399])
def test_nothing_gives_nothing(tmp_path: Path, samples: int) -> None:
    assert make_engine(tmp_path).posteriors(noise(samples)).shape == (0, 29)


@pytest.mark.parametrize("samples", [30 * 16_000 + 400, 30 * 16_000 + 401, 77 * 16_000 + 123, 100 * 16_000])
def test_windows_equal_a_single_pass(tmp_path: Path, samples: int) -> None:
    # The stand-in sees 50 frames to either side, just what a window's context covers.
    waveform = noise(samples)
    result = make_engine(tmp_path, reach=50).posteriors(waveform, threads=2)
    np.testing.assert_allclose(result, single_pass(tmp_path, waveform), rtol=1e-4, atol=0.02)
    if samples == 100 * 16_000:  # one that sees 200 frames shows that windows are really in use
        far = make_engine(tmp_path / "far", reach=200).posteriors(waveform, threads=2)
        assert np.abs(far - single_pass(tmp_path / "far", waveform)).max() > 100


def test_batches_stay_within_the_memory_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make_engine(tmp_path)
    recorder = Recorder(engine._session)
    engine._session = recorder
    monkeypatch.setattr(engine_module, "BATCH_SECONDS", 60.0)
    assert len(engine.posteriors(noise(200 * 16_000))) == 5_000
    assert all(batch * samples <= 60 * 16_000 for batch, samples in recorder.shapes)
    assert max(samples for _, samples in recorder.shapes) <= 30 * 16_000
    assert len(recorder.shapes) <= 5  # nine windows in pairs, not one by one


def test_graph_with_other_frames_or_vocabulary(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    config = read_config(tmp_path)
    config = write_config(tmp_path, dataclasses.replace(config, log_mel={**config.log_mel, "hop": 80}))
    other_size = write_config(tmp_path, dataclasses.replace(read_config(tmp_path), characters=" ABC"))
    for wrong in (config, other_size):
        with pytest.raises(BundleError, match=r"model\.onnx: its outputs do not fit config\.json"):
            Engine(tmp_path, wrong).posteriors(speak("A"))


def test_graph_of_something_else(tmp_path: Path) -> None:
    write_bundle(tmp_path)
    model = graph()
    model.graph.input[0].name = "audio"
    model.graph.node[3].input[0] = "audio"
    for content, reason in ((b"not a graph", "ONNX Runtime"), (model.SerializeToString(), "audio")):
        (tmp_path / "model.onnx").write_bytes(content)
        config = write_config(tmp_path, read_config(tmp_path))
        with pytest.raises(BundleError, match=rf"model\.onnx: .*{reason}") as error:
            Engine(tmp_path, config).posteriors(speak("A"))
        assert "\n" not in str(error.value)


GRID = FrameGrid()


@given(st.integers(0, 200_000))
def test_frames_equal_the_model_chain(samples: int) -> None:
    mel_frames = max(0, (samples - 400) // 160 + 1)
    halved = -(-mel_frames // 2)
    assert GRID.frames(samples) == -(-halved // 2)
    assert [GRID.frames(n) for n in (0, 399, 400, 1039, 1040)] == [0, 0, 1, 1, 2]


@given(
    st.integers(0, 400_000),
    st.integers(1, 40),
    st.integers(1, 10),
    st.lists(st.integers(0, 400_000), max_size=5),
)
def test_kept_frames_tile_the_recording(samples: int, step: int, context: int, cuts: list[int]) -> None:
    longest = step + 2 * context
    recording = np.arange(samples, dtype=np.float32)  # each sample says where it was
    chunker = Chunker(GRID, longest, context)
    windows = [w for block in np.split(recording, sorted(cuts)) for w in chunker.push(block)]
    windows += chunker.end()
    frames, position = GRID.frames(samples), 0
    for window in windows:
        start = int(window.samples[0])
        np.testing.assert_array_equal(window.samples, recording[start : start + len(window.samples)])
        computed = GRID.frames(len(window.samples))
        assert start % GRID.stride == 0 and computed <= longest
        assert start // GRID.stride + window.keep_from == position
        assert window.keep_from == min(context, position)
        assert window.keep_from < window.keep_to <= computed
        position = start // GRID.stride + window.keep_to
        assert computed - window.keep_to == (0 if position == frames else context)
    assert position == frames
    assert len(windows) == (frames > 0) or frames > longest


@given(st.lists(st.integers(400, 5_000), max_size=50), st.integers(400, 20_000))
def test_batches_hold_each_once_within_budget(lengths: list[int], budget: int) -> None:
    groups = batches(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        longest = max(lengths[index] for index in group)
        assert len(group) == 1 or len(group) * longest <= budget
    in_order = [lengths[index] for group in groups for index in group]
    assert in_order == sorted(lengths, reverse=True)
