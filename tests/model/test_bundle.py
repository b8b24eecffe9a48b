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
    assert (bundle / "config.json").read_text(encoding="utf-8").startswith('{\n "schema": 1,')


def test_a_bundle_from_before_there_were_other_weights(bundle: Path) -> None:
    change(bundle, lambda row: row.pop("weights"))
    assert read_config(bundle).weights == "float32"


def test_changed_model_file(bundle: Path) -> None:
    (bundle / "model.onnx").write_bytes(b"graph?")
    with pytest.raises(BundleError) as error:
        read_model_file(bundle, read_config(bundle), "model.onnx")
    assert str(error.value) == (
        f"{bundle}/model.onnx: differs from its checksum in config.json; "
        "the file is damaged or was replaced: copy or export the bundle again"
    )


def test_missing_model_file(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    with pytest.raises(BundleError) as error:
        read_model_file(bundle, read_config(bundle), "model.onnx")
    assert str(error.value) == f"{bundle}/model.onnx: no such file; copy or export the bundle again"


def test_missing_folder_and_config(tmp_path: Path) -> None:
    with pytest.raises(BundleError) as error:
        read_config(tmp_path / "none")
    assert str(error.value) == f"{tmp_path}/none: no such folder; give the folder that `asr train` wrote"
    (tmp_path / "last.ckpt").write_bytes(b"")
    with pytest.raises(BundleError) as error:
        read_config(tmp_path / "last.ckpt")
    assert str(error.value) == (
        f"{tmp_path}/last.ckpt: a file, not the folder of a model bundle; "
        "give the folder that `asr train` wrote"
    )
    with pytest.raises(BundleError) as error:
        read_config(tmp_path)
    assert str(error.value) == f"{tmp_path}: no config.json; give the folder of a model bundle"


@pytest.mark.parametrize("content", [b"", b'{"schema": 1, "arch', b"\xff\xfe\x00"])
def test_damaged_config(bundle: Path, content: bytes) -> None:
    (bundle / "config.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"config\.json: damaged \(.*\); copy or export the bundle again$"):
        read_config(bundle)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda row: row.update(schema=2), "has schema 2, newer than 1, the last one known; upgrade asr"),
        (
            lambda row: row.pop("schema"),
            "not written by asr (it has no schema number); give the folder of a model bundle",
        ),
        (
            lambda row: row.update(schema="1"),
            "not written by asr (it has no schema number); give the folder of a model bundle",
        ),
        (lambda row: row.pop("characters"), "the key 'characters' is missing; export the bundle again"),
        (
            lambda row: row.update(log_mel=[80]),
            "the key 'log_mel' has a value of the wrong type; export the bundle again",
        ),
        (lambda row: row.update(lm="lm.bin"), "unknown key 'lm'; remove it or export the bundle again"),
        (lambda row: row["log_mel"].update(sample_rate=8000), "log_mel.sample_rate must be 16000, not 8000"),
        (lambda row: row["log_mel"].update(hop=0), "log_mel.hop must be a number of samples, not 0"),
        (lambda row: row["log_mel"].pop("window"), "log_mel.window must be a number of samples, not None"),
        (
            lambda row: row.update(weights="int4"),
            "has weights of type 'int4', which is not known; upgrade asr",
        ),
        (
            lambda row: row.update(characters="ABA"),
            "vocabulary 'ABA': units must be non-empty and distinct",
        ),
    ],
)
def test_config_that_cannot_be_used(
    bundle: Path, edit: Callable[[dict[str, Any]], Any], message: str
) -> None:
    change(bundle, edit)
    with pytest.raises(BundleError) as error:
        read_config(bundle)
    assert str(error.value) == f"{bundle}/config.json: {message}"


def test_config_of_something_else(bundle: Path) -> None:
    (bundle / "config.json").write_text('["model"]', encoding="utf-8")
    with pytest.raises(BundleError, match="not written by asr"):
        read_config(bundle)
