"""Export a trained model to a bundle, and load it back into torch.

The ONNX graph is built node by node instead of traced: every varying dimension stays free, each recurrent
layer is one ONNX operator with `sequence_lens`, and the front end is part of the graph. Smaller weights are
in compress.py, which does without torch.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import load, save
from torch import Tensor, nn

from asr.errors import BundleError
from asr.features.logmel import LogMel, LogMelConfig
from asr.model import bundle
from asr.model.acoustic import (
    CMN_FRAMES,
    FLOOR,
    LOWEST_LEVEL,
    SPEECH_FRAMES,
    AcousticModel,
    Architecture,
    RecurrentLayer,
    migrate,
)

TOLERANCE = 1e-4
"""Largest accepted difference in log-probability between ONNX Runtime and torch."""

OPSET = 17
_GATES = {"gru": (1, 0, 2), "lstm": (0, 3, 1, 2), "rnn": (0,)}
"""Index of PyTorch's gates in ONNX's order: GRU r z n -> z r h, LSTM i f g o -> i o f c."""


def save_bundle(
    folder: Path,
    model: AcousticModel,
    log_mel: LogMelConfig,
    *,
    characters: str | tuple[str, ...],
    training_data: str,
    licence: str = "unspecified",
    wer: dict[str, Any] | None = None,
    lexicon: Path | None = None,
) -> Path:
    """Write weights, ONNX graph, model card and config.json, replacing an earlier bundle as a whole.

    Raises BundleError if ONNX Runtime and torch differ by more than TOLERANCE.
    """
    model = model.cpu().eval()
    with bundle.new_bundle(folder) as work:
        graph = build_graph(model, LogMel(log_mel)).SerializeToString()
        worst = check_parity(model, log_mel, graph)
        if not worst <= TOLERANCE:
            raise BundleError(
                f"{folder}: not written; ONNX Runtime and torch differ by {worst:.1e} in log-probability"
            )
        (work / bundle.ONNX).write_bytes(graph)
        weights = {name: value.contiguous() for name, value in model.state_dict().items()}
        (work / bundle.WEIGHTS).write_bytes(save(weights))
        config = bundle.BundleConfig(
            architecture=asdict(model.architecture),
            log_mel=asdict(log_mel),
            characters=characters,
            training_data=training_data,
            licence=licence,
            wer=wer or {},
            parameters=sum(p.numel() for p in model.parameters()),
        )
        if lexicon:
            shutil.copyfile(lexicon, work / bundle.LEXICON)
        (work / bundle.CARD).write_text(model_card(config, model.architecture), encoding="utf-8")
        bundle.write_config(work, config)
    return folder


def load_acoustic_model(folder: Path) -> AcousticModel:
    """Load the torch model of a bundle in evaluation mode. Raises BundleError if the weights do not fit."""
    config = bundle.read_config(folder)
    try:
        model = AcousticModel(Architecture(**migrate(config.architecture)))
        model.load_state_dict(_read_weights(folder, config))
    except (TypeError, RuntimeError) as error:
        raise BundleError(f"{folder}: the weights do not fit the architecture ({error})") from None
    return model.eval()


def _read_weights(folder: Path, config: bundle.BundleConfig) -> dict[str, Tensor]:
    """Read a bundle's safetensors, multiplying int8 matrices by their scales."""
    stored = load(bundle.read_model_file(folder, config, bundle.WEIGHTS))
    scales = {name: stored.pop(name) for name in list(stored) if name.endswith(bundle.SCALE)}
    for name, scale in scales.items():
        matrix = name.removesuffix(bundle.SCALE)
        stored[matrix] = stored[matrix].float() * scale
    return migrate(stored)


def take_weights(model: AcousticModel, folder: Path) -> None:
    """Copy into `model` the weights of a bundle that have the same name and shape.

    Raises BundleError if no recurrent layer fits.
    """
    weights = _read_weights(folder, bundle.read_config(folder))
    own = model.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    if not any(name.startswith("recurrent.") for name in fitting):
        raise BundleError(f"{folder}: no recurrent layer has the same shape as the model to train")
    model.load_state_dict(fitting, strict=False)


def check_parity(model: AcousticModel, log_mel: LogMelConfig, graph: bytes) -> float:
    """Largest difference in log-probability between ONNX Runtime and torch, on noise of mixed lengths."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    generator = np.random.default_rng(0)
    lengths = np.array([16_000, log_mel.window, 23_456, 7_777])
    waveforms = np.zeros((len(lengths), lengths.max()), np.float32)
    for row, length in zip(waveforms, lengths, strict=True):
        row[:length] = 0.1 * generator.standard_normal(length)
    log_probs, frames = session.run(None, {"waveforms": waveforms, "lengths": lengths})
    with torch.inference_mode():
        features = LogMel(log_mel)(torch.from_numpy(waveforms), torch.from_numpy(lengths))
        expected, expected_frames = model(*features)
    if not np.array_equal(frames, expected_frames.numpy()):
        return float("inf")
    pairs = zip(log_probs, expected.numpy(), frames, strict=True)
    return max(float(np.abs(a[:n] - b[:n]).max()) for a, b, n in pairs)


def model_card(config: bundle.BundleConfig, a: Architecture) -> str:
    """Write the bundle's README.md."""
    units = "characters" if isinstance(config.characters, str) else "named units"
    directions = "bidirectional " if a.bidirectional else ""
    rows = "\n".join(f"| {name} | {100 * rate:.2f} % |" for name, rate in config.wer.items())
    return (
        f"# Speech recogniser\n\n{a.layers} layers of {directions}{a.cell.upper()}, {a.hidden} units a "
        f"direction, CTC over {len(config.characters)} {units}, {config.parameters:,} parameters.\n\n"
        f"- Training data: {config.training_data}\n- Licence: {config.licence}\n"
        "- Input: 16 kHz mono; `asr transcribe` converts anything else.\n\n"
        f"| WER on | |\n|---|---|\n{rows}\n"
    )


def build_graph(model: AcousticModel, log_mel: LogMel) -> onnx.ModelProto:
    """Build the graph `waveforms float32[B, N]`, `lengths int64[B]` -> `log_probs float32[B, T', V]`,
    `frames int64[B]`. Lengths are in samples, at least one window each; output beyond `frames` is arbitrary.
    """
    graph = _Graph()
    features, frames = _front_end(graph, log_mel)
    x = _normalize(graph, model, features, frames)  # [B, T, F]
    x, frames = _subsampling(graph, model, x, frames)  # [B, T', D]
    x = graph.add("Transpose", x, perm=[1, 0, 2])  # [T', B, D]
    steps = graph.add("Cast", frames, to=TensorProto.INT32)
    for norm, layer in zip(model.norms, model.recurrent, strict=True):
        x = graph.add("Add", x, _recurrent(graph, layer, _layer_norm(graph, norm, x), steps))
    x = _linear(graph, model.output, _layer_norm(graph, model.output_norm, x))
    x = graph.add("LogSoftmax", x, axis=-1)
    graph.add("Transpose", x, perm=[1, 0, 2], output="log_probs")
    graph.add("Identity", frames, output="frames")
    return graph.model(model.architecture.vocabulary)


class _Graph:
    """Nodes and constants of a graph under construction; `add` returns the name of the node's output."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        names = [output or f"{operator}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(operator, list(inputs), names, **attributes))
        return names[0]

    def constant(self, value: Tensor | np.ndarray | Sequence[int] | int | float) -> str:
        if isinstance(value, Tensor):
            value = value.detach().cpu().float().numpy()
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def model(self, vocabulary: int) -> onnx.ModelProto:
        inputs = [
            helper.make_tensor_value_info("waveforms", TensorProto.FLOAT, ["batch", "samples"]),
            helper.make_tensor_value_info("lengths", TensorProto.INT64, ["batch"]),
        ]
        outputs = [
            helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["batch", "steps", vocabulary]),
            helper.make_tensor_value_info("frames", TensorProto.INT64, ["batch"]),
        ]
        graph = helper.make_graph(self.nodes, "asr", inputs, outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        onnx.checker.check_model(model)
        return model


def _front_end(graph: _Graph, log_mel: LogMel) -> tuple[str, str]:
    """LogMel with the windowed Fourier transform as a convolution: features `[B, T, F]`, frames `[B]`."""
    c = log_mel.config
    lengths = graph.add("Sub", "lengths", graph.constant(c.window))
    frames = graph.add("Add", graph.add("Div", lengths, graph.constant(c.hop)), graph.constant(1))
    waveforms = graph.add("Unsqueeze", "waveforms", graph.constant([1]))
    spectrum = graph.add("Conv", waveforms, _fourier_kernel(graph, log_mel), strides=[c.hop])
    squared = graph.add("Mul", spectrum, spectrum)  # [B, 2 * bins, T]
    # The same filters for real and imaginary parts: their squares are summed by the same product.
    filters = graph.constant(log_mel.filters)
    squared = graph.add("Transpose", squared, perm=[0, 2, 1])
    bands = graph.add("MatMul", squared, graph.add("Concat", filters, filters, axis=0))
    return graph.add("Log", graph.add("Add", bands, graph.constant(c.floor))), frames


def _fourier_kernel(graph: _Graph, log_mel: LogMel) -> str:
    """`[2 * bins, 1, window]`: mean removal, Hann window and DFT as one linear map.

    Computed by nodes that ONNX Runtime folds at load time: the kernel itself is larger than a small model.
    """
    c = log_mel.config
    angles = 2 * np.pi * np.arange(c.n_fft) / c.n_fft
    waves = graph.constant(np.stack([np.cos(angles), -np.sin(angles)]))
    bins, samples = np.arange(c.n_fft // 2 + 1)[:, None], np.arange(c.window)
    phases = graph.add("Mul", graph.constant(bins), graph.constant(samples))
    phases = graph.add("Mod", phases, graph.constant(c.n_fft))
    basis = graph.add("Gather", waves, phases, axis=1)  # [2, bins, window]
    basis = graph.add("Mul", basis, graph.constant(log_mel.window))
    centred = graph.add("Sub", basis, graph.add("ReduceMean", basis, axes=[-1]))
    return graph.add("Reshape", centred, graph.constant([-1, 1, c.window]))


def _normalize(graph: _Graph, model: AcousticModel, features: str, frames: str) -> str:
    kind = model.architecture.normalization
    mean = graph.constant(model.mean)
    if kind == "speech":
        x = _relative_to_speech(graph, mean, features, frames)
    else:
        x = graph.add("Sub", features, mean)
    if kind == "utterance":
        valid = graph.add("Mul", x, _valid(graph, features, frames))
        total = graph.add("ReduceSum", valid, graph.constant([1]), keepdims=1)  # [B, 1, F]
        count = graph.add("Cast", graph.add("Add", frames, graph.constant(CMN_FRAMES)), to=TensorProto.FLOAT)
        own = graph.add("Div", total, graph.add("Unsqueeze", count, graph.constant([1, 2])))
        x = graph.add("Sub", x, own)
    return graph.add("Mul", x, graph.constant(1 / model.std))


def _relative_to_speech(graph: _Graph, mean: str, features: str, frames: str) -> str:
    """acoustic.relative_to_speech minus the mean over the speech, `[B, T, F]`."""
    valid, time = _valid(graph, features, frames), graph.constant([1])
    energy = graph.add("ReduceMean", features, axes=[2])  # [B, T, 1]
    padding = graph.add("Mul", graph.add("Sub", graph.constant(1.0), valid), graph.constant(-1e4))
    squares = graph.add("Add", graph.add("Mul", energy, graph.constant(2.0)), padding)
    peak = graph.add("ReduceMax", squares, axes=[1])
    powers = graph.add("Exp", graph.add("Sub", squares, peak))
    count = graph.add("ReduceSum", valid, time, keepdims=1)
    ratio = graph.add("Div", graph.add("ReduceSum", powers, time, keepdims=1), count)
    level = graph.add("Mul", graph.add("Add", peak, graph.add("Log", ratio)), graph.constant(0.5))
    level = graph.add("Max", level, graph.constant(LOWEST_LEVEL))
    above = graph.add("Add", graph.add("Sub", energy, level), graph.constant(4.0))
    weight = graph.add("Sigmoid", graph.add("Mul", above, graph.constant(1.5)))
    weight = graph.add("Mul", weight, valid)
    relative = graph.add("Max", graph.add("Sub", features, level), graph.constant(-FLOOR))
    total = graph.add("ReduceSum", graph.add("Mul", relative, weight), time, keepdims=1)
    total = graph.add("Add", total, graph.add("Mul", mean, graph.constant(float(SPEECH_FRAMES))))
    count = graph.add("ReduceSum", weight, time, keepdims=1)
    count = graph.add("Add", count, graph.constant(float(SPEECH_FRAMES)))
    return graph.add("Sub", relative, graph.add("Div", total, count))


def _subsampling(graph: _Graph, model: AcousticModel, x: str, frames: str) -> tuple[str, str]:
    x = graph.add("Unsqueeze", x, graph.constant([1]))  # [B, 1, T, F]
    for convolution in (model.subsampling.first, model.subsampling.second):
        x = _mask(graph, x, frames)
        weight, bias = graph.constant(convolution.weight), graph.constant(_bias(convolution))
        x = graph.add("Relu", graph.add("Conv", x, weight, bias, strides=[2, 2], pads=[1, 1, 1, 1]))
        frames = graph.add("Div", graph.add("Add", frames, graph.constant(1)), graph.constant(2))
    x = graph.add("Transpose", x, perm=[0, 2, 1, 3])
    x = graph.add("Reshape", x, graph.constant([0, 0, -1]))
    return _linear(graph, model.subsampling.projection, x), frames


def _mask(graph: _Graph, x: str, frames: str) -> str:
    """Zero `[B, C, T, F]` beyond each utterance's frames."""
    valid = _valid(graph, x, frames, axis=2)
    return graph.add("Mul", x, graph.add("Unsqueeze", valid, graph.constant([1])))


def _valid(graph: _Graph, x: str, frames: str, axis: int = 1) -> str:
    """`float32[B, T, 1]`, 1 for frames of x within their utterance; `axis` is the time axis of x."""
    size = graph.add("Squeeze", graph.add("Shape", x, start=axis, end=axis + 1), graph.constant([0]))
    time = graph.add("Range", graph.constant(0), size, graph.constant(1))
    valid = graph.add("Less", time, graph.add("Unsqueeze", frames, graph.constant([1])))
    return graph.add("Unsqueeze", graph.add("Cast", valid, to=TensorProto.FLOAT), graph.constant([2]))


def _layer_norm(graph: _Graph, norm: nn.Module, x: str) -> str:
    assert isinstance(norm, nn.LayerNorm)
    weight, bias = graph.constant(norm.weight), graph.constant(norm.bias)
    return graph.add("LayerNormalization", x, weight, bias, axis=-1, epsilon=norm.eps)


def _linear(graph: _Graph, linear: nn.Linear, x: str) -> str:
    product = graph.add("MatMul", x, graph.constant(linear.weight.T))
    return graph.add("Add", product, graph.constant(linear.bias))


def _bias(module: nn.Module) -> Tensor:
    bias = module.bias
    assert isinstance(bias, Tensor)
    return bias


def _recurrent(graph: _Graph, layer: nn.Module, x: str, steps: str) -> str:
    """`[T, B, D]` -> `[T, B, directions * H]` as one GRU, LSTM or RNN operator."""
    assert isinstance(layer, RecurrentLayer)
    rnns = [layer.forward_rnn] if layer.backward_rnn is None else [layer.forward_rnn, layer.backward_rnn]
    kind, hidden = layer.forward_rnn.mode.lower().removesuffix("_tanh"), layer.forward_rnn.hidden_size
    w, r, b = (np.stack(parts) for parts in zip(*(_weights(rnn, kind) for rnn in rnns), strict=True))
    attributes: dict[str, Any] = {"linear_before_reset": 1} if kind == "gru" else {}
    direction = "forward" if layer.backward_rnn is None else "bidirectional"
    inputs = (x, graph.constant(w), graph.constant(r), graph.constant(b), steps)
    y = graph.add(kind.upper(), *inputs, hidden_size=hidden, direction=direction, **attributes)
    y = graph.add("Transpose", y, perm=[0, 2, 1, 3])  # [T, directions, B, H] -> [T, B, directions, H]
    return graph.add("Reshape", y, graph.constant([0, 0, -1]))


def _weights(rnn: nn.RNNBase, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input and recurrent weights and both biases of one direction, gates in ONNX's order."""

    def reorder(weight: Tensor | nn.Module) -> np.ndarray:
        assert isinstance(weight, Tensor)
        gates = np.split(weight.detach().cpu().float().numpy(), len(_GATES[kind]))
        return np.concatenate([gates[i] for i in _GATES[kind]])

    biases = np.concatenate([reorder(rnn.bias_ih_l0), reorder(rnn.bias_hh_l0)])
    return reorder(rnn.weight_ih_l0), reorder(rnn.weight_hh_l0), biases
