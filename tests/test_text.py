import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import TextError
from asr.text import BLANK, ENGLISH, Tokenizer, ctc_frames_needed, normalize

GERMAN = " abcdefghijklmnopqrstuvwxyzäöüß"
alphabets = st.text(min_size=1, max_size=12).map(lambda text: "".join(dict.fromkeys(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Hello, world!", "HELLO WORLD"),
        ("  a \t b\u00a0c\n", "A B C"),
        ("café naïve Ångström", "CAFE NAIVE ANGSTROM"),
        ("cafe\N{COMBINING ACUTE ACCENT}", "CAFE"),
        ("x\N{COMBINING ACUTE ACCENT}", "X"),  # a pair that Unicode has no single character for
        ("it’s it‘s itʼs it`s it´s it's", "IT'S IT'S IT'S IT'S IT'S IT'S"),
        ("well-known on—off 1914–1918", "WELL KNOWN ON OFF 1914 1918"),
        ("and/or under_score", "AND OR UNDER SCORE"),
        ("“Yes…” «oui» „ja“ ‹si›", "YES OUI JA SI"),
        ("(one) [two] {three}; four: five?", "ONE TWO THREE FOUR FIVE"),
        ("Stra\N{SOFT HYPHEN}sse \N{ZERO WIDTH SPACE}\N{BYTE ORDER MARK}ab", "STRASSE AB"),
        ("straße ﬁn ＡＢ", "STRASSE FIN AB"),
        ("50% of 3²", "50% OF 3²"),
        ("ω & Ł", "Ω & Ł"),
        ("?!", ""),
        ("", ""),
    ],
)
def test_normalize(text: str, expected: str) -> None:
    assert normalize(text) == expected


def test_other_characters_are_kept_and_reported() -> None:
    assert Tokenizer().unknown(normalize("He paid 50 % (5 €), or so.")) == "%05€"


@pytest.mark.parametrize(
    ("text", "alphabet", "expected"),
    [
        ("Größe GROSSE Café", GERMAN, "größe grosse cafe"),
        ("Gro\N{COMBINING DIAERESIS}ße", GERMAN, "größe"),  # composed first
        ("Aa Bb", " abAB", "Aa Bb"),  # both cases are kept
        ("well-known, e.g.", ENGLISH.lower() + "-.", "well-known e.g."),
        ("it’s it's", " its", "it’s it's"),  # no apostrophe in the alphabet
        ("क्या", " कयाि्", "क्या"),
        ("12 34", "0123456789", "12 34"),
    ],
)
def test_normalize_to_other_alphabets(text: str, alphabet: str, expected: str) -> None:
    assert normalize(text, alphabet) == expected


@given(st.text())
def test_normalize_is_idempotent(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert once == " ".join(once.split())


@given(st.text(alphabet=ENGLISH))
def test_normalize_keeps_the_alphabet(text: str) -> None:
    assert normalize(text) == " ".join(text.split())


@given(st.text(alphabet=ENGLISH + ENGLISH.lower() + "éüñ.,-’"))
def test_normalize_reaches_the_alphabet(text: str) -> None:
    assert Tokenizer().unknown(normalize(text)) == ""
    assert normalize(unicodedata.normalize("NFD", text)) == normalize(text)


@given(st.data(), alphabets)
def test_tokenizer_round_trip(data: st.DataObject, alphabet: str) -> None:
    tokenizer = Tokenizer(alphabet)
    text = data.draw(st.text(alphabet=alphabet))
    tokens = tokenizer.encode(text)
    assert len(tokens) == len(text)
    assert all(BLANK < token < tokenizer.size for token in tokens)
    assert tokenizer.decode(tokens) == text
    assert tokenizer.unknown(text) == ""


def test_tokens_of_librispeech() -> None:
    assert Tokenizer().size == 29
    assert Tokenizer().encode(" 'AZ") == [1, 2, 3, 28]


@pytest.mark.parametrize("tokens", [[BLANK], [29], [3, -1]])
def test_invalid_tokens_are_not_decoded(tokens: list[int]) -> None:
    with pytest.raises(ValueError, match="expected 1 to 28"):
        Tokenizer().decode(tokens)


def test_unknown_characters_are_reported() -> None:
    tokenizer = Tokenizer()
    assert tokenizer.unknown("B2B or 1 é") == "12oré"
    with pytest.raises(TextError) as error:
        tokenizer.encode("AT 5 P.M. " + "AND SO ON " * 20)
    shown = ("AT 5 P.M. " + "AND SO ON " * 20)[:60]
    assert str(error.value) == f"characters outside the vocabulary: '.5' in {shown!r}"


@pytest.mark.parametrize("characters", ["", "ABA"])
def test_invalid_vocabularies(characters: str) -> None:
    with pytest.raises(TextError, match=f"vocabulary {characters!r}"):
        Tokenizer(characters)


def spelled_in(frames: int, vocabulary: int) -> set[tuple[int, ...]]:
    """Return what the CTC paths of `frames` frames collapse to."""
    paths = itertools.product(range(vocabulary), repeat=frames)
    return {tuple(token for token, _ in itertools.groupby(path) if token != BLANK) for path in paths}


def test_ctc_frames_needed_against_all_paths() -> None:
    possible = [spelled_in(frames, 3) for frames in range(8)]
    for length in range(5):
        for tokens in itertools.product((1, 2), repeat=length):
            least = next(frames for frames, spelled in enumerate(possible) if tokens in spelled)
            assert ctc_frames_needed(list(tokens)) == least, tokens
