"""Decoder settings in a bundle's config.json, as `asr tune` writes them."""

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from asr.decoding.beam import BeamOptions
from asr.errors import BundleError, DecodingError

TEMPERATURE = "temperature"
GREEDY_TEMPERATURE = "greedy_temperature"
"""Keys beside the fields of BeamOptions: temperatures of confidences with and without beam search."""


def bundle_options(folder: Path, decoding: Mapping[str, Any]) -> BeamOptions:
    """Beam search options from `BundleConfig.decoding`. Raises BundleError for unknown or wrong settings."""
    settings = dict(decoding)
    for key in (TEMPERATURE, GREEDY_TEMPERATURE):
        value = settings.pop(key, 1.0)
        if type(value) not in (int, float) or not 0 < value < math.inf:
            raise BundleError(f"{folder}: decoding.{key} must be a number above 0; run asr tune again")
    if isinstance(settings.get("priors"), list):  # JSON has no tuples
        settings["priors"] = tuple(settings["priors"])
    known = {option.name for option in fields(BeamOptions)} - {"hotwords", "n_best"}
    if unknown := sorted(set(settings) - known):
        raise BundleError(
            f"{folder}: unknown setting decoding.{unknown[0]}; upgrade asr or run asr tune again"
        )
    try:
        return BeamOptions(**settings)
    except (DecodingError, TypeError) as error:
        raise BundleError(f"{folder}: decoding.{error}; run asr tune again") from None
