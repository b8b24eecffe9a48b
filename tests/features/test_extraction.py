"""Extraction: nothing is lost or done twice, and interruptions do not change the result."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from asr import audio, manifest, prepare
from asr.features import store
from asr.features.logmel import LogMel, LogMelConfig
from asr.features.store import FeatureStore
from asr.manifest import Utterance
from asr.prepare import plan
from tests.corpora import contents, record, times, utterances

ABSENT = Path("absent.flac")


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "SHARD_SECONDS", 2.0)


def build(
    folder: Path, corpus: list[Utterance], speeds: tuple[float, ...] = (), jobs: int = 1
) -> list[tuple[str, str]]:
    steps = list(store.build(folder, plan(corpus, speeds), jobs=jobs))
    store.write_meta(folder, store.write_index(folder))
    return [problem for _, problems in steps for problem in problems]


@given(st.lists(st.floats(0.1, 3_000), max_size=60), st.sets(st.sampled_from([0.9, 1.0, 1.1])))
def test_plan_has_every_utterance_once_per_speed(lengths: list[float], speeds: set[float]) -> None:
    corpus = [Utterance(str(i), ABSENT, length, "A") for i, length in enumerate(lengths)]
    shards = plan(corpus, sorted(speeds))
    for speed in {1.0} | speeds:
        assert [u for shard in shards if shard.speed == speed for u in shard.utterances] == corpus
    for shard in shards:
        seconds = sum(u.duration for u in shard.utterances) / shard.speed
        assert seconds <= prepare.SHARD_SECONDS + 1e-6 or len(shard.utterances) == 1
    assert len({shard.fingerprint for shard in shards}) == len(shards)


def test_removing_an_utterance_changes_few_shards() -> None:
    corpus = [Utterance(f"{i}", ABSENT, 12.0, "A") for i in range(4_000)]
    before = {shard.fingerprint for shard in plan(corpus)}
    assert len(before) > 20
    changed = [
        len({shard.fingerprint for shard in plan(corpus[:i] + corpus[i + 1 :])} - before)
        for i in range(0, 4_000, 400)
    ]
    assert sum(changed) <= 2 * len(changed)
    assert sorted(changed)[len(changed) // 2] == 1


def test_fingerprint_covers_everything_the_features_depend_on(tmp_path: Path) -> None:
    corpus = utterances(tmp_path, 2, seconds=0.1)

    def fingerprint(**changes: object) -> str:
        settings = {"utterances": corpus, **changes}
        return plan(**settings)[0].fingerprint  # type: ignore[arg-type]

    before = fingerprint()
    assert fingerprint(utterances=[replace(u, text="OTHER", speaker=None) for u in corpus]) == before
    assert fingerprint(speeds=[0.9]) == before
    assert fingerprint(utterances=corpus[::-1]) != before
    assert fingerprint(config=LogMelConfig(f_min=0.0)) != before
    assert plan(corpus, [0.9])[1].fingerprint != before
    os.utime(corpus[0].audio_filepath, (0, 0))
    assert fingerprint() != before


@pytest.mark.parametrize("speed", [0.8, 1.25, 2.0])
def test_speed_changes_length_and_pitch(speed: float) -> None:
    tone = np.sin(2 * np.pi * 500 * np.arange(32_000) / 16_000).astype(np.float32)
    features = store.extract(tone, LogMel(), speed)
    assert abs(len(features) - LogMelConfig().frames(round(32_000 / speed))) <= 1
    expected = np.sin(2 * np.pi * 500 * speed * np.arange(32_000) / 16_000).astype(np.float32)
    peak = store.extract(expected, LogMel()).mean(axis=0).argmax()
    assert features.mean(axis=0).argmax() == peak


def test_speeds_are_added_and_removed(tmp_path: Path, small_shards: None) -> None:
    corpus = utterances(tmp_path / "audio", 4)
    build(tmp_path / "store", corpus, (1.1,))
    first = times(tmp_path / "store")
    build(tmp_path / "store", corpus, (0.9, 1.1))
    second = times(tmp_path / "store")
    assert all(second[name] == first[name] for name in first if name.startswith("features"))
    made = FeatureStore(tmp_path / "store")
    assert sorted(made.entries) == [(u.id, speed) for u in corpus for speed in (0.9, 1.0, 1.1)]
    expected = store.extract(audio.read(corpus[2].audio_filepath), LogMel(), 0.9)
    np.testing.assert_array_equal(made.read(made.entries["u02", 0.9]), expected.astype(np.float16))
    build(tmp_path / "store", corpus)
    build(tmp_path / "fresh", corpus)
    assert contents(tmp_path / "store") == contents(tmp_path / "fresh")


def test_only_changed_shards_are_rebuilt(tmp_path: Path, small_shards: None) -> None:
    corpus = utterances(tmp_path / "audio", 6)
    build(tmp_path / "store", corpus)
    before = times(tmp_path / "store")
    assert sorted(before)[:6] == [f"features-{i:05}.{kind}" for i in range(3) for kind in ("json", "npy")]
    record(corpus[2].audio_filepath, 1.0, seed=99)
    build(tmp_path / "store", corpus)
    after = times(tmp_path / "store")
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"features-00001.npy", "features-00001.json", "index.jsonl", "meta.json"}
    build(tmp_path / "fresh", corpus)
    assert contents(tmp_path / "store") == contents(tmp_path / "fresh")


def test_stale_and_damaged_shards_are_replaced(tmp_path: Path, small_shards: None) -> None:
    corpus = utterances(tmp_path / "audio", 6)
    folder = tmp_path / "store"
    build(folder, corpus)
    whole = contents(folder)
    (folder / ".features-00000.npy.abc").write_bytes(b"left over")
    (folder / "features-00000.npy").write_bytes(whole["features-00000.npy"][:-1])
    (folder / "features-00001.npy").unlink()
    (folder / "features-00002.json").write_text("{")
    (folder / "features-00007.npy").write_bytes(b"from elsewhere")
    build(folder, corpus)
    assert contents(folder) == whole
    build(folder, corpus[:2])
    assert sorted(path.name for path in folder.glob("features-*.npy")) == ["features-00000.npy"]


def test_bad_recordings_are_reported_every_time(tmp_path: Path, small_shards: None) -> None:
    corpus = utterances(tmp_path / "audio", 4)
    broken, missing = corpus[1].audio_filepath, corpus[2].audio_filepath
    broken.write_bytes(b"not a recording")
    missing.unlink()
    expected = [
        ("u01", f"{broken}: cannot read the recording (Format not recognised)"),
        ("u02", f"{missing}: cannot read the recording (no such file)"),
    ]
    assert build(tmp_path / "store", corpus) == expected
    assert build(tmp_path / "store", corpus) == expected
    assert sorted(FeatureStore(tmp_path / "store").entries) == [("u00", 1.0), ("u03", 1.0)]
    record(missing, 1.0)
    assert build(tmp_path / "store", corpus) == expected[:1]


def test_parallel_extraction_gives_the_same_bytes(tmp_path: Path, small_shards: None) -> None:
    corpus = utterances(tmp_path / "audio", 6)
    build(tmp_path / "one", corpus, (0.9,))
    build(tmp_path / "two", corpus, (0.9,), jobs=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_number_of_torch_threads_is_restored(tmp_path: Path) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        build(tmp_path / "store", utterances(tmp_path / "audio", 1))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


RUN = """
import sys, time
from pathlib import Path
from asr import audio, manifest, prepare
from asr.features import store

read = audio.read
def slow_read(path, **options):
    time.sleep(0.02)
    return read(path, **options)

audio.read = slow_read
prepare.SHARD_SECONDS = 2.0
folder = Path(sys.argv[1])
for _ in store.build(folder, prepare.plan(manifest.read(Path(sys.argv[2])))):
    pass
store.write_meta(folder, store.write_index(folder))
"""


def test_killed_run_resumes(tmp_path: Path, small_shards: None) -> None:
    corpus = utterances(tmp_path / "audio", 24)
    manifest.write(tmp_path / "manifest.jsonl", corpus)
    build(tmp_path / "uninterrupted", corpus)
    folder = tmp_path / "store"
    command = [sys.executable, "-c", RUN, str(folder), str(tmp_path / "manifest.jsonl")]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while len(list(folder.glob("features-*.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    before = times(folder)
    finished = [path.with_suffix("").name for path in folder.glob("features-*.json")]
    assert 3 <= len(finished) < 12
    assert not (folder / "meta.json").exists()
    subprocess.run(command, check=True)
    after = times(folder)
    for name in (f"{stem}.{kind}" for stem in finished for kind in ("json", "npy")):
        assert after[name] == before[name]
    assert contents(folder) == contents(tmp_path / "uninterrupted")
