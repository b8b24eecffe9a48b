"""The average of the weights is the exponential one, of each step once."""

from types import SimpleNamespace

import pytorch_lightning as pl
import torch

from asr.training.averaging import WeightAverage


class Steps(pl.LightningModule):
    """A weight and a buffer that say which step it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("constant", torch.zeros(1))


def test_the_average_is_the_formulas_and_buffers_are_the_models() -> None:
    module, average = Steps(), WeightAverage(decay=0.9)
    average.setup(None, module, "fit")  # type: ignore[arg-type]
    for step, weight in ((1, 5.0), (1, 100.0), (2, 7.0), (3, -1.0)):  # the second is between two batches
        module.weight.data.fill_(weight)
        module.constant.fill_(step)
        average.on_train_batch_end(SimpleNamespace(global_step=step), module)  # type: ignore[arg-type]
    averaged = average._average_model
    assert averaged is not None
    expected = 0.9 * (0.9 * 5.0 + 0.1 * 7.0) + 0.1 * -1.0
    torch.testing.assert_close(averaged.module.weight.data, torch.full((3,), expected))
    assert averaged.module.constant.item() == 3
    assert averaged.n_averaged.item() == 3
