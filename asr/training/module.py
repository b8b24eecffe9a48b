"""CTC training as a LightningModule."""

import math
from functools import partial
from typing import Any

import jiwer
import numpy as np
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.utilities import rank_zero_warn
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from asr.decoding.greedy import greedy
from asr.errors import TrainingError
from asr.features.logmel import LogMelConfig
from asr.model.acoustic import AcousticModel, Architecture, Normalization, relative_to_speech
from asr.model.bundle import resolve_bundle
from asr.model.export import take_weights
from asr.model.recurrent import Cell
from asr.text import BLANK, ENGLISH, Tokenizer
from asr.training.augment import SilenceConfig, SpecAugment, SpecAugmentConfig, chunk_mask
from asr.training.consistency import divergence, twice
from asr.training.crf import log_prior, log_total, trigrams
from asr.training.data import Batch, SpeechData, SpeechDataset, name_some
from asr.training.finite import SkippedSteps, skip_unless_finite
from asr.training.noise import AdditiveNoise, NoiseConfig


class CTCModule(pl.LightningModule):
    """An acoustic model, its CTC loss and its optimiser.

    Args:
        cell: Recurrent cell.
        layers: Number of recurrent layers.
        hidden: Units of each layer and direction.
        bidirectional: Whether each layer also reads the utterance from its end.
        normalization: Whether features lose the training set's mean, each utterance's, or that of its speech.
        dropout: Share of activations dropped after the subsampling and after each layer.
        learning_rate: Peak learning rate of AdamW.
        weight_decay: Decoupled weight decay of AdamW.
        warmup_steps: Steps in which the learning rate rises linearly from zero.
        decay_share: Share of the steps, at the end, in which the learning rate falls by half a cosine.
        final_share: Learning rate at the last step as a share of the peak.
        spec_augment: Masking of training features.
        noise: Noise added to training features.
        silence: Silence around and instead of the training utterances.
        consistency: Weight of consistency regularisation between two views of each utterance, differently
            masked (CR-CTC, arXiv 2410.05101); 0 for none, 0.2 in the paper.
        crf: Weight of CTC-CRF's normalisation over whole sequences, with trigrams of the training data's
            tokens: 0 for plain CTC, 1 for the CRF (lattice-free MMI) alone.
        init: A model bundle to start from, box for the one that ships: weights that have the same name and
            shape there are taken.
        units: What the model emits, taken from the data's.
        seed: Decides dropout and masks, taken from seed_everything.
    """

    trigrams: Tensor

    def __init__(
        self,
        cell: Cell = "gru",
        layers: int = 3,
        hidden: int = 256,
        bidirectional: bool = True,
        normalization: Normalization = "corpus",
        dropout: float = 0.1,
        learning_rate: float = 1e-3,
        weight_decay: float = 1e-2,
        warmup_steps: int = 100,
        decay_share: float = 1.0,
        final_share: float = 0.02,
        spec_augment: SpecAugmentConfig = SpecAugmentConfig(),  # noqa: B008 - frozen
        noise: NoiseConfig = NoiseConfig(),  # noqa: B008 - frozen
        silence: SilenceConfig = SilenceConfig(),  # noqa: B008 - frozen
        consistency: float = 0.0,
        crf: float = 0.0,
        init: str | None = None,
        units: str | list[str] = ENGLISH,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.tokenizer = Tokenizer(units if isinstance(units, str) else tuple(units))
        log_mel = LogMelConfig()
        self.model = AcousticModel(
            Architecture(
                self.tokenizer.size, cell, layers, hidden, bidirectional, dropout, log_mel.mels, normalization
            )
        )
        if init is not None:
            take_weights(self.model, resolve_bundle(init))
        self.spec_augment = SpecAugment(spec_augment)
        self.silence = silence
        self.noise = AdditiveNoise(noise, log_mel) if noise.share or silence.only or silence.padded else None
        if crf:  # made here, for what copies the module before the data are there
            self.register_buffer("trigrams", trigrams([], self.tokenizer.size), persistent=False)
        self.learning_rate = learning_rate
        self.weight_decay = weight_decay
        self.warmup_steps = warmup_steps
        self.decay_share = decay_share
        self.final_share = final_share
        self.consistency = consistency
        self.crf = crf
        self.seed = seed
        self._skipped = SkippedSteps()
        self._ids: list[str] = []  # of this step's batches, and their losses
        self._losses: list[Tensor] = []
        # All buffers are constants, which each process computes alike.
        constants = [name for name, _ in self.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(  # type: ignore[no-untyped-call]
            self, constants
        )

    def setup(self, stage: str) -> None:
        """Take the training data's statistics. Called by the trainer."""
        data: SpeechData = self.trainer.datamodule  # type: ignore[attr-defined]
        mean, std = data.train_set.statistics()
        if self.model.architecture.normalization == "speech":
            mean, std = speech_statistics(data.train_set)
        self.model.mean.copy_(torch.from_numpy(mean))
        self.model.std.copy_(torch.from_numpy(std))
        if self.crf:
            texts = {item.entry.id: item.tokens for item in data.train_set.items}  # once, whatever the speeds
            self.trigrams.copy_(trigrams(texts.values(), self.tokenizer.size))

    def configure_optimizers(self) -> Any:
        """AdamW; a linear warm-up, then half a cosine down to `final_share` of the peak."""
        optimizer = torch.optim.AdamW(
            self.parameters(), self.learning_rate, weight_decay=self.weight_decay, fused=True
        )
        total = self.trainer.estimated_stepping_batches
        if math.isinf(total):
            raise TrainingError(
                "the learning rate's schedule needs an end; set --trainer.max_epochs or --trainer.max_steps"
            )

        share = partial(
            share_of_peak,
            warmup_steps=self.warmup_steps,
            total_steps=int(total),
            decay_share=self.decay_share,
            final_share=self.final_share,
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, share)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def losses(self, batch: Batch, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Loss of each utterance in nats `[B]` (float32), log-probabilities and their lengths, of normalised
        features."""
        log_probs, lengths = self.model.encode(features, batch.lengths)
        losses = ctc_losses(batch, log_probs, lengths)
        if self.crf:
            prior = log_prior(self.trigrams, batch.targets, batch.target_lengths)
            losses = losses + self.crf * (log_total(log_probs, lengths, self.trigrams) - prior)
        return losses, log_probs, lengths

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss in nats a token. A step that is not finite is skipped; after three the run stops."""
        # Seeding each step from its number makes dropout and masks independent of stops in between.
        torch.manual_seed(hash((self.seed, self.current_epoch, batch_idx, self.global_rank)))
        if self.noise:
            batch = self.noise.add_silence(batch, self.silence)
        if self.consistency:
            batch = twice(batch)
        features = batch.features
        if self.noise:
            features = self.noise(features, batch.lengths, views=2 if self.consistency else 1)
        seen = chunk_mask(self.silence, batch.lengths, features.shape[1])
        normalized = self.model.normalize(features, batch.lengths, seen)
        losses, log_probs, lengths = self.losses(batch, self.spec_augment(normalized, batch.lengths))
        self._ids += batch.ids
        self._losses.append(losses.detach())
        tokens = mean_over_ranks(batch.target_lengths.sum().float())
        loss = losses.sum() / tokens
        # To show it, the host waits for the device.
        self.log("loss", loss.detach(), prog_bar=not loss.is_cuda, batch_size=len(batch.ids))
        if self.consistency:
            loss = loss + self.consistency * divergence(log_probs, lengths) / tokens
        return loss

    def configure_gradient_clipping(
        self,
        optimizer: torch.optim.Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip by norm, and skip the step if it is not finite. Called by the trainer.

        Raises TrainingError for another algorithm.
        """
        if gradient_clip_val and gradient_clip_algorithm not in (None, "norm"):
            raise TrainingError("trainer.gradient_clip_algorithm: only norm is known; leave it out")
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)  # of float16
        if scaler:
            scaler.unscale_(optimizer)  # which the trainer leaves to a fused optimiser, after the clipping
        skipped = skip_unless_finite(optimizer, list(self.parameters()), gradient_clip_val or 0.0)
        losses = torch.cat(self._losses)
        if scaler:  # it skips the step itself; gradients alone that overflow are how it finds its scale
            skipped = skipped * (~losses.isfinite()).any()
        self._skipped.add(self.global_step, self._ids, losses, skipped)
        self._ids, self._losses = [], []

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """What is set now holds, not what was set when the checkpoint was written."""
        for scheduler in checkpoint["lr_schedulers"]:
            scheduler["base_lrs"] = [self.learning_rate for _ in scheduler["base_lrs"]]
        for optimizer in checkpoint["optimizer_states"]:
            for group in optimizer["param_groups"]:
                group["lr"] *= self.learning_rate / group["initial_lr"]
                group["initial_lr"] = self.learning_rate
                group["weight_decay"] = self.weight_decay
                group["fused"] = True

    def on_validation_epoch_start(self) -> None:
        """Forget the counts of the epoch before."""
        # word errors, words, character errors, characters, nats, tokens, non-empty hypotheses
        self._sums = torch.zeros(7, dtype=torch.float64)
        self._some_ids: list[str] = []
        self._broken: list[str] = []

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count the errors of greedy decoding."""
        normalized = self.model.normalize(batch.features, batch.lengths)
        losses, log_probs, lengths = self.losses(batch, normalized)
        self._broken += [id for id, loss in zip(batch.ids, losses.tolist(), strict=True) if math.isnan(loss)]
        hypotheses = [
            greedy(row[:length], self.tokenizer, frame_seconds=1.0).text  # times are of no interest here
            for row, length in zip(log_probs.cpu().numpy(), lengths.tolist(), strict=True)
        ]
        words = jiwer.process_words(batch.texts, hypotheses)
        # Of phones only one error rate can be told; each of them stands as a word there.
        phones = not isinstance(self.tokenizer.units, str)
        characters = words if phones else jiwer.process_characters(batch.texts, hypotheses)
        sums = [
            words.substitutions + words.deletions + words.insertions,
            words.substitutions + words.deletions + words.hits,
            characters.substitutions + characters.deletions + characters.insertions,
            characters.substitutions + characters.deletions + characters.hits,
            float(losses.sum()),
            int(batch.target_lengths.sum()),
            sum(map(bool, hypotheses)),
        ]
        self._sums += torch.tensor(sums, dtype=torch.float64)
        self._some_ids += batch.ids[:2]

    def on_validation_epoch_end(self) -> None:
        """Sum over batches and ranks, and only then divide. Raises TrainingError, on all ranks alike."""
        sums = self.trainer.strategy.reduce(self._sums.float().to(self.device), reduce_op="sum")
        assert isinstance(sums, Tensor)
        errors, words, character_errors, characters, nats, tokens, spoken = sums.tolist()
        if math.isnan(nats):
            names = name_some(self._broken) if self._broken else "recordings that another process names"
            raise TrainingError(
                f"the validation loss is not a number after step {self.global_step} for {names}; "
                "look at these recordings, or start anew with a lower --model.learning_rate"
            )
        self.log("val_loss", nats / tokens)
        if not isinstance(self.tokenizer.units, str):
            self.log("val_per", errors / words, prog_bar=True)
        else:
            self.log("val_wer", errors / words, prog_bar=True)
            self.log("val_cer", character_errors / characters)
        if spoken == 0:
            rank_zero_warn(
                f"the model emits only blanks after epoch {self.current_epoch} (for "
                f"{name_some(self._some_ids)}); this is usual in the first epochs, later it asks for a lower "
                "model.learning_rate"
            )


def share_of_peak(
    step: int, warmup_steps: int, total_steps: int, decay_share: float = 1.0, final_share: float = 0.0
) -> float:
    """Learning rate as a share of its peak: linear warm-up, the peak, then half a cosine to `final_share`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    decay_steps = max(1.0, decay_share * (total_steps - warmup_steps))
    progress = min(1.0, max(0.0, (step - total_steps + decay_steps) / decay_steps))
    if not decay_share:
        return 1.0
    return final_share + (1 - final_share) * 0.5 * (1 + math.cos(math.pi * progress))


def speech_statistics(dataset: SpeechDataset, most: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the speech and standard deviation of all frames around it, `float32[F]`, of features relative
    to their speech, from up to `most` utterances."""
    items = dataset.items[:: max(1, len(dataset.items) // most)]
    sums, weights, squares, frames = 0.0, 0.0, 0.0, 0
    for item in items:
        features = torch.from_numpy(item.store.read(item.entry).astype(np.float32))[None]
        if not features.shape[1]:
            continue
        relative, weight = relative_to_speech(features, torch.ones(1, features.shape[1], 1, dtype=torch.bool))
        own = (relative * weight).sum(1) / weight.sum(1).clamp(min=1)
        sums, weights = sums + (relative * weight).sum(1)[0].double(), weights + float(weight.sum())
        squares, frames = squares + (relative - own).square().sum(1)[0].double(), frames + features.shape[1]
    return (sums / weights).float().numpy(), (squares / frames).sqrt().float().numpy()


def mean_over_ranks(value: Tensor) -> Tensor:
    """The mean of the processes' values. Their gradients are averaged; divided by the mean of their tokens,
    these are one process's. Unlike the trainer's own reduction, it holds no barrier."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        return value / torch.distributed.get_world_size()
    return value


def ctc_losses(batch: Batch, log_probs: Tensor, lengths: Tensor) -> Tensor:
    """`float32[B, T, V]` log-probabilities and their lengths -> nats `float32[B]`."""
    with torch.autocast(log_probs.device.type, enabled=False):
        return F.ctc_loss(
            log_probs.transpose(0, 1), batch.targets, lengths, batch.target_lengths, BLANK, reduction="none"
        )
