"""Content of a model bundle, verified and counted: `asr info`."""

import json
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


@dataclass(frozen=True)
class BundleInfo:
    """A bundle with matching checksums: file sizes in bytes, n-grams by order; None where absent."""

    path: Path
    config: BundleConfig
    files: dict[str, int]
    lm_ngrams: tuple[int, ...] | None
    lexicon_words: int | None

    def to_json(self) -> str:
        """config.json plus what was counted, as one JSON object."""
        row = {**asdict(self.config), **asdict(self), "path": str(self.path), "checksums_agree": True}
        del row["config"]
        return json.dumps(row, indent=1, ensure_ascii=False)

    def to_text(self) -> str:
        """One line per item."""
        config, units = self.config, self.config.characters
        named = f"characters, {units!r}" if isinstance(units, str) else f"units, {' '.join(units)}"
        orders = [
            f"{count:,} {f'{n}-grams' if n > 1 else 'words'}"
            for n, count in enumerate(self.lm_ngrams or (), 1)
        ]
        rates = {name: f"{100 * v:.2f} %" if isinstance(v, float) else v for name, v in config.wer.items()}
        rows = {
            "architecture": [_architecture(config.architecture)],
            "parameters": [f"{config.parameters:,}"] if config.parameters else [],
            "weights": [config.weights],
            "files": [f"{name} {decimal(size)}" for name, size in self.files.items()],
            "vocabulary": [f"{config.tokenizer.size - 1} {named}"],
            "LM": [", ".join(orders)] if orders else [],
            "lexicon": [] if self.lexicon_words is None else [f"{self.lexicon_words:,} words"],
            "training data": [config.training_data],
            "licence": [config.licence],
            "WER": [f"{rate} on {name}" for name, rate in rates.items()],
            "decoding": [f"{name} {value}" for name, value in config.decoding.items()],
            "checksums": ["agree"],
        }
        lines = [(name if i == 0 else "", v) for name, values in rows.items() for i, v in enumerate(values)]
        return "\n".join((str(self.path), *(f"  {name:14} {' '.join(v.split())}" for name, v in lines)))


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
        lm_ngrams=packed.load(lm).counts if lm.exists() else None,
        lexicon_words=len(set(read_lexicon(lexicon, config.tokenizer).words)) if lexicon.exists() else None,
    )


def _architecture(settings: dict[str, Any]) -> str:
    if not {"layers", "cell", "hidden", "bidirectional"} <= settings.keys():
        return ", ".join(f"{name} {value}" for name, value in settings.items())
    direction = "bidirectional " if settings["bidirectional"] else ""
    layers = f"{settings['layers']} layers of {direction}{settings['cell'].upper()}"
    return f"{layers}, {settings['hidden']} units a direction"
