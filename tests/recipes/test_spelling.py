"""Text becomes what a model would say of speech."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from asr.errors import AsrError
from asr.features.logmel import LogMelConfig
from asr.model.acoustic import AcousticModel, Architecture
from asr.model.export import load_acoustic_model, save_bundle
from asr.text import Tokenizer
from asr.training.data import SpeechDataset
from recipes.librispeech import spelling
from recipes.librispeech.spelling import hear, listen, main, spellings
from recipes.librispeech.unit_selection import CHARACTERS, CHOICE, Bank, contexts
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


def test_cuts_lie_half_way_between_the_frames_that_say_phones() -> None:
    path = [0, 1, 1, 0, 0, 0, 0, 2, 0, 0, 3, 3]  # blanks between; the cuts are at 5 and 9
    log_probs = np.log(np.eye(4)[path] * 0.9 + 0.025).astype(np.float32)
    frames = np.arange(len(path), dtype=np.float16)[:, None]
    bank = Bank()
    bank.cut(frames, log_probs, [[1, 2], [3]])
    pieces = {phone: [piece[:, 0].tolist() for piece in bank.phones[(phone,)]] for phone in (1, 2, 3)}
    assert pieces == {1: [[0, 1, 2, 3, 4]], 2: [[5, 6, 7, 8]], 3: [[9, 10, 11]]}
    phrases = {words: [len(piece) for piece in said] for words, said in bank.phrases.items()}
    assert phrases == {((1, 2),): [9], ((3,),): [3], ((1, 2), (3,)): [12]}
    bank.cut(frames[:2], log_probs[:2], [[1, 2], [3]])  # more phones than frames
    assert len(bank.phones[(1,)]) == 1


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
    bank = listen(model, SpeechDataset([corpus], CHARACTERS, spelling.SPEEDS), LEXICON)
    assert len(bank.utterances) == 24  # eight, at three speeds
    frames = sum(len(frames) for frames, _ in bank.utterances)
    by_phone = [piece for key, pieces in bank.phones.items() if len(key) == 1 for piece in pieces]
    assert sum(map(len, by_phone)) == frames and min(map(len, by_phone)) > 0
    assert bank.phrases and all(len(said) >= CHOICE for said in bank.phrases.values())
    example = bank.example(["SO", "IT"], LEXICON, random.Random(0))
    assert example is not None and CHARACTERS.decode(example.tokens) == "SO IT"
    assert bank.example(["SO", "WHAT"], LEXICON, random.Random(0)) is None
    assert bank.example([], LEXICON, random.Random(0)) is None


def test_only_the_new_layers_learn(corpus: Path, phones: Path, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("SO BE IT\nNO IT BE SO\nSO WHAT\n" * 50)
    flags = ["--model", str(phones), "--train", str(corpus), "--text", str(tmp_path / "text")]
    assert main([*flags, "--out", str(tmp_path / "out"), "--steps", "6", "--layers", "1"]) == 0
    before, after = (load_acoustic_model(folder).state_dict() for folder in (phones, tmp_path / "out"))
    kept = [name for name in before if not name.startswith("output")]
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
    with monkeypatch.context() as patch:
        patch.setattr(spelling, "save_bundle", no_power)
        assert main(flags) == 1
    saved = torch.load(state)
    assert saved["step"] == 6 and not (tmp_path / "out").exists()
    capsys.readouterr()

    assert main([*flags, "--layers", "2"]) == 1
    err = capsys.readouterr().err
    assert "out.ckpt: of a run with --layers 1; give that" in err and err.count("\n") == 1
    assert main(flags) == 0  # no step is left
    assert "going on after step 6" in capsys.readouterr().out and not state.exists()
    weights = load_acoustic_model(tmp_path / "out").state_dict()
    assert torch.equal(weights["output.weight"], saved["upper"]["3.weight"])

    state.write_bytes(b"?")
    assert main(flags) == 1
    err = capsys.readouterr().err
    assert "out.ckpt: not the state of such a run; delete it" in err and err.count("\n") == 1


def no_power(*_: object, **__: object) -> None:
    raise AsrError("no power")


RUN = """
import sys, torch
from recipes.librispeech import spelling
fit = spelling.fit
def fit_and_save(model, *arguments):
    fit(model, *arguments)
    torch.save(model.state_dict(), f"{sys.argv[1]}.{spelling.rank_and_ranks()[0]}")
spelling.fit = fit_and_save
sys.exit(spelling.main(sys.argv[2:]))
"""


def test_two_processes_have_the_same_weights_and_write_one_bundle(
    corpus: Path, phones: Path, tmp_path: Path
) -> None:
    (tmp_path / "text").write_text("SO BE IT\nNO IT BE SO\n" * 50)
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command += [str(tmp_path / "run.py"), str(tmp_path / "weights"), "--model", str(phones)]
    command += ["--train", str(corpus), "--text", str(tmp_path / "text")]
    command += ["--out", str(tmp_path / "out"), "--steps", "4"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    said = subprocess.run(
        command, capture_output=True, text=True, check=True, timeout=120, env=environment
    ).stdout
    assert said.count("step 4: ") == 1
    first, second = (torch.load(tmp_path / f"weights.{rank}") for rank in (0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    written = load_acoustic_model(tmp_path / "out").state_dict()
    assert torch.equal(written["output.weight"], first["output.weight"])


def test_words_that_the_model_lacks_are_spelt_by_another_lexicon(phones: Path, tmp_path: Path) -> None:
    (tmp_path / "more.txt").write_text("BE\tN OW\nTOE\tT OW\n")
    words = spellings(phones, Tokenizer(PHONES), tmp_path / "more.txt")
    assert words == {**LEXICON, "TOE": [6, 4]}  # of BE the model's own


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
