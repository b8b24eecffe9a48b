"""Whole runs on a tiny corpus: what they leave, how they stop, how they go on."""

import csv
import errno
import json
import os
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml

import asr
from asr import manifest
from asr.errors import BundleError, TrainingError
from asr.model.acoustic import Architecture
from asr.model.export import load_acoustic_model
from asr.text import Tokenizer
from asr.training import run
from asr.training.augment import AdditiveNoise
from asr.training.callbacks import read_curves
from asr.training.data import Batch, SpeechDataset
from asr.training.module import CTCModule
from tests.training.corpus import make_corpus
from tests.training.runs import (
    assert_same_weights,
    run_program,
    script_validation,
    start,
    steps,
    write_recipe,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus", count=12)


def test_a_run_leaves_bundle_logs_curves_and_its_settings(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = start(write_recipe(tmp_path, corpus), "--model.architecture.layers=2")
    root = tmp_path / "exp"
    assert bundle == root / "bundle"
    config = json.loads((bundle / "config.json").read_text())
    assert config["architecture"]["layers"] == 2 and config["training_data"] == "corpus"
    saved = yaml.safe_load((root / "logs" / "version_0" / "config.yaml").read_text())
    assert saved["model"]["architecture"] | {"layers": 2, "hidden": 16} == saved["model"]["architecture"]
    assert (root / "curves.png").read_bytes()[:4] == b"\x89PNG"
    assert list((root / "tensorboard").rglob("events*"))
    rows = list(csv.DictReader((root / "logs" / "version_0" / "metrics.csv").open()))
    assert {"loss", "val_loss", "val_wer", "val_cer"} <= set(rows[0])
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("epoch   0  step      7  loss ") and "best epoch 0" in first
    assert second.startswith("epoch   1  step     14  loss ") and re.search("best epoch [01] ", second)
    recording = next((corpus / "audio").glob("*.flac"))
    assert isinstance(asr.load_model(bundle).transcribe(recording).text, str)


def test_without_bfloat16_a_cpu_trains_in_float32_and_says_so(
    tmp_path: Path, corpus: Path, never_killed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("asr.training.run.cpu_has_bfloat16", lambda: False)
    with pytest.warns(UserWarning, match="no bfloat16"):
        start(write_recipe(tmp_path, corpus), "--trainer.precision=bf16-mixed")
    assert_same_weights(never_killed, tmp_path / "exp")


def test_a_model_of_phones_learns_spellings_and_starts_from_one_of_characters(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    noisy = []
    forward = AdditiveNoise.forward
    monkeypatch.setattr(
        AdditiveNoise, "forward", lambda *args, **kw: noisy.append(args) or forward(*args, **kw)
    )
    recipe = write_recipe(tmp_path, corpus, max_epochs=1)
    first = start(recipe)
    assert not noisy
    root = tmp_path / "phones"
    lexicon = tmp_path / "lexicon.txt"
    settings = (
        f"--trainer.default_root_dir={root}",
        f"--data.lexicon={lexicon}",
        "--data.units=[B, IY, S, OW, T, IH, N]",
        f"--model.init={first}",
        "--model.consistency=0.2",
        "--model.architecture.normalization=speech",
        "--model.augmentation.noise.share=0.5",
        "--model.augmentation.silence={padded: 0.5, only: 0.2, chunks: 0.5}",
    )
    lexicon.write_text("BE\tB IY\nSO\tS OW\nSO\tS\nIT\tIH T\n", encoding="utf-8")
    with pytest.raises(TrainingError, match=r"corpus: .*lexicon.txt lacks NO;"):
        start(recipe, *settings)
    lexicon.write_text(lexicon.read_text() + "NO\tN OW\n", encoding="utf-8")
    bundle = start(recipe, *settings)
    assert noisy
    assert "PER" in capsys.readouterr().out
    assert list(read_curves(root / "logs")["val_per"])
    config = json.loads((bundle / "config.json").read_text())
    assert config["characters"] == ["B", "IY", "S", "OW", "T", "IH", "N"]
    assert list(config["wer"]) == ["validation, units, greedy, while training"]
    recording = next((corpus / "audio").glob("*.flac"))
    raw = asr.TranscribeOptions(raw=True)
    words = asr.load_model(bundle).transcribe(recording, options=raw).text.split()
    assert set(words) <= {"BE", "SO", "IT", "NO"}

    # On from there for whole sequences: greedy phones no longer tell which model is the best.
    crf = start(recipe, *settings, f"--trainer.default_root_dir={tmp_path / 'crf'}", "--model.crf=0.9")
    assert json.loads((crf / "config.json").read_text())["wer"] == {}
    assert list(read_curves(tmp_path / "crf" / "logs")["val_loss"])

    dataset = SpeechDataset([corpus], Tokenizer(tuple(config["characters"])), lexicon=lexicon)
    spelt = {"BE": "B IY", "SO": "S OW", "IT": "IH T", "NO": "N OW"}
    words_of = {u.id: u.text for u in manifest.read(corpus / "manifest.jsonl")}
    for item in dataset.items:
        assert item.text == " ".join(spelt[word] for word in words_of[item.entry.id].split())


def test_training_starts_from_the_weights_that_fit(tmp_path: Path, corpus: Path) -> None:
    bundle = start(write_recipe(tmp_path, corpus, max_epochs=1))
    old = load_acoustic_model(bundle).state_dict()
    new = CTCModule(Architecture(4, layers=2, hidden=16), init=bundle, units="AB ").model.state_dict()
    taken = {name for name, value in old.items() if name in new and torch.equal(new[name], value)}
    assert {"subsampling.first.weight", "recurrent.0.forward_rnn.weight_hh_l0", "mean"} <= taken
    assert not {"output.weight", "recurrent.1.forward_rnn.weight_hh_l0"} & taken
    with pytest.raises(BundleError, match="bundle: no recurrent layer has the same shape"):
        CTCModule(Architecture(29, layers=1, hidden=8), init=bundle)


KILLER = """
import os, signal, sys
from asr.training import run
from asr.training.module import CTCModule

step = CTCModule.training_step
def training_step(self, batch, batch_idx):
    if self.global_step == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)
    return step(self, batch, batch_idx)
CTCModule.training_step = training_step
run.train(["--config", sys.argv[1]])
"""


@pytest.fixture(scope="module")
def never_killed(tmp_path_factory: pytest.TempPathFactory, corpus: Path) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    start(write_recipe(folder, corpus))
    return folder / "exp"


@pytest.mark.parametrize("stop", [4, 7, 10], ids=["mid-epoch", "between epochs", "mid-epoch later"])
def test_killed_and_resumed_equals_never_killed(
    tmp_path: Path, corpus: Path, never_killed: Path, stop: int
) -> None:
    assert steps(never_killed) == 14
    recipe = write_recipe(tmp_path, corpus)
    process = run_program(KILLER, recipe, stop)
    assert process.returncode == -9, process.stderr
    root = tmp_path / "exp"
    assert not (root / "bundle").exists()
    start(recipe, resume=True)
    scores = []
    for path in (never_killed, root):
        states = torch.load(path / "last.ckpt", weights_only=True)["callbacks"].items()
        scores.append({k: float(v["best_model_score"]) for k, v in states if "val_wer" in k})
    assert len(scores[0]) == 1 and scores[0] == scores[1]
    assert_same_weights(never_killed, root)
    assert read_curves(never_killed / "logs")["val_loss"][-1] == read_curves(root / "logs")["val_loss"][-1]


def test_a_checkpoint_from_before_schema_2_resumes_exactly(
    tmp_path: Path, corpus: Path, never_killed: Path
) -> None:
    checkpoint = torch.load(never_killed / "recent.ckpt", weights_only=True)
    for key in ("state_dict", "current_model_state"):
        checkpoint[key] = {
            name.replace("forward_rnn", "ahead").replace("backward_rnn", "back"): value
            for name, value in checkpoint[key].items()
        }
    checkpoint["callbacks"] = {k: v for k, v in checkpoint["callbacks"].items() if "EpochLine" not in k}
    recipe, root = write_recipe(tmp_path, corpus), tmp_path / "exp"
    root.mkdir()
    torch.save(checkpoint, root / "recent.ckpt")
    start(recipe, resume=True)
    assert_same_weights(never_killed, root)


def test_killed_while_validating_the_validation_is_made_up_for(tmp_path: Path, corpus: Path) -> None:
    killer = KILLER.replace("training_step", "validation_step")
    recipe = write_recipe(tmp_path, corpus, max_epochs=1)
    process = run_program(killer, recipe, 7)
    assert process.returncode == -9, process.stderr
    assert not (tmp_path / "exp" / "best.ckpt").exists()
    start(recipe, resume=True)
    assert steps(tmp_path / "exp", "best") == 7


def test_resuming_takes_the_settings_of_now_or_says_why_not(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, corpus)
    start(recipe, "--trainer.max_epochs=1")
    rates = []
    step = CTCModule.training_step

    def training_step(self: CTCModule, batch: Batch, batch_idx: int) -> torch.Tensor:
        rates.append(self.trainer.optimizers[0].param_groups[0]["lr"])
        return step(self, batch, batch_idx)

    monkeypatch.setattr(CTCModule, "training_step", training_step)
    start(recipe, "--model.optimizer.learning_rate=1e-5", resume=True)
    assert len(rates) == 7 and 0 < max(rates) <= 1e-5
    (schedule,) = torch.load(tmp_path / "exp" / "last.ckpt", weights_only=True)["lr_schedulers"]
    assert schedule["base_lrs"] == [1e-5] and schedule["_last_lr"][0] <= 1e-5
    with pytest.raises(TrainingError, match=r"exp: the checkpoint has another architecture;"):
        start(recipe, "--model.architecture.layers=2", "--trainer.max_epochs=3", resume=True)


def test_a_second_start_destroys_nothing_and_says_what_to_do(tmp_path: Path, corpus: Path) -> None:
    recipe = write_recipe(tmp_path, corpus)
    with pytest.raises(TrainingError, match=r"exp: no checkpoint to resume from"):
        start(recipe, resume=True)
    start(recipe, "--trainer.max_epochs=1")
    before = (tmp_path / "exp" / "last.ckpt").read_bytes()
    with pytest.raises(TrainingError, match=r"exp: holds an earlier run; use --resume"):
        start(recipe)
    assert (tmp_path / "exp" / "last.ckpt").read_bytes() == before
    for name in ("last", "recent"):
        (tmp_path / "exp" / f"{name}.ckpt").unlink()
    with pytest.raises(TrainingError, match=r"exp: holds best.ckpt of an earlier run"):
        start(recipe)


@pytest.mark.parametrize(
    ("settings", "done"),
    [
        (["--data.validation=[]"], 14),
        (["--trainer.limit_val_batches=0"], 14),
        (["--trainer.check_val_every_n_epoch=5"], 14),
        (["--trainer.max_steps=3"], 3),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.filterwarnings("error:No artists")
def test_without_validation_the_bundle_is_of_the_last_step(
    tmp_path: Path, corpus: Path, settings: list[str], done: int, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = start(write_recipe(tmp_path, corpus), *settings)
    told = f"exp: no best.ckpt; the bundle is of last.ckpt, step {done}, which may not be the best\n"
    assert told in capsys.readouterr().err
    average = torch.load(tmp_path / "exp" / "last.ckpt", weights_only=True)["state_dict"]
    for name, weight in load_acoustic_model(bundle).state_dict().items():
        assert torch.equal(weight, average[f"model.{name}"])
    assert steps(tmp_path / "exp") == done and json.loads((bundle / "config.json").read_text())["wer"] == {}


def test_epochs_between_two_validations_are_kept(tmp_path: Path, corpus: Path) -> None:
    start(write_recipe(tmp_path, corpus, check_val_every_n_epoch=2), "--trainer.max_epochs=3")
    assert (steps(tmp_path / "exp"), steps(tmp_path / "exp", "best")) == (21, 14)


def test_the_bundle_is_of_the_checkpoint_asked_for(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script_validation(monkeypatch, [(10, 10, 1), (20, 20, 2)])
    recipe, root = write_recipe(tmp_path, corpus), tmp_path / "exp"
    rates = [{"validation, greedy, while training": 0.1}, {}]
    for name, wer in zip(("best", "last"), rates, strict=True):
        bundle = start(recipe, f"--bundle_from={name}", resume=name == "last")
        weight = torch.load(root / f"{name}.ckpt", weights_only=True)["state_dict"]["model.output.weight"]
        assert torch.equal(load_acoustic_model(bundle).output.weight, weight)
        assert json.loads((bundle / "config.json").read_text())["wer"] == wer
    assert (steps(root), steps(root, "best")) == (14, 7)


def test_a_damaged_best_checkpoint_is_passed_over(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, corpus, max_epochs=1)
    start(recipe)
    (tmp_path / "exp" / "best.ckpt").write_bytes(b"noise")
    start(recipe, resume=True)
    told = capsys.readouterr().err
    assert "best.ckpt: damaged checkpoint (" in told and "the bundle is of last.ckpt, step 7" in told


def test_a_trial_writes_nothing_and_says_so(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, corpus)
    assert run.train(["--config", str(recipe), "--trainer.fast_dev_run=true"]) is None
    assert "trainer.fast_dev_run: no checkpoint, log or bundle was written\n" in capsys.readouterr().err
    assert not (tmp_path / "exp").exists()


def test_data_without_utterances_or_words_are_named_at_once(tmp_path: Path, corpus: Path) -> None:
    recipe = write_recipe(tmp_path, corpus)
    with pytest.raises(TrainingError, match=r"^data.train: no utterances;"):
        start(recipe, "--data.train=[]")
    silent = make_corpus(tmp_path / "silent", count=2)
    path = silent / "manifest.jsonl"
    manifest.write(path, [manifest.Utterance(**{**vars(u), "text": ""}) for u in manifest.read(path)])
    with pytest.raises(TrainingError, match=r"^data.validation: no words"):
        start(recipe, f"--data.validation=[{silent}]")


def test_the_warm_up_is_at_most_a_fifth_and_the_rate_is_logged(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, corpus)
    start(recipe, "--model.optimizer.warmup_steps=200", "--model.optimizer.decay_share=0")
    assert capsys.readouterr().err.count("model.optimizer.warmup_steps: 2 of 14 steps, not 200") == 1
    rates = read_curves(tmp_path / "exp" / "logs")["learning_rate"]
    assert rates == [(step, pytest.approx(5e-4 if step == 0 else 1e-3)) for step in range(14)]


@pytest.mark.parametrize(("text", "told"), [("", 1), ("BE", 0)], ids=["blanks", "a word"])
def test_only_blanks_late_in_training_are_told_once(
    tmp_path: Path,
    corpus: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    text: str,
    told: int,
) -> None:
    monkeypatch.setattr("asr.training.module.greedy", lambda *args, **kw: SimpleNamespace(text=text))
    start(write_recipe(tmp_path, corpus), "--trainer.max_epochs=4")
    lines = [line for line in capsys.readouterr().err.splitlines() if "only blanks" in line]
    assert len(lines) == told
    assert all("after 14 steps" in line and "train longer" in line for line in lines)  # of 28


def break_steps(monkeypatch: pytest.MonkeyPatch, broken: set[int]) -> None:
    """Make the first utterance's loss NaN in these training steps."""
    losses = CTCModule.losses

    def break_first(self: CTCModule, batch: object, features: torch.Tensor) -> object:
        values, *rest = losses(self, batch, features)  # type: ignore[arg-type]
        if self.training and self.trainer.fit_loop.epoch_loop.batch_progress.current.ready - 1 in broken:
            values = values * torch.where(torch.arange(len(values)) == 0, float("nan"), 1.0)
        return (values, *rest)

    monkeypatch.setattr(CTCModule, "losses", break_first)


def test_a_step_that_is_not_finite_is_skipped_and_named(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after: dict[int, list[torch.Tensor]] = {}

    def on_train_batch_end(self: CTCModule, outputs: object, batch: object, batch_idx: int) -> None:
        after[batch_idx] = [p.detach().clone() for p in self.parameters()]

    monkeypatch.setattr(CTCModule, "on_train_batch_end", on_train_batch_end)
    break_steps(monkeypatch, {2, 3, 5})
    with pytest.warns(UserWarning) as warnings:
        start(write_recipe(tmp_path, corpus, max_epochs=1))
    told = [str(w.message) for w in warnings if " skipped: " in str(w.message)]
    assert len(told) == 3
    assert re.fullmatch(r"step \d skipped: the loss of corpus-\d\d is not finite", told[0])
    same = {i: all(map(torch.equal, after[i], after[i - 1])) for i in range(1, 7)}
    assert same == {1: False, 2: True, 3: True, 4: False, 5: True, 6: False}
    assert all(p.isfinite().all() for p in after[6])


@pytest.mark.parametrize(
    ("settings", "cause"),
    [
        ({"max_epochs": -1}, r"schedule needs an end; set trainer.max_ep"),
        (
            {"gradient_clip_val": 1.0, "gradient_clip_algorithm": "value"},
            r"^trainer.gradient_clip_algorithm: only norm",
        ),
    ],
)
def test_impossible_settings_are_named(
    tmp_path: Path, corpus: Path, settings: dict[str, object], cause: str
) -> None:
    with pytest.raises(TrainingError, match=cause):
        start(write_recipe(tmp_path, corpus, **settings))


def test_three_such_steps_in_a_row_stop_the_run(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_steps(monkeypatch, {1, 3, 4, 5})
    message = r"^3 consecutive steps skipped, the last at step 5: the loss of corpus-\d\d is not finite;"
    with pytest.warns(UserWarning, match="skipped"), pytest.raises(TrainingError, match=message):
        start(write_recipe(tmp_path, corpus, max_epochs=1))


def test_a_validation_loss_that_is_no_number_stops_the_run(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = CTCModule.losses

    def broken(self: CTCModule, batch: object, features: torch.Tensor) -> object:
        values, *rest = losses(self, batch, features)  # type: ignore[arg-type]
        return (values if self.training else values * float("nan"), *rest)

    monkeypatch.setattr(CTCModule, "losses", broken)
    message = r"^validation loss is NaN after step 7 for corpus-\d\d.*; check these recordings"
    with pytest.raises(TrainingError, match=message):
        start(write_recipe(tmp_path, corpus, max_epochs=1))


TERMINATED = KILLER.replace("SIGKILL", "SIGTERM").replace(
    'run.train(["--config", sys.argv[1]])',
    "from asr.cli import main\n"
    'sys.exit(main(["train", "--resume=auto", "--config", sys.argv[1], "--checkpoint_minutes=99"]))',
)


def test_asked_to_end_it_saves_and_resumes_exactly(tmp_path: Path, corpus: Path, never_killed: Path) -> None:
    recipe = write_recipe(tmp_path, corpus)
    process = run_program(TERMINATED, recipe, 9)
    assert process.returncode == 75, process.stderr
    assert process.stderr.endswith("exp: stopped by SIGTERM; continue with --resume\n")
    assert steps(tmp_path / "exp", "recent") == 10
    assert run.train(["--config", str(recipe)], resume=None)
    assert_same_weights(never_killed, tmp_path / "exp")


@pytest.mark.parametrize(("every", "stop"), [(7, 7), (3, 3)], ids=["after an epoch", "mid-epoch"])
def test_asked_to_end_while_it_validates_it_resumes_exactly(
    tmp_path: Path, corpus: Path, every: int, stop: int
) -> None:
    (tmp_path / "whole").mkdir()
    start(write_recipe(tmp_path / "whole", corpus, val_check_interval=every))
    recipe = write_recipe(tmp_path, corpus, val_check_interval=every)
    program = TERMINATED.replace("training_step", "validation_step").replace("=99", "=0")
    process = run_program(program, recipe, stop)
    assert process.returncode == 75, process.stderr
    start(recipe, resume=True)
    assert_same_weights(tmp_path / "whole" / "exp", tmp_path / "exp")
    if every == 7:
        assert len(read_curves(tmp_path / "exp" / "logs")["val_wer"]) == 2


def test_a_damaged_checkpoint_is_passed_over(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, root = write_recipe(tmp_path, corpus), tmp_path / "exp"
    start(recipe, "--trainer.max_epochs=1")
    whole = (root / "last.ckpt").read_bytes()
    (root / "recent.ckpt").write_bytes(whole[: len(whole) // 2])  # newer, and cut short
    start(recipe, resume=True)
    assert "recent.ckpt: damaged checkpoint (" in capsys.readouterr().err
    assert steps(root) == 14
    for name in ("last.ckpt", "recent.ckpt"):
        (root / name).write_bytes(whole[:1000])
    with pytest.raises(TrainingError, match=r"exp: all checkpoints are damaged"):
        start(recipe, resume=True)


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, root = write_recipe(tmp_path, corpus), tmp_path / "exp"
    start(recipe, "--trainer.max_epochs=1")
    before = (root / "last.ckpt").read_bytes()
    real = os.fsync

    def full(descriptor: int) -> None:
        if Path(f"/proc/self/fd/{descriptor}").readlink().name.startswith(".last.ckpt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    start(recipe, resume=True)
    told = "exp/last.ckpt: checkpoint not written (no space left on device); the previous one is kept\n"
    assert told in capsys.readouterr().err
    assert (root / "last.ckpt").read_bytes() == before
    assert steps(root, "recent") > 7
    assert not [path for path in root.iterdir() if path.name.startswith(".")]


def test_wer_is_summed_over_batches_before_it_is_divided(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = type("Wrong", (), {"text": "BE"})
    monkeypatch.setattr("asr.training.module.greedy", lambda *args, **options: wrong)
    start(write_recipe(tmp_path, corpus), "--trainer.max_epochs=1")
    texts = [u.text.split() for u in manifest.read(corpus / "manifest.jsonl")]
    words = sum(map(len, texts))
    errors = sum(len(t) - ("BE" in t) for t in texts)
    assert read_curves(tmp_path / "exp" / "logs")["val_wer"][-1][1] == pytest.approx(errors / words)
