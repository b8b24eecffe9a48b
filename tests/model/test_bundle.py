import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from asr.errors import BundleError
from asr.model.bundle import BundleConfig, read_config, read_model_file, write_config
from tests.standin import LOG_MEL

CONFIG = BundleConfig(
    architecture={"cell": "gru", "hidden": 8, "bidirectional": True},
    log_mel=LOG_MEL,
    characters=" 'ABÉ",
    training_data="digits",
    licence="MIT",
    wer={"digits test": {"rate": 0.02}},
)


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    (tmp_path / "model.onnx").write_bytes(b"graph")
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    write_config(tmp_path, CONFIG)
    return tmp_path


def change(folder: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    path = folder / "config.json"
    row = json.loads(path.read_text(encoding="utf-8"))
    edit(row)
    path.write_text(json.dumps(row), encoding="utf-8")


def test_round_trip_with_checksums(bundle: Path) -> None:
    config = read_config(bundle)
    assert config.sha256 == {
        "model.onnx": hashlib.sha256(b"graph").hexdigest(),
        "model.safetensors": hashlib.sha256(b"weights").hexdigest(),
    }
    assert {**vars(config), "sha256": {}} == vars(CONFIG)
    assert config.tokenizer.size == 6
    assert read_model_file(bundle, config, "model.onnx") == b"graph"
    assert (bundle / "config.json").read_text(encoding="utf-8").startswith('{\n "schema": 2,')
    change(bundle, lambda row: (row.pop("weights"), row.pop("parameters")))
    assert (read_config(bundle).weights, read_config(bundle).parameters) == ("float32", 0)


def test_changed_and_missing_model_files(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"graph?")
    with pytest.raises(BundleError, match=rf"^{bundle}/model\.onnx: differs from its checksum"):
        read_model_file(bundle, read_config(bundle), "model.onnx")
    (bundle / "model.onnx").unlink()
    with pytest.raises(BundleError, match=rf"^{bundle}/model\.onnx: no such file"):
        read_model_file(bundle, read_config(bundle), "model.onnx")


def test_missing_folder_and_config(tmp_path: Path) -> None:
    (tmp_path / "last.ckpt").write_bytes(b"")
    reasons = {"none": "/none: no such folder", "last.ckpt": "/last.ckpt: a file", ".": ": no config.json"}
    for name, reason in reasons.items():
        with pytest.raises(BundleError, match=f"^{tmp_path}{reason}"):
            read_config(tmp_path / name)


@pytest.mark.parametrize(
    ("content", "part"),
    [
        (b"", "damaged"),
        (b'{"schema": 1, "arch', "damaged"),
        (b"\xff\xfe\x00", "damaged"),
        (b'["model"]', "asr"),
    ],
)
def test_damaged_config(bundle: Path, content: bytes, part: str) -> None:
    (bundle / "config.json").write_bytes(content)
    with pytest.raises(BundleError, match=rf"config\.json: .*{part}"):
        read_config(bundle)


@pytest.mark.parametrize(
    ("edit", "part"),
    [
        (lambda row: row.update(schema=3), "schema 3, newer than 2"),
        (lambda row: row.pop("schema"), "no schema number"),
        (lambda row: row.update(schema="1"), "no schema number"),
        (lambda row: row.pop("characters"), "missing 1 required positional argument: 'characters'"),
        (lambda row: row.update(log_mel=[80]), "'log_mel' has a value of the wrong type"),
        (lambda row: row.update(parameters="many"), "'parameters' has a value of the wrong type"),
        (lambda row: row.update(lm="lm.bin"), "unexpected keyword argument 'lm'"),
        (lambda row: row["log_mel"].update(sample_rate=8000), "sample_rate 16000"),
        (lambda row: row["log_mel"].update(hop=0), "'hop': 0"),
        (lambda row: row["log_mel"].pop("window"), "needs sample_rate 16000, window and hop"),
        (lambda row: row.update(weights="int4"), "'int4'"),
        (lambda row: row.update(characters="ABA"), "'ABA'"),
    ],
)
def test_config_that_cannot_be_used(bundle: Path, edit: Callable[[dict[str, Any]], Any], part: str) -> None:
    change(bundle, edit)
    with pytest.raises(BundleError) as error:
        read_config(bundle)
    assert str(error.value).startswith(f"{bundle}/config.json: ") and part in str(error.value)
