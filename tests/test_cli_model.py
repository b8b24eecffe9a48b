"""`asr export` and `asr info`."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile

from asr import manifest
from asr.cli import main
from asr.features.logmel import LogMelConfig
from asr.manifest import Utterance
from asr.model.bundle import read_config, write_config
from asr.model.export import save_bundle
from asr.text import ENGLISH
from tests.lm.plain import FIXTURES
from tests.model.test_acoustic import small_model
from tests.standin import write_bundle
from tests.test_cli import one_line

Output = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "bundle"
    settings = {"characters": ENGLISH, "training_data": "train-clean-5", "licence": "CC BY 4.0"}
    return save_bundle(folder, small_model(), LogMelConfig(), **settings)


@pytest.fixture
def bundle(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "bundle")
    return tmp_path / "bundle"


def run(*arguments: str | Path) -> int:
    return main([*map(str, arguments)])


def fails(capsys: Output, arguments: list[str | Path], *parts: str) -> None:
    """Run a command that fails with one line of error with these parts."""
    assert run(*arguments) == 1
    one_line(capsys, *parts)


def corpus(folder: Path) -> Path:
    """Two utterances of noise, and one without a recording."""
    folder.mkdir()
    noise = 0.1 * np.random.default_rng(0).standard_normal(16_000)
    for name in ("a", "b"):
        soundfile.write(folder / f"{name}.flac", noise, 16_000)
    rows = [Utterance(name, Path(f"{name}.flac"), 1.0, "ONE TWO") for name in ("a", "b", "gone")]
    manifest.write(folder / "manifest.jsonl", rows)
    return folder


def test_export_without_a_manifest(bundle: Path, tmp_path: Path, capsys: Output) -> None:
    small = tmp_path / "small"
    assert run("export", bundle, "--out", small) == 0
    size, hint = capsys.readouterr().out.splitlines()
    before, after = ((folder / "model.onnx").stat().st_size / 1000 for folder in (bundle, small))
    assert size.startswith(f"{small}: ") and f"{100 * after / before:.0f} % of {before:.1f} kB" in size
    assert "--manifest" in hint and read_config(small).weights == "int8"


def test_export_measures_both(bundle: Path, tmp_path: Path, capsys: Output) -> None:
    dev, small = corpus(tmp_path / "dev"), tmp_path / "small"
    out = ["--out", small, "--threads", "1"]
    assert run("export", bundle, *out, "--manifest", dev) == 1
    printed = capsys.readouterr()
    wers = {}
    for weights, line in zip(("float32", "int8"), printed.out.splitlines(), strict=False):
        found = re.fullmatch(rf"WER with {weights} weights: (\d+\.\d\d) % \((\d+) of 4\)", line)
        assert found and float(found[1]) == round(100 * int(found[2]) / 4, 2)
        wers[f"dev, {weights} weights"] = int(found[2]) / 4
    difference = 100 * (wers["dev, int8 weights"] - wers["dev, float32 weights"])
    assert printed.out.splitlines()[2].startswith(f"difference: {difference:+.2f} points, 95 % interval ")
    assert printed.err.startswith(f"asr: gone: {dev / 'gone.flac'}: ") and printed.err.count("\n") == 1
    assert read_config(small).wer == wers


def test_nothing_to_measure_on(bundle: Path, tmp_path: Path, capsys: Output) -> None:
    dev = corpus(tmp_path / "dev")
    manifest.write(dev / "manifest.jsonl", [Utterance("a", Path("a.flac"), 1.0, "")])
    export = ["export", bundle, "--out", tmp_path / "small", "--manifest", dev]
    fails(capsys, export, "asr: dev: no word to score")
    fails(capsys, [*export, tmp_path / "none.jsonl"], f"asr: {tmp_path / 'none.jsonl'}: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "dev"]


def test_export_fails_before_it_writes(
    bundle: Path, tmp_path: Path, capsys: Output, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = ["export", bundle, "--out"]
    fails(capsys, [*export, bundle], f"asr: {bundle}: would replace {bundle}")
    monkeypatch.setattr("asr.commands.find_spec", lambda name: None)
    fails(capsys, [*export, tmp_path / "small", "--with-torch"], "safetensors is not installed")
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "asr.model.compress", raising=False)
    fails(capsys, [*export, tmp_path / "small"], "onnx is not installed")
    assert not (tmp_path / "small").exists()


def test_neither_needs_torch(bundle: Path, tmp_path: Path) -> None:
    commands = [["export", str(bundle), "--out", str(tmp_path / "small")]]
    commands.append(["info", str(tmp_path / "small")])
    program = f"import sys; sys.modules['torch'] = None; from asr.cli import main; [*map(main, {commands})]"
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert "  weights        int8\n" in result.stdout


def test_info_of_a_standin(tmp_path: Path, capsys: Output) -> None:
    folder = write_bundle(tmp_path / "standin")
    assert run("info", folder) == 0
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert capsys.readouterr().out.splitlines() == [
        str(folder),
        "  architecture   cell gru",
        "  weights        float32",
        f"  files          model.onnx {sizes['model.onnx'] / 1000:.1f} kB",
        f"                 model.safetensors {sizes['model.safetensors']} bytes",
        f"                 config.json {sizes['config.json']} bytes",
        '  vocabulary     28 characters, " \'ABCDEFGHIJKLMNOPQRSTUVWXYZ"',
        "  training data  none",
        "  licence        MIT",
        "  WER            50.00 % on digits",
        "  checksums      agree",
    ]


def test_info_of_a_bundle_with_everything(bundle: Path, capsys: Output) -> None:
    assert run("lm", "train", FIXTURES / "tiny.txt", "--out", bundle / "lm.bin", "--order", "2") == 0
    sizes = capsys.readouterr().out.splitlines()[0]
    (bundle / "lexicon.txt").write_text("ONE\nTWO\nTWO\tT O O\n")
    settings = {"lm_weight": 0.5, "temperature": 1.25}
    write_config(bundle, replace(read_config(bundle), decoding=settings, wer={"dev": 0.1, "old": "good"}))
    assert run("info", bundle) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == [
        "  architecture   2 layers of bidirectional GRU, 24 units a direction",
        f"  parameters     {sum(p.numel() for p in small_model().parameters()):,}",
        "  weights        float32",
    ]
    files = "model.onnx model.safetensors lm.bin lexicon.txt README.md config.json"
    assert [line[17:].split()[0] for line in lines[4:10]] == files.split()
    assert lines[11:] == [
        f"  LM             {sizes}",
        "  lexicon        2 words",
        "  training data  train-clean-5",
        "  licence        CC BY 4.0",
        "  WER            10.00 % on dev",
        "                 good on old",
        "  decoding       lm_weight 0.5",
        "                 temperature 1.25",
        "  checksums      agree",
    ]


def test_info_as_json(bundle: Path, capsys: Output) -> None:
    assert run("info", bundle, "--json") == 0
    row = json.loads(capsys.readouterr().out)
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    assert {key: row[key] for key in config} == config
    assert {key: value for key, value in row.items() if key not in config} == {
        "path": str(bundle),
        "files": {
            name: (bundle / name).stat().st_size
            for name in ("model.onnx", "model.safetensors", "README.md", "config.json")
        },
        "lm_ngrams": None,
        "lexicon_words": None,
        "checksums_agree": True,
    }


def test_info_of_what_cannot_be_used(bundle: Path, capsys: Output) -> None:
    def damage(name: str, reason: str) -> None:
        fails(capsys, ["info", bundle], f"asr: {bundle}{name}: ", reason)

    (bundle / "lm.bin").write_bytes(b"words")
    damage("/lm.bin", "not a language model")
    (bundle / "lm.bin").unlink()
    write_config(bundle, replace(read_config(bundle), decoding={"magic": 1}))
    damage("", "unknown setting decoding.magic")
    write_config(bundle, replace(read_config(bundle), decoding={}))
    for name in ("model.safetensors", "model.onnx"):
        with (bundle / name).open("r+b") as file:
            file.seek(100)
            file.write(b"x")
        damage(f"/{name}", "differs from its checksum")
    (bundle / "model.onnx").unlink()
    damage("/model.onnx", "no such file")
    config = json.loads((bundle / "config.json").read_text(encoding="utf-8"))
    (bundle / "config.json").write_text(json.dumps({**config, "schema": 99}))
    damage("/config.json", "schema 99")
    (bundle / "config.json").write_text('{"model_type": "whisper"}')
    damage("/config.json", "not written by asr")
    (bundle / "config.json").unlink()
    damage("", "no config.json")
