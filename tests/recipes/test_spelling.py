"""Text becomes what a model would say of speech."""

import random
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.errors import AsrError
from asr.features.logmel import LogMelConfig
from asr.model.acoustic import AcousticModel, Architecture
from asr.model.export import load_acoustic_model, save_bundle
from asr.text import Tokenizer
from asr.training.data import Batch, SpeechDataset
from recipes.librispeech import spelling
from recipes.librispeech.spelling import collate, hear, listen, main
from recipes.librispeech.unit_selection import CHARACTERS, CHOICE, Bank, Example, contexts
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

    close = {(1, 0, 0, 2): pieces(1, CHOICE), (1,): pieces(2, 99), (2, 1, 1, 0): pieces(3, CHOICE - 1)}
    bank = Bank([], {**close, (2,): pieces(4, 2)})
    spoken = bank.speak([[1, 2]], random.Random(0))
    assert spoken is not None and spoken[:, 0].tolist() == [1, 1, 4, 4]  # without a choice, the least context
    assert bank.speak([[1, 9]], random.Random(0)) is None


def test_phrases_of_which_there_is_a_choice_are_kept_together() -> None:
    def pieces(value: int, count: int = CHOICE) -> list[np.ndarray]:
        return [np.full((1, 1), value, np.float16)] * count

    a, b = (1, 2), (3,)
    phones = {(1,): pieces(1), (2,): pieces(2), (3,): pieces(3)}
    phrases = {(a, b): pieces(4), (a, b, a): pieces(5, CHOICE - 1), (b,): pieces(6)}
    bank = Bank([], phones, phrases)
    chooser = random.Random(0)

    def said(*words: tuple[int, ...]) -> list[int]:
        spoken = bank.speak(words, chooser)
        assert spoken is not None
        return spoken[:, 0].astype(int).tolist()  # type: ignore[no-any-return]

    assert said(a, b) == [4]
    assert said(a, b, a) == [4, 1, 2]
    assert said(a, a, b, b) == [1, 2, 4, 6]
    assert bank.speak([b, (9,)], chooser) is None


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
    by_phone = [piece for key, pieces in bank.phones.items() if len(key) == 1 for piece in pieces]
    assert sum(map(len, by_phone)) == frames and min(map(len, by_phone)) > 0
    by_word = [piece for words, pieces in bank.phrases.items() if len(words) == 1 for piece in pieces]
    assert sum(map(len, by_word)) == frames
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


def test_a_run_that_was_cut_off_goes_on(
    corpus: Path,
    phones: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "text").write_text("SO BE IT\nNO IT BE SO\n" * 50)
    flags = ["--model", str(phones), "--train", str(corpus), "--text", str(tmp_path / "text")]
    flags += ["--out", str(tmp_path / "out"), "--steps", "6", "--layers", "1"]
    state = tmp_path / "out.ckpt"
    monkeypatch.setattr(spelling, "STEPS_SAVED", 3)
    done = []

    def stop_at_the_fifth(examples: Sequence[Example]) -> Batch:
        done.append(examples)
        if len(done) == 5:
            raise AsrError("no power")
        return collate(examples)

    with monkeypatch.context() as patch:
        patch.setattr(spelling, "collate", stop_at_the_fifth)
        assert main(flags) == 1
    assert state.exists() and not (tmp_path / "out").exists()
    capsys.readouterr()
    assert main(flags) == 0
    assert "going on after step 3" in capsys.readouterr().out
    assert (tmp_path / "out").exists() and not state.exists()

    state.write_bytes(b"?")
    assert main(flags) == 1
    err = capsys.readouterr().err
    assert "out.ckpt: not the state of such a run; delete it" in err and err.count("\n") == 1


def test_two_processes_write_one_bundle(corpus: Path, phones: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("SO BE IT\nNO IT BE SO\n" * 50)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += ["-m", "recipes.librispeech.spelling", "--model", str(phones), "--train", str(corpus)]
    command += ["--text", str(tmp_path / "text"), "--out", str(tmp_path / "out"), "--steps", "4"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout
    assert said.count("step 4: ") == 1
    assert load_acoustic_model(tmp_path / "out").architecture.layers == 3


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
