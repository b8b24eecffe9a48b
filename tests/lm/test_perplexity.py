import gzip
import json
from pathlib import Path

import pytest

from asr.errors import LanguageModelError
from asr.lm.arpa import read_arpa
from asr.lm.perplexity import perplexity
from tests.lm import plain
from tests.lm.plain import FIXTURES


def test_against_the_definition() -> None:
    """Score 1,000 sentences, 200 of them with an unknown word."""
    path = FIXTURES / "order3.arpa.xz"
    model, known = plain.of_arpa(path), 0.0
    lines = gzip.decompress((FIXTURES / "sentences.txt.gz").read_bytes()).decode().splitlines()
    total, words, unknown = 0.0, 0, 0
    for line in lines:
        sentence = line.split()
        total += plain.score_sentence(model, sentence)
        words += len(sentence)
        context = ["<s>", *(word if (word,) in model else "<unk>" for word in sentence), "</s>"]
        unknown += context.count("<unk>")
        for i in range(1, len(context)):
            if context[i] != "<unk>":
                known += plain.score(model, tuple(context[max(0, i - 2) : i]), context[i])
    result = perplexity(read_arpa(path), [FIXTURES / "sentences.txt.gz"])
    assert unknown >= 200
    assert json.loads(result.to_json()) == {
        "sentences": 1000,
        "words": words,
        "unknown": unknown,
        "log_prob": pytest.approx(total, rel=1e-6),
        "unknown_log_prob": pytest.approx(total - known),
        "unknown_rate": unknown / words,
        "perplexity": pytest.approx(10 ** (-total / (words + 1000)), rel=1e-5),
        "known_perplexity": pytest.approx(10 ** (-known / (words + 1000 - unknown)), rel=1e-5),
    }


def test_empty_lines_are_sentences_without_words(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("\n\n")
    lm = read_arpa(FIXTURES / "tiny.arpa")
    result = perplexity(lm, [tmp_path / "text", tmp_path / "text"])
    assert (result.sentences, result.words, result.unknown) == (4, 0, 0)
    assert result.perplexity == result.known_perplexity == pytest.approx(10 ** -lm.score([]))
    assert json.loads(result.to_json())["unknown_rate"] is None


@pytest.mark.parametrize(
    ("text", "cause"),
    [("", "the text is empty"), ("the cat\n<s> the cat </s>\n", r"text:2: <s>, </s> and <unk>")],
)
def test_unusable_text(tmp_path: Path, text: str, cause: str) -> None:
    (tmp_path / "text").write_text(text)
    with pytest.raises(LanguageModelError, match=cause):
        perplexity(read_arpa(FIXTURES / "tiny.arpa"), [tmp_path / "text"])
