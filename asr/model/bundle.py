"""The model bundle: a folder with the weights, the ONNX graph, and all that is needed to use them."""

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

SCHEMA = 1
"""Version of config.json that this code writes, and the newest that it reads."""

CONFIG = "config.json"
ONNX = "model.onnx"
WEIGHTS = "model.safetensors"
SCALE = ".scale"
"""In model.safetensors, ends the name of the scales of an int8 matrix."""

LM = "lm.bin"
LEXICON = "lexicon.txt"
CARD = "README.md"

BOX = "box"
"""Name of the English model that ships with asr."""

STORED_AS = ("float32", "float16", "int8")
"""Types in which model.onnx may hold its weight matrices; it computes in float32 with each."""


def resolve_bundle(model: str | Path) -> Path:
    """The folder of a model bundle: BOX is the one that ships, anything else a path (./box, say)."""
    return Path(__file__).parent.parent / BOX if model == BOX else Path(model)


@dataclass(frozen=True)
class BundleConfig:
    """config.json. `architecture` and `log_mel` hold the settings of AcousticModel and LogMel, `characters`
    the Tokenizer's units, `decoding` what `asr tune` found; `wer` what was measured, on what; `weights` one
    of STORED_AS; `sha256` the checksums of the model files."""

    architecture: dict[str, Any]
    log_mel: dict[str, Any]
    characters: str | tuple[str, ...]
    training_data: str
    licence: str
    wer: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    weights: str = STORED_AS[0]
    sha256: dict[str, str] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def tokenizer(self) -> Tokenizer:
        """The vocabulary of the model's outputs."""
        return Tokenizer(self.characters)


def read_config(folder: Path) -> BundleConfig:
    """Read and check config.json. Raises BundleError where it is missing, damaged, foreign or too new."""
    path = folder / CONFIG
    if not folder.is_dir():
        if str(folder) == BOX:
            raise BundleError(
                f"{BOX}: ships with asr and stays as it is; copy {resolve_bundle(BOX)} and name the copy"
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
    "schema": int,
}


def _check_log_mel(log_mel: dict[str, Any]) -> None:
    """What inference relies on: the sample rate, and the two lengths that frames are counted by."""
    if log_mel.get("sample_rate") != SAMPLE_RATE:
        raise ValueError(f"log_mel.sample_rate must be {SAMPLE_RATE}, not {log_mel.get('sample_rate')!r}")
    for key in ("window", "hop"):
        value = log_mel.get(key)
        if type(value) is not int or value < 1:
            raise ValueError(f"log_mel.{key} must be a number of samples, not {value!r}")


def read_model_file(folder: Path, config: BundleConfig, name: str) -> bytes:
    """The bytes of `model.onnx` or `model.safetensors`. Raises BundleError where the checksum differs."""
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
    """Write config.json with the checksums of the model files, which must be there; returns what was written.

    Written last, it says that the bundle is whole.
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
    """A temporary folder beside `folder`, which takes its name if the block ends without an error.

    An earlier bundle is replaced as a whole; raises BundleError where anything else has the name.
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
        if check_replaceable(folder):  # set aside, so that there is always a whole one
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
    """Whether a bundle is there. Raises BundleError where something else is, which must not be deleted."""
    if not folder.exists():
        return False
    try:
        read_config(folder)
    except BundleError:
        raise BundleError(f"{folder}: is there and is no model bundle; name another folder") from None
    return True
