"""Export a trained tagger as an ONNX graph with int8 weights.

    python -m recipes.formatting.export exp/formatting/last.ckpt data/prose asr/formatting/data

The output's bias is chosen on `valid`, so that the weighted F1 of the marks is highest.
"""

import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto

from asr.console import exit_code
from asr.files import atomic_write
from asr.formatting.marks import MARKS
from asr.formatting.tagger import GRAPH, WORDS
from asr.model.compress import compress_graph, quantize
from asr.model.export import Graph, linear, recurrent
from recipes.formatting.train import CASES, IGNORED, Prose, Tagger, load_tagger

STEPS = np.arange(-0.6, 0.61, 0.1)  # of a mark's bias
ROUNDS = 2


def main(checkpoint: Path, data: Path, out: Path) -> int:
    """Write tagger.onnx and words.txt."""
    model = load_tagger(checkpoint)
    choose_bias(model, Prose(data))
    with atomic_write(out / GRAPH, "wb") as file:
        file.write(build_graph(model).SerializeToString())
    if (data / WORDS).resolve() != (out / WORDS).resolve():
        shutil.copyfile(data / WORDS, out / WORDS)
    return 0


def choose_bias(model: Tagger, prose: Prose) -> None:
    """Shift the bias of each mark for the highest weighted F1 on `valid`, one mark after the other."""
    logits, labels = [], []
    with torch.inference_mode():
        for batch in prose.val_dataloader():
            words = batch.marks != IGNORED
            found = model(batch.words, batch.pauses, batch.lengths).transpose(0, 1)[words]
            logits.append(found[:, : len(MARKS)].numpy())
            labels.append(batch.marks[words].numpy())
    scores, right = np.concatenate(logits), np.concatenate(labels)
    bias = np.zeros(len(MARKS), np.float32)
    for mark in (*range(1, len(MARKS)),) * ROUNDS:
        trials = [bias + step * (np.arange(len(MARKS)) == mark) for step in STEPS]
        bias = max(trials, key=lambda trial: weighted_f1((scores + trial).argmax(1), right)).astype(
            np.float32
        )
    print("bias", dict(zip(MARKS, bias.round(2).tolist(), strict=True)))
    with torch.no_grad():
        model.output.bias[: len(MARKS)] += torch.from_numpy(bias)


def weighted_f1(found: np.ndarray, right: np.ndarray) -> float:
    """F1 of the marks, given `int64[N]` of both, weighted by the square root of their number."""
    counts = (np.bincount(values, minlength=len(MARKS)) for values in (found, right, right[found == right]))
    guessed, expected, hits = counts
    f1 = 2 * hits / np.maximum(1, guessed + expected)
    return float((f1 * np.sqrt(expected))[1:].sum())


def build_graph(model: Tagger) -> onnx.ModelProto:
    """`words`, `pauses` `int64[B, T]`, `lengths int32[B]` -> `logits float32[T, B, marks + cases]`."""
    graph = Graph()
    x = graph.add(
        "Add", _embed(graph, "words", model.words.weight), _embed(graph, "pauses", model.pauses.weight)
    )
    for i, layer in enumerate(model.recurrent):
        y = recurrent(graph, layer, x, "lengths")
        x = graph.add("Add", x, y) if i else y
    graph.add("Identity", linear(graph, model.output, x), output="logits")
    whole = TensorProto.INT64
    inputs = {
        "words": (whole, ["B", "T"]),
        "pauses": (whole, ["B", "T"]),
        "lengths": (TensorProto.INT32, ["B"]),
    }
    logits = {"logits": (TensorProto.FLOAT, ["T", "B", len(MARKS) + CASES])}
    return compress_graph(graph.model(inputs, logits))


def _embed(graph: Graph, ids: str, table: torch.Tensor) -> str:
    """Rows `float32[T, B, E]` of a table that stays int8 in memory."""
    values, scale = quantize(table.detach().numpy(), input_axis=1)
    rows = graph.add("Cast", graph.add("Gather", values, ids), to=TensorProto.FLOAT)
    rows = graph.add("Mul", rows, graph.add("Gather", scale, ids))
    return graph.add("Transpose", rows, perm=[1, 0, 2])


if __name__ == "__main__":
    raise SystemExit(exit_code(lambda: main(*map(Path, sys.argv[1:4]))))
