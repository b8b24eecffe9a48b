"""Smaller weights: how small, how near, and that nothing but the weights changes."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, numpy_helper

from asr.errors import AsrError, BundleError
from asr.features.logmel import LogMel, LogMelConfig
from asr.inference.transcriber import load_model
from asr.model.acoustic import AcousticModel, Architecture, Cell
from asr.model.bundle import ONNX, read_config, write_config
from asr.model.compress import compress_bundle, compress_graph, quantize
from asr.model.export import build_graph, check_parity, load_acoustic_model, save_bundle
from asr.text import ENGLISH
from tests.model.test_acoustic import small_model
from tests.standin import write_bundle

SETTINGS = {"characters": ENGLISH, "training_data": "none", "wer": {"dev": 0.25}}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A small bundle."""
    return save_bundle(tmp_path / "bundle", small_model(), LogMelConfig(), **SETTINGS)


def log_probs(graph: bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(graph)
    waveforms = 0.1 * np.random.default_rng(0).standard_normal((2, 24_000)).astype(np.float32)
    inputs = {"waveforms": waveforms, "lengths": np.array([24_000, 24_000])}
    result: np.ndarray = session.run(["log_probs"], inputs)[0]
    return result


@given(st.integers(0, 2**32 - 1), st.integers(0, 2), st.floats(1e-6, 1e6))
def test_quantized_weights_are_the_nearest_in_their_channel(seed: int, axis: int, size: float) -> None:
    matrix = (size * np.random.default_rng(seed).standard_normal((2, 7, 5))).astype(np.float32)
    values, scale = quantize(matrix, axis)
    assert values.dtype == np.int8 and scale.dtype == np.float32
    assert (np.abs(values).max(axis=axis) == 127).all()
    assert (np.abs(values * scale - matrix) <= 0.5001 * scale).all()
    again, same_scale = quantize(values * scale, axis)
    np.testing.assert_array_equal(again, values)
    np.testing.assert_allclose(same_scale, scale, rtol=1e-6)


def test_a_known_matrix_and_a_channel_of_zeros() -> None:
    values, scale = quantize(np.array([[1, 0, -12.7], [-0.5, 0, 6.04]], dtype=np.float32), 0)
    assert values.tolist() == [[127, 0, -127], [-64, 0, 60]]
    np.testing.assert_allclose(scale, [[1 / 127, 1, 0.1]], rtol=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_the_graph_expands_int8_exactly(cell: Cell, bidirectional: bool) -> None:
    """ONNX Runtime expands the weights to the same values as numpy."""
    compressed = compress_graph(build_graph(small_model(cell, bidirectional), LogMel()))
    constants = {c.name: numpy_helper.to_array(c) for c in compressed.graph.initializer}
    small = [name for name, value in constants.items() if value.dtype == np.int8]
    assert len(small) == 2 * 2 + 2  # W and R of two layers, the projection of subsampling, the output
    expanded = onnx.ModelProto()
    expanded.CopyFrom(compressed)
    del expanded.graph.node[: 2 * len(small)]
    for name in small:
        original = name.removesuffix("_int8")
        value = constants[name].astype(np.float32) * constants[f"{original}_scale"]
        expanded.graph.initializer.append(numpy_helper.from_array(value, original))
    np.testing.assert_array_equal(
        log_probs(compressed.SerializeToString()), log_probs(expanded.SerializeToString())
    )


def test_size_and_precision(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = AcousticModel(Architecture(29, layers=1, hidden=256))  # 1.2 million weights in its GRU
    model.mean.fill_(-4.0)
    model.std.fill_(2.5)
    whole = save_bundle(tmp_path / "whole", model, LogMelConfig(), **SETTINGS)
    compress_bundle(whole, tmp_path / "small")
    before, after = ((folder / "model.onnx").read_bytes() for folder in (whole, tmp_path / "small"))
    assert 0.25 < len(after) / len(before) < 0.275
    assert 0 < np.abs(log_probs(before) - log_probs(after)).max() < 5e-2


def test_only_weight_matrices_change() -> None:
    graph = build_graph(small_model(), LogMel())
    before = {c.name: c for c in graph.graph.initializer}
    after = {c.name: c for c in compress_graph(graph).graph.initializer}
    kept = before.keys() & after.keys()
    assert all(before[name] == after[name] for name in kept)
    small = [name for name, constant in after.items() if constant.data_type == TensorProto.INT8]
    assert {name.removesuffix("_int8") for name in small} == before.keys() - kept
    assert sorted(tuple(after[name].dims) for name in small) == sorted(
        [(640, 48), (48, 29), *2 * [(2, 72, 48)], *2 * [(2, 72, 24)]]
    )


def test_the_new_bundle_has_all_but_the_weights_for_torch(source: Path, tmp_path: Path) -> None:
    (source / "lm.bin").write_bytes(b"n-grams")
    (source / "lexicon.txt").write_bytes(b"ONE\n")
    write_config(source, replace(read_config(source), decoding={"lm_weight": 0.5}))
    config = compress_bundle(source, tmp_path / "new" / "small")
    small = tmp_path / "new" / "small"
    names = {path.name for path in small.iterdir()}
    assert names == {"config.json", "model.onnx", "lm.bin", "lexicon.txt", "README.md"}
    assert read_config(small) == config
    original = read_config(source)
    digest = hashlib.sha256((small / "model.onnx").read_bytes()).hexdigest()
    assert config == replace(
        original, weights="int8", wer={"dev, float32 weights": 0.25}, sha256={"model.onnx": digest}
    )
    assert (small / "lm.bin").read_bytes() == b"n-grams"
    assert (small / "lexicon.txt").read_bytes() == b"ONE\n"
    card = (small / "README.md").read_text(encoding="utf-8")
    assert card.startswith((source / "README.md").read_text(encoding="utf-8"))
    assert card.endswith("The weights are int8 here; WERs above this line are of float32 weights.\n")


def test_it_transcribes_like_the_original_and_notes_what_is_measured(source: Path, tmp_path: Path) -> None:
    seen = []

    def measure(folder: Path) -> dict[str, float]:
        seen.append((read_config(folder).weights, (tmp_path / "small").exists()))
        return {"test, int8 weights": 0.3}

    compress_bundle(source, tmp_path / "small", measure)
    assert seen == [("int8", False)]
    assert read_config(tmp_path / "small").wer == {"dev, float32 weights": 0.25, "test, int8 weights": 0.3}
    samples = 0.1 * np.random.default_rng(1).standard_normal(16_000)
    expected, found = (load_model(b, threads=1).posteriors(samples) for b in (source, tmp_path / "small"))
    np.testing.assert_allclose(found, expected, atol=5e-2)


def test_an_earlier_bundle_is_replaced_as_a_whole_or_not_at_all(source: Path, tmp_path: Path) -> None:
    def fail(folder: Path) -> dict[str, float]:
        raise AsrError("no such manifest")

    small = tmp_path / "small"
    compress_bundle(source, small)
    (small / "lexicon.txt").write_text("OLD\n")
    with pytest.raises(AsrError, match="no such manifest"):
        compress_bundle(source, small, fail)
    assert read_config(small).weights == "int8" and (small / "lexicon.txt").exists()
    compress_bundle(source, small)
    assert sorted(p.name for p in small.iterdir()) == ["README.md", "config.json", "model.onnx"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "small"]


def test_weights_to_train_on_with(source: Path, tmp_path: Path) -> None:
    for _ in range(2):  # such a bundle may be replaced: its weights can be made again
        compress_bundle(source, tmp_path / "small", with_torch=True)
    whole, small = (load_acoustic_model(folder).state_dict() for folder in (source, tmp_path / "small"))
    assert small.keys() == whole.keys() and small["output.weight"].dtype == torch.float32
    for name, weight in whole.items():
        torch.testing.assert_close(small[name], weight, rtol=1e-3, atol=float(weight.abs().max()) / 250)
    graph = (tmp_path / "small" / ONNX).read_bytes()
    assert check_parity(load_acoustic_model(tmp_path / "small"), LogMelConfig(), graph) < 1e-4


def refused(source: Path, target: Path, *parts: str) -> None:
    """Check that compressing fails with a message of these parts."""
    with pytest.raises(BundleError) as error:
        compress_bundle(source, target)
    assert all(part in str(error.value) for part in parts), error.value


def test_bundles_that_are_refused(source: Path, tmp_path: Path) -> None:
    small, letters, other = tmp_path / "small", tmp_path / "letters", tmp_path / "other"
    compress_bundle(source, small)
    refused(small, other, f"{small}: ", "int8")
    refused(source, source, f"{source}: ", "would replace")
    shutil.copytree(source, small / "inner")
    refused(small / "inner", small, f"{small}: ", f"would replace {small / 'inner'}")
    shutil.copytree(source, tmp_path / "trained")
    refused(source, tmp_path / "trained", f"{tmp_path}/trained: ", "a trained model")
    letters.mkdir()
    (letters / "config.json").write_text('{"dear": "Ann"}')
    refused(source, letters, f"{letters}: ", "not a model bundle")
    assert (letters / "config.json").read_text() == '{"dear": "Ann"}'
    foreign = write_bundle(tmp_path / "standin")
    refused(foreign, other, f"{foreign}: ", "no weight matrix")
    (source / "model.onnx").write_bytes(b"graph")
    refused(source, other, f"{source}/model.onnx: ", "checksum")
    assert not other.exists()
    assert len(list(tmp_path.iterdir())) == 5


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_cannot_be_represented(value: float) -> None:
    model = small_model()
    with torch.no_grad():
        model.output.weight[3, 4] = value
    with pytest.raises(ValueError, match="not a number"):
        compress_graph(build_graph(model, LogMel()))
