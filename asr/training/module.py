"""CTC training as a LightningModule."""

import math
import warnings
from dataclasses import dataclass, replace
from typing import Any

import jiwer
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from asr.console import print_error
from asr.decoding.greedy import greedy
from asr.errors import TrainingError
from asr.features.logmel import LogMelConfig
from asr.model.acoustic import AcousticModel, Architecture
from asr.model.bundle import resolve_bundle
from asr.model.export import take_weights
from asr.text import ENGLISH, Tokenizer
from asr.training.augment import AdditiveNoise, AugmentationConfig, chunk_mask, spec_augment
from asr.training.data import Batch, SpeechData, name_some
from asr.training.losses import (
    consistency_loss,
    ctc_losses,
    log_partition,
    log_prior_score,
    trigrams,
    two_views,
)

MOST_SKIPPED = 3  # consecutive steps, before the run stops
MOST_WARMUP = 0.2  # share of all steps


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up and a cosine decay at the end.

    Args:
        learning_rate: Peak learning rate.
        weight_decay: Decoupled weight decay.
        warmup_steps: Steps of linear warm-up from zero; at most a fifth of all steps.
        decay_share: Share of the steps after the warm-up, at the end, in which the rate decays by half a
            cosine; 0 keeps it constant.
        final_share: Final learning rate as a share of the peak.
    """

    learning_rate: float = 1e-3
    weight_decay: float = 1e-2
    warmup_steps: int = 100
    decay_share: float = 1.0
    final_share: float = 0.02

    def share_of_peak(self, step: int, total_steps: int) -> float:
        """Learning rate of a step as a share of the peak."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if not self.decay_share:
            return 1.0
        decay_steps = max(1.0, self.decay_share * (total_steps - self.warmup_steps))
        progress = min(1.0, max(0.0, (step - total_steps + decay_steps) / decay_steps))
        return self.final_share + (1 - self.final_share) * 0.5 * (1 + math.cos(math.pi * progress))


class CTCModule(pl.LightningModule):
    """An acoustic model with its losses and its optimiser.

    Args:
        architecture: Acoustic model.
        optimizer: Learning rate and its schedule.
        augmentation: Augmentation of training features.
        consistency: Weight of consistency regularisation between two differently augmented views of each
            utterance (CR-CTC, arXiv 2410.05101); 0 turns it off, the paper uses 0.2.
        crf: Weight of CTC-CRF's normalisation over whole sequences, by trigrams of the training transcripts:
            0 is plain CTC, 1 pure CTC-CRF (lattice-free MMI).
        init: Model bundle to start from, `box` for the built-in one; weights with the same name and shape are
            copied.
        units: Output units of the model, set from data.units.
        seed: Seed of dropout and augmentation, set from seed_everything.
    """

    trigrams: Tensor

    def __init__(
        self,
        architecture: Architecture,
        optimizer: OptimizerConfig = OptimizerConfig(),
        augmentation: AugmentationConfig = AugmentationConfig(),  # noqa: B008 - frozen
        consistency: float = 0.0,
        crf: float = 0.0,
        init: str | None = None,
        units: str | list[str] = ENGLISH,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(units if isinstance(units, str) else tuple(units))
        if architecture.vocabulary != self.tokenizer.size:
            outputs, units = architecture.vocabulary, list(self.tokenizer.units)
            raise TrainingError(
                f"architecture.vocabulary: {outputs} outputs for {len(units)} units and a blank"
            )
        self.model = AcousticModel(architecture)
        if init is not None:
            take_weights(self.model, resolve_bundle(init))
        self.optimizer_config = optimizer
        self.augmentation = a = augmentation
        self.noise: AdditiveNoise | None = None
        if a.noise.share or a.silence.only or a.silence.padded:
            self.noise = AdditiveNoise(a.noise, LogMelConfig())
        if crf:  # registered before the data are known, for whatever copies the module in between
            self.register_buffer("trigrams", trigrams([], self.tokenizer.size), persistent=False)
        self.consistency, self.crf, self.seed = consistency, crf, seed
        self._skipped = 0
        self._told_blanks = False
        self._losses: list[tuple[list[str], Tensor]] = []  # of the batches of this step
        # All buffers are constants, computed alike by each process.
        constants = [name for name, _ in self.named_buffers()]
        ignore: Any = DistributedDataParallel._set_params_and_buffers_to_ignore_for_model
        ignore(self, constants)

    def setup(self, stage: str) -> None:
        """Take the statistics of the training data."""
        data: SpeechData = self.trainer.datamodule  # type: ignore[attr-defined]
        speech = self.model.architecture.normalization == "speech"
        mean, std = data.train_set.speech_statistics() if speech else data.train_set.statistics()
        self.model.mean.copy_(torch.from_numpy(mean))
        self.model.std.copy_(torch.from_numpy(std))
        if self.crf:
            texts = {item.entry.id: item.tokens for item in data.train_set.items}  # once for all speeds
            self.trigrams.copy_(trigrams(texts.values(), self.tokenizer.size))

    def configure_optimizers(self) -> Any:
        """AdamW and its schedule. Raises TrainingError if the number of steps is unlimited."""
        c = self.optimizer_config
        # A gradient scaler and clipping rule out a fused optimiser.
        fused = getattr(self.trainer.precision_plugin, "scaler", None) is None
        optimizer = torch.optim.AdamW(
            self.parameters(), c.learning_rate, weight_decay=c.weight_decay, fused=fused
        )
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise TrainingError(
                "the learning rate schedule needs an end; set trainer.max_epochs or max_steps"
            )
        self._total_steps = int(total)
        warmup = min(c.warmup_steps, max(1, int(total * MOST_WARMUP)))
        if warmup < c.warmup_steps and self.trainer.is_global_zero:
            print_error(f"model.optimizer.warmup_steps: {warmup} of {total} steps, not {c.warmup_steps}")
        c = replace(c, warmup_steps=warmup)
        rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: c.share_of_peak(step, int(total)))
        schedule = {"scheduler": rate, "interval": "step", "name": "learning_rate"}  # in the logs, too
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    def losses(self, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Losses in nats `float32[B]` of normalised features, log-probabilities and their lengths."""
        log_probs, lengths = self.model.encode(features, batch.lengths)
        losses = ctc_losses(batch, log_probs, lengths)
        if self.crf:
            prior = log_prior_score(self.trigrams, batch.targets, batch.target_lengths)
            losses = losses + self.crf * (log_partition(log_probs, lengths, self.trigrams) - prior)
        return losses, log_probs, lengths

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss in nats per token."""
        # Makes dropout and augmentation independent of stops in between.
        torch.manual_seed(hash((self.seed, self.current_epoch, batch_idx, self.global_rank)))
        silence = self.augmentation.silence
        if self.noise:
            batch = self.noise.add_silence(batch, silence)
        if self.consistency:
            batch = two_views(batch)
        features = batch.features
        if self.noise:
            features = self.noise(features, batch.lengths, views=2 if self.consistency else 1)
        seen = chunk_mask(silence, batch.lengths, features.shape[1])
        normalized = self.model.normalize(features, batch.lengths, seen)
        masked = spec_augment(self.augmentation.spec_augment, normalized, batch.lengths)
        losses, log_probs, lengths = self.losses(batch, masked)
        self._losses.append((batch.ids, losses.detach()))
        tokens = mean_over_ranks(batch.target_lengths.sum().float()).clamp(min=1)  # 0 if all is silence
        loss = losses.sum() / tokens
        # On CUDA, the progress bar would make the host wait for the device.
        self.log("loss", loss.detach(), prog_bar=not loss.is_cuda, batch_size=len(batch.ids))
        if self.consistency:
            loss = loss + self.consistency * consistency_loss(log_probs, lengths) / tokens
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm; skip the step if the gradients are not finite.

        Raises TrainingError for another algorithm, and after MOST_SKIPPED skipped steps in a row.
        """
        if gradient_clip_val and gradient_clip_algorithm not in (None, "norm"):
            raise TrainingError("trainer.gradient_clip_algorithm: only norm is supported; leave it out")
        norm = torch.nn.utils.clip_grad_norm_(self.parameters(), gradient_clip_val or math.inf)
        batches, self._losses = self._losses, []
        if norm.isfinite():  # on all processes or on none, as gradients have been averaged
            self._skipped = 0
            return
        losses = [pair for ids, values in batches for pair in zip(ids, values.tolist(), strict=True)]
        broken = list(dict.fromkeys(id for id, loss in losses if not math.isfinite(loss)))
        if getattr(self.trainer.precision_plugin, "scaler", None):
            # The scaler skips the step. Overflow of finite losses is how it finds its scale.
            if not self.trainer.strategy.reduce_boolean_decision(bool(broken), all=False):
                return
        else:
            optimizer.zero_grad()
        self._skipped += 1
        cause = f"the loss of {name_some(broken)} is not finite" if broken else "a gradient is not finite"
        if self._skipped >= MOST_SKIPPED:
            raise TrainingError(
                f"{self._skipped} consecutive steps skipped, the last at step {self.global_step}: {cause}; "
                "check these recordings, or use --resume with a lower --model.optimizer.learning_rate"
            )
        (warnings.warn if broken else rank_zero_warn)(f"step {self.global_step} skipped: {cause}")

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Apply the current learning rate and weight decay instead of the checkpoint's."""
        c = self.optimizer_config
        for scheduler in checkpoint["lr_schedulers"]:
            scheduler["base_lrs"] = [c.learning_rate for _ in scheduler["base_lrs"]]
        for optimizer in checkpoint["optimizer_states"]:
            for group in optimizer["param_groups"]:
                group["lr"] *= c.learning_rate / group["initial_lr"]
                group["initial_lr"] = c.learning_rate
                group["weight_decay"] = c.weight_decay

    def on_validation_epoch_start(self) -> None:
        # word errors, words, character errors, characters, nats, tokens, characters recognised
        self._sums = torch.zeros(7, dtype=torch.float64)
        self._broken: list[str] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the errors of greedy decoding."""
        normalized = self.model.normalize(batch.features, batch.lengths)
        losses, log_probs, lengths = self.losses(batch, normalized)
        self._broken += [id for id, loss in zip(batch.ids, losses.tolist(), strict=True) if math.isnan(loss)]
        hypotheses = [
            greedy(row[:length], self.tokenizer, frame_seconds=1.0).text  # times are not used
            for row, length in zip(log_probs.cpu().numpy(), lengths.tolist(), strict=True)
        ]
        words = jiwer.process_words(batch.texts, hypotheses)
        characters = jiwer.process_characters(batch.texts, hypotheses)
        counts: list[float] = []
        for output in (words, characters):
            changed = output.substitutions + output.deletions
            counts += [changed + output.insertions, changed + output.hits]
        counts += [float(losses.sum()), int(batch.target_lengths.sum()), sum(map(len, hypotheses))]
        self._sums += torch.tensor(counts, dtype=torch.float64)

    def on_validation_epoch_end(self) -> None:
        """Sum over batches and ranks, then divide. Raises TrainingError, on all ranks alike."""
        sums = self.trainer.strategy.reduce(self._sums.float().to(self.device), reduce_op="sum")
        assert isinstance(sums, Tensor)
        errors, words, character_errors, characters, nats, tokens, recognised = sums.tolist()
        if math.isnan(nats):
            names = name_some(self._broken) or "recordings of another process"
            raise TrainingError(
                f"validation loss is NaN after step {self.global_step} for {names}; check these recordings, "
                "or try a lower --model.optimizer.learning_rate"
            )
        late = 2 * self.global_step >= self._total_steps  # earlier, it is how CTC begins
        if late and not recognised and not self._told_blanks and self.trainer.is_global_zero:
            self._told_blanks = True
            print_error(
                f"the model emits only blanks after {self.global_step} steps; if val_loss still falls, train "
                "longer (trainer.max_epochs), else with a lower model.optimizer.learning_rate"
            )
        self.log("val_loss", nats / tokens)
        if isinstance(self.tokenizer.units, str):
            self.log("val_wer", errors / words, prog_bar=True)
            self.log("val_cer", character_errors / characters)
        else:  # texts hold a phone per word
            self.log("val_per", errors / words, prog_bar=True)


def mean_over_ranks(value: Tensor) -> Tensor:
    """Mean over the processes, without the barrier of the trainer's own reduction.

    DDP averages gradients, so dividing by the mean number of tokens gives the gradient of a single process.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        return value / torch.distributed.get_world_size()
    return value
