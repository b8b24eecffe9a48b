import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from asr.errors import AsrError
from asr.inference.inputs import SUFFIXES, Recording, find_recordings, output_paths
from asr.inference.writers import FORMATS

STDIN = Recording(Path("-"), Path("stdin"))


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def touch(*names: str | Path) -> None:
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def found(*arguments: str) -> list[str]:
    """The paths; nothing may be wrong."""
    recordings, errors = find_recordings(arguments)
    assert errors == []
    return [str(recording.path) for recording in recordings]


def names(*arguments: str) -> list[str]:
    return [str(recording.name) for recording in find_recordings(arguments)[0]]


def messages(*arguments: str) -> list[str]:
    return [str(error) for error in find_recordings(arguments)[1]]


def test_files_in_the_order_given() -> None:
    touch("b.wav", "a.anything")
    assert found("b.wav", "a.anything", "none.wav") == ["b.wav", "a.anything", "none.wav"]
    assert find_recordings([]) == ([], [])


def test_a_file_comes_once(folder: Path) -> None:
    touch("a.wav", "b/c.wav")
    Path("link.wav").symlink_to("a.wav")
    again = ["./a.wav", str(folder / "a.wav"), "b/../a.wav", "b", "b/c.wav", "b/"]
    assert found("a.wav", *again) == ["a.wav", "b/c.wav"]
    assert found("a.wav", "link.wav") == ["a.wav", "link.wav"]


def test_a_folder() -> None:
    touch("x/b.wav", "x/a/2.FLAC", "x/a/10.mp4", "x/c.txt", "x/d", "x/.hidden.wav", "x/.hidden/e.wav", "wav")
    assert found("x") == ["x/a/10.mp4", "x/a/2.FLAC", "x/b.wav"]
    assert found(".") == ["x/a/10.mp4", "x/a/2.FLAC", "x/b.wav"]

    touch(".x/a.wav", ".x/.b.wav")  # a hidden folder given by name
    assert found(".x") == [".x/a.wav"]


def test_a_folder_without_recordings_and_an_empty_argument() -> None:
    assert not SUFFIXES & {f".{name}" for name in FORMATS}
    touch("x/a.txt", "y.wav")
    assert find_recordings(["x", "y.wav"])[0] == [Recording(Path("y.wav"), Path("y.wav"))]
    [message, empty] = messages("x", "y.wav", "")
    assert message.startswith("x: no recordings") and "argument is empty" in empty


def test_a_folder_that_cannot_be_read(monkeypatch: pytest.MonkeyPatch) -> None:
    touch("x/a.wav", "x/locked/b.wav")
    scandir = os.scandir

    def refuse(path: str) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("locked"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    assert names("x") == ["a.wav"]
    for argument in ("x", "x/locked"):
        [message] = messages(argument)
        assert message.startswith("x/locked: ") and "permission denied" in message


def test_links_to_folders_are_followed_and_loops_end() -> None:
    touch("x/z/a.wav", "elsewhere/b.wav", "elsewhere/deep/c.wav")
    Path("x/again").symlink_to("z")
    Path("x/z/up").symlink_to("..")
    Path("x/self").symlink_to("self")
    Path("x/out").symlink_to("../elsewhere")
    Path("elsewhere/deep/back").symlink_to("../../x")
    Path("link").symlink_to("x")
    assert found("x") == ["x/out/b.wav", "x/out/deep/c.wav", "x/z/a.wav"]
    assert found("link") == ["link/out/b.wav", "link/out/deep/c.wav", "link/z/a.wav"]


def test_pipes_and_sockets_in_a_folder_are_left_out() -> None:
    touch("x/a.wav")
    os.mkfifo("x/b.wav")
    Path("x/gone.wav").symlink_to("nowhere")
    Path("x/loop.wav").symlink_to("loop.wav")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("x/c.wav")
        assert found("x") == ["x/a.wav", "x/gone.wav", "x/loop.wav"]
        assert found("x/b.wav", "x/c.wav") == ["x/b.wav", "x/c.wav"]


ODD = [
    b"a b.wav",
    b"new\nline.wav",
    b"caf\xe9.wav",
    "café.wav".encode(),
    b"*.wav",
    b"[x].wav",
    b"-.wav",
    b"@.wav",
]


def test_odd_names() -> None:
    for name in ODD:
        touch(Path("x", os.fsdecode(name)))
    assert sorted(os.fsencode(name) for name in names("x")) == sorted(ODD)
    one_by_one = found(*(os.fsdecode(b"x/" + name) for name in ODD))
    assert [os.fsencode(path) for path in one_by_one] == [b"x/" + name for name in ODD]


def test_a_name_that_no_file_can_have() -> None:
    long = "x" * 300
    assert found(f"{long}.wav", f"{long}/a.wav") == [f"{long}.wav", f"{long}/a.wav"]
    assert messages(f"{long}*.wav", f"{long}/**/*.wav") == [
        f"{long}*.wav: nothing matches this pattern",
        f"{long}/**/*.wav: nothing matches this pattern",
    ]


def test_patterns() -> None:
    touch("x/1.wav", "x/2.wav", "x/3.txt", "x/.4.wav", "y/z/5.wav", "y/6.wav", "[1].wav", "1.wav")
    assert found("x/*") == ["x/1.wav", "x/2.wav", "x/3.txt"]
    assert found("?/[13].*") == ["x/1.wav", "x/3.txt"]
    assert found("y*") == ["y/6.wav", "y/z/5.wav"]
    assert messages("x/*.mp3") == ["x/*.mp3: nothing matches this pattern"]
    assert found("[1].wav") == ["[1].wav"]


def test_patterns_of_any_depth(folder: Path) -> None:
    touch("x/a.wav", "x/b/c.wav", "x/b/d/e.wav", "x/b/d/f.txt", "x/.b/g.wav", "x2/b/h.wav")
    assert found("x/**/*.wav") == ["x/a.wav", "x/b/c.wav", "x/b/d/e.wav"]
    assert found("x?/**/*.wav") == ["x2/b/h.wav"]
    assert found("**/d/*") == found("x/**/d/**") == ["x/b/d/e.wav", "x/b/d/f.txt"]
    assert found(f"{folder}/x/**/?.txt") == [f"{folder}/x/b/d/f.txt"]
    assert messages("x/**/*.mp3") == ["x/**/*.mp3: nothing matches this pattern"]


def test_standard_input(folder: Path) -> None:
    touch("a.wav", "-")
    assert find_recordings(["-", "a.wav", "-"])[0] == [STDIN, Recording(Path("a.wav"), Path("a.wav"))]
    assert find_recordings(["-"]) == ([STDIN], [])
    assert find_recordings(["./-"]) == ([Recording(folder / "-", Path("-"))], [])


def test_a_list(folder: Path) -> None:
    touch("x/a.wav", "x/b.wav", "y/@c.wav", "y/d *.wav")
    Path("list.txt").write_bytes(b"x\r\n\n  \nx/a.wav\r\ny/d *.wav\n@c.wav\nnone.wav\n-\n@list")
    expected = ["x/a.wav", "x/b.wav", "y/d *.wav", "@c.wav", "none.wav", str(folder / "-"), "@list"]
    assert found("@list.txt") == expected  # neither patterns, lists, nor standard input
    Path("bom.txt").write_bytes("\ufeffx/b.wav\n".encode())
    assert found("@bom.txt") == ["x/b.wav"]
    paths = [os.fsdecode(b"x/" + name) for name in ODD]
    Path("list").write_bytes(b"".join(os.fsencode(path) + b"\0" for path in paths))  # by find -print0
    assert found("@list") == paths


def test_a_list_that_cannot_be_used(folder: Path) -> None:
    touch("empty")
    Path("blank").write_text("\n \n")
    expected = {"none": "no such file", "empty": "empty", "blank": "empty", str(folder): "is a directory"}
    for name, reason in expected.items():
        [message] = messages(f"@{name}")
        assert message.startswith(f"{name}: ") and reason in message
    assert "is a directory" in messages("@")[0]


def test_names_start_below_what_all_arguments_share(folder: Path) -> None:
    touch("x/y/a.wav", "x/y/b.wav", "x/z/c.wav")
    assert names("x/y/a.wav") == ["a.wav"]
    assert names("x") == ["y/a.wav", "y/b.wav", "z/c.wav"]
    assert names("x/y", "x/z") == ["y/a.wav", "y/b.wav", "z/c.wav"]
    assert names("x/y", "x/y/b.wav") == ["a.wav", "b.wav"]
    assert names("x/z/c.wav", str(folder / "x/y/a.wav")) == ["z/c.wav", "y/a.wav"]
    assert names("x/y/../z") == ["c.wav"]
    assert names("x/y/a.wav", "../none.wav") == [f"{folder.name}/x/y/a.wav", "none.wav"]
    assert names("-", "x/y/*.wav") == ["stdin", "a.wav", "b.wav"]
    Path("w").mkdir()  # whatever is in a folder
    assert names("x/y", "w") == ["x/y/a.wav", "x/y/b.wav"]


def outputs(*arguments: str, formats: tuple[str, ...] = ("txt",), out: str | None = None) -> list[str]:
    recordings, errors = find_recordings(arguments)
    assert errors == []
    paths = output_paths(recordings, formats, None if out is None else Path(out))
    assert list(paths) == [recording.path for recording in recordings]
    assert all(tuple(each) == formats for each in paths.values())
    return [str(path) for each in paths.values() for path in each.values()]


def test_outputs_beside_the_recordings_or_in_another_tree() -> None:
    touch("x/y/a.wav", "x/z/a.wav", "x/b c.d.MP3")
    assert outputs("x/b*", formats=("txt", "srt")) == ["x/b c.d.txt", "x/b c.d.srt"]
    assert outputs("-", "x/y/a.wav") == ["stdin.txt", "x/y/a.txt"]
    assert outputs("x", out="o") == ["o/b c.d.txt", "o/y/a.txt", "o/z/a.txt"]
    assert outputs("x/y/a.wav", "-", out="/o") == ["/o/a.txt", "/o/stdin.txt"]


def test_what_is_no_suffix_stays() -> None:
    given = ["Mr. Smith", "a.raw", ".wav", "..wav", "x/...wav"]
    assert outputs(*given) == ["Mr. Smith.txt", "a.raw.txt", ".wav.txt", "..txt", "x/...txt"]
    assert outputs("..wav", "..mp3") == ["..wav.txt", "..mp3.txt"]


def test_outputs_that_would_be_the_same() -> None:
    assert outputs("a.wav", "a.mp3", "b.wav") == ["a.wav.txt", "a.mp3.txt", "b.txt"]
    assert outputs("a.wav", "A.mp3") == ["a.wav.txt", "A.mp3.txt"]
    assert outputs("a.wav", "a.mp3", "a.wav.flac") == ["a.wav.txt", "a.mp3.txt", "a.wav.flac.txt"]
    assert outputs("a.wav", "a") == ["a.wav.txt", "a.txt"]
    assert outputs("x/a.wav", "y/a.mp3") == ["x/a.txt", "y/a.txt"]
    assert outputs("-", "stdin.wav") == ["stdin.txt", "stdin.wav.txt"]
    for pair in (("a.wav", "A.WAV"), ("-", "stdin")):
        with pytest.raises(AsrError, match=rf"{pair[1]}: .*{pair[0]}"):
            outputs(*pair)


def test_outputs_that_would_be_inputs_or_folders() -> None:
    assert outputs("a.wav", "a.TXT") == ["a.wav.txt", "a.TXT.txt"]
    assert outputs("a.wav", "a.TXT", out="o") == ["o/a.txt", "o/a.TXT.txt"]
    assert outputs("x.wav", "x.txt/y.wav") == ["x.wav.txt", "x.txt/y.txt"]
    assert outputs("x.wav", "x.txt/y.wav", out="o") == ["o/x.wav.txt", "o/x.txt/y.txt"]


def test_outputs_of_an_earlier_run_are_no_inputs() -> None:
    assert outputs("a.wav", "a.txt", "a.srt", "b.mp3", "c.txt") == ["a.txt", "b.txt", "c.txt.txt"]
    assert outputs("a.wav", "a.mp3", "a.wav.txt", "a.mp3.txt") == ["a.wav.txt", "a.mp3.txt"]
    assert outputs("a", "a.txt") == ["a.txt"]


stems = st.sampled_from(["a", "A", "b", "a.wav", "a.2", "stdin", "a.mp3.txt"])
suffixes = st.sampled_from(["", ".wav", ".WAV", ".mp3", ".txt", ".srt", ".2"])
folders = st.lists(st.sampled_from(["a", "x.txt", "A.wav"]), max_size=2)
trees = st.lists(
    st.builds(lambda up, stem, suffix: Path(*up, stem + suffix), folders, stems, suffixes), max_size=12
)
outs = st.sampled_from([None, Path("out"), Path()])


@given(trees, st.booleans(), outs)
@example([Path("a.2"), Path("a"), Path("a.txt")], False, None)
def test_no_output_is_another_or_an_input(tree: list[Path], stdin: bool, out: Path | None) -> None:
    inner = {parent for path in tree for parent in path.parents}
    recordings = [Recording(path, path) for path in dict.fromkeys(tree) if path not in inner]
    recordings += [STDIN] * stdin
    try:
        made = output_paths(recordings, ("txt", "srt"), out)
    except AsrError as error:
        assert sum(str(r.path) in str(error) for r in recordings) >= 1
        return
    assert made == output_paths(recordings, ("txt", "srt"), out)
    written = [path for each in made.values() for path in each.values()]
    folded = {str(path.absolute()).casefold() for path in written}
    assert len(folded) == len(written) == 2 * len(recordings)
    assert not folded & {str(recording.path.absolute()).casefold() for recording in recordings}
    assert not folded & {str(parent.absolute()).casefold() for path in written for parent in path.parents}
    for recording in recordings:
        for suffix, path in made[recording.path].items():
            beside = recording.name if out is None else out / recording.name
            assert path.parent == beside.parent
            assert path.name.startswith(recording.name.stem) and path.suffix == f".{suffix}"
