"""Text becomes what a model would say of speech."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.features.logmel import LogMelConfig
from asr.model.acoustic import AcousticModel, Architecture
from asr.model.export import load_acoustic_model, save_bundle
from asr.text import Tokenizer
from asr.training.data import SpeechDataset
from recipes.librispeech.spelling import CHARACTERS, CHOICE, Bank, contexts, hear, listen, main
from tests.training.corpus import make_corpus

PHONES = ("B", "IY", "S", "OW", "IH", "T", "N")
LEXICON = {"BE": [1, 2], "SO": [3, 4], "IT": [5, 6], "NO": [7, 4]}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("speech") / "train", speeds=(0.9, 1.1))


@pytest.fixture(scope="module")
def model() -> AcousticModel:
    torch.manual_seed(0)
    return AcousticModel(Architecture(vocabulary=8, cell="lstm", layers=1, hidden=8)).eval()


@pytest.fixture(scope="module")
def phones(model: AcousticModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phones")
    names = Tokenizer(PHONES)
    lines = [f"{word}\t{names.decode(spelling)}\n" for word, spelling in LEXICON.items()]
    (folder / "lexicon.txt").write_text("".join(lines), encoding="utf-8")
    return save_bundle(
        folder / "bundle",
        model,
        LogMelConfig(),
        characters=PHONES,
        training_data="songs",
        lexicon=folder / "lexicon.txt",
    )


def test_contexts_know_the_ends_of_words_and_of_sentences() -> None:
    keys = list(contexts([[1, 2], [3]]))
    assert [key[0] for key in keys] == [(1, 0, 0, 2), (2, 1, 1, 3), (3, 1, 2, 0)]
    assert keys[1] == [(2, 1, 1, 3), (2, 1, 3), (2, 1), (2,)]


def test_pieces_of_the_closest_context_with_a_choice_are_put_together() -> None:
    def pieces(value: int, count: int) -> list[np.ndarray]:
        return [np.full((2, 1), value, np.float16)] * count

    bank = Bank(
        [], {(1, 0, 0, 2): pieces(1, CHOICE), (1,): pieces(2, 99), (2, 1, 1, 0): pieces(3, CHOICE - 1)}
    )
    bank.pieces[(2,)] = pieces(4, 2)
    spoken = bank.speak([[1, 2]], random.Random(0))
    assert spoken is not None and spoken[:, 0].tolist() == [1, 1, 4, 4]  # without a choice, the least context
    assert bank.speak([[1, 9]], random.Random(0)) is None


def test_the_layers_above_what_is_heard_say_what_the_model_says(model: AcousticModel, corpus: Path) -> None:
    batch = SpeechDataset([corpus], CHARACTERS)[[0, 1, 2]]
    heard = hear(model, batch.features, batch.lengths)
    for frames, log_probs in heard:
        x = torch.from_numpy(frames).float()[None]
        again = model.emit(x, torch.tensor([len(frames)]), first=1)[0]  # no recurrent layer is left
        np.testing.assert_allclose(again.detach().numpy(), log_probs, atol=0.05)


def test_the_pieces_of_an_utterance_are_all_of_it(corpus: Path, model: AcousticModel) -> None:
    torch.manual_seed(0)
    bank = listen(model, corpus, LEXICON)
    assert len(bank.utterances) == 24  # eight, at three speeds
    frames = sum(len(frames) for frames, _ in bank.utterances)
    by_phone = [piece for key, pieces in bank.pieces.items() if len(key) == 1 for piece in pieces]
    assert sum(map(len, by_phone)) == frames and min(map(len, by_phone)) > 0
    example = bank.example(["SO", "IT"], LEXICON, random.Random(0))
    assert example is not None and CHARACTERS.decode(example.tokens) == "SO IT"
    assert bank.example(["SO", "WHAT"], LEXICON, random.Random(0)) is None
    assert bank.example([], LEXICON, random.Random(0)) is None


def test_only_the_new_layers_learn(corpus: Path, phones: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("SO BE IT\nNO IT BE SO\nSO WHAT\n" * 50)
    flags = ["--model", str(phones), "--train", str(corpus), "--text", str(tmp_path / "text")]
    assert main([*flags, "--out", str(tmp_path / "out"), "--steps", "6", "--layers", "1"]) == 0
    before, after = (load_acoustic_model(folder).state_dict() for folder in (phones, tmp_path / "out"))
    kept = [name for name in before if not name.startswith(("output", "norms.1", "recurrent.1"))]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    assert "recurrent.1.ahead.weight_hh_l0" in after and not torch.equal(
        before["output_norm.weight"], after["output_norm.weight"]
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"so be it\nno it be so\n", "no sentence in words of the lexicon"),
        (b"SO WHAT \xe9\n", "no sentence in words of the lexicon"),
        (b"", "there is nothing in it"),
        (None, "No such file"),
    ],
)
def test_a_text_that_cannot_be_spoken(
    text: bytes | None,
    message: str,
    corpus: Path,
    phones: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if text is not None:
        (tmp_path / "text").write_bytes(text)
    flags = ["--model", str(phones), "--train", str(corpus), "--text", str(tmp_path / "text")]
    capsys.readouterr()
    assert main([*flags, "--out", str(tmp_path / "out"), "--spoken", "0"]) == 1
    err = capsys.readouterr().err
    assert f"text: {message}" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_there_is_not_overwritten_and_characters_are_refused(
    corpus: Path, phones: Path, standin_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "text").write_text("SO BE IT\n")
    flags = ["--train", str(corpus), "--text", str(tmp_path / "text")]
    assert main([*flags, "--model", str(phones), "--out", str(corpus)]) == 1
    assert "is there and is no model bundle" in capsys.readouterr().err
    assert main([*flags, "--model", str(standin_bundle), "--out", str(tmp_path / "out")]) == 1
    assert "a model of characters; name one of phones" in capsys.readouterr().err
