"""Letter to sound learns a small regular language without an error."""

import random
import re
from pathlib import Path

import pytest
import torch

from asr.decoding import spelling
from asr.errors import PrepareError
from data_prep import letter_to_sound
from data_prep.letter_to_sound import LetterToSound, LetterToSoundOptions, error_rates, save, split, train
from data_prep.lexicon import Dictionary, Pronunciation

SMALL = LetterToSoundOptions(hidden=32, layers=1, dropout=0.0, epochs=20, batch=32, learning_rate=2e-2)
TINY = LetterToSoundOptions(hidden=8, epochs=2, batch=4)

SOUNDS = {"A": "AA", "B": "B", "C": "K", "H": "HH", "T": "T", "CH": "SH", "X": "K S", "'": ""}
"""One phone per letter, except that CH is one, X is two and the apostrophe is silent."""


def spoken(word: str) -> Pronunciation:
    return tuple(" ".join(SOUNDS[letters] for letters in re.findall("CH|.", word)).split())


def language(count: int, seed: int = 0) -> dict[str, list[Pronunciation]]:
    draw = random.Random(seed)
    words = ["".join(draw.choices("AABCCHHTX'", k=draw.randint(2, 7))) + "A" for _ in range(count)]
    return {word: [spoken(word)] for word in words}


def test_a_regular_language_is_learnt_exactly() -> None:
    dictionary = language(600)
    stages: list[str] = []
    model = train(dictionary, SMALL, stages.append)
    unseen = sorted(language(400, seed=1).keys() - dictionary.keys())
    assert len(unseen) > 200
    assert model.pronounce(unseen) == [spoken(word) for word in unseen]
    assert stages[::19] == ["letter to sound: epoch 1 of 20", "letter to sound: epoch 20 of 20"]


def test_the_same_seed_gives_the_same_network() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (
        train(language(40), LetterToSoundOptions(hidden=8, epochs=2, batch=4, seed=seed)).state_dict()
        for seed in (3, 3, 4)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["head.weight"], other["head.weight"])
    assert torch.equal(torch.random.get_rng_state(), before)


def test_every_word_has_a_phone_in_order() -> None:
    model = LetterToSound(("AA", "B"), TINY)
    words = ["XYZZY", "B", "O'ER", "Q", "B", "A" * 60]
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.copy_(torch.tensor([9.0, 0, 1, 9, 0, 0]))  # blank in both frames, else B
        assert model.pronounce(words) == [("B",)] * 6
        model.head.bias.copy_(torch.tensor([0.0, 0, 9, 9, 0, 0]))  # B and blank
        assert model.pronounce(words) == [("B",) * len(word) for word in words]
    assert model.pronounce([]) == []


def test_a_word_does_not_depend_on_its_batch() -> None:
    model = LetterToSound(("AA", "B", "K"), LetterToSoundOptions(hidden=8, dropout=0.5))
    with torch.no_grad():
        model.head.weight.mul_(100)  # an untrained network gives the same phone for most words
    words = [word for word in language(300) if len(word) == 5]
    together = model.pronounce(words)
    assert len(set(together)) > 1
    assert [model.pronounce([word])[0] for word in words] == together


def test_skipped_words_do_not_change_the_network() -> None:
    fitting: Dictionary = {"AB": [("AA", "B"), ("B", "K", "B", "K", "B")]}
    skipped: Dictionary = {"AA": [("T",) * 3], "AB'S": [("B",)], "ABS'": [("B",)], "'": [("B",) * 3]}
    alone = train({**fitting, "BA": [("B", "T", "K")]}, TINY).state_dict()
    with_skipped = train({**fitting, "BA": [("B", "T", "K")], **skipped}, TINY).state_dict()
    assert alone.keys() == with_skipped.keys()
    assert all(torch.equal(alone[name], with_skipped[name]) for name in alone)
    with pytest.raises(PrepareError, match="no word to train letter to sound on"):
        train(skipped, TINY)


def test_the_file_gives_the_same_phones_without_torch(tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = LetterToSound(("AA", "B", "K", "T"), LetterToSoundOptions(hidden=9, layers=3))
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(4)
    save(model, tmp_path / "network.npz")
    loaded = spelling.LetterToSound(tmp_path / "network.npz")
    model.load_state_dict({name: torch.tensor(array) for name, array in loaded._weights.items()})  # rounded
    words = [*language(200), "O'ER", "'", "Q", "A" * 40]
    expected = model.pronounce(words)
    assert len(set(expected)) > 20
    assert [loaded.pronounce(word) for word in words] == expected


def test_held_out_words_are_not_trained_on() -> None:
    dictionary = {**language(100), "CAT'S": [("K", "S")]}
    training, held_out = split(dictionary)
    assert len(held_out) == 5 and not training.keys() & held_out.keys()
    assert {**training, **held_out} == dictionary and "CAT'S" in training


def test_error_rates_count_the_nearest_pronunciation(tmp_path: Path) -> None:
    save(LetterToSound(("AA", "B"), TINY), tmp_path / "network.npz")
    network = spelling.LetterToSound(tmp_path / "network.npz")
    network.pronounce = {"BA": ("B", "AA"), "AB": ("B",)}.__getitem__  # type: ignore[method-assign]
    assert error_rates(network, {"BA": [("B",), ("B", "AA")], "AB": [("AA", "B", "B")]}) == (1 / 2, 2 / 5)


def test_the_command_trains_writes_and_tests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = (f"{word.lower()} {' '.join(ways[0])}\n" for word, ways in language(600).items())
    (tmp_path / "dictionary").write_text("".join(lines), encoding="utf-8")
    monkeypatch.setattr(letter_to_sound, "find_dictionary", lambda: tmp_path / "dictionary")
    monkeypatch.setattr(letter_to_sound, "SHIPPED", SMALL)
    letter_to_sound.main(tmp_path / "network.npz")
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"{tmp_path / 'network.npz'}: of 25 held-out words ")
    wrong_words, wrong_phones = map(float, re.findall(r"([0-9.]+) %", last))
    assert wrong_words < 20 and wrong_phones < 5
