"""The average of the weights, the best epoch, and the line of each."""

import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import pytorch_lightning as pl
import torch

from asr.training.callbacks import WeightAverage
from tests.training.corpus import make_corpus
from tests.training.runs import script_validation, start, write_recipe


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


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus", count=4)


LETTERS = "--data.units=BEINOST"


@pytest.mark.parametrize(
    ("settings", "scores", "best", "reason"),
    [
        ([], [(50, 9, 3), (30, 9, 3), (40, 1, 1), (30, 9, 3)], [0, 1, 1, 1], "WER, CER, loss"),
        ([], [(100, 90, 3), (100, 80, 5), (106, 70, 1), (100, 80, 4)], [0, 1, 1, 3], "WER, CER, loss"),
        ([LETTERS], [(30, 90, 3), (100, 80, 5), (99, 80, 4), (1, 90, 1)], [0, 1, 2, 2], "CER, loss"),
    ],
    ids=["the first of equals", "ties", "without a space"],
)
def test_the_best_epoch_is_kept_and_each_line_names_it_also_after_a_resume(
    tmp_path: Path,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: list[str],
    scores: list[tuple[float, float, float]],
    best: list[int],
    reason: str,
) -> None:
    script_validation(monkeypatch, scores)
    if settings:
        corpus = make_corpus(tmp_path / "words", count=4, words=1)
    recipe = write_recipe(tmp_path, corpus)
    for resume, epochs in ((False, 3), (True, 4)):
        start(recipe, *settings, f"--trainer.max_epochs={epochs}", resume=resume)
    lines = capsys.readouterr().out.splitlines()
    for epoch, (line, (wer, cer, loss)) in enumerate(zip(lines, scores, strict=True)):
        assert re.match(
            rf"epoch   {epoch}  step +\d+  loss \d+\.\d+  val_loss {loss}\.000  WER {wer}\.00%", line
        )
        assert f"CER {cer}.00%" in line and f"best epoch {best[epoch]} by {reason}  " in line
        assert re.search(r"  rate \d\.\de-\d\d  ", line)
    saved = torch.load(tmp_path / "exp" / "best.ckpt", weights_only=True)
    assert saved["epoch"] == best[-1]
