"""int8 weights for bundles, with a float32 scale per output channel. Needs no torch.

ONNX Runtime has no int8 GRU on CPUs, so only the file is small: the graph expands the weights with
nodes that ONNX Runtime folds at load time, and then runs at the speed of float32. Dynamic int8 arithmetic is
faster for batches and slower for a single window (LOG.md), and its rounding depends on the rest of the batch.
"""

import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from asr.errors import BundleError
from asr.model import bundle

LARGEST = 127  # symmetric int8 range: [-127, 127]


def compress_bundle(
    source: Path,
    target: Path,
    measure: Callable[[Path], dict[str, Any]] | None = None,
    with_torch: bool = False,
) -> bundle.BundleConfig:
    """Write `source` with int8 weights to `target`; `with_torch` includes model.safetensors.

    `measure` is called with the new bundle before it takes its name. The WERs it returns are added to
    config.json; the WERs of `source` are labelled float32. Raises BundleError.
    """
    config = bundle.read_config(source)
    if config.weights != bundle.STORED_AS[0]:
        raise BundleError(f"{source}: has {config.weights} weights; export the bundle it was made from")
    if source.resolve().is_relative_to(target.resolve()):
        raise BundleError(f"{target}: would replace {source}; name another folder")
    if (target / bundle.WEIGHTS).exists() and bundle.read_config(target).weights == bundle.STORED_AS[0]:
        raise BundleError(f"{target}: holds a trained model; name another folder")
    with bundle.new_bundle(target) as work:
        try:
            graph = onnx.load_from_string(bundle.read_model_file(source, config, bundle.ONNX))
            (work / bundle.ONNX).write_bytes(compress_graph(graph).SerializeToString())
            if with_torch:
                content = bundle.read_model_file(source, config, bundle.WEIGHTS)
                (work / bundle.WEIGHTS).write_bytes(compress_weights(content))
        except ValueError as error:
            raise BundleError(f"{source}: cannot be compressed: {error}") from None
        for name in (bundle.LM, bundle.LEXICON, bundle.CARD):
            if (source / name).exists():
                shutil.copyfile(source / name, work / name)
        with (work / bundle.CARD).open("a", encoding="utf-8") as card:
            card.write("\nThe weights are int8 here; WERs above this line are of float32 weights.\n")
        earlier = {f"{name}, float32 weights": rate for name, rate in config.wer.items()}
        compressed = bundle.write_config(work, replace(config, weights="int8", wer=earlier))
        if measure is not None:
            compressed = bundle.write_config(work, replace(compressed, wer={**earlier, **measure(work)}))
    return compressed


def compress_weights(content: bytes) -> bytes:
    """Convert a safetensors file; its matrices become those of the graph, with scales beside them."""
    from safetensors.numpy import load, save  # only in the extra `train`

    small: dict[str, np.ndarray] = {}
    for name, values in load(content).items():
        if values.ndim == 2:  # [outputs, inputs]
            small[name], small[name + bundle.SCALE] = quantize(values, input_axis=1)
        else:
            small[name] = values
    return bytes(save(small))


def compress_graph(model: onnx.ModelProto) -> onnx.ModelProto:
    """Convert the weight matrices of a graph; biases, norms, convolutions and the front end stay float32.

    Raises ValueError if there is no weight matrix, or one is not finite.
    """
    constants = {constant.name: constant for constant in model.graph.initializer}
    nodes: list[onnx.NodeProto] = []
    matrices = dict(_matrices(model.graph, constants))
    if not matrices:
        raise ValueError("no weight matrix in its graph; give a bundle that `asr train` wrote")
    for name, input_axis in matrices.items():
        matrix = numpy_helper.to_array(constants.pop(name))
        values, scale = quantize(matrix, input_axis)
        for suffix, array in (("int8", values), ("scale", scale)):
            constants[f"{name}_{suffix}"] = numpy_helper.from_array(array, f"{name}_{suffix}")
        nodes.append(helper.make_node("Cast", [f"{name}_int8"], [f"{name}_cast"], to=TensorProto.FLOAT))
        nodes.append(helper.make_node("Mul", [f"{name}_cast", f"{name}_scale"], [name]))
    old = model.graph
    graph = helper.make_graph([*nodes, *old.node], old.name, old.input, old.output, list(constants.values()))
    compressed = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    onnx.checker.check_model(compressed)
    return compressed


def quantize(matrix: np.ndarray, input_axis: int) -> tuple[np.ndarray, np.ndarray]:
    """Round float32 to int8 of the same shape and float32 scales of size 1 on `input_axis`.

    The largest weight of each output channel becomes LARGEST, zero stays zero. Raises ValueError for NaN.
    """
    if not np.isfinite(matrix).all():
        raise ValueError("a weight is not a number; train the model again")
    scale = np.abs(matrix).max(axis=input_axis, keepdims=True) / np.float32(LARGEST)
    scale[scale == 0] = 1  # a channel of zeros
    return np.rint(matrix / scale).clip(-LARGEST, LARGEST).astype(np.int8), scale


def _matrices(graph: onnx.GraphProto, constants: dict[str, onnx.TensorProto]) -> Iterator[tuple[str, int]]:
    """Yield the name of each weight matrix and the axis it is summed over.

    The front end, whose matrices are constants, ends with the logarithm of the mel energies, if there is one.
    """
    start = next((i for i, node in enumerate(graph.node) if node.op_type == "Log"), 0)
    for node in graph.node[start:]:
        if node.op_type in ("GRU", "LSTM", "RNN"):
            yield from ((name, 2) for name in node.input[1:3])  # [directions, gates * H, inputs]
        elif node.op_type == "MatMul" and node.input[1] in constants:
            yield node.input[1], 0  # [inputs, outputs]
