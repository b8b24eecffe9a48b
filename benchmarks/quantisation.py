"""Would int8 arithmetic make a GRU layer faster in ONNX Runtime on a CPU, and what do larger batches give?

    python -m benchmarks.quantisation [--hidden 256] [--frames 750] [--batch 8] [--batches 1 2 4 ...] [--json]

ONNX Runtime has no int8 GRU for CPUs. What could be int8 is the projection of the inputs, as a MatMulInteger
of its own; but the GRU operator takes no projection that is ready, so the recurrence has to follow as GRU
operators that multiply by an identity, or as a Scan with the gates written out. The first table has all the
parts of that, for one bidirectional layer; the second the speed of the float32 operator by the number of
windows in a batch. One thread, random weights, medians of ROUNDS runs in turn.
"""

import argparse
import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TypeVar

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

ROUNDS = 5
GATES = 3
Name = TypeVar("Name", str, int)


@dataclass(frozen=True)
class Shape:
    """A bidirectional GRU layer at work on `batch` windows of `frames` frames."""

    hidden: int
    frames: int
    batch: int

    @property
    def width(self) -> int:
        """Inputs of a layer, which are the outputs of the one below."""
        return 2 * self.hidden

    @property
    def projected(self) -> int:
        """Outputs of the input projection of both directions."""
        return 2 * GATES * self.hidden


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--hidden", type=int, default=256)
    parser.add_argument("--frames", type=int, default=750, help="30 s at 40 ms")
    parser.add_argument("--batch", type=int, default=8, help="of the first table")
    parser.add_argument("--batches", type=int, nargs="*", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    shape = Shape(arguments.hidden, arguments.frames, arguments.batch)
    parts = measure({name: build(shape) for name, build in PARTS.items()})
    sizes = {batch: Shape(arguments.hidden, arguments.frames, batch) for batch in arguments.batches}
    times = measure({batch: gru(size) for batch, size in sizes.items()})
    by_batch = {batch: arguments.frames * batch / seconds for batch, seconds in times.items()}
    if arguments.json:
        print(json.dumps({"shape": asdict(shape), "seconds": parts, "frames_per_second": by_batch}, indent=1))
    else:
        print(table(shape, parts, by_batch))


@dataclass(frozen=True)
class Part:
    """A graph and its inputs."""

    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]


def projection(shape: Shape) -> Part:
    """The input projection of both directions as a float32 product."""
    weights = {"w": _noise(shape.width, shape.projected)}
    return _part([("MatMul", ["x", "w"], ["y"], {})], weights, _frames(shape))


def integer_projection(shape: Shape) -> Part:
    """The same with int8 weights, a scale a channel, and inputs quantized to uint8 as they come."""
    weights = {
        "w": np.random.default_rng(0).integers(-127, 128, (shape.width, shape.projected), dtype=np.int8),
        "channel_scale": np.abs(_noise(shape.projected)),
    }
    nodes = [
        ("DynamicQuantizeLinear", ["x"], ["q", "scale", "zero"], {}),
        ("MatMulInteger", ["q", "w", "zero"], ["sums"], {}),
        ("Cast", ["sums"], ["floats"], {"to": TensorProto.FLOAT}),
        ("Mul", ["scale", "channel_scale"], ["scales"], {}),
        ("Mul", ["floats", "scales"], ["y"], {}),
    ]
    return _part(nodes, weights, _frames(shape))


def gru(shape: Shape) -> Part:
    """The operator as the model has it: projection and recurrence of both directions."""
    weights = _weights(shape, 2, _noise(2, GATES * shape.hidden, shape.width))
    return _part([_gru_node(shape, "bidirectional", "x", "", "y")], weights, _frames(shape))


def recurrence(shape: Shape) -> Part:
    """The operator with a single input a frame: little but the recurrence, which nothing can take away."""
    weights = _weights(shape, 2, _noise(2, GATES * shape.hidden, 1))
    return _part([_gru_node(shape, "bidirectional", "x", "", "y")], weights, _frames(shape, 1))


def ready_projection(shape: Shape) -> Part:
    """What could follow the int8 product: an operator a direction, its weights the identity."""
    size = GATES * shape.hidden
    nodes, weights = [("Split", ["x", "sizes"], ["x0", "x1"], {"axis": 2})], {"sizes": np.array([size, size])}
    for i, direction in enumerate(("forward", "reverse")):
        weights |= _weights(shape, 1, np.eye(size, dtype=np.float32)[None], str(i))
        nodes.append(_gru_node(shape, direction, f"x{i}", str(i), f"y{i}"))
    nodes.append(("Concat", ["y0", "y1"], ["y"], {"axis": 1}))
    return _part(nodes, weights, _frames(shape, shape.projected))


def scan(shape: Shape) -> Part:
    """The other thing that could follow: a Scan a direction, whose state stands still on padding."""
    size, hidden = GATES * shape.hidden, shape.hidden
    w = _weights(shape, 1, _noise(1))
    weights = {
        "sizes": np.array([size, size]),
        "gates": np.array([2 * hidden, hidden]),
        "halves": np.array([hidden, hidden]),
        "r": np.ascontiguousarray(w["r"][0].T),
        "b": w["b"][0, size:],
        "h0": np.zeros((shape.batch, hidden), dtype=np.float32),
        "steps": np.arange(shape.frames, dtype=np.int32)[:, None],
        "last": np.array([-1]),
    }
    body = helper.make_graph(
        [helper.make_node(kind, given, made, **attributes) for kind, given, made, attributes in _STEP],
        "step",
        [
            helper.make_tensor_value_info("h", TensorProto.FLOAT, [shape.batch, hidden]),
            helper.make_tensor_value_info("x_t", TensorProto.FLOAT, [shape.batch, size]),
            helper.make_tensor_value_info("valid_t", TensorProto.BOOL, [shape.batch, 1]),
        ],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, [shape.batch, hidden]) for n in ("next", "y_t")],
    )
    nodes: list[_Node] = [
        ("Split", ["x", "sizes"], ["x0", "x1"], {"axis": 2}),
        ("Less", ["steps", "lengths"], ["within"], {}),
        ("Unsqueeze", ["within", "last"], ["valid"], {}),  # [T, B, 1]
    ]
    for i in (0, 1):
        ways = {"scan_input_directions": [i, i], "scan_output_directions": [i]}
        attributes = {"body": body, "num_scan_inputs": 2, **ways}
        nodes.append(("Scan", ["h0", f"x{i}", "valid"], [f"end{i}", f"y{i}"], attributes))
    nodes.append(("Concat", ["y0", "y1"], ["y"], {"axis": 2}))
    return _part(nodes, weights, _frames(shape, shape.projected))


_STEP: "list[_Node]" = [
    ("MatMul", ["h", "r"], ["product"], {}),
    ("Add", ["product", "b"], ["recurrent"], {}),
    ("Split", ["recurrent", "gates"], ["r_zr", "r_n"], {"axis": 1}),
    ("Split", ["x_t", "gates"], ["x_zr", "x_n"], {"axis": 1}),
    ("Add", ["r_zr", "x_zr"], ["sum_zr"], {}),
    ("Sigmoid", ["sum_zr"], ["zr"], {}),
    ("Split", ["zr", "halves"], ["z", "reset"], {"axis": 1}),
    ("Mul", ["reset", "r_n"], ["kept"], {}),
    ("Add", ["x_n", "kept"], ["sum_n"], {}),
    ("Tanh", ["sum_n"], ["n"], {}),
    ("Sub", ["h", "n"], ["h_n"], {}),
    ("Mul", ["z", "h_n"], ["z_h_n"], {}),
    ("Add", ["n", "z_h_n"], ["new"], {}),
    ("Where", ["valid_t", "new", "h"], ["next"], {}),
    ("Identity", ["next"], ["y_t"], {}),
]

PARTS = {
    "GRU operator, float32": gru,
    "  of that: projection": projection,
    "  of that: recurrence": recurrence,
    "projection, int8": integer_projection,
    "GRU operators on a ready projection": ready_projection,
    "Scans on a ready projection": scan,
}


def measure(parts: dict[Name, Part]) -> dict[Name, float]:
    """Seconds of one run of each."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    sessions = {
        name: onnxruntime.InferenceSession(
            part.model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        for name, part in parts.items()
    }
    times: dict[Name, list[float]] = {name: [] for name in parts}
    for _ in range(1 + ROUNDS):  # the first one warms up
        for name, part in parts.items():
            begin = time.perf_counter()
            sessions[name].run(["y"], part.inputs)
            times[name].append(time.perf_counter() - begin)
    return {name: statistics.median(seconds[1:]) for name, seconds in times.items()}


def table(shape: Shape, parts: dict[str, float], by_batch: dict[int, float]) -> str:
    """For reading."""
    whole = parts["GRU operator, float32"]
    lines = [f"a bidirectional GRU layer, {shape.hidden} units a direction, one thread", ""]
    lines += [f"{shape.batch} windows of {shape.frames} frames{'':13} ms   of the operator"]
    lines += [f"{name:36} {1000 * seconds:7.1f}   {seconds / whole:5.2f}" for name, seconds in parts.items()]
    for kind in ("GRU operators", "Scans"):
        split = parts["projection, int8"] + parts[f"{kind} on a ready projection"]
        lines += [f"{f'int8 projection, then {kind}':36} {1000 * split:7.1f}   {split / whole:5.2f}"]
    lines += ["", f"windows of {shape.frames} frames   frames/s"]
    lines += [f"{batch:20} {speed:10,.0f}" for batch, speed in by_batch.items()]
    return "\n".join(lines)


def _noise(*shape: int) -> np.ndarray:
    return (0.05 * np.random.default_rng(0).standard_normal(shape)).astype(np.float32)


def _frames(shape: Shape, width: int | None = None) -> dict[str, np.ndarray]:
    lengths = np.full(shape.batch, shape.frames, dtype=np.int32)
    return {"x": 10 * _noise(shape.frames, shape.batch, width or shape.width), "lengths": lengths}


def _weights(shape: Shape, directions: int, w: np.ndarray, suffix: str = "") -> dict[str, np.ndarray]:
    size = GATES * shape.hidden
    r, b = _noise(directions, size, shape.hidden), _noise(directions, 2 * size)
    b[:, :size] = 0  # the projection's, which no part but the whole operator adds
    return {f"w{suffix}": w, f"r{suffix}": r, f"b{suffix}": b}


_Node = tuple[str, list[str], list[str], dict]


def _gru_node(shape: Shape, direction: str, x: str, suffix: str, y: str) -> _Node:
    attributes = {"hidden_size": shape.hidden, "direction": direction, "linear_before_reset": 1}
    return "GRU", [x, f"w{suffix}", f"r{suffix}", f"b{suffix}", "lengths"], [y], attributes


def _part(nodes: Sequence[_Node], weights: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> Part:
    used = {name for _, names, _, _ in nodes for name in names}
    inputs = {name: value for name, value in inputs.items() if name in used}
    types = {"x": TensorProto.FLOAT, "lengths": TensorProto.INT32}
    graph = helper.make_graph(
        [helper.make_node(kind, given, made, **attributes) for kind, given, made, attributes in nodes],
        "part",
        [helper.make_tensor_value_info(name, types[name], value.shape) for name, value in inputs.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return Part(model, inputs)


if __name__ == "__main__":
    main()
