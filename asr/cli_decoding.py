"""The flags of the commands that decode."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from asr.errors import UsageError

if TYPE_CHECKING:
    from asr.inference.decoder import LoadOptions
    from asr.inference.transcriber import TranscribeOptions

MODEL = "model bundle, as written by asr train (box: the English model that ships)"

_BEAM = (
    "beam",
    "beam_threshold",
    "token_top_k",
    "lm_weight",
    "word_bonus",
    "unknown_penalty",
    "prior_weight",
)
"""Settings of DecodingOptions that are flags."""


def add_decoding(command: argparse.ArgumentParser, greedy: bool = True) -> None:
    """Add --threads and all that LoadOptions can be set by."""
    command.add_argument("--threads", type=positive, help="cores to use (all)")
    group = command.add_argument_group("decoding", "what is not given is as the bundle has it")
    command.set_defaults(greedy=False)
    if greedy:
        group.add_argument("--greedy", action="store_true", help="no beam search, no language model")
    group.add_argument("--lm", type=Path, metavar="FILE", help="language model, as asr lm writes it")
    group.add_argument("--lexicon", type=Path, metavar="FILE", help="the only words: WORD<tab>T O K E N S")
    group.add_argument("--beam", type=positive, metavar="N", help="hypotheses kept after each frame")
    group.add_argument("--beam-threshold", type=float, metavar="X", help="drop what is so far below the best")
    group.add_argument("--token-top-k", type=positive, metavar="N", help="tokens looked at in a frame")
    group.add_argument("--lm-weight", type=float, metavar="X", help="of the language model's log-probability")
    group.add_argument("--word-bonus", type=float, metavar="X", help="added for each word")
    group.add_argument("--unknown-penalty", type=float, metavar="X", help="added for each word the LM lacks")
    group.add_argument(
        "--prior-weight", type=float, metavar="X", help="of the priors that asr tune estimates"
    )
    if greedy:
        group.add_argument(
            "--hotword",
            action="append",
            default=[],
            metavar="PHRASE",
            help="word or phrase to favour; may be repeated",
        )
        group.add_argument(
            "--hotword-boost", type=float, default=1.0, metavar="X", help="score per character of it (1.0)"
        )


def decoding_of(options: argparse.Namespace) -> "LoadOptions":
    """What the user asked for, over what the bundle has; a bundle without any of it is decoded greedily."""
    from asr.inference.decoder import LoadOptions

    if options.greedy and (options.lm or options.lexicon or getattr(options, "hotword", []) or options.beam):
        raise UsageError("--greedy takes no --lm, --lexicon, --hotword or --beam; leave one of them out")
    given = {name: getattr(options, name) for name in _BEAM if getattr(options, name) is not None}
    return LoadOptions(options.greedy, options.lm, options.lexicon, given)


def transcribing_of(options: argparse.Namespace) -> "TranscribeOptions":
    """Options of each transcription."""
    from asr.inference.transcriber import TranscribeOptions

    return TranscribeOptions(
        channel=getattr(options, "channel", "mix"),
        hotwords=tuple(options.hotword),
        hotword_boost=options.hotword_boost,
        n_best=getattr(options, "n_best", 1),
    )


def model_folder(text: str) -> Path:
    """The type of arguments that name a model."""
    from asr.model.bundle import resolve_bundle

    return resolve_bundle(text)


def manifests(paths: Sequence[Path]) -> list[Path]:
    """Of a folder, the manifest in it."""
    return [path / "manifest.jsonl" if path.is_dir() else path for path in paths]


def positive(text: str) -> int:
    """The type of arguments that count."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1")
    return int(text)
