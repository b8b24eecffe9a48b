"""The model bundle: a folder with weights, ONNX graph and everything needed to use them."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import count
from pathlib import Path
from typing import Any, get_origin

from asr.audio import SAMPLE_RATE
from asr.console import print_error
from asr.errors import BundleError, TextError
from asr.files import atomic_write
from asr.text import Tokenizer

SCHEMA = 2
"""Version of config.json: written by this code, and the newest that it reads."""

CONFIG, CARD = "config.json", "README.md"
ONNX, WEIGHTS = "model.onnx", "model.safetensors"
LM, LEXICON = "lm.bin", "lexicon.txt"
SCALE = ".scale"  # in model.safetensors, suffix of the name of an int8 matrix's scales

BOX = "box"
"""Name of the built-in English model, accepted wherever a bundle path is expected."""

STORED_AS = ("float32", "float16", "int8")  # types of the weight matrices; arithmetic is always float32


def resolve_bundle(model: str | Path) -> Path:
    """Return the folder of a bundle: BOX is the built-in one, anything else (./box, say) a path."""
    return Path(__file__).parent.parent / BOX if model == BOX else Path(model)


@dataclass(frozen=True)
class BundleConfig:
    """Content of config.json."""

    architecture: dict[str, Any]  # fields of acoustic.Architecture
    log_mel: dict[str, Any]  # fields of LogMelConfig
    characters: str | tuple[str, ...]  # units of the Tokenizer: an alphabet, or a list of phones
    training_data: str  # description for people
    licence: str  # of the training data
    wer: dict[str, Any] = field(default_factory=dict)  # measured, by data set
    decoding: dict[str, Any] = field(default_factory=dict)  # decoder settings found by `asr tune`
    weights: str = STORED_AS[0]
    parameters: int = 0  # trainable ones; 0 if unknown (schema 1)
    sha256: dict[str, str] = field(default_factory=dict)  # checksums of the model files
    schema: int = SCHEMA

    @property
    def tokenizer(self) -> Tokenizer:
        """Vocabulary of the model's outputs."""
        return Tokenizer(self.characters)


def read_config(folder: Path) -> BundleConfig:
    """Read and check config.json. Raises BundleError if it is missing, damaged, foreign or too new."""
    path = folder / CONFIG
    if str(folder) == BOX and not folder.exists():
        where = resolve_bundle(BOX)
        raise BundleError(f"{BOX}: the built-in model is read-only; copy {where} and name the copy")
    try:
        return _parse(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, NotADirectoryError):
        reason = f"no {CONFIG}" if folder.is_dir() else "a file" if folder.exists() else "no such folder"
        raise BundleError(f"{folder}: {reason}; give the folder of a model bundle") from None
    except (OSError, UnicodeError, json.JSONDecodeError) as error:
        raise BundleError(f"{path}: damaged ({error}); copy or export the bundle again") from None
    except TypeError as error:  # a missing or unknown key
        reason = str(error).removeprefix("BundleConfig.__init__() ")
        raise BundleError(f"{path}: {reason}; export the bundle again") from None
    except (ValueError, TextError) as error:
        raise BundleError(f"{path}: {error}") from None


def _parse(row: Any) -> BundleConfig:
    if not isinstance(row, dict) or type(row.get("schema")) is not int:
        raise ValueError("not written by asr (it has no schema number); give the folder of a model bundle")
    if row["schema"] > SCHEMA:
        raise ValueError(f"has schema {row['schema']}, newer than {SCHEMA}, the last one known; upgrade asr")
    config = BundleConfig(**row)
    for key in fields(config):
        kind: Any = (str, list) if key.name == "characters" else get_origin(key.type) or key.type
        if not isinstance(getattr(config, key.name), kind):
            raise ValueError(f"the key {key.name!r} has a value of the wrong type; export the bundle again")
    if isinstance(config.characters, list):  # JSON has no tuples
        config = replace(config, characters=tuple(map(str, config.characters)))
    if config.weights not in STORED_AS:
        raise ValueError(f"has weights of type {config.weights!r}, which is not known; upgrade asr")
    rate, window, hop = (config.log_mel.get(key) for key in ("sample_rate", "window", "hop"))
    if rate != SAMPLE_RATE or not (type(window) is type(hop) is int and min(window, hop) > 0):
        raise ValueError(f"log_mel needs sample_rate {SAMPLE_RATE}, window and hop, not {config.log_mel}")
    Tokenizer(config.characters)
    return config


def read_model_file(folder: Path, config: BundleConfig, name: str) -> bytes:
    """Read `model.onnx` or `model.safetensors`. Raises BundleError if its checksum differs."""
    path = folder / name
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = "no such file" if isinstance(error, FileNotFoundError) else error.strerror
        raise BundleError(f"{path}: {reason}; copy or export the bundle again") from None
    if hashlib.sha256(content).hexdigest() != config.sha256.get(name):
        reason = f"differs from its checksum in {CONFIG}; the file is damaged or was replaced"
        raise BundleError(f"{path}: {reason}: copy or export the bundle again")
    return content


def write_config(folder: Path, config: BundleConfig) -> BundleConfig:
    """Write config.json with the checksums of the model files and return it.

    It is written last: its presence marks a complete bundle.
    """
    paths = [path for path in (folder / ONNX, folder / WEIGHTS) if path.exists()]
    checksums = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    sealed = replace(config, sha256=checksums, schema=SCHEMA)
    row = asdict(sealed)
    with atomic_write(folder / CONFIG) as file:
        json.dump({"schema": row.pop("schema"), **row}, file, indent=1, ensure_ascii=False)
        file.write("\n")
    return sealed


@contextmanager
def new_bundle(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder that is renamed to `folder` if the block succeeds.

    Replaces an earlier bundle as a whole. If only the earlier one is tuned, it is renamed to `folder.tuned-N`
    instead. Raises BundleError if `folder` is anything else.
    """
    folder = folder.resolve()
    if folder.exists():
        try:
            read_config(folder)
        except BundleError:
            raise BundleError(f"{folder}: exists and is not a model bundle; name another folder") from None
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name[:60]}.") as temporary:
        work, earlier = Path(temporary) / "new", Path(f"{temporary}.earlier")
        work.mkdir()
        yield work
        if folder.exists() and _is_tuned(folder) and not _is_tuned(work):
            _set_aside(folder)
        if folder.exists():  # kept until the new one is in place
            folder.rename(earlier)
        work.rename(folder)
    shutil.rmtree(earlier, ignore_errors=True)


def _is_tuned(folder: Path) -> bool:
    return bool(read_config(folder).decoding) or (folder / LM).exists()


def _set_aside(folder: Path) -> None:
    names = (folder.with_name(f"{folder.name}.tuned-{n}") for n in count(1))
    aside = next(path for path in names if not path.exists())
    folder.rename(aside)
    print_error(f"{folder}: has a new model; the tuned bundle is now {aside.name}")
