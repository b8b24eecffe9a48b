"""Export a trained model to a bundle, and load it back into torch.

The ONNX graph is built node by node instead of traced: every varying dimension stays free, each recurrent
layer is one ONNX operator with `sequence_lens`, and the front end is part of the graph.
"""

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
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
from asr.model import acoustic, bundle
from asr.model.acoustic import AcousticModel, Architecture, RecurrentLayer, migrate

TOLERANCE = 1e-4  # largest accepted difference in log-probability between ONNX Runtime and torch
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
            raise BundleError(f"{folder}: not written; ONNX Runtime and torch differ by {worst:.1e}")
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
    try:
        model = AcousticModel(Architecture(**migrate(bundle.read_config(folder).architecture)))
        model.load_state_dict(_read_weights(folder))
    except (TypeError, RuntimeError) as error:
        raise BundleError(f"{folder}: the weights do not fit the architecture ({error})") from None
    return model.eval()


def _read_weights(folder: Path) -> dict[str, Tensor]:
    """Read a bundle's safetensors, multiplying int8 matrices by their scales."""
    stored = load(bundle.read_model_file(folder, bundle.read_config(folder), bundle.WEIGHTS))
    for name in [name for name in stored if name.endswith(bundle.SCALE)]:
        matrix = name.removesuffix(bundle.SCALE)
        stored[matrix] = stored[matrix].float() * stored.pop(name)
    return migrate(stored)


def take_weights(model: AcousticModel, folder: Path) -> None:
    """Copy into `model` the weights of a bundle that have the same name and shape.

    Raises BundleError if no recurrent layer fits.
    """
    weights, own = _read_weights(folder), model.state_dict()
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
    graph = Graph()
    features, frames = _front_end(graph, log_mel)
    x = _normalize(graph, model, features, frames)  # [B, T, F]
    x, frames = _subsampling(graph, model, x, frames)  # [T', B, D]
    steps = graph.add("Cast", frames, to=TensorProto.INT32)
    for norm, layer in zip(model.norms, model.recurrent, strict=True):
        x = graph.add("Add", x, recurrent(graph, layer, _layer_norm(graph, norm, x), steps))
    x = linear(graph, model.output, _layer_norm(graph, model.output_norm, x))
    graph.add("Transpose", graph.add("LogSoftmax", x, axis=-1), perm=[1, 0, 2], output="log_probs")
    graph.add("Identity", frames, output="frames")
    real, whole, vocabulary = TensorProto.FLOAT, TensorProto.INT64, model.architecture.vocabulary
    return graph.model(
        {"waveforms": (real, ["B", "N"]), "lengths": (whole, ["B"])},
        {"log_probs": (real, ["B", "T", vocabulary]), "frames": (whole, ["B"])},
    )


_Constant = Tensor | np.ndarray | Sequence[int] | int | float
_Type = tuple[int, list[int | str]]


@dataclass
class Graph:
    """Nodes and constants of a graph under construction."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[onnx.TensorProto] = field(default_factory=list)

    def add(
        self, operator: str, *inputs: str | _Constant, output: str | None = None, **attributes: Any
    ) -> str:
        """Add a node and return the name of its output; inputs are names or constants."""
        names = [value if isinstance(value, str) else self.constant(value) for value in inputs]
        name = output or f"{operator}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, names, [name], **attributes))
        return name

    def constant(self, value: _Constant) -> str:
        """Add a constant, needed for one with several uses."""
        array = np.asarray(value.detach().cpu() if isinstance(value, Tensor) else value, order="C")
        name = f"constant_{len(self.constants)}"
        kind = np.float32 if array.dtype.kind == "f" else np.int8 if array.dtype == np.int8 else np.int64
        self.constants.append(numpy_helper.from_array(array.astype(kind), name))
        return name

    def model(self, inputs: dict[str, _Type], outputs: dict[str, _Type]) -> onnx.ModelProto:
        """Finish and check the graph; inputs and outputs have an element type and a shape."""
        given, made = (
            [helper.make_tensor_value_info(n, *t) for n, t in x.items()] for x in (inputs, outputs)
        )
        graph = helper.make_graph(self.nodes, "asr", given, made, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=9)
        onnx.checker.check_model(model)
        return model


def _front_end(graph: Graph, log_mel: LogMel) -> tuple[str, str]:
    """LogMel with the windowed Fourier transform as a convolution: features `[B, T, F]`, frames `[B]`."""
    c = log_mel.config
    frames = graph.add("Add", graph.add("Div", graph.add("Sub", "lengths", c.window), c.hop), 1)
    waveforms = graph.add("Unsqueeze", "waveforms", [1])
    spectrum = graph.add("Conv", waveforms, _fourier_kernel(graph, log_mel), strides=[c.hop])
    squared = graph.add("Mul", spectrum, spectrum)  # [B, 2 * bins, T]
    # The same filters for real and imaginary parts: their squares are summed by the same product.
    filters = graph.constant(log_mel.filters)
    squared = graph.add("Transpose", squared, perm=[0, 2, 1])
    bands = graph.add("MatMul", squared, graph.add("Concat", filters, filters, axis=0))
    return graph.add("Log", graph.add("Add", bands, c.floor)), frames


def _fourier_kernel(graph: Graph, log_mel: LogMel) -> str:
    """`[2 * bins, 1, window]`: mean removal, Hann window and DFT as one linear map.

    Computed by nodes that ONNX Runtime folds at load time: the kernel itself is larger than a small model.
    """
    c = log_mel.config
    angles = 2 * np.pi * np.arange(c.n_fft) / c.n_fft
    waves = np.stack([np.cos(angles), -np.sin(angles)])
    bins, samples = np.arange(c.n_fft // 2 + 1)[:, None], np.arange(c.window)
    phases = graph.add("Mod", graph.add("Mul", bins, samples), c.n_fft)
    basis = graph.add("Gather", waves, phases, axis=1)  # [2, bins, window]
    basis = graph.add("Mul", basis, log_mel.window)
    centred = graph.add("Sub", basis, graph.add("ReduceMean", basis, axes=[-1]))
    return graph.add("Reshape", centred, [-1, 1, c.window])


def _normalize(graph: Graph, model: AcousticModel, features: str, frames: str) -> str:
    valid = _valid(graph, features, frames)
    if model.architecture.normalization == "speech":
        x = _relative_to_speech(graph, model.mean, features, valid)
    else:
        x = graph.add("Sub", features, model.mean)
    if model.architecture.normalization == "utterance":
        count = graph.add("Cast", graph.add("Add", frames, acoustic.CMN_FRAMES), to=TensorProto.FLOAT)
        total = _total(graph, graph.add("Mul", x, valid))
        x = graph.add("Sub", x, graph.add("Div", total, graph.add("Unsqueeze", count, [1, 2])))
    return graph.add("Mul", x, 1 / model.std)


def _relative_to_speech(graph: Graph, mean: Tensor, features: str, valid: str) -> str:
    """acoustic.relative_to_speech minus the mean over the speech, `[B, T, F]`."""
    add, prior = graph.add, float(acoustic.SPEECH_FRAMES)
    energy = add("ReduceMean", features, axes=[2])  # [B, T, 1]
    squares = add("Add", add("Mul", energy, 2.0), add("Mul", add("Sub", 1.0, valid), -1e4))
    peak = add("ReduceMax", squares, axes=[1])
    power = add("Div", _total(graph, add("Exp", add("Sub", squares, peak))), _total(graph, valid))
    level = add("Mul", add("Add", peak, add("Log", power)), 0.5)
    level = add("Max", level, acoustic.LOWEST_LEVEL)
    weight = add("Sigmoid", add("Mul", add("Add", add("Sub", energy, level), 4.0), 1.5))
    weight = add("Mul", weight, valid)
    relative = add("Max", add("Sub", features, level), -acoustic.FLOOR)
    total = add("Add", _total(graph, add("Mul", relative, weight)), mean * prior)
    count = add("Add", _total(graph, weight), prior)
    return add("Sub", relative, add("Div", total, count))


def _subsampling(graph: Graph, model: AcousticModel, x: str, frames: str) -> tuple[str, str]:
    x = graph.add("Unsqueeze", x, [1])  # [B, 1, T, F]
    for convolution in (model.subsampling.first, model.subsampling.second):
        valid = graph.add("Unsqueeze", _valid(graph, x, frames, axis=2), [1])
        x = graph.add("Mul", x, valid)  # padding is zero in every layer
        x = graph.add("Conv", x, *_parameters(convolution), strides=[2, 2], pads=[1, 1, 1, 1])
        x = graph.add("Relu", x)
        frames = graph.add("Div", graph.add("Add", frames, 1), 2)
    x = graph.add("Reshape", graph.add("Transpose", x, perm=[2, 0, 1, 3]), [0, 0, -1])
    return linear(graph, model.subsampling.projection, x), frames


def _valid(graph: Graph, x: str, frames: str, axis: int = 1) -> str:
    """`float32[B, T, 1]`, 1 for frames of x within their utterance; `axis` is the time axis of x."""
    size = graph.add("Squeeze", graph.add("Shape", x, start=axis, end=axis + 1), [0])
    valid = graph.add("Less", graph.add("Range", 0, size, 1), graph.add("Unsqueeze", frames, [1]))
    return graph.add("Unsqueeze", graph.add("Cast", valid, to=TensorProto.FLOAT), [2])


def _total(graph: Graph, x: str) -> str:
    """Sum over time, `[B, 1, F]`."""
    return graph.add("ReduceSum", x, [1], keepdims=1)


def _layer_norm(graph: Graph, norm: nn.Module, x: str) -> str:
    return graph.add("LayerNormalization", x, *_parameters(norm), axis=-1, epsilon=norm.eps)


def linear(graph: Graph, linear: nn.Linear, x: str) -> str:
    return graph.add("Add", graph.add("MatMul", x, linear.weight.T), linear.bias)


def _parameters(module: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
    return weight, bias


def recurrent(graph: Graph, layer: nn.Module, x: str, steps: str) -> str:
    """`[T, B, D]` -> `[T, B, directions * H]` as one GRU, LSTM or RNN operator."""
    assert isinstance(layer, RecurrentLayer)
    rnns = [rnn for rnn in (layer.forward_rnn, layer.backward_rnn) if rnn is not None]
    kind = layer.forward_rnn.mode.lower().removesuffix("_tanh")
    w, r, b = (np.stack(parts) for parts in zip(*(_weights(rnn, kind) for rnn in rnns), strict=True))
    attributes: dict[str, Any] = {"linear_before_reset": 1} if kind == "gru" else {}
    attributes["direction"] = "forward" if len(rnns) == 1 else "bidirectional"
    y = graph.add(kind.upper(), x, w, r, b, steps, hidden_size=layer.forward_rnn.hidden_size, **attributes)
    y = graph.add("Transpose", y, perm=[0, 2, 1, 3])  # [T, directions, B, H] -> [T, B, directions, H]
    return graph.add("Reshape", y, [0, 0, -1])


def _weights(rnn: nn.RNNBase, kind: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Input and recurrent weights and both biases of one direction, gates in ONNX's order."""

    def reorder(name: str) -> np.ndarray:
        gates = np.split(rnn.get_parameter(name).detach().cpu().float().numpy(), len(_GATES[kind]))
        return np.concatenate([gates[i] for i in _GATES[kind]])

    biases = np.concatenate([reorder("bias_ih_l0"), reorder("bias_hh_l0")])
    return reorder("weight_ih_l0"), reorder("weight_hh_l0"), biases
