"""The ONNX graph equals torch for every cell, direction and length; bundles of today and of schema 1 load."""

import json
import math
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from asr.errors import BundleError
from asr.features.logmel import LogMel, LogMelConfig
from asr.model.acoustic import AcousticModel, Architecture, Cell, Normalization, migrate
from asr.model.bundle import BOX, read_config, resolve_bundle
from asr.model.export import build_graph, load_acoustic_model, save_bundle, take_weights
from asr.text import ENGLISH
from tests.model.test_acoustic import small_model


def run_both(model: AcousticModel, lengths: list[int], seed: int = 0) -> float:
    """Greatest difference between ONNX Runtime and torch over the valid frames."""
    session = onnxruntime.InferenceSession(build_graph(model, LogMel()).SerializeToString())
    generator = np.random.default_rng(seed)
    waveforms = 0.1 * generator.standard_normal((len(lengths), max(lengths))).astype(np.float32)
    counts = np.array(lengths)
    log_probs, frames = session.run(None, {"waveforms": waveforms, "lengths": counts})
    with torch.inference_mode():
        expected, expected_frames = model(*LogMel()(torch.from_numpy(waveforms), torch.from_numpy(counts)))
    assert frames.tolist() == expected_frames.tolist()
    pairs = zip(log_probs, expected.numpy(), frames, strict=True)
    return max(float(np.abs(a[:n] - b[:n]).max()) for a, b, n in pairs)


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
def test_every_cell_and_direction(cell: Cell, bidirectional: bool) -> None:
    assert run_both(small_model(cell, bidirectional), [16_000, 400, 5_601, 12_345]) < 1e-4


@pytest.mark.parametrize("normalization", ["utterance", "speech"])
def test_odd_and_even_frame_counts_alone_and_together(normalization: Normalization) -> None:
    model = small_model(normalization=normalization)
    lengths = [400 + 160 * frames + extra for frames in range(9) for extra in (0, 159)]
    assert run_both(model, lengths) < 1e-4
    assert max(run_both(model, [length]) for length in lengths[:6]) < 1e-4


@given(st.lists(st.integers(1, 3_000), min_size=1, max_size=4), st.integers(0, 159))
@settings(max_examples=20, deadline=None)
def test_random_numbers_of_frames(frames: list[int], extra: int) -> None:
    assert run_both(small_model(), [400 + 160 * (count - 1) + extra for count in frames]) < 1e-4


def test_the_front_end_of_the_graph_is_the_same_transform() -> None:
    model = build_graph(small_model(), LogMel())
    largest = max(math.prod(constant.dims) for constant in model.graph.initializer)
    assert largest == 640 * 48  # the projection of subsampling; the Fourier kernel takes no room
    kernel = next(node for node in model.graph.node if node.op_type == "Conv").input[1]
    features = next(node for node in model.graph.node if node.op_type == "Log").output[0]
    model.graph.output.extend(map(helper.make_empty_tensor_value_info, (kernel, features)))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    generator = np.random.default_rng(0)
    waveform = np.cumsum(0.01 * generator.standard_normal((1, 8_000)), axis=1).astype(np.float32)
    lengths = np.array([8_000])
    made, extracted = session.run([kernel, features], {"waveforms": waveform, "lengths": lengths})

    angle = 2 * np.pi * np.outer(np.arange(257), np.arange(400)) / 512
    basis = np.concatenate([np.cos(angle), -np.sin(angle)]) * np.hanning(400)
    np.testing.assert_allclose(made[:, 0], basis - basis.mean(axis=1, keepdims=True), atol=1e-6)
    expected = LogMel()(torch.from_numpy(waveform), torch.from_numpy(lengths))[0].numpy()
    np.testing.assert_allclose(extracted, expected, atol=1e-3)


SETTINGS = {"characters": ENGLISH, "training_data": "none"}


def test_the_bundle_gives_back_the_model(tmp_path: Path) -> None:
    model = small_model("lstm")
    folder = save_bundle(tmp_path / "bundle", model, LogMelConfig(), **SETTINGS)
    assert read_config(folder).parameters == sum(p.numel() for p in model.parameters())
    again = load_acoustic_model(folder)
    assert again.architecture == model.architecture
    for name, value in model.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name


def test_a_bundle_is_replaced_as_a_whole_but_nothing_else_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_bundle(tmp_path / "bundle", small_model("gru"), LogMelConfig(), **SETTINGS)
    save_bundle(tmp_path / "bundle", small_model("rnn"), LogMelConfig(), **SETTINGS)
    assert load_acoustic_model(tmp_path / "bundle").architecture.cell == "rnn"
    foreign = tmp_path / "letters"
    foreign.mkdir()
    (foreign / "dear.txt").write_text("keep me")
    with pytest.raises(BundleError):
        save_bundle(foreign, small_model(), LogMelConfig(), **SETTINGS)
    monkeypatch.setattr("asr.model.export._GATES", {"gru": (0, 1, 2)})  # gates in the wrong order
    with pytest.raises(BundleError, match="ONNX Runtime and torch differ by"):
        save_bundle(tmp_path / "wrong", small_model(), LogMelConfig(), **SETTINGS)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "letters"]
    assert (foreign / "dear.txt").read_text() == "keep me"


OLD = Path(__file__).parent / "old_bundle"
"""Written by the code of schema 1, without model.onnx: two bidirectional GRU layers with `cmn`. Its
log_probs.json is what that code computed for `old_features()`."""


def old_features() -> torch.Tensor:
    t, f = torch.arange(30)[:, None], torch.arange(80)
    return 3 * torch.sin(0.37 * t + 0.11 * f) + torch.cos(1.3 * t) - 5


def test_a_bundle_of_schema_1_computes_the_same() -> None:
    model = load_acoustic_model(OLD)
    assert model.architecture == Architecture(4, layers=2, hidden=2, normalization="utterance")
    assert read_config(OLD).parameters == 0
    with torch.inference_mode():
        log_probs, lengths = model(old_features()[None], torch.tensor([30]))
    expected = torch.tensor(json.loads((OLD / "log_probs.json").read_text()))
    assert lengths.tolist() == [8]
    torch.testing.assert_close(log_probs[0], expected, atol=1e-4, rtol=0)


def test_weights_of_schema_1_are_a_start() -> None:
    model = AcousticModel(Architecture(7, layers=2, hidden=2, normalization="speech"))
    take_weights(model, OLD)
    old = load_acoustic_model(OLD).state_dict()
    taken = {name for name, value in model.state_dict().items() if torch.equal(value, old[name])}
    assert set(old) - taken == {"output.weight", "output.bias"}


def test_migration_renames_old_keys_only() -> None:
    assert migrate({"cmn": False, "layers": 2}) == {"normalization": "corpus", "layers": 2}
    old = {"model.recurrent.0.ahead.bias_hh_l0": 1, "recurrent.1.back.weight_ih_l0": 2, "output.bias": 3}
    new = migrate(old)
    assert list(new) == [
        "model.recurrent.0.forward_rnn.bias_hh_l0",
        "recurrent.1.backward_rnn.weight_ih_l0",
        "output.bias",
    ]
    assert migrate(new) == new


def test_the_built_in_model_loads_and_trains_on() -> None:
    model = load_acoustic_model(resolve_bundle(BOX)).train()
    log_probs, _ = model(old_features()[None], torch.tensor([30]))
    log_probs[..., 1].sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
