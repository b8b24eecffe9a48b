"""The feature store gives back what was extracted, and says what is wrong with a damaged one."""

import json
from pathlib import Path

import numpy as np
import pytest

from asr import audio
from asr.errors import StoreError
from asr.features import extraction
from asr.features.logmel import LogMel, LogMelConfig
from asr.features.store import FeatureStore
from tests.corpora import utterances


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, np.ndarray]]:
    """A store of three shards, and the features that should be in it, in float32."""
    folder = tmp_path_factory.mktemp("store")
    corpus = utterances(folder / "audio", 5, seconds=0.7)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(extraction, "SHARD_SECONDS", 1.4)
        list(extraction.build(folder / "store", extraction.plan(corpus)))
    extraction.write_meta(folder / "store", extraction.write_index(folder / "store"))
    log_mel = LogMel()
    return folder / "store", {u.id: extraction.extract(audio.read(u.audio_filepath), log_mel) for u in corpus}


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
    with pytest.raises(StoreError) as error:
        FeatureStore(copy)
    reason = f"no {name}, so the feature store is not complete; run `asr prepare` to the end"
    assert str(error.value) == f"{copy}: {reason}"


def test_store_of_another_version(copy: Path) -> None:
    meta = json.loads((copy / "meta.json").read_text())
    (copy / "meta.json").write_text(json.dumps({**meta, "version": 99}))
    with pytest.raises(StoreError) as error:
        FeatureStore(copy)
    assert str(error.value) == f"{copy}: the feature store has version 99, not 1"


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("meta.json", "{}", "'version'"),
        ("meta.json", "{", "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"),
        (
            "index.jsonl",
            "null\n",
            "asr.features.store.Entry() argument after ** must be a mapping, not NoneType",
        ),
    ],
)
def test_damaged_store(copy: Path, name: str, content: str, reason: str) -> None:
    (copy / name).write_text(content)
    with pytest.raises(StoreError) as error:
        FeatureStore(copy)
    assert str(error.value) == f"{copy}: the feature store is damaged ({reason})"


def read_all(folder: Path) -> None:
    store = FeatureStore(folder)
    for entry in store.entries.values():
        store.read(entry)


def test_missing_shard(copy: Path) -> None:
    shard = copy / "features-00001.npy"
    shard.unlink()
    with pytest.raises(StoreError) as error:
        read_all(copy)
    reason = f"[Errno 2] No such file or directory: '{shard}'"
    assert str(error.value) == f"{shard}: the shard cannot be read ({reason}); prepare it again"


def test_shard_cut_off(copy: Path) -> None:
    shard = copy / "features-00001.npy"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(StoreError, match=rf"^{shard}: the shard cannot be read \(.*\); prepare it again$"):
        read_all(copy)


@pytest.mark.parametrize("array", [np.zeros((136, 80), np.float32), np.zeros((136, 40), np.float16)])
def test_shard_of_another_kind(copy: Path, array: np.ndarray) -> None:
    shard = copy / "features-00001.npy"
    np.save(shard, array)
    with pytest.raises(StoreError) as error:
        read_all(copy)
    assert str(error.value) == f"{shard}: not a float16 array of 80 mel bins; prepare it again"


def test_shard_shorter_than_its_index(copy: Path) -> None:
    shard = copy / "features-00001.npy"
    np.save(shard, np.zeros((100, 80), np.float16))
    with pytest.raises(StoreError) as error:
        read_all(copy)
    assert str(error.value) == f"{shard}: shorter than its index; prepare it again"
