"""From a trained model to a bundle, and back."""

import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from safetensors.torch import load, save
from torch import Tensor

from asr.errors import BundleError
from asr.features.logmel import LogMel, LogMelConfig
from asr.model import bundle
from asr.model.acoustic import AcousticModel, Architecture
from asr.model.onnx_graph import build_graph

TOLERANCE = 1e-4


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
    """Write weights, ONNX graph, model card and config.json; an earlier bundle is replaced as a whole.

    Raises BundleError where ONNX Runtime's log-probabilities differ from torch's by more than TOLERANCE.
    """
    model = model.cpu().eval()
    with bundle.new_bundle(folder) as work:
        graph = build_graph(model, LogMel(log_mel)).SerializeToString()
        worst = check_parity(model, log_mel, graph)
        if not worst <= TOLERANCE:
            raise BundleError(
                f"{folder}: not written, as ONNX and torch differ by {worst:.1e} in log-probability"
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
        )
        if lexicon:
            shutil.copyfile(lexicon, work / bundle.LEXICON)
        (work / bundle.CARD).write_text(model_card(config, model), encoding="utf-8")
        bundle.write_config(work, config)
    return folder


def load_acoustic_model(folder: Path) -> AcousticModel:
    """The torch model of a bundle, in evaluation mode. Raises BundleError where it does not fit."""
    config = bundle.read_config(folder)
    try:
        model = AcousticModel(Architecture.from_config(config.architecture))
        model.load_state_dict(_read_weights(folder, config))
    except (TypeError, RuntimeError) as error:
        raise BundleError(f"{folder}: the weights do not fit the architecture ({error})") from None
    return model.eval()


def _read_weights(folder: Path, config: bundle.BundleConfig) -> dict[str, Tensor]:
    """What a bundle's safetensors holds, int8 multiplied by its scales."""
    stored = load(bundle.read_model_file(folder, config, bundle.WEIGHTS))
    scales = {name: stored.pop(name) for name in list(stored) if name.endswith(bundle.SCALE)}
    for name, scale in scales.items():
        matrix = name.removesuffix(bundle.SCALE)
        stored[matrix] = stored[matrix].float() * scale
    return stored


def take_weights(model: AcousticModel, folder: Path) -> None:
    """Start from another model: take the weights of a bundle that have the same name and shape in `model`.

    Raises BundleError where none has.
    """
    weights = _read_weights(folder, bundle.read_config(folder))
    own = model.state_dict()
    fitting = {k: v for k, v in weights.items() if k in own and own[k].shape == v.shape}
    if not any(name.startswith("recurrent.") for name in fitting):
        raise BundleError(f"{folder}: no recurrent layer has the same shape as the model to train")
    model.load_state_dict(fitting, strict=False)


def check_parity(model: AcousticModel, log_mel: LogMelConfig, graph: bytes) -> float:
    """Greatest difference in log-probability between ONNX Runtime and torch on noise of mixed lengths."""
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


def model_card(config: bundle.BundleConfig, model: AcousticModel) -> str:
    """The bundle's README.md."""
    a = model.architecture
    parameters = sum(p.numel() for p in model.parameters())
    units = "characters" if isinstance(config.characters, str) else "named units"
    directions = "bidirectional " if a.bidirectional else ""
    rows = "\n".join(f"| {name} | {100 * rate:.2f} % |" for name, rate in config.wer.items())
    return (
        f"# Speech recogniser\n\n{a.layers} layers of {directions}{a.cell.upper()}, {a.hidden} units a "
        f"direction, CTC over {len(config.characters)} {units}, {parameters:,} parameters.\n\n"
        f"- Training data: {config.training_data}\n- Licence: {config.licence}\n"
        "- Input: 16 kHz mono; `asr transcribe` converts anything else.\n\n"
        f"| WER on | |\n|---|---|\n{rows}\n"
    )
