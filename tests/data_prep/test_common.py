"""prepare_part: manifest, store and problems agree, and a second run has nothing to do."""

import errno
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from asr import manifest
from asr.data_prep.common import prepare_part
from asr.errors import PrepareError
from asr.features import extraction
from asr.features.extraction import Problem
from asr.features.store import FeatureStore
from asr.frames import subsample
from asr.manifest import Utterance
from tests.corpora import contents, record, times, utterances


def check_agreement(out: Path, corpus: list[Utterance], problems: list[Problem]) -> None:
    """Every utterance is in manifest and store, or among the problems."""
    rows = manifest.read(out / "manifest.jsonl")
    store = FeatureStore(out)
    names = [row.id for row in rows]
    assert {name for name, _ in store.entries} == set(names)
    assert {u.id for u in corpus} == set(names) | {p.name for p in problems}
    assert all((name, 1.0) in store.entries for name in names)
    assert (out / "problems.txt").read_text() == "".join(f"{p.name}\t{p.reason}\n" for p in problems)


def test_good_corpus(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus = utterances(tmp_path / "audio", 3)
    out = tmp_path / "out"
    assert prepare_part(out, corpus, speeds=[0.9, 1.1]) == []
    check_agreement(out, corpus, [])
    assert manifest.read(out / "manifest.jsonl") == corpus
    assert len(FeatureStore(out).entries) == 9
    assert capsys.readouterr().err == f"{out}: 3 utterances, 0.00 h, 0 problems\n"


def test_recordings_below_the_folder_move_with_it(tmp_path: Path) -> None:
    corpus = utterances(tmp_path / "out" / "audio", 1)
    prepare_part(tmp_path / "out", corpus)
    (tmp_path / "out").rename(tmp_path / "moved")
    assert manifest.read(tmp_path / "moved" / "manifest.jsonl")[0].audio_filepath.exists()


def bad_corpus(folder: Path) -> tuple[list[Utterance], list[Problem]]:
    """One good utterance among all kinds of bad ones; the problems to expect."""
    good, empty, foreign, long, short, broken = utterances(folder, 6)
    broken.audio_filepath.write_bytes(b"no recording")
    record(short.audio_filepath, 0.02)
    corpus = [
        good,
        replace(empty, text=" "),
        replace(foreign, text="ROOM 12 IS ON THE LEFT & UP"),
        replace(long, text="BUTTER" * 4),
        short,
        broken,
        replace(good, text="AGAIN"),
    ]
    problems = [
        Problem("from the scan", "given by the caller"),
        Problem("u01", "the text is empty"),
        Problem("u02", "characters outside the vocabulary: '&12' in 'ROOM 12 IS ON THE LEFT & UP'"),
        Problem("u00", f"the id stands twice; {good.audio_filepath} is left out"),
        Problem("u05", f"{broken.audio_filepath}: cannot read the recording (Format not recognised)"),
        Problem("u03", "too short for its text: 25 frames after subsampling, CTC needs 28"),
        Problem("u04", "too short for its text: 0 frames after subsampling, CTC needs 8"),
    ]
    return corpus, problems


def test_every_loss_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    corpus, expected = bad_corpus(tmp_path / "audio")
    out = tmp_path / "out"
    assert prepare_part(out, corpus, [Problem("from\tthe scan ", "given by\nthe caller")]) == expected
    assert [u.id for u in manifest.read(out / "manifest.jsonl")] == ["u00"]
    assert manifest.read(out / "manifest.jsonl")[0].text == "SO IT IS"
    screen = capsys.readouterr().err
    assert screen.splitlines()[:-1] == [f"{p.name}: {p.reason}" for p in expected]
    assert (out / "problems.txt").read_text() == "".join(f"{p.name}\t{p.reason}\n" for p in expected)


def test_second_run_does_nothing_and_still_names_the_problems(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    corpus, expected = bad_corpus(tmp_path / "audio")
    out = tmp_path / "out"
    prepare_part(out, corpus, expected[:1], speeds=[1.1, 1.0])
    before = times(out)
    capsys.readouterr()
    assert prepare_part(out, corpus, expected[:1], speeds=[1.1]) == expected
    assert times(out) == before
    assert capsys.readouterr().err.splitlines()[-1] == f"{out}: done already"


@pytest.mark.parametrize(
    "name", ["meta.json", "manifest.jsonl", "index.jsonl", "problems.txt", "features-00000.npy"]
)
def test_a_lost_file_is_made_again(tmp_path: Path, name: str) -> None:
    corpus = utterances(tmp_path / "audio", 2)
    out = tmp_path / "out"
    prepare_part(out, corpus)
    before = contents(out)
    (out / name).unlink()
    prepare_part(out, corpus)
    assert contents(out) == before


def test_other_texts_need_no_extraction(tmp_path: Path) -> None:
    corpus = utterances(tmp_path / "audio", 2)
    out = tmp_path / "out"
    prepare_part(out, corpus)
    before = times(out)
    prepare_part(out, [replace(u, text="NOW IT IS NOT") for u in corpus])
    assert [u.text for u in manifest.read(out / "manifest.jsonl")] == ["NOW IT IS NOT"] * 2
    for name in ("features-00000.npy", "features-00000.json"):
        assert times(out)[name] == before[name]


def test_too_short_at_some_speeds_only(tmp_path: Path) -> None:
    # 98 frames at natural speed are 25 after subsampling; 23 and 28 at the other speeds.
    corpus = [
        replace(u, text="AB" * n)
        for u, n in zip(utterances(tmp_path / "audio", 3), (11, 12, 13), strict=True)
    ]
    out = tmp_path / "out"
    assert prepare_part(out, corpus, speeds=[0.9, 1.1]) == [
        Problem("u02", "too short for its text: 25 frames after subsampling, CTC needs 26"),
        Problem("u01", "at speed 1.1: too short for its text: 23 frames after subsampling, CTC needs 24"),
    ]
    assert sorted(FeatureStore(out).entries) == [
        *(("u00", speed) for speed in (0.9, 1.0, 1.1)),
        *(("u01", speed) for speed in (0.9, 1.0)),
    ]
    assert [u.id for u in manifest.read(out / "manifest.jsonl")] == ["u00", "u01"]


def test_subsample_is_what_the_model_makes() -> None:
    torch = pytest.importorskip("torch")
    from asr.model.acoustic import Subsampling

    frames = list(range(200))
    assert [subsample(n) for n in frames] == Subsampling.output_lengths(torch.tensor(frames)).tolist()


def test_nothing_usable(tmp_path: Path) -> None:
    corpus = [replace(u, text="") for u in utterances(tmp_path / "audio", 2)]
    out = tmp_path / "out"
    with pytest.raises(PrepareError) as error:
        prepare_part(out, corpus)
    assert str(error.value) == f"{out}: not one utterance could be used; see {out}/problems.txt"
    assert (out / "problems.txt").read_text() == "u00\tthe text is empty\nu01\tthe text is empty\n"
    assert not (out / "meta.json").exists()


@pytest.mark.parametrize("speed", [0.0, -1.0, 3.0, float("nan")])
def test_bad_speed(tmp_path: Path, speed: float) -> None:
    with pytest.raises(PrepareError) as error:
        prepare_part(tmp_path, utterances(tmp_path, 1), speeds=[speed])
    assert str(error.value) == f"speed {speed}: expected a factor from 0.5 to 2, such as 0.9 or 1.1"


@pytest.mark.parametrize(
    "full",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError("Not enough free space to write 9 bytes after offset 128"),  # what numpy says
    ],
)
def test_full_disk_keeps_the_finished_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: OSError
) -> None:
    monkeypatch.setattr(extraction, "SHARD_SECONDS", 2.0)
    corpus = utterances(tmp_path / "audio", 6)
    save, calls = np.save, []

    def full_at_the_third(file: object, array: np.ndarray) -> None:
        calls.append(len(array))
        if len(calls) == 3:
            raise full
        save(file, array)  # type: ignore[arg-type]

    out = tmp_path / "out"
    monkeypatch.setattr(np, "save", full_at_the_third)
    with pytest.raises(PrepareError) as error:
        prepare_part(out, corpus)
    advice = "what is finished is kept, run the same command again to go on"
    assert str(error.value) == f"{out}: no space left on the device; free some; {advice}"
    assert sorted(contents(out)) == [f"features-{i:05}.{kind}" for i in range(2) for kind in ("json", "npy")]
    assert prepare_part(out, corpus) == []
    assert len(calls) == 4  # the third shard alone was still to do


def test_dead_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def die(*_: object) -> None:
        raise TerminatedWorkerError("A worker process managed by the executor was unexpectedly terminated.")

    monkeypatch.setattr(extraction, "_extract_shard", die)
    out = tmp_path / "out"
    with pytest.raises(PrepareError) as error:
        prepare_part(out, utterances(tmp_path, 1))
    assert str(error.value) == (
        f"{out}: a worker process died, out of memory perhaps; "
        "what is finished is kept, run the same command again to go on with fewer --jobs"
    )


def test_output_that_is_a_file(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.write_text("")
    with pytest.raises(PrepareError) as error:
        prepare_part(out, utterances(tmp_path / "audio", 1))
    reason = f"[Errno 20] Not a directory: '{out}/meta.json'"
    assert str(error.value).startswith(f"{out}: cannot write there ({reason}); ")


def test_meta_says_what_was_done(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_part(out, utterances(tmp_path / "audio", 2), speeds=[0.9])
    meta = json.loads((out / "meta.json").read_text())
    assert (meta["version"], meta["utterances"], meta["frames"], meta["speeds"]) == (1, 2, 196, [0.9, 1.0])
    assert meta["log_mel"]["mels"] == len(meta["mean"]) == len(meta["std"]) == 80
