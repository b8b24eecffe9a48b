"""Spells words in subwords, so that a model can learn pieces of words as it learns phones.

    pip install sentencepiece
    python -m recipes.librispeech.subwords --size 200 --train data/librispeech/train-clean-5 \
        --words data/librispeech/train-clean-5 data/librispeech/dev-clean-2 --out exp/subwords
    asr train recipes/librispeech/mini.yaml --config exp/subwords/units.yaml

The pieces are a unigram model's (Kudo, 2018) of the training texts; the first one of each word begins with _.
OUT/lexicon.txt has the spelling of each word of --words (as `asr lexicon` takes them), OUT/units.yaml what
`asr train` needs to know. A lexicon for decoding with a language model is made in the same way, from the same
training set: --words lm.bin. Words with a letter that the training texts lack are left out.
"""

import argparse
import io
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

from asr import manifest
from asr.console import status_of
from asr.data_prep.lexicon import words_of, write_lexicon
from asr.errors import PrepareError

_BEGIN = "▁"  # sentencepiece's


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, train, spell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--words", type=Path, nargs="+", required=True, metavar="SOURCE")
    parser.add_argument("--size", type=int, default=200, help="number of pieces (200)")
    parser.add_argument("--out", type=Path, required=True, metavar="FOLDER")
    arguments = parser.parse_args(argv)
    return status_of(lambda: make(arguments))


def make(arguments: argparse.Namespace) -> int:
    """All of it; 0. Raises AsrError and OSError."""
    texts = [utterance.text for utterance in manifest.read(arguments.train / "manifest.jsonl")]
    words = sorted(set().union(*map(words_of, arguments.words)))
    units, spellings = spell(texts, words, arguments.size)
    write(arguments.out, units, spellings)
    print(f"{len(spellings)} of {len(words)} words in {len(units)} pieces")
    return 0


def spell(
    texts: Iterable[str], words: Sequence[str], size: int
) -> tuple[list[str], dict[str, list[tuple[str, ...]]]]:
    """The pieces, and each word's spelling in them. Raises PrepareError if the texts do not have so many."""
    try:
        import sentencepiece
    except ImportError:
        raise PrepareError("no sentencepiece here: pip install sentencepiece") from None

    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            vocab_size=size + 1,  # and <unk>
            character_coverage=1.0,
            normalization_rule_name="identity",
            bos_id=-1,
            eos_id=-1,
            minloglevel=2,
        )
    except RuntimeError:
        raise PrepareError(
            f"these texts cannot be put in {size} pieces; ask for fewer, but no fewer than they have letters"
        ) from None
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    unknown = pieces.unk_id()
    units = [named(pieces.id_to_piece(i)) for i in range(len(pieces)) if i != unknown]
    spelt = zip(words, pieces.encode(list(words)), strict=True)
    spellings = {
        word: [tuple(named(pieces.id_to_piece(i)) for i in ids)] for word, ids in spelt if unknown not in ids
    }
    return units, spellings


def named(piece: str) -> str:
    """A piece as it stands in files."""
    return piece.replace(_BEGIN, "_")


def write(folder: Path, units: Sequence[str], spellings: dict[str, list[tuple[str, ...]]]) -> None:
    """lexicon.txt and units.yaml."""
    folder.mkdir(parents=True, exist_ok=True)
    lexicon = folder / "lexicon.txt"
    write_lexicon(lexicon, spellings)
    settings = {"data": {"units": list(units), "lexicon": str(lexicon)}}
    (folder / "units.yaml").write_text(json.dumps(settings) + "\n", encoding="utf-8")  # JSON is YAML


if __name__ == "__main__":
    raise SystemExit(main())
