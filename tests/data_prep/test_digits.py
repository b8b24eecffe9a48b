"""The included corpus: complete, small, decodable, and no speaker in two parts; preparing it twice."""

import csv
import tarfile
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr import audio, manifest
from asr.features.store import FeatureStore
from data_prep import digits

ARCHIVE = Path(digits.__file__).parent / "data" / "digits.tar.gz"
WORDS = {"ZERO", "ONE", "TWO", "THREE", "FOUR", "FIVE", "SIX", "SEVEN", "EIGHT", "NINE"}
PREPARED = ("dev", "test")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the corpus, unpacked, with features of dev and test only, to save time."""
    out = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(digits, "PARTS", PREPARED)
        assert digits.prepare(digits.Options(out=out)) == []
    return out


def rows(out: Path, part: str) -> list[dict[str, str]]:
    with (out / "audio" / part / "transcripts.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_archive_is_small_and_reproducible() -> None:
    assert ARCHIVE.stat().st_size < 4_000_000
    with tarfile.open(ARCHIVE) as archive:
        members = archive.getmembers()
    assert all(m.isreg() and (m.mtime, m.uid, m.gid, m.uname, m.gname) == (0, 0, 0, "", "") for m in members)


@pytest.mark.parametrize("part", digits.PARTS)
def test_transcripts_match_the_recordings_and_are_one_to_seven_digits(prepared: Path, part: str) -> None:
    folder, transcripts = prepared / "audio" / part, rows(prepared, part)
    recordings = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.opus"))
    assert sorted(row["audio_filepath"] for row in transcripts) == recordings
    assert all(row["audio_filepath"] == f"{row['speaker']}/{row['id']}.opus" for row in transcripts)
    texts = [row["text"].split(" ") for row in transcripts]
    assert {word for text in texts for word in text} == WORDS
    assert {len(text) for text in texts} == set(range(1, 8))


def test_sizes_of_the_parts(prepared: Path) -> None:
    counts = {part: len(rows(prepared, part)) for part in digits.PARTS}
    voices = {part: len({row["speaker"] for row in rows(prepared, part)}) for part in digits.PARTS}
    assert counts == {"train": 1554, "dev": 120, "test": 260}
    assert voices == {"train": 74, "dev": 6, "test": 13}


def test_no_voice_is_in_two_parts(prepared: Path) -> None:
    voices = {part: {voice(row["speaker"]) for row in rows(prepared, part)} for part in digits.PARTS}
    assert not voices["train"] & voices["dev"]
    assert not (voices["train"] | voices["dev"]) & voices["test"]
    assert len(voices["test"]) == 13  # each test speaker is a voice of its own


def voice(speaker: str) -> str:
    """Return the voice of accent_voice_pitch or flite_voice_size; accent_pitch is espeak-ng's default."""
    fields = speaker.split("_")
    return fields[1] if len(fields) == 3 else ""


@pytest.mark.parametrize("part", digits.PARTS)
def test_recordings_are_audible_speech_at_16_khz(prepared: Path, part: str) -> None:
    for row in rows(prepared, part)[::10]:
        path = prepared / "audio" / part / row["audio_filepath"]
        info = soundfile.info(path)
        assert (info.samplerate, info.channels, info.subtype) == (16_000, 1, "OPUS")
        samples = audio.read(path)
        assert 0.3 < len(samples) / 16_000 < 8
        assert 0.1 < np.abs(samples).max() <= 1.0
        assert np.square(samples).mean() > 1e-5
        frames = samples[: len(samples) // 400 * 400].reshape(-1, 400)
        assert part != "test" or np.square(frames).mean(axis=1).min() > 1e-9, path  # no digital silence


@pytest.mark.parametrize("part", PREPARED)
def test_manifest_and_store_hold_every_utterance(prepared: Path, part: str) -> None:
    utterances = manifest.read(prepared / part / "manifest.jsonl")
    expected = [(row["id"], row["speaker"], row["text"]) for row in rows(prepared, part)]
    assert sorted((u.id, u.speaker, u.text) for u in utterances) == sorted(expected)
    store = FeatureStore(prepared / part)
    assert set(store.entries) == {(u.id, 1.0) for u in utterances}


def test_second_run_does_nothing(
    prepared: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(digits, "PARTS", PREPARED)
    before = snapshot(prepared)
    assert digits.prepare(digits.Options(out=prepared)) == []
    assert snapshot(prepared) == before
    assert capsys.readouterr().err.splitlines() == [f"{prepared / part}: already done" for part in PREPARED]


def test_partly_unpacked_archive_is_unpacked_again(prepared: Path, tmp_path: Path) -> None:
    path = Path("test") / rows(prepared, "test")[0]["speaker"] / (rows(prepared, "test")[0]["id"] + ".opus")
    whole = (prepared / "audio" / path).read_bytes()
    cut = tmp_path / "audio" / path
    cut.parent.mkdir(parents=True)
    cut.write_bytes(whole[:100])
    digits.unpack_audio(tmp_path / "audio")
    assert cut.read_bytes() == whole
    assert len(list((tmp_path / "audio" / "test").rglob("*.opus"))) == 260


def test_speeds_apply_to_the_training_part_only(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = {}
    monkeypatch.setattr(
        digits, "prepare_part", lambda out, *_, speeds, jobs: calls.update({out.name: (speeds, jobs)}) or []
    )
    digits.prepare(digits.Options(out=prepared, speeds=(0.9, 1.1), jobs=2))
    assert calls == {"train": ((0.9, 1.1), 2), "dev": ((), 2), "test": ((), 2)}


def snapshot(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
