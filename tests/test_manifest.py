import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asr import manifest
from asr.errors import ManifestError
from asr.manifest import Utterance

GOOD = '{"id": "a", "audio_filepath": "a.wav", "duration": 1.5, "text": "ONE"}'


def write(path: Path, *lines: str) -> Path:
    path.write_bytes("\n".join(lines).encode("utf-8", "surrogatepass"))
    return path


def message(path: Path) -> str:
    with pytest.raises(ManifestError) as error:
        manifest.read(path)
    return str(error.value)


def test_all_keys(tmp_path: Path) -> None:
    row = {"audio_filepath": "wav/a.wav", "duration": 2, "text": "ÉCOUTE", "speaker": "s1", "lang": "fr"}
    path = write(tmp_path / "m.jsonl", json.dumps({"id": "u1", **row}))
    assert manifest.read(path) == [Utterance("u1", tmp_path / "wav" / "a.wav", 2.0, "ÉCOUTE", "s1")]


def test_nemo_manifest_without_ids_and_speakers(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.json",
        '{"audio_filepath": "/data/s1/01.wav", "duration": 2.5, "text": "ONE"}',
        '{"audio_filepath": "s1/01.wav", "duration": 2, "text": "TWO", "offset": ""}',
        '{"audio_filepath": "s1/01.wav", "duration": 2, "text": "PART", "offset": 12.5}',
        '{"audio_filepath": "s2/01.wav", "duration": 2, "text": "THREE", "offset": null, "id": null}',
    )
    assert manifest.read(path) == [
        Utterance("/data/s1/01", Path("/data/s1/01.wav"), 2.5, "ONE"),
        Utterance("s1/01", tmp_path / "s1" / "01.wav", 2.0, "TWO"),
        Utterance("s1/01@12.5", tmp_path / "s1" / "01.wav", 2.0, "PART", offset=12.5),
        Utterance("s2/01", tmp_path / "s2" / "01.wav", 2.0, "THREE"),
    ]


def test_numbers_as_names(tmp_path: Path) -> None:
    path = write(
        tmp_path / "m.jsonl",
        '{"id": 7, "audio_filepath": "a.wav", "duration": "1.5", "text": "", "speaker": 0}',
    )
    assert manifest.read(path) == [Utterance("7", tmp_path / "a.wav", 1.5, "", "0")]


def test_blank_lines_carriage_returns_and_byte_order_mark(tmp_path: Path) -> None:
    second = GOOD.replace('"a"', '"b"').replace("a.wav", "b.wav")
    path = write(tmp_path / "m.jsonl", f"\ufeff{GOOD}\r", "\r", "   ", f"{second}\r", "", "")
    assert path.read_bytes().startswith(b"\xef\xbb\xbf{")
    assert [u.id for u in manifest.read(path)] == ["a", "b"]


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x7f"])
def test_separators_within_a_text_do_not_end_a_line(tmp_path: Path, separator: str) -> None:
    path = write(tmp_path / "m.jsonl", GOOD.replace("ONE", f"ONE{separator}TWO"))
    assert manifest.read(path)[0].text == f"ONE{separator}TWO"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("ONE TWO", "Expecting value: line 1 column 1"),
        (GOOD[:-1], f"Expecting ',' delimiter: line 1 column {len(GOOD)}"),
        (GOOD + GOOD, "Extra data"),
        ('["a.wav", 1.5, "ONE"]', "expected one JSON object per line"),
        ("null", "expected one JSON object per line"),
        ('{"duration": 1.5, "text": "ONE"}', "the key 'audio_filepath' is missing"),
        ('{"audio_filepath": "a.wav", "text": "ONE"}', "duration None is not a number of seconds"),
        ('{"audio_filepath": "a.wav", "duration": 1.5}', "the key 'text' is missing"),
        (GOOD.replace('"ONE"', "1"), "the key 'text' is missing or not a string"),
        (GOOD.replace('"ONE"', "null"), "the key 'text' is missing or not a string"),
        (GOOD.replace('"a.wav"', '["a.wav"]'), "the key 'audio_filepath' is missing or not a string"),
        (GOOD.replace("a.wav", ""), "audio_filepath is empty"),
        (GOOD.replace("1.5", "-1.5"), "duration -1.5 is not a number of seconds"),
        (GOOD.replace("1.5", "NaN"), "duration nan is not a number of seconds"),
        (GOOD.replace("1.5", "1e999"), "duration inf is not a number of seconds"),
        (GOOD.replace("1.5", "null"), "duration None is not a number of seconds"),
        (GOOD.replace("1.5", "true"), "duration True is not a number of seconds"),
        (GOOD.replace("1.5", '"long"'), "duration 'long' is not a number of seconds"),
        (GOOD.replace("1.5", "1" * 400), ""),
        ("[" * 100_000, ""),
        (GOOD.replace("1.5", "[1]"), "duration [1] is not a number of seconds"),
        (GOOD.replace("1.5", '1.5, "offset": -1'), "offset -1 is not a number of seconds"),
        (GOOD.replace("1.5", '1.5, "offset": "late"'), "offset 'late' is not a number of seconds"),
    ],
)
def test_broken_lines(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path / "m.jsonl", GOOD.replace('"a"', '"first"'), "", line)
    assert message(path).startswith(f"{path}:3: {reason}")


NO_ID = '{"audio_filepath": "a.wav", "duration": 1, "text": "ONE"}'


@pytest.mark.parametrize("lines", [(GOOD, "", GOOD.replace("a.wav", "b.wav")), (NO_ID, "", NO_ID)])
def test_duplicate_id(tmp_path: Path, lines: tuple[str, ...]) -> None:
    path = write(tmp_path / "m.jsonl", *lines)
    assert message(path) == f"{path}:3: duplicate id 'a'"


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_no_utterance(tmp_path: Path, content: str) -> None:
    path = write(tmp_path / "m.jsonl", content)
    assert message(path) == f"{path}: empty manifest"


def test_unreadable_manifests(tmp_path: Path) -> None:
    path = tmp_path / "none.jsonl"
    assert message(path).startswith(f"{path}: cannot read the manifest (No such file")
    assert message(tmp_path).startswith(f"{tmp_path}: cannot read the manifest (Is a directory")
    path = tmp_path / "latin.jsonl"
    path.write_bytes(GOOD.encode() + b"\n" + GOOD.replace("ONE", "ÉTÉ").encode("latin-1"))
    assert message(path).startswith(f"{path}: cannot read the manifest ('utf-8' codec can't decode byte")


texts = st.text(st.characters(exclude_characters="\0")) | st.binary().map(
    lambda name: os.fsdecode(name.replace(b"\0", b""))  # as file names are read
)
paths = st.lists(texts.filter(lambda t: t not in ("", ".", "..") and "/" not in t), min_size=1, max_size=3)
seconds = st.floats(0, 1e9)
utterances = st.lists(
    st.builds(
        Utterance, texts, paths.map(lambda parts: Path("/", *parts)), seconds, texts, st.none() | texts
    ),
    min_size=1,
    unique_by=lambda u: u.id,
)


@settings(max_examples=50)
@given(utterances)
def test_round_trip(tmp_path_factory: pytest.TempPathFactory, expected: list[Utterance]) -> None:
    path = tmp_path_factory.mktemp("manifest") / "m.jsonl"
    manifest.write(path, iter(expected))
    assert manifest.read(path) == expected
    assert path.read_bytes().count(b"\n") == len(expected)


def test_relative_paths_move_with_the_manifest(tmp_path: Path) -> None:
    for folder in ("here", "there"):
        manifest.write(tmp_path / folder / "m.jsonl", [Utterance("a", Path("wav/a.wav"), 1.0, "ONE")])
        (utterance,) = manifest.read(tmp_path / folder / "m.jsonl")
        assert utterance.audio_filepath == tmp_path / folder / "wav/a.wav"


def test_paths_that_are_not_utf8(tmp_path: Path) -> None:
    expected = [Utterance("a", Path(os.fsdecode(b"/caf\xe9.wav")), 1.0, "ONE")]
    manifest.write(tmp_path / "m.jsonl", expected)
    assert manifest.read(tmp_path / "m.jsonl") == expected
    assert rb"/caf\udce9.wav" in (tmp_path / "m.jsonl").read_bytes()


def test_manifest_is_written_completely_or_not_at_all(tmp_path: Path) -> None:
    def some() -> Iterator[Utterance]:
        yield Utterance("a", Path("a.wav"), 1.0, "ONE")
        raise OSError("disk gone")

    with pytest.raises(OSError, match="disk gone"):
        manifest.write(tmp_path / "m.jsonl", some())
    assert list(tmp_path.iterdir()) == []
