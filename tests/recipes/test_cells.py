"""The study of cells at toy scale: its measures, its outputs, and that no run is repeated."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor, nn

from asr.errors import TrainingError
from asr.model.acoustic import AcousticModel, Architecture
from asr.scoring.conditions import Condition
from recipes.cells import measure, report, study
from recipes.cells.measure import (
    Result,
    Run,
    add_noise,
    features,
    gradient_norms,
    model_reach,
    shares,
    stack_of,
)
from tests.training.corpus import make_corpus


@pytest.mark.parametrize("layers", [1, 2])
def test_widths_match_within_a_percent(layers: int) -> None:
    widths = study.matched_widths(128, layers)
    wanted = study.recurrent_parameters("gru", 128, layers)
    assert widths["gru"] == 128
    assert wanted == layers * 3 * (2 * 128 * 128 + 2 * 128)
    for cell, width in widths.items():
        assert study.recurrent_parameters(cell, width, layers) == pytest.approx(wanted, rel=0.01)
        model = AcousticModel(Architecture(29, cell, layers, width, bidirectional=False))
        assert measure.count(model.recurrent) == study.recurrent_parameters(cell, width, layers)


def test_at_equal_width_a_gru_has_three_quarters_of_an_lstm() -> None:
    assert study.recurrent_parameters("gru", 128, 2) / study.recurrent_parameters("lstm", 128, 2) == 0.75


def test_gradients_of_one_unit_decay_as_powers_of_its_weight() -> None:
    """h_t = tanh(w h_{t-1} + u x_t) at x = 0 has the derivative w^k u by x_{t-k}."""
    rnn, output = nn.RNN(1, 1, batch_first=True).double(), nn.Linear(1, 3).double()
    w, u = 0.8, -0.5
    with torch.no_grad():
        rnn.weight_hh_l0.fill_(w)
        rnn.weight_ih_l0.fill_(u)
        rnn.bias_hh_l0.zero_()
        rnn.bias_ih_l0.zero_()

    def stack(x: Tensor) -> Tensor:
        return output(rnn(x)[0]).log_softmax(-1)

    norms = gradient_norms(stack, torch.zeros(20, 1, dtype=torch.float64), lags=9)
    assert norms.shape == (11, 10)
    # d(-log p_c)/dh of the most probable c is -(v_c - sum_i p_i v_i) for output weights v.
    p = output.bias.detach().softmax(0)
    best = int(p.argmax())
    by_state = float((output.weight[:, 0] @ p - output.weight[best, 0]).abs().detach())
    expected = by_state * abs(u) * w ** torch.arange(10, dtype=torch.float64)
    torch.testing.assert_close(norms, expected.expand(11, 10))
    torch.testing.assert_close(shares(norms), expected / expected.sum())


@pytest.mark.parametrize("cell", study.CELLS)
def test_the_stack_equals_the_model_and_is_causal(cell: str) -> None:
    torch.manual_seed(0)
    model = AcousticModel(Architecture(5, cell, layers=2, hidden=8, bidirectional=False, mels=8)).eval()  # type: ignore[arg-type]
    mel, lengths = torch.randn(1, 60, 8), torch.tensor([60])
    x, _ = model.subsampling(model.normalize(mel, lengths), lengths)
    torch.testing.assert_close(stack_of(model)(x), model(mel, lengths)[0])
    curve = model_reach(model, [mel[0], mel[0, :12]], lags=6)  # the second is too short to count
    assert len(curve) == 7 and sum(curve) == pytest.approx(1) and min(curve) > 0
    assert model.output.weight.dtype == torch.float32  # unchanged
    leaf = x.detach().requires_grad_()
    stack_of(model)(leaf)[0, 7].sum().backward()
    assert leaf.grad is not None and not leaf.grad[0, 8:].any()


def test_noise_has_its_snr_and_depends_on_the_name() -> None:
    samples = 0.1 * np.sin(0.3 * np.arange(16_000)).astype(np.float32)
    noise = add_noise(samples, 10.0, "a") - samples
    assert np.square(samples).mean() / np.square(noise).mean() == pytest.approx(10, rel=0.05)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.05  # white
    noisy = features("a", samples, Condition(snr=10))[0]
    assert torch.equal(noisy, features("a", samples, Condition(snr=10))[0])
    assert not torch.equal(noisy, features("b", samples, Condition(snr=10))[0])


def test_fast_speech_has_fewer_frames() -> None:
    samples = 0.1 * np.sin(0.3 * np.arange(16_000)).astype(np.float32)
    (_, natural), (mel, fast) = (features("a", samples, Condition(tempo=tempo)) for tempo in (1.0, 1.25))
    assert int(fast[0]) == (int(natural[0]) - 1) // 1.25 + 1
    assert mel.shape[1] >= int(fast[0])


def test_levels_lags_and_spreads() -> None:
    assert report.epochs_to(0.3, [1.0, 0.3, 0.1]) == 2
    assert report.epochs_to(0.05, [1.0, 0.3, 0.1]) == float("inf")
    assert [report.lag_of(share, [0.5, 0.25, 0.15, 0.1]) for share in (0.4, 0.6, 0.99)] == [0, 1, 3]
    assert report.spread([1.0, 2.0, 3.0], "{:.1f}") == "2.0 (1.0 - 3.0)"
    assert report.spread([2.0, float("inf")], "{:.0f}") == "2, 1 of 2 never"
    assert report.spread([float("inf")], "{:.0f}") == "never"


def test_the_rate_with_the_lowest_loss_is_taken() -> None:
    def result(rate: float, losses: list[float]) -> Result:
        return Result(Run("gru", 8, rate, 1), {}, 0, 0, 0.0, losses, {}, [], [])

    results = [result(0.1, [3.0, 2.0]), result(0.2, [1.0, 2.5]), result(0.4, [1.5])]
    assert study.best_rates(results) == {"gru": 0.2}


@pytest.fixture
def threads() -> Iterator[None]:
    """Restore the number of threads, which runs set for their process: here, for this one."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def toy_recipe(folder: Path) -> tuple[Path, Path]:
    """Recipe of a few seconds, and its corpus."""
    corpus = make_corpus(folder / "corpus", count=6)
    recipe = yaml.safe_load((Path(study.__file__).parent / "cells.yaml").read_text())
    recipe["trainer"] |= {"max_epochs": 2, "log_every_n_steps": 1}
    recipe["model"]["architecture"] |= {"layers": 1, "hidden": 8}
    recipe["data"] |= {"train": [str(corpus)], "validation": [str(corpus)], "batch_seconds": 10}
    (folder / "toy.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "toy.yaml", corpus


def test_a_study_writes_tables_and_plots_and_repeats_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], threads: None
) -> None:
    (recipe, corpus), out = toy_recipe(tmp_path), tmp_path / "exp"
    toy = ["--recipe", str(recipe), "--test", str(corpus), "--out", str(out)]
    toy += ["--seeds", "1", "--rates", "1e-3", "--jobs", "1"]
    monkeypatch.setattr(measure, "LAGS", 10)
    study.main(toy)
    first = capsys.readouterr().out
    text = (out / "tables.md").read_text()
    assert text in first and "lowest loss at 0.001" in text
    assert "At equal hidden size" in text and "At equal parameter count" in text
    assert text.count("| gru | 8 |") == 2 * (1 + 2 + 2)
    assert (out / "cells.png").stat().st_size > 10_000
    files = sorted(out.glob("*.json"))
    assert len(files) == 5  # three cells, and two of them at another width
    found = json.loads(files[0].read_text())
    assert len(found["losses"]) == 2 and found["seconds"] > 0
    assert set(found["wer"]) == {"dev", "test"} and len(found["wer"]["dev"]) == 5

    # A run that was trained but not measured is not trained again; the others are left alone.
    times = {path: path.stat().st_mtime_ns for path in files[1:]}
    files[0].unlink()
    study.main(toy)
    assert json.loads(files[0].read_text()) == found  # including seconds and losses of the first training
    assert {path: path.stat().st_mtime_ns for path in files[1:]} == times
    assert (out / "tables.md").read_text() == text


def test_results_of_another_recipe_are_refused(tmp_path: Path) -> None:
    run = Run("gru", 8, 1e-3, 1)
    (tmp_path / f"{run.name}.json").write_text('{"recipe": {"model": {"architecture": {"layers": 1}}}}')
    (tmp_path / "other.yaml").write_text("model: {architecture: {layers: 2}}")
    with pytest.raises(TrainingError, match="made by another recipe"):
        measure.measured(run, tmp_path / "other.yaml", tmp_path, tmp_path)
