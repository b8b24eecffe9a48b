"""The average of the weights, which is what is validated and exported."""

from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class WeightAverage(WeightAveraging):
    """Exponential moving average of the weights: average <- decay * average + (1 - decay) * weights, a step.

    Lightning's own update asks the device how many there have been, twice a step, and takes several kernels
    for each weight; this one waits for nothing and takes one for all.

    Args:
        decay: Share of the average that a step leaves; 0 for the weights as they are.
    """

    def __init__(self, decay: float = 0.999) -> None:
        super().__init__(use_buffers=False)
        self._decay = decay

    @torch.no_grad()
    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Called by the trainer."""
        if trainer.global_step <= self._latest_update_step:
            return  # gradients are being accumulated
        assert self._average_model is not None
        averages: list[Tensor] = list(self._average_model.module.parameters())
        weights: list[Tensor] = list(pl_module.parameters())
        if self._latest_update_step == 0:
            torch._foreach_copy_(averages, weights)
        else:
            torch._foreach_lerp_(averages, weights, 1 - self._decay)
        for kept, now in zip(self._average_model.module.buffers(), pl_module.buffers(), strict=True):
            kept.copy_(now)
        self._average_model.n_averaged += 1
        self._latest_update_step = trainer.global_step
