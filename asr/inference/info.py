"""What is in a model bundle."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from asr.decoding.lexicon import read_lexicon
from asr.inference.decoder import beam_options
from asr.lm import packed
from asr.model import bundle
from asr.model.bundle import LEXICON, LM, ONNX, WEIGHTS, BundleConfig

_FILES = (ONNX, WEIGHTS, LM, LEXICON, bundle.CARD, bundle.CONFIG)
_GATES = {"gru": 3, "lstm": 4, "rnn": 1}
_CHANNELS = 32
"""Channels of the convolutions in asr.model.acoustic, which needs torch."""


@dataclass(frozen=True)
class BundleInfo:
    """A bundle whose checksums agree. `files` are sizes in bytes, `lm_ngrams` counts by order; `parameters`,
    `lm_ngrams` and `lexicon_words` are None where there is nothing to count."""

    path: Path
    config: BundleConfig
    files: dict[str, int]
    parameters: int | None
    lm_ngrams: tuple[int, ...] | None
    lexicon_words: int | None

    def to_json(self) -> str:
        """All of config.json, and what was counted."""
        row = {**asdict(self.config), **asdict(self), "path": str(self.path), "checksums_agree": True}
        del row["config"]
        return json.dumps(row, indent=1, ensure_ascii=False)

    def to_text(self) -> str:
        """A line each, for reading."""
        config = self.config
        rows = [("architecture", _architecture(config.architecture))]
        if self.parameters is not None:
            rows.append(("parameters", f"{self.parameters:,}"))
        rows.append(("weights", config.weights))
        rows += _column("files", [f"{name} {decimal(size)}" for name, size in self.files.items()])
        rows.append(("vocabulary", f"{config.tokenizer.size - 1} {_units(config.characters)}"))
        if self.lm_ngrams is not None:
            counts = (f"{count:,} {n}-grams" for n, count in enumerate(self.lm_ngrams[1:], 2))
            rows.append(("LM", ", ".join((f"{self.lm_ngrams[0]:,} words", *counts))))
        if self.lexicon_words is not None:
            rows.append(("lexicon", f"{self.lexicon_words:,} words"))
        rows.append(("training data", config.training_data))
        rows.append(("licence", config.licence))
        rows += _column("WER", [f"{_rate(rate)} on {name}" for name, rate in config.wer.items()])
        rows += _column("decoding", [f"{name} {value}" for name, value in config.decoding.items()])
        rows.append(("checksums", "agree"))
        lines = (f"  {name:14} {' '.join(value.split())}" for name, value in rows)
        return "\n".join((str(self.path), *lines))


def read_info(folder: Path) -> BundleInfo:
    """Read all of a bundle and verify it. Raises BundleError, LanguageModelError or DecodingError for the
    first part that is damaged."""
    config = bundle.read_config(folder)
    for name in (ONNX, WEIGHTS):
        if name == ONNX or name in config.sha256 or (folder / name).exists():
            bundle.read_model_file(folder, config, name)
    beam_options(folder, config)
    lm, lexicon = folder / LM, folder / LEXICON
    return BundleInfo(
        path=folder,
        config=config,
        files={name: (folder / name).stat().st_size for name in _FILES if (folder / name).exists()},
        parameters=count_parameters(config.architecture),
        lm_ngrams=packed.load(lm).counts if lm.exists() else None,
        lexicon_words=len(set(read_lexicon(lexicon, config.tokenizer).words)) if lexicon.exists() else None,
    )


def count_parameters(architecture: dict[str, Any]) -> int | None:
    """Parameters of the AcousticModel of this shape; None where a setting is missing."""
    try:
        gates, directions = _GATES[architecture["cell"]], 2 if architecture["bidirectional"] else 1
        layers, hidden, mels, vocabulary = (
            int(architecture[key]) for key in ("layers", "hidden", "mels", "vocabulary")
        )
    except (KeyError, TypeError, ValueError):
        return None
    width = directions * hidden
    convolutions = _CHANNELS * (9 + 1) + _CHANNELS * (9 * _CHANNELS + 1)
    projection = (_CHANNELS * -(-mels // 4) + 1) * width
    recurrent = directions * gates * hidden * (width + hidden + 2)
    norm = 2 * width
    return convolutions + projection + layers * (norm + recurrent) + norm + (width + 1) * vocabulary


def _architecture(architecture: dict[str, Any]) -> str:
    if count_parameters(architecture) is None:
        return ", ".join(f"{name} {value}" for name, value in architecture.items())
    direction = "bidirectional " if architecture["bidirectional"] else ""
    cell = f"{direction}{architecture['cell'].upper()}"
    return f"{architecture['layers']} layers of {cell}, {architecture['hidden']} units a direction"


def _units(characters: str | tuple[str, ...]) -> str:
    if isinstance(characters, str):
        return f"characters, {characters!r}"
    return "units, " + " ".join(characters)


def _rate(rate: Any) -> str:
    """A fraction as per cent; what is none as it stands."""
    return f"{100 * rate:.2f} %" if isinstance(rate, float) else str(rate)


def _column(name: str, values: list[str]) -> list[tuple[str, str]]:
    return [("" if i else name, value) for i, value in enumerate(values)]
