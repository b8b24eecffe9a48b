"""Resuming loses nothing: tuned bundles, the best epoch, the rest of an epoch, the alphabet."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from asr.errors import TrainingError
from asr.model import bundle
from tests.training.corpus import make_corpus
from tests.training.runs import script_validation, start, steps, watch_batches, write_recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus", count=12)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tune(folder: Path) -> dict[str, bytes]:
    (folder / bundle.LM).write_bytes(b"a language model")
    bundle.write_config(folder, replace(bundle.read_config(folder), decoding={"lm_weight": 0.7}))
    return content(folder)


def test_a_tuned_bundle_survives_a_resume(
    tmp_path: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, corpus, max_epochs=1)
    folder = start(recipe)
    tuned = tune(folder)
    start(recipe, resume=True)
    assert content(folder) == tuned and "left as it is" in capsys.readouterr().err

    # A new model: the tuned settings do not belong to it.
    start(recipe, "--trainer.max_epochs=2", resume=True)
    assert content(folder.parent / "bundle.tuned-1") == tuned
    assert f"{folder}: has a new model; the tuned bundle is now bundle.tuned-1" in capsys.readouterr().err
    assert bundle.LM not in content(folder) and not bundle.read_config(folder).decoding
    assert len(list(folder.parent.glob("*bundle*"))) == 2

    # A damaged one of the same weights is replaced, and kept as well.
    tune(folder)
    (folder / bundle.ONNX).write_bytes(b"noise")
    damaged = content(folder)
    start(recipe, resume=True)
    assert content(folder.parent / "bundle.tuned-2") == damaged
    bundle.read_model_file(folder, bundle.read_config(folder), bundle.ONNX)


def test_a_tuned_bundle_stays_if_the_new_one_cannot_be_made(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = write_recipe(tmp_path, corpus, max_epochs=1)
    folder = start(recipe)
    tuned = tune(folder)
    monkeypatch.setattr("asr.model.export.check_parity", lambda *args: float("inf"))
    with pytest.raises(bundle.BundleError, match="not written"):
        start(recipe, "--trainer.max_epochs=2", resume=True)
    assert content(folder) == tuned
    assert len(list(folder.parent.glob("*bundle*"))) == 1


@pytest.mark.parametrize("older", [False, True], ids=["today", "checkpoints without scores"])
def test_a_moved_experiment_keeps_its_best_epoch(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    script_validation(monkeypatch, [(80, 50, 3), (99, 9, 1), (30, 9, 9)])
    recipe = write_recipe(tmp_path, corpus, max_epochs=1)
    start(recipe)
    moved = tmp_path / "moved"
    shutil.copytree(tmp_path / "exp", moved)
    before = {path.name: path.read_bytes() for path in (tmp_path / "exp").glob("*.ckpt")}
    if older:
        for path in moved.glob("*.ckpt"):
            checkpoint = torch.load(path, weights_only=True)
            del checkpoint["SpeechData"]
            states = checkpoint["callbacks"].items()
            plain = {
                key.replace("BestCheckpoint", "ModelCheckpoint"): {
                    k: v for k, v in state.items() if k != "scores"
                }
                for key, state in states
            }
            torch.save({**checkpoint, "callbacks": plain}, path)
    there = (moved / "best.ckpt").read_bytes()
    start(recipe, f"--trainer.default_root_dir={moved}", "--trainer.max_epochs=2", resume=True)
    assert (moved / "best.ckpt").read_bytes() == there and steps(moved) == 14
    assert bundle.read_config(moved / "bundle").wer == {"validation, greedy, while training": 0.8}
    start(recipe, f"--trainer.default_root_dir={moved}", "--trainer.max_epochs=3", resume=True)
    assert steps(moved, "best") == 21
    assert {path.name: path.read_bytes() for path in (tmp_path / "exp").glob("*.ckpt")} == before


def test_another_alphabet_of_the_same_size_is_refused(tmp_path: Path, corpus: Path) -> None:
    recipe, root = write_recipe(tmp_path, corpus, max_epochs=1), tmp_path / "exp"
    start(recipe, "--data.units= BEINOSTX")
    before = content(root / "bundle")
    with pytest.raises(TrainingError, match=r"exp/last.ckpt: .*' BEINOSTX'.*' XTSONIEB'"):
        start(recipe, "--data.units= XTSONIEB", "--trainer.max_epochs=2", resume=True)
    assert content(root / "bundle") == before and steps(root) == 7


def test_the_rest_of_an_epoch_is_done_or_the_epoch_starts_again(
    tmp_path: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, corpus, max_epochs=-1, max_steps=14)
    seen = watch_batches(monkeypatch)
    start(recipe, f"--trainer.default_root_dir={tmp_path / 'whole'}")
    whole = seen.copy()

    # Stopped in mid-epoch by max_steps, which Lightning takes for the end of the epoch.
    seen.clear()
    start(recipe, "--trainer.max_steps=10")
    shutil.copytree(tmp_path / "exp", tmp_path / "same")
    start(recipe, f"--trainer.default_root_dir={tmp_path / 'same'}", resume=True)
    assert seen == whole

    every = sorted(id for _, _, ids in whole[:7] for id in ids)
    for settings in (["--data.batch_seconds=60"], ["--data.batch_seconds=5"], ["--seed_everything=9"]):
        root = tmp_path / settings[0].strip("-")
        shutil.copytree(tmp_path / "exp", root)
        seen.clear()
        capsys.readouterr()
        # Several times the steps, as larger batches make fewer.
        start(recipe, *settings, f"--trainer.default_root_dir={root}", "--trainer.max_steps=18", resume=True)
        assert "last.ckpt: the batches are others now; epoch 1 starts again" in capsys.readouterr().err
        assert next(number for epoch, number, _ in seen if epoch == 1) == 0
        assert sorted(id for epoch, _, ids in seen if epoch == 1 for id in ids) == every
