"""Your own recordings: folders and tables, good and bad."""

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr import manifest
from asr.errors import AsrError, PrepareError
from asr.features.store import FeatureStore
from asr.prepare import Problem
from data_prep import folder
from data_prep.folder import scan
from tests.corpora import noise, record, times


def prepare(source: Path, out: Path) -> list[Problem]:
    return folder.prepare(folder.Options(folder=source, out=out))


def speak(path: Path, text: str, seconds: float = 1.0) -> Path:
    record(path, seconds)
    path.with_suffix(".txt").write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".au", ".W64", ".WAV"])
def test_formats(tmp_path: Path, suffix: str) -> None:
    speak(tmp_path / f"one{suffix}", "yes")
    utterances, problems = scan(tmp_path)
    assert problems == []
    assert [(u.id, u.text) for u in utterances] == [("one", "YES")]
    assert utterances[0].duration == pytest.approx(1.0, abs=0.1)


def test_folder(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    speak(source / "monday" / "take 1.wav", "Hello, world!\nIt\u2019s me —  café.\n")
    speak(source / "tuesday" / "take 1.wav", "\ufeffgood-bye")
    speak(source / ".trash" / "take 2.wav", "hidden")
    assert prepare(source, out) == []
    rows = manifest.read(out / "manifest.jsonl")
    assert [(row.id, row.text) for row in rows] == [
        ("monday/take 1", "HELLO WORLD IT'S ME CAFE"),
        ("tuesday/take 1", "GOOD BYE"),
    ]
    assert rows[0].formatted == "Hello, world!\nIt\u2019s me —  café.\n" and rows[1].formatted == "good-bye"
    assert set(FeatureStore(out).entries) == {("monday/take 1", 1.0), ("tuesday/take 1", 1.0)}


def test_other_alphabet(tmp_path: Path) -> None:
    speak(tmp_path / "a.wav", "Schöne Grüße")
    assert scan(tmp_path, " abcdefghijklmnopqrstuvwxyzäöüß")[0][0].text == "schöne grüße"


def test_output_below_the_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speak(tmp_path / "a.wav", "yes")
    out = tmp_path / "prepared"
    assert prepare(tmp_path, out) == []
    before = times(out)
    assert prepare(tmp_path, out) == []
    assert times(out) == before
    monkeypatch.chdir(tmp_path)
    assert prepare(tmp_path, Path("prepared")) == []
    assert times(out) == before


def test_bad_folder(tmp_path: Path) -> None:
    source, out = tmp_path / "source", tmp_path / "out"
    speak(source / "good.wav", "good")
    speak(source / "digits.wav", "room 12")
    speak(source / "silent.wav", "...")
    speak(source / "long.wav", "far too many words for such a short recording")
    speak(source / "latin.wav", "").with_suffix(".txt").write_bytes(b"caf\xe9")
    speak(source / "twice.wav", "twice")
    record(source / "twice.flac", 1.0)
    record(source / "alone.wav", 1.0)
    (source / "notes.txt").write_text("no recording of this")
    speak(source / "broken.wav", "broken").write_bytes(b"RIFF")
    problems = prepare(source, out)
    assert problems == [
        Problem("alone", f"audio without transcript: no alone.txt beside {source}/alone.wav"),
        Problem(
            "latin",
            f"{source}/latin.txt: cannot read the transcript "
            "('utf-8' codec can't decode byte 0xe9 in position 3: unexpected end of data)",
        ),
        Problem("notes", f"transcript without audio: no recording beside {source}/notes.txt"),
        Problem("broken", f"{source}/broken.wav: cannot read the recording (Format not recognised)"),
        Problem("digits", "characters outside the vocabulary: '12' in 'ROOM 12'"),
        Problem("silent", "the text is empty"),
        Problem("twice", f"duplicate id; {source}/twice.wav is left out"),
        Problem("long", "too short for its text: 25 frames after subsampling, CTC needs 46"),
    ]
    assert [row.id for row in manifest.read(out / "manifest.jsonl")] == ["good", "twice"]
    assert prepare(source, out) == problems


KEYS = ("audio_filepath", "text", "duration", "speaker", "id")
ROWS = [
    dict(zip(KEYS, ("audio/a.wav", "first, one", "1.0", "anna", "one"), strict=True)),
    dict(zip(KEYS, ("audio/b.wav", "second", "", "", ""), strict=True)),
]


def write_table(path: Path, rows: list[dict[str, str]]) -> Path:
    if path.suffix in (".jsonl", ".json"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path
    mark = "\t" if path.suffix == ".tsv" else ","
    quote = '"' if mark == "," else ""
    lines = [mark.join(rows[0]), *(mark.join(f"{quote}{v}{quote}" for v in row.values()) for row in rows)]
    path.write_text("\ufeff" + "".join(f"{line}\r\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".json", ".CSV"])
def test_table(tmp_path: Path, suffix: str) -> None:
    for name in "ab":
        record(tmp_path / "audio" / f"{name}.wav", 1.0)
    table = write_table(tmp_path / f"table{suffix.lower()}", ROWS)
    table = table.rename(table.with_suffix(suffix))
    utterances, problems = scan(table)
    assert problems == []
    assert [(u.id, u.text, u.speaker, u.duration) for u in utterances] == [
        ("one", "FIRST ONE", "anna", 1.0),
        ("audio/b", "SECOND", None, 1.0),
    ]
    assert [u.audio_filepath for u in utterances] == [tmp_path / "audio" / f"{name}.wav" for name in "ab"]


def test_prepared_manifest_is_a_source(tmp_path: Path) -> None:
    speak(tmp_path / "source" / "a.wav", "yes")
    prepare(tmp_path / "source", tmp_path / "first")
    assert prepare(tmp_path / "first" / "manifest.jsonl", tmp_path / "second") == []
    first, second = (tmp_path / name / "manifest.jsonl" for name in ("first", "second"))
    assert manifest.read(first) == manifest.read(second)


def test_the_suffixes_of_transcribe(tmp_path: Path) -> None:
    """A film in place of a recording, say; its content tells what it is."""
    record(tmp_path / "one.wav", 1.0).rename(tmp_path / "one.m4a")
    (tmp_path / "one.txt").write_text("yes")
    assert [u.id for u in scan(tmp_path)[0]] == ["one"]


def test_columns_of_common_voice(tmp_path: Path) -> None:
    """Its recordings are below `clips`, its columns have other names."""
    for name in "ab":
        record(tmp_path / "clips" / f"{name}.mp3", 1.0)
    lines = ["client_id\tpath\tsentence\tage", "c1\ta.mp3\tYes, yes.\t", "c2\tb.mp3\tNo\ttwenties"]
    table = tmp_path / "validated.tsv"
    table.write_text("\n".join(lines) + "\n")
    utterances, problems = scan(table, columns="audio=path,text=sentence,speaker=client_id")
    assert problems == []
    assert [(u.id, u.text, u.speaker) for u in utterances] == [("a", "YES YES", "c1"), ("b", "NO", "c2")]
    assert utterances[0].audio_filepath == tmp_path / "clips" / "a.mp3"
    table = table.with_suffix(".jsonl")
    table.write_text('{"path": "clips/a.mp3", "sentence": "so", "text": "another"}\n')
    assert scan(table, columns="audio=path,text=sentence")[0][0].text == "SO"
    for columns, reason in (("audio=file,text=sentence", "no column 'file'"), ("sound=path", "audio, text")):
        with pytest.raises(AsrError, match=reason):
            scan(tmp_path / "validated.tsv", columns=columns)
    with pytest.raises(PrepareError, match="--columns"):
        scan(tmp_path / "validated.tsv")


def test_semicolons_between_columns(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 1.0)
    (tmp_path / "t.csv").write_text('audio_filepath;text\na.wav;"yes, no"\n')
    assert [u.text for u in scan(tmp_path / "t.csv")[0]] == ["YES NO"]


def test_offsets_of_nemo(tmp_path: Path) -> None:
    """Parts of a recording are prepared as if they were files."""
    samples = np.concatenate([noise(1.0, seed) for seed in range(3)])
    soundfile.write(tmp_path / "long.wav", samples, 16_000, subtype="FLOAT")
    rows = [{"audio_filepath": "long.wav", "text": "yes", "offset": n, "duration": 1.0} for n in range(3)]
    parts = write_table(tmp_path / "parts.jsonl", [*rows, {**rows[2], "duration": 0.5, "id": "half"}])
    assert prepare(parts, tmp_path / "parts") == []
    prepared = manifest.read(tmp_path / "parts" / "manifest.jsonl")
    assert [(u.id, u.offset, u.duration) for u in prepared] == [
        ("long", 0, 1), ("long@1", 1, 1), ("long@2", 2, 1), ("half", 2, 0.5)
    ]  # fmt: skip
    for number in range(3):
        soundfile.write(tmp_path / f"{number}.wav", noise(1.0, number), 16_000, subtype="FLOAT")
    files = [{"audio_filepath": f"{n}.wav", "text": "yes"} for n in range(3)]
    assert prepare(write_table(tmp_path / "files.jsonl", files), tmp_path / "files") == []
    stores = FeatureStore(tmp_path / "parts"), FeatureStore(tmp_path / "files")
    for part, file in zip(("long", "long@1", "long@2"), "012", strict=True):
        a, b = (s.read(s.entries[key, 1.0]) for s, key in zip(stores, (part, file), strict=True))
        np.testing.assert_array_equal(a, b)


def test_ids_of_absolute_paths(tmp_path: Path) -> None:
    for name in ("x/a", "y/a"):
        record(tmp_path / "audio" / f"{name}.wav", 1.0)
    rows = [{"audio_filepath": str(tmp_path / "audio" / n / "a.wav"), "text": "so"} for n in "xy"]
    (tmp_path / "tables").mkdir()
    utterances, _ = scan(write_table(tmp_path / "tables" / "t.jsonl", rows))
    assert [u.id for u in utterances] == ["x/a", "y/a"]


def test_tsv_has_no_quoting(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 1.0)
    (tmp_path / "t.tsv").write_text('audio_filepath\ttext\na.wav\t"Yes" he said\n')
    assert [u.text for u in scan(tmp_path / "t.tsv")[0]] == ["YES HE SAID"]


def test_line_separator_within_a_text(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 1.0)
    (tmp_path / "t.jsonl").write_text(
        '{"audio_filepath": "a.wav", "text": "one\u2028two"}\n', encoding="utf-8"
    )
    utterances, problems = scan(tmp_path / "t.jsonl")
    assert ([u.text for u in utterances], problems) == (["ONE TWO"], [])


def test_bad_csv(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 1.0)
    table = tmp_path / "t.csv"
    lines = [
        "audio_filepath,duration,text",
        "a.wav,1.0,good",
        "absent.wav,1.0,missing",
        "a.wav,1.0",
        "a.wav,1.0,one,too many",
        "",
        'a.wav,1.0,"odd" quotes',
        "a.wav,long,no number",
        "a.wav,-1,negative",
        "a.wav,9.5,of another recording",
        ",1.0,no recording",
        'a.wav,1.0,"never closed',
        "a.wav,1.0,lost in the quotes",
    ]
    table.write_text("\n".join(lines) + "\n")
    utterances, problems = scan(table)
    assert [u.text for u in utterances] == ["GOOD"]
    assert problems == [
        Problem(f"{table}:4", "malformed line (2 fields, expected 3)"),
        Problem(f"{table}:5", "malformed line (4 fields, expected 3)"),
        Problem(f"{table}:7", "malformed line (',' expected after '\"')"),
        Problem(f"{table}:8", "duration 'long' is not a number of seconds"),
        Problem(f"{table}:9", "duration '-1' is not a number of seconds"),
        Problem(f"{table}:11", "audio_filepath is empty"),
        Problem(f"{table}:12", "malformed line (unexpected end of data)"),
        Problem(f"{table}:3", f"{tmp_path}/absent.wav: cannot read the recording (no such file)"),
        Problem(f"{table}:10", f"duration given as 9.5 s, but {tmp_path}/a.wav is 1 s long"),
    ]


def test_bad_json_lines(tmp_path: Path) -> None:
    record(tmp_path / "a.wav", 1.0)
    table = tmp_path / "t.jsonl"
    lines = [
        '{"audio_filepath": "a.wav", "text": "good", "speaker": 7}',
        "{broken",
        "[]",
        '{"audio_filepath": "a.wav"}',
        '{"text": "no recording"}',
        '{"audio_filepath": "a.wav", "text": 5}',
        '{"audio_filepath": "a.wav", "text": "a part", "offset": 3.5, "duration": 1.0}',
        '{"audio_filepath": "a.wav", "text": "x", "duration": NaN}',
        '{"audio_filepath": "a.wav", "text": "x", "duration": 1' + 400 * "0" + "}",
        100_000 * "[",
    ]
    table.write_text("\n".join(lines))
    utterances, problems = scan(table)
    assert [(u.id, u.text, u.speaker) for u in utterances] == [("a", "GOOD", "7")]
    broken = "Expecting property name enclosed in double quotes: line 1 column 2 (char 1)"
    assert [problem.name for problem in problems[-3:-1]] == [f"{table}:9", f"{table}:10"]
    assert problems[-1].name == f"{table}:7" and "end at 4.5 s of 1 s" in problems[-1].reason
    assert problems[:-3] == [
        Problem(f"{table}:2", f"malformed line ({broken})"),
        Problem(f"{table}:3", "expected one JSON object per line"),
        Problem(f"{table}:4", "the key 'text' is missing or not a string"),
        Problem(f"{table}:5", "the key 'audio_filepath' is missing or not a string"),
        Problem(f"{table}:6", "the key 'text' is missing or not a string"),
        Problem(f"{table}:8", "duration nan is not a number of seconds"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("t.csv", "path,text\n", " no column 'audio_filepath' in the first line, only path, text"),
        ("t.csv", "audio_filepath;text\n", " no recordings"),
        ("t.jsonl", '[\n{"text": ""}\n]', " a JSON array; write one object per line"),
        ("t.tsv", "", " no column 'audio_filepath' in the first line"),
        ("t.csv", "audio_filepath,text\n", " no recordings"),
        ("t.csv", '"audio_filepath"x,text\n', "1: malformed line (',' expected after '\"')"),
        ("t.csv", 'audio_filepath,"text\n', "1: malformed line (unexpected end of data)"),
        ("t.xlsx", "", " expected a folder or a .csv, .tsv or .jsonl file"),
        ("t.csv", "\udcff", " cannot read the table ('utf-8' codec can't decode byte 0xff"),
    ],
)
def test_unusable_table(tmp_path: Path, name: str, content: str, reason: str) -> None:
    (tmp_path / name).write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(PrepareError) as error:
        scan(tmp_path / name)
    assert str(error.value).startswith(f"{tmp_path / name}:{reason}")


def test_no_source(tmp_path: Path) -> None:
    with pytest.raises(PrepareError, match="absent: no such file or folder"):
        scan(tmp_path / "absent")
    with pytest.raises(PrepareError, match=f"{tmp_path}: no recordings"):
        scan(tmp_path)
