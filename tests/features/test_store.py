"""The feature store returns what was extracted and reports damage."""

import json
from pathlib import Path

import numpy as np
import pytest

from asr import audio, prepare
from asr.errors import StoreError
from asr.features.logmel import LogMel, LogMelConfig
from asr.features.store import FeatureStore, build, extract, write_index, write_meta
from tests.corpora import utterances


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """Return a store of three shards, and its expected features in float32."""
    folder = tmp_path_factory.mktemp("store")
    corpus = utterances(folder / "audio", 5, seconds=0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "SHARD_SECONDS", 1.4)
        list(build(folder / "store", prepare.plan(corpus)))
    write_meta(folder / "store", write_index(folder / "store"))
    log_mel = LogMel()
    return folder / "store", {u.id: extract(audio.read(u.audio_filepath), log_mel) for u in corpus}


@pytest.fixture
def copy(made: tuple[Path, dict[str, np.ndarray]], tmp_path: Path) -> Path:
    for path in made[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path


def test_features_come_back_in_float16(made: tuple[Path, dict[str, np.ndarray]]) -> None:
    store = FeatureStore(made[0])
    assert len(list(made[0].glob("*.npy"))) == 3
    assert sorted(store.entries) == [(f"u{i:02}", 1.0) for i in range(5)]
    for (name, _), entry in store.entries.items():
        features = store.read(entry)
        assert features.shape == (68, 80) == (entry.frames, store.config.mels)  # (0.7 s - 25 ms) / 10 ms + 1
        np.testing.assert_array_equal(features, made[1][name].astype(np.float16))


def test_features_are_a_read_only_view_into_the_file(made: tuple[Path, dict[str, np.ndarray]]) -> None:
    store = FeatureStore(made[0])
    features = store.read(next(iter(store.entries.values())))
    assert isinstance(features, np.memmap)
    with pytest.raises(ValueError, match="read-only"):
        features[0] = 0


def test_mean_and_std_are_those_of_all_frames(made: tuple[Path, dict[str, np.ndarray]]) -> None:
    store = FeatureStore(made[0])
    frames = np.concatenate(list(made[1].values())).astype(np.float64)
    np.testing.assert_allclose(store.mean, frames.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(store.std, frames.std(axis=0), rtol=1e-5)
    assert store.mean.dtype == store.std.dtype == np.float32
    assert store.config == LogMelConfig()


@pytest.mark.parametrize("name", ["meta.json", "index.jsonl"])
def test_incomplete_store(copy: Path, name: str) -> None:
    (copy / name).unlink()
    with pytest.raises(StoreError, match=f"{copy}: no {name}, so the feature store is not complete"):
        FeatureStore(copy)


def test_store_of_another_version(copy: Path) -> None:
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps({**meta, "version": 99}))
    with pytest.raises(StoreError, match=f"{copy}: feature store version 99, expected 1"):
        FeatureStore(copy)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("meta.json", "{}", "'version'"),
        ("meta.json", "{", "Expecting property"),
        ("index.jsonl", "null\n", ".*"),
    ],
)
def test_damaged_store(copy: Path, name: str, content: str, reason: str) -> None:
    (copy / name).write_text(content)
    with pytest.raises(StoreError, match=rf"{copy}: damaged feature store \({reason}"):
        FeatureStore(copy)


def read_all(folder: Path) -> None:
    store = FeatureStore(folder)
    for entry in store.entries.values():
        store.read(entry)


@pytest.mark.parametrize("damage", ["missing", "cut off", "float32", "40 bins", "short"])
def test_damaged_shard(copy: Path, damage: str) -> None:
    shard = copy / "features-00001.npy"
    content = shard.read_bytes()
    shard.unlink()
    if damage == "cut off":
        shard.write_bytes(content[:-1])
    elif damage != "missing":
        kinds = {"float32": ((136, 80), "f4"), "40 bins": ((136, 40), "f2"), "short": ((100, 80), "f2")}
        np.save(shard, np.zeros(*kinds[damage]))
    reason = {"missing": "No such file", "cut off": "cannot read", "short": "shorter than its index"}
    cause = reason.get(damage, "not a float16 array of 80 mel bins")
    with pytest.raises(StoreError, match=rf"^{shard}: .*{cause}.*; prepare it again$"):
        read_all(copy)
