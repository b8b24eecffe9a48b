"""Content of a model bundle, verified and counted: `asr info`."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from asr.decoding.beam import bundle_options
from asr.decoding.lexicon import read_lexicon
from asr.lm import packed
from asr.model import bundle
from asr.model.bundle import LEXICON, LM, ONNX, WEIGHTS, BundleConfig

_FILES = (ONNX, WEIGHTS, LM, LEXICON, bundle.CARD, bundle.CONFIG)
_NO_PARAMETERS = ("__metadata__", "mean", "std")
"""Entries of model.safetensors: format data, and statistics that are not trained."""


@dataclass(frozen=True)
class BundleInfo:
    """A bundle with matching checksums: file sizes in bytes, n-grams by order; None where absent."""

    path: Path
    config: BundleConfig
    files: dict[str, int]
    parameters: int | None
    lm_ngrams: tuple[int, ...] | None
    lexicon_words: int | None

    def to_json(self) -> str:
        """config.json plus what was counted, as one JSON object."""
        row = {**asdict(self.config), **asdict(self), "path": str(self.path), "checksums_agree": True}
        del row["config"]
        return json.dumps(row, indent=1, ensure_ascii=False)

    def to_text(self) -> str:
        """One line per item."""
        config = self.config
        units = config.characters
        rows = [("architecture", _architecture(config.architecture))]
        if self.parameters is not None:
            rows.append(("parameters", f"{self.parameters:,}"))
        rows.append(("weights", config.weights))
        rows += _column("files", [f"{name} {decimal(size)}" for name, size in self.files.items()])
        named = f"characters, {units!r}" if isinstance(units, str) else f"units, {' '.join(units)}"
        rows.append(("vocabulary", f"{config.tokenizer.size - 1} {named}"))
        if self.lm_ngrams is not None:
            counts = (f"{count:,} {n}-grams" for n, count in enumerate(self.lm_ngrams[1:], 2))
            rows.append(("LM", ", ".join((f"{self.lm_ngrams[0]:,} words", *counts))))
        if self.lexicon_words is not None:
            rows.append(("lexicon", f"{self.lexicon_words:,} words"))
        rows += [("training data", config.training_data), ("licence", config.licence)]
        rates = ((f"{100 * v:.2f} %" if isinstance(v, float) else v, name) for name, v in config.wer.items())
        rows += _column("WER", [f"{rate} on {name}" for rate, name in rates])
        rows += _column("decoding", [f"{name} {value}" for name, value in config.decoding.items()])
        rows.append(("checksums", "agree"))
        lines = (f"  {name:14} {' '.join(value.split())}" for name, value in rows)
        return "\n".join((str(self.path), *lines))


def read_info(folder: Path) -> BundleInfo:
    """Read and verify a bundle. Raises BundleError, LanguageModelError or DecodingError if damaged."""
    config = bundle.read_config(folder)
    for name in (ONNX, WEIGHTS):
        if name == ONNX or name in config.sha256 or (folder / name).exists():
            bundle.read_model_file(folder, config, name)
    bundle_options(folder, config.decoding)
    lm, lexicon = folder / LM, folder / LEXICON
    return BundleInfo(
        path=folder,
        config=config,
        files={name: (folder / name).stat().st_size for name in _FILES if (folder / name).exists()},
        parameters=count_parameters(folder, config),
        lm_ngrams=packed.load(lm).counts if lm.exists() else None,
        lexicon_words=len(set(read_lexicon(lexicon, config.tokenizer).words)) if lexicon.exists() else None,
    )


def count_parameters(folder: Path, config: BundleConfig) -> int | None:
    """Number of parameters in config.json; in old bundles, that of model.safetensors; None if unknown."""
    if config.parameters:
        return config.parameters
    try:
        with (folder / WEIGHTS).open("rb") as file:  # 8 bytes of length, then a JSON header
            length = min(int.from_bytes(file.read(8), "little"), 1 << 20)
            header = json.loads(file.read(length))
    except (OSError, ValueError):
        return None
    names = (name for name in header if name not in _NO_PARAMETERS and not name.endswith(bundle.SCALE))
    return sum(int(math.prod(header[name]["shape"])) for name in names)


def _architecture(settings: dict[str, Any]) -> str:
    if not {"layers", "cell", "hidden", "bidirectional"} <= settings.keys():
        return ", ".join(f"{name} {value}" for name, value in settings.items())
    direction = "bidirectional " if settings["bidirectional"] else ""
    cell = f"{direction}{settings['cell'].upper()}"
    return f"{settings['layers']} layers of {cell}, {settings['hidden']} units a direction"


def _column(name: str, values: list[str]) -> list[tuple[str, str]]:
    return [("" if i else name, value) for i, value in enumerate(values)]
