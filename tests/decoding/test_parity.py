"""Parity with flashlight-text where nothing is pruned; skipped if it is not installed."""

from pathlib import Path

import numpy as np
import pytest

from asr.decoding.beam import BeamDecoder, DecodingOptions
from asr.decoding.lexicon import spell
from asr.lm.arpa import read_arpa
from asr.lm.ngram import Vocabulary
from asr.text import Tokenizer
from benchmarks.decoding import Flashlight

pytest.importorskip("flashlight.lib.text")

TOKENIZER = Tokenizer(" ABC")
WORDS = ("A", "AB", "B", "BA", "CAB", "CC")
ARPA = r"""
\data\
ngram 1=9
ngram 2=6

\1-grams:
-1.5	<unk>
-99	<s>	-0.3
-0.7	</s>
-0.8	A	-0.2
-0.9	AB	-0.1
-1.1	B	-0.4
-0.6	BA
-1.3	CAB	-0.25
-1.0	CC	-0.15

\2-grams:
-0.3	<s> AB
-0.5	A BA
-0.2	AB A
-0.4	CAB CC
-0.25	CC </s>
-0.6	B </s>

\end\
"""
WIDE = DecodingOptions(beam=20_000, beam_threshold=1e4, lm_weight=0.7, word_bonus=0.4, n_best=5)


@pytest.mark.parametrize("seed", range(8))
def test_wide_beams_agree(tmp_path: Path, seed: int) -> None:
    (tmp_path / "lm.arpa").write_text(ARPA.lstrip(), encoding="utf-8")
    lexicon, _ = spell(Vocabulary.of(WORDS), TOKENIZER)
    ours = BeamDecoder(TOKENIZER, read_arpa(tmp_path / "lm.arpa"), lexicon)
    flashlight = Flashlight(TOKENIZER, lexicon, tmp_path / "lm.arpa")
    logits = np.random.default_rng(seed).normal(scale=2.0, size=(8, TOKENIZER.size))
    log_probs = (logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)).astype(np.float32)

    expected = flashlight.n_best(log_probs, WIDE)[:5]
    found = [(h.text, h.score) for h in ours.decode(log_probs, WIDE)]
    assert [text for text, _ in found] == [text for text, _ in expected]
    assert [score for _, score in found] == pytest.approx([score for _, score in expected], abs=1e-3)
