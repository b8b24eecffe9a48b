"""Datasets say by name what does not fit, and give exact batches."""

from pathlib import Path

import numpy as np
import pytest

from asr import manifest
from asr.errors import StoreError, TextError, TrainingError
from asr.text import Tokenizer
from asr.training.data import SpeechDataset, name_some
from tests.training.corpus import make_corpus


def test_a_batch_holds_what_was_prepared(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", count=5)
    dataset = SpeechDataset([folder], Tokenizer())
    batch = dataset[[3, 0]]
    store = dataset.stores[0]
    assert batch.ids == [dataset.items[3].entry.id, dataset.items[0].entry.id]
    for row, length, id, tokens, count in zip(
        batch.features, batch.lengths.tolist(), batch.ids, batch.targets, batch.target_lengths, strict=True
    ):
        np.testing.assert_array_equal(
            row[:length].numpy(), store.read(store.entries[id, 1.0]).astype(np.float32)
        )
        assert not row[length:].any() and not tokens[count:].any()
    assert [
        Tokenizer().decode(t[:n].tolist()) for t, n in zip(batch.targets, batch.target_lengths, strict=True)
    ] == (batch.texts)


def test_statistics_of_two_corpora_are_those_of_all_their_frames(tmp_path: Path) -> None:
    folders = [make_corpus(tmp_path / "a", count=3, seed=1), make_corpus(tmp_path / "b", count=7, seed=2)]
    dataset = SpeechDataset(folders, Tokenizer())
    frames = np.concatenate([item.store.read(item.entry) for item in dataset.items]).astype(np.float64)
    mean, std = dataset.statistics()
    np.testing.assert_allclose(mean, frames.mean(axis=0), atol=2e-3)
    np.testing.assert_allclose(std, frames.std(axis=0), rtol=1e-2, atol=2e-3)


def test_speech_statistics_depend_neither_on_gain_nor_on_digital_silence(tmp_path: Path) -> None:
    """Features of a gain g are shifted by 2 ln g, so far as the floor of the front end allows."""
    folder = make_corpus(tmp_path / "corpus", count=3)
    dataset = SpeechDataset([folder], Tokenizer())
    mean, std = dataset.speech_statistics()
    assert mean.shape == std.shape == (80,) and (std > 0).all()
    store = dataset.stores[0]
    entries = [item.entry for item in dataset.items]
    read = {entry: store.read(entry).astype(np.float32) for entry in entries}
    quiet = np.full((0, 80), -23.0, np.float32)
    store.read = lambda entry: np.concatenate([read[entry] - 4, quiet])  # type: ignore[method-assign]
    np.testing.assert_allclose(dataset.speech_statistics()[0], mean, atol=0.02)
    quiet = np.full((40, 80), -23.0, np.float32)
    padded_mean, _ = dataset.speech_statistics()
    assert np.abs(padded_mean - mean).mean() < 0.3 and np.isfinite(padded_mean).all()


def test_speeds_are_copies_and_must_have_been_prepared(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", count=4, speeds=[0.9])
    dataset = SpeechDataset([folder], Tokenizer(), speeds=[0.9, 1.0])
    assert len(dataset) == 8
    slow, natural = (dataset.items[i].entry.frames for i in range(2))
    assert slow == pytest.approx(natural / 0.9, abs=4)
    with pytest.raises(TrainingError, match=r"corpus: not prepared at speed 1\.1"):
        SpeechDataset([folder], Tokenizer(), speeds=[1.0, 1.1])


def test_labels_longer_than_frames_are_named_before_training(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", count=3)
    path = folder / "manifest.jsonl"
    utterances = manifest.read(path)
    long = manifest.Utterance(**{**vars(utterances[1]), "text": "A" * 200})
    manifest.write(path, [utterances[0], long, utterances[2]])
    message = f"1 utterances have more labels than frames, so CTC cannot align them: {long.id}; take them out"
    with pytest.raises(TrainingError, match=message):
        SpeechDataset([folder], Tokenizer())


def test_unknown_characters_and_an_incomplete_store_are_refused(tmp_path: Path) -> None:
    folder = make_corpus(tmp_path / "corpus", count=2)
    with pytest.raises(TextError, match="characters outside the vocabulary"):
        SpeechDataset([folder], Tokenizer("ABC"))
    (folder / "meta.json").unlink()
    with pytest.raises(StoreError, match=r"no meta.json, so the feature store is not complete"):
        SpeechDataset([folder], Tokenizer())


def test_naming_is_short() -> None:
    assert name_some(["a", "b"]) == "a, b"
    assert name_some(list("abcdefgh")) == "a, b, c, d, e and 3 more"
