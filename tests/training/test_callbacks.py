"""The average of the weights, and the line per epoch."""

from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from asr.training.callbacks import EpochLine, WeightAverage


class Steps(pl.LightningModule):
    """A weight and a buffer that tell which step it is."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(3))
        self.register_buffer("constant", torch.zeros(1))


def test_the_average_is_exponential_and_buffers_are_the_models() -> None:
    module, average = Steps(), WeightAverage(decay=0.9)
    average.setup(None, module, "fit")  # type: ignore[arg-type]
    for step, weight in ((1, 5.0), (1, 100.0), (2, 7.0), (3, -1.0)):  # the second is between two batches
        module.weight.data.fill_(weight)
        module.constant.fill_(step)
        average.on_train_batch_end(SimpleNamespace(global_step=step), module, None, None, 0)  # type: ignore[arg-type]
    averaged = average._average_model
    assert averaged is not None
    expected = 0.9 * (0.9 * 5.0 + 0.1 * 7.0) + 0.1 * -1.0
    torch.testing.assert_close(averaged.module.weight.data, torch.full((3,), expected))
    assert averaged.module.constant.item() == 3
    assert averaged.n_averaged.item() == 3


def test_each_line_names_the_best_epoch_also_after_a_resume(capsys: pytest.CaptureFixture[str]) -> None:
    lines = EpochLine("val_wer")
    best = []
    for epoch, wer in enumerate((0.5, 0.3, 0.4, 0.3, 0.2)):
        metrics = {"loss": 1.0, "val_loss": 2.0, "val_wer": wer, "val_cer": 0.1}
        trainer: Any = SimpleNamespace(callback_metrics=metrics, current_epoch=epoch, global_step=9)
        lines.on_train_start(trainer, None)  # type: ignore[arg-type]
        lines.on_validation_end(trainer, None)  # type: ignore[arg-type]
        (line,) = capsys.readouterr().out.splitlines()
        assert line.startswith(f"epoch   {epoch}  step      9  loss 1.000  val_loss 2.000  WER {wer:.2%}")
        best.append(int(line.split("best epoch")[1].split()[0]))
        resumed = EpochLine("val_wer")
        resumed.load_state_dict(lines.state_dict())
        lines = resumed
    assert best == [0, 1, 1, 1, 4]
