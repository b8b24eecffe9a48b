"""One run of the study: train, then measure the best epoch's model; one JSON file per run.

Measured are the WER on clean, noisy and fast speech by greedy decoding, and the reach of gradients: how far
back in time the loss of a frame depends on the inputs of the recurrent layers.
"""

import copy
import json
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import yaml
from torch import Tensor, nn

from asr import audio, manifest
from asr.decoding.greedy import greedy
from asr.errors import TrainingError
from asr.features.logmel import LogMel
from asr.files import atomic_write
from asr.frames import FrameGrid
from asr.manifest import Utterance
from asr.model.acoustic import AcousticModel, Cell
from asr.model.export import load_acoustic_model
from asr.scoring import wer
from asr.scoring.conditions import Condition, mix
from asr.text import Tokenizer
from asr.training import run
from asr.training.callbacks import read_curves

LAGS = 40
"""Gradients are followed back over 40 frames of 40 ms; shorter utterances are skipped."""

CONDITIONS = {
    "clean": Condition(),
    "20 dB": Condition(snr=20),
    "10 dB": Condition(snr=10),
    "5 dB": Condition(snr=5),
    "tempo 1.25": Condition(tempo=1.25),
}

Speech = list[tuple[Utterance, np.ndarray]]
"""Utterances and their samples, `float32[N]` at 16 kHz."""

Stack = Callable[[Tensor], Tensor]
"""Inputs `[B, T, D]` -> log-probabilities `[B, T, V]`, causal in time."""


@dataclass(frozen=True)
class Run:
    """Parameters of one run."""

    cell: Cell
    hidden: int
    rate: float
    seed: int

    @property
    def name(self) -> str:
        """Name of the run's folder and JSON file."""
        return f"{self.cell}-{self.hidden}-{self.rate:g}-seed{self.seed}"


@dataclass(frozen=True)
class Result:
    """Result of a run: curves by epoch, WER by part and condition, gradient shares by lag.

    `seconds` is the median CPU time of a training epoch on one thread; `losses` are validation losses after
    each epoch, in nats per token.
    """

    run: Run
    recipe: dict[str, Any]
    parameters: int
    recurrent_parameters: int
    seconds: float
    losses: list[float]
    wer: dict[str, dict[str, float]]
    reach: list[float]
    reach_untrained: list[float]


class Clock(pl.Callback):
    """Logs the CPU seconds of each training epoch; with one thread, the wall time on an idle machine."""

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock; a run resumed within an epoch gets no on_train_epoch_start for it."""
        self._begin = time.process_time()

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Start the clock."""
        self._begin = time.process_time()

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop the clock."""
        self._seconds = time.process_time() - self._begin

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Log the seconds."""
        pl_module.log("epoch_seconds", self._seconds)


def measured(work: Run, recipe: Path, test: Path, out: Path) -> Result:
    """Read the result of `work` from its file, or else train below `out` and measure.

    Training resumes from a checkpoint, if any. Raises TrainingError if another recipe made the file.
    """
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    path = out / f"{work.name}.json"
    if path.exists():
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["recipe"] != settings:
            raise TrainingError(f"{path}: made by another recipe; set another --out")
        return Result(**{**found, "run": Run(**found["run"])})
    torch.set_num_threads(1)  # runs are parallel, one core each
    train(work, recipe, out / work.name)
    result = measure(work, settings, test, out / work.name)
    with atomic_write(path) as file:
        json.dump(asdict(result), file, indent=1)
    return result


def train(work: Run, recipe: Path, folder: Path) -> None:
    """Run `asr train` on the CPU, resuming from a checkpoint if there is one."""
    arguments = {
        "config": recipe,
        "seed_everything": work.seed,
        "model.architecture.cell": work.cell,
        "model.architecture.hidden": work.hidden,
        "model.optimizer.learning_rate": work.rate,
        "trainer.default_root_dir": folder,
        "trainer.accelerator": "cpu",
        "trainer.enable_progress_bar": "false",
        "trainer.callbacks+": "recipes.cells.measure.Clock",
    }
    run.train([f"--{key}={value}" for key, value in arguments.items()], resume=None)


def measure(work: Run, recipe: dict[str, Any], test: Path, folder: Path) -> Result:
    """Measure the bundle in `folder` on the validation part and on `test`."""
    model = load_acoustic_model(folder / "bundle")
    curves = read_curves(folder / "logs")
    (validation,) = (Path(name) for name in recipe["data"]["validation"])
    parts = {"dev": read_speech(validation), "test": read_speech(test)}
    rates = {
        part: {name: error_rate(model, speech, condition) for name, condition in CONDITIONS.items()}
        for part, speech in parts.items()
    }
    inputs = [features(u.id, samples, CONDITIONS["clean"])[0][0] for u, samples in parts["dev"]]
    return Result(
        run=work,
        recipe=recipe,
        parameters=count(model),
        recurrent_parameters=count(model.recurrent),
        seconds=float(np.median([value for _, value in curves["epoch_seconds"]])),
        losses=[value for _, value in curves["val_loss"]],
        wer=rates,
        reach=model_reach(model, inputs, LAGS),
        reach_untrained=model_reach(untrained(model, work.seed), inputs, LAGS),
    )


def untrained(model: AcousticModel, seed: int) -> AcousticModel:
    """Model of the same architecture and normalisation with fresh weights."""
    torch.manual_seed(seed)
    fresh = AcousticModel(model.architecture)
    fresh.mean.copy_(model.mean)
    fresh.std.copy_(model.std)
    return fresh


def count(module: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def read_speech(folder: Path) -> Speech:
    """Read all utterances of a prepared part."""
    utterances = manifest.read(folder / "manifest.jsonl")
    return [(u, audio.read(u.audio_filepath, options=u.part)) for u in utterances]


def add_noise(samples: np.ndarray, snr: float, name: str) -> np.ndarray:
    """Add white noise seeded by the utterance's name, so that all models get the same."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return mix(samples, random.standard_normal(len(samples), dtype=np.float32), snr, name)


def features(name: str, samples: np.ndarray, condition: Condition) -> tuple[Tensor, Tensor]:
    """Log-mel `float32[1, T, F]` and length `int64[1]` of `float32[N]` samples at 16 kHz."""
    if condition.snr is not None:
        samples = add_noise(samples, condition.snr, name)
    mel, lengths = LogMel()(torch.from_numpy(samples)[None], torch.tensor([len(samples)]))
    if condition.tempo != 1.0:  # interpolates frames; asr.scoring.conditions.change_tempo would need PyAV
        frames = int((int(lengths[0]) - 1) // condition.tempo) + 1
        position = condition.tempo * torch.arange(frames)
        low = position.long()
        high = (low + 1).clamp(max=mel.shape[1] - 1)
        mel = torch.lerp(mel[:, low], mel[:, high], (position - low)[None, :, None])
        lengths = torch.tensor([frames])
    return mel, lengths


@torch.inference_mode()
def error_rate(model: AcousticModel, speech: Speech, condition: Condition) -> float:
    """Corpus WER by greedy decoding."""
    tokenizer = Tokenizer()
    counts = []
    for utterance, samples in speech:
        log_probs, lengths = model(*features(utterance.id, samples, condition))
        text = greedy(log_probs[0, : int(lengths[0])].numpy(), tokenizer, FrameGrid().frame_seconds).text
        counts.append(wer.score(utterance.id, utterance.text, text).words)
    return wer.total(counts).rate


def gradient_norms(stack: Stack, inputs: Tensor, lags: int) -> Tensor:
    """Norms `[N, lags + 1]` of d loss_t / d x_{t-k}, k = 0 to `lags`, for the N frames t >= `lags` of inputs
    x `[T, D]` of one utterance.

    loss_t = -log p_t(c_t) with c_t the most probable token of frame t, blank included. Frames t < `lags` are
    left out, so that each lag is averaged over the same frames.
    """
    frames = torch.arange(lags, len(inputs))
    # One copy of the utterance per t keeps the gradients apart in a single backward pass.
    copies = inputs.detach().expand(len(frames), -1, -1).clone().requires_grad_()
    log_probs = stack(copies)[torch.arange(len(frames)), frames]
    (gradient,) = torch.autograd.grad(-log_probs.max(dim=-1).values.sum(), copies)
    norms: Tensor = gradient.norm(dim=-1)  # [N, T]
    return norms.gather(1, frames[:, None] - torch.arange(lags + 1))


def shares(norms: Tensor) -> Tensor:
    """Share of each lag in a frame's sum over lags, averaged over frames: `[N, K]` norms -> `[K]`.

    The gradient of a frame's loss scales with 1 - p; shares do not, so that confident and uncertain models
    and frames weigh the same.
    """
    return (norms / norms.sum(dim=1, keepdim=True)).mean(dim=0)


def stack_of(model: AcousticModel) -> Stack:
    """Layers after the subsampling, without dropout.

    The softmax keeps the inputs' precision: in float32 the gradient of a confident frame underflows.
    """

    def stack(x: Tensor) -> Tensor:
        lengths = torch.full((len(x),), x.shape[1])
        x = x.transpose(0, 1)
        for norm, layer in zip(model.norms, model.recurrent, strict=True):
            x = x + layer(norm(x), lengths)
        logits: Tensor = model.output(model.output_norm(x)).transpose(0, 1)
        return logits.log_softmax(dim=-1)

    return stack


def model_reach(model: AcousticModel, utterances: list[Tensor], lags: int) -> list[float]:
    """Gradient shares by lag in output frames (40 ms), averaged over `utterances`, log-mel `[T, F]`.

    Only utterances with more than `lags` output frames count. Raises ValueError if there are none.
    """
    model = copy.deepcopy(model).double().eval()
    means = []
    for features in utterances:
        lengths = torch.tensor([len(features)])
        with torch.no_grad():
            normal = model.normalize(features.double()[None], lengths)
            x, _ = model.subsampling(normal, lengths)
        if x.shape[1] > lags:
            means.append(shares(gradient_norms(stack_of(model), x[0], lags)))
    if not means:
        raise ValueError(f"no utterance has more than {lags} frames")
    return [float(share) for share in torch.stack(means).mean(dim=0)]
