"""A model whose output is a known function of the waveform, so that results can be checked exactly.

The mean level of a frame's first 400 samples names its token: level `token / 32` is that token.
"""

from pathlib import Path

import numpy as np
import onnx
import soundfile
from onnx import TensorProto, helper, numpy_helper

from asr.model.bundle import ONNX, WEIGHTS, BundleConfig, write_config
from asr.text import ENGLISH, Tokenizer

FRAME = 640
LOG_MEL = {"sample_rate": 16_000, "window": 400, "hop": 160}


def speak(text: str, characters: str = ENGLISH) -> np.ndarray:
    """A waveform that the stand-in reads as `text`: three frames a character, the last one blank."""
    levels = [level for token in Tokenizer(characters).encode(text) for level in (token, token, 0)]
    return np.repeat(np.array(levels, dtype=np.float32) / 32, FRAME)


def graph(vocabulary: int = len(ENGLISH) + 1, reach: int = 0) -> onnx.ModelProto:
    """The ONNX graph; each frame also sees `reach` frames to either side. Frames past a length are NaN."""
    weights = {
        "average": np.full((1, 1, 400), 1 / 400, dtype=np.float32),
        "neighbours": np.concatenate([np.full(reach, 0.01), [1], np.full(reach, 0.01)])
        .astype(np.float32)
        .reshape(1, 1, -1),
        "levels": (np.arange(vocabulary) / 32).astype(np.float32).reshape(1, 1, -1),
        "sharpness": np.array(-20_000, dtype=np.float32),
        "nan": np.array(np.nan, dtype=np.float32),
        "one_axis": np.array([1]),
        "last_axes": np.array([1, 2]),
        "silence": np.array(0, dtype=np.float32),
        "zero": np.array(0),
        "one": np.array(1),
        "window": np.array(400),
        "stride": np.array(FRAME),
    }
    nodes = [
        helper.make_node("Sub", ["lengths", "window"], ["beyond"]),
        helper.make_node("Div", ["beyond", "stride"], ["steps"]),
        helper.make_node("Add", ["steps", "one"], ["frames"]),
        helper.make_node("Unsqueeze", ["waveforms", "one_axis"], ["signal"]),
        helper.make_node("Conv", ["signal", "average"], ["all_means"], strides=[FRAME]),
        helper.make_node("Shape", ["all_means"], ["longest"], start=2, end=3),
        helper.make_node("Squeeze", ["longest"], ["count"]),
        helper.make_node("Range", ["zero", "count", "one"], ["positions"]),
        helper.make_node("Unsqueeze", ["frames", "last_axes"], ["limits"]),
        helper.make_node("Less", ["positions", "limits"], ["valid"]),
        helper.make_node("Where", ["valid", "all_means", "silence"], ["means"]),
        helper.make_node("Conv", ["means", "neighbours"], ["mixed"], pads=[reach, reach]),
        helper.make_node("Where", ["valid", "mixed", "nan"], ["defined"]),
        helper.make_node("Transpose", ["defined"], ["column"], perm=[0, 2, 1]),
        helper.make_node("Sub", ["column", "levels"], ["distances"]),
        helper.make_node("Mul", ["distances", "distances"], ["squares"]),
        helper.make_node("Mul", ["squares", "sharpness"], ["scores"]),
        helper.make_node("LogSoftmax", ["scores"], ["log_probs"], axis=-1),
    ]
    inputs = [
        helper.make_tensor_value_info("waveforms", TensorProto.FLOAT, ["B", "N"]),
        helper.make_tensor_value_info("lengths", TensorProto.INT64, ["B"]),
    ]
    outputs = [
        helper.make_tensor_value_info("log_probs", TensorProto.FLOAT, ["B", "T", vocabulary]),
        helper.make_tensor_value_info("frames", TensorProto.INT64, ["B"]),
    ]
    initializers = [numpy_helper.from_array(value, name) for name, value in weights.items()]
    body = helper.make_graph(nodes, "standin", inputs, outputs, initializers)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def record(path: Path, text: str) -> Path:
    """Write a recording that the stand-in transcribes as `text`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:  # soundfile itself takes no names that are not UTF-8
        soundfile.write(file, speak(text), 16_000, format="WAV", subtype="PCM_16")
    return path


def write_bundle(folder: Path, characters: str = ENGLISH, reach: int = 0) -> Path:
    """A whole bundle around the stand-in."""
    folder.mkdir(parents=True, exist_ok=True)
    model = graph(len(characters) + 1, reach)
    onnx.checker.check_model(model)
    (folder / ONNX).write_bytes(model.SerializeToString())
    (folder / WEIGHTS).write_bytes(b"no weights here")
    write_config(folder, BundleConfig({"cell": "gru"}, LOG_MEL, characters, "none", "MIT", {"digits": 0.5}))
    return folder
