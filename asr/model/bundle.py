"""The model bundle: a folder with weights, ONNX graph and everything needed to use them."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from asr.audio import SAMPLE_RATE
from asr.errors import BundleError, TextError
from asr.files import atomic_write
from asr.text import Tokenizer

SCHEMA = 2
"""Version of config.json: written by this code, and the newest that it reads."""

CONFIG = "config.json"
ONNX = "model.onnx"
WEIGHTS = "model.safetensors"
SCALE = ".scale"
"""Suffix, in model.safetensors, of the name of an int8 matrix's scales."""

LM = "lm.bin"
LEXICON = "lexicon.txt"
CARD = "README.md"

BOX = "box"
"""Name of the built-in English model, accepted wherever a bundle path is expected."""

STORED_AS = ("float32", "float16", "int8")
"""Storage types of the weight matrices in model.onnx; arithmetic is always float32."""


def resolve_bundle(model: str | Path) -> Path:
    """Return the folder of a bundle: BOX is the built-in one, anything else (./box, say) a path."""
    return Path(__file__).parent.parent / BOX if model == BOX else Path(model)


@dataclass(frozen=True)
class BundleConfig:
    """Content of config.json.

    Args:
        architecture: Fields of acoustic.Architecture.
        log_mel: Fields of LogMelConfig.
        characters: Units of the Tokenizer: an alphabet, or a list of phones.
        training_data: Description for people.
        licence: Licence of the training data.
        wer: Measured error rates by data set.
        decoding: Decoder settings found by `asr tune`.
        weights: One of STORED_AS.
        parameters: Number of trainable parameters; 0 if unknown (schema 1).
        sha256: Checksums of the model files.
        schema: Version of this format.
    """

    architecture: dict[str, Any]
    log_mel: dict[str, Any]
    characters: str | tuple[str, ...]
    training_data: str
    licence: str
    wer: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    weights: str = STORED_AS[0]
    parameters: int = 0
    sha256: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def tokenizer(self) -> Tokenizer:
        """Vocabulary of the model's outputs."""
        return Tokenizer(self.characters)


def read_config(folder: Path) -> BundleConfig:
    """Read and check config.json. Raises BundleError if it is missing, damaged, foreign or too new."""
    path = folder / CONFIG
    if not folder.is_dir():
        if str(folder) == BOX:
            raise BundleError(
                f"{BOX}: the built-in model is read-only; copy {resolve_bundle(BOX)} and name the copy"
            )
        reason = "a file, not the folder of a model bundle" if folder.exists() else "no such folder"
        raise BundleError(f"{folder}: {reason}; give the folder that `asr train` wrote")
    try:
        row = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BundleError(f"{folder}: no {CONFIG}; give the folder of a model bundle") from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: damaged ({error}); copy or export the bundle again") from None
    try:
        return _parse(row)
    except (ValueError, TextError) as error:
        raise BundleError(f"{path}: {error}") from None


def _parse(row: Any) -> BundleConfig:
    if not isinstance(row, dict) or type(row.get("schema")) is not int:
        raise ValueError("not written by asr (it has no schema number); give the folder of a model bundle")
    if row["schema"] > SCHEMA:
        raise ValueError(f"has schema {row['schema']}, newer than {SCHEMA}, the last one known; upgrade asr")
    for key in fields(BundleConfig):
        if key.name not in row:
            if key.default is MISSING and key.default_factory is MISSING:
                raise ValueError(f"the key {key.name!r} is missing; export the bundle again")
        elif not isinstance(row[key.name], _TYPES.get(key.name, dict)):
            raise ValueError(f"the key {key.name!r} has a value of the wrong type; export the bundle again")
    if unknown := sorted(set(row) - {key.name for key in fields(BundleConfig)}):
        raise ValueError(f"unknown key {unknown[0]!r}; remove it or export the bundle again")
    config = BundleConfig(**row)
    if isinstance(config.characters, list):  # JSON has no tuples
        config = replace(config, characters=tuple(map(str, config.characters)))
    if config.weights not in STORED_AS:
        raise ValueError(f"has weights of type {config.weights!r}, which is not known; upgrade asr")
    _check_log_mel(config.log_mel)
    Tokenizer(config.characters)
    return config


_TYPES: dict[str, type | tuple[type, ...]] = {
    "characters": (str, list),
    "training_data": str,
    "licence": str,
    "weights": str,
    "parameters": int,
    "schema": int,
}


def _check_log_mel(log_mel: dict[str, Any]) -> None:
    """Check the settings that inference relies on. Raises ValueError."""
    if log_mel.get("sample_rate") != SAMPLE_RATE:
        raise ValueError(f"log_mel.sample_rate must be {SAMPLE_RATE}, not {log_mel.get('sample_rate')!r}")
    for key in ("window", "hop"):
        value = log_mel.get(key)
        if type(value) is not int or value < 1:
            raise ValueError(f"log_mel.{key} must be a number of samples, not {value!r}")


def read_model_file(folder: Path, config: BundleConfig, name: str) -> bytes:
    """Read `model.onnx` or `model.safetensors`. Raises BundleError if its checksum differs."""
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise BundleError(f"{path}: {reason}; copy or export the bundle again") from None
    if hashlib.sha256(content).hexdigest() != config.sha256.get(name):
        raise BundleError(
            f"{path}: differs from its checksum in {CONFIG}; the file is damaged or was replaced: "
            "copy or export the bundle again"
        )
    return content


def write_config(folder: Path, config: BundleConfig) -> BundleConfig:
    """Write config.json with the checksums of the model files and return it.

    It is written last: its presence marks a complete bundle.
    """
    present = [folder / name for name in (ONNX, WEIGHTS) if (folder / name).exists()]
    checksums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in present}
    sealed = replace(config, sha256=checksums, schema=SCHEMA)
    row = asdict(sealed)
    with atomic_write(folder / CONFIG) as file:
        json.dump({"schema": row.pop("schema"), **row}, file, indent=1, ensure_ascii=False)
        file.write("\n")
    return sealed


@contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `folder` if the block succeeds.

    Replaces an earlier bundle as a whole. Raises BundleError if `folder` is anything else.
    """
    folder = folder.resolve()
    check_replaceable(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    try:
        work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name[:60]}."))
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(folder)) from None  # not the temporary folder's name
    try:
        yield work
        work.chmod(0o755)
        if check_replaceable(folder):  # keep the earlier one until the new one is in place
            earlier = work.with_name(f"{work.name}.earlier")
            folder.rename(earlier)
            work.rename(folder)
            shutil.rmtree(earlier, ignore_errors=True)
        else:
            work.rename(folder)
    except BaseException:
        shutil.rmtree(work, ignore_errors=True)
        raise


def check_replaceable(folder: Path) -> bool:
    """Return True if `folder` is a bundle, False if absent. Raises BundleError for anything else."""
    if not folder.exists():
        return False
    try:
        read_config(folder)
    except BundleError:
        raise BundleError(f"{folder}: exists and is not a model bundle; name another folder") from None
    return True
