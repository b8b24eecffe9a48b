import itertools
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.errors import TextError
from asr.text import BLANK, ENGLISH, Tokenizer, ctc_frames_needed, normalize

GERMAN = " abcdefghijklmnopqrstuvwxyzäöüß"
alphabets = st.text(min_size=1, max_size=12).map(lambda text: "".join(dict.fromkeys(text)))

marked = st.text(st.characters(categories=["Lu", "Ll", "Lo", "Mn"], max_codepoint=0x3100), min_size=1).map(
    lambda text: "".join(dict.fromkeys(text))
)
"""Alphabets with letters and combining marks."""


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
        ("3² ½ ① x₂", " 0123456789X", "3² ½ ① X₂"),  # not 32
        # Canonically equivalent letters are the alphabet's, also those that NFC decomposes.
        ("\u09af\u09bc \u09df", " \u09af\u09df", "\u09df \u09df"),
        ("\u0958\u0915\u093c", " \u0915\u0958", "\u0958\u0958"),
        ("\u0958\u0915\u093c", " \u0915\u093c", "\u0915\u093c" * 2),
        ("\u212b\u00c5", "\u212b", "\u212b\u212b"),
        ("\uac01", " \u1100\u1161\u11a8", "\u1100\u1161\u11a8"),
        ("mañana man\u0303ana", " amn\u0303", "man\u0303ana man\u0303ana"),
        ("ñ", "amnñ\u0303", "ñ"),
        ("ậ ọ\u0308", " aâoö", "â ö"),  # only the accent that is missing is stripped
        # Marks that make another letter are kept, so that they are reported.
        ("\u09df", " \u09af", "\u09af\u09bc"),
        ("क्या", " कया", "क्या"),
        ("がか", " か", "がか"),
        ("\uac01", " \uac00", "\uac01"),
        ("≠", " =", "≠"),
        # Case by the rules of languages.
        ("ISPARTA İstanbul I\u0307", " abdilnprstuı", "ısparta istanbul i"),
        ("ılık istanbul", " ABIİKLNSTU", "ILIK İSTANBUL"),
        ("ΟΔΟΣ ΣΑΣ", " αδοσς", "οδος σας"),
        ("ΟΔΟΣ οδος", " αδοσ", "οδοσ οδοσ"),
        ("Straße", " ABERSTß", "STRAßE"),
        ("Straße", " ABERSTẞ", "STRAẞE"),
        ("STRAẞE", " ABERST", "STRASSE"),
        # Punctuation of other scripts and apostrophes.
        ("क्या। ठीक", " कयाि्ठी", "क्या ठीक"),
        ("你好，世界。", " 你好世界", "你好世界"),
        ("\u0646\u060c \u0915\u0964 \u0646\u061f", " \u0646\u0915", "\u0646 \u0915 \u0646"),
        ("it's it′s", " its’", "it’s it’s"),
        ("5% & #1 @ *", " 15", "5% & #1 @ *"),
    ],
)
def test_normalize_to_other_alphabets(text: str, alphabet: str, expected: str) -> None:
    assert normalize(text, alphabet) == expected


@given(st.text())
def test_normalize_is_idempotent(text: str) -> None:
    once = normalize(text)
    assert normalize(once) == once
    assert once == " ".join(once.split())


@given(st.data(), st.one_of(st.just(ENGLISH), alphabets, marked))
def test_normalize_keeps_the_alphabet(data: st.DataObject, alphabet: str) -> None:
    text = data.draw(st.text(alphabet=alphabet))
    kept = normalize(text, alphabet)
    assert unicodedata.normalize("NFD", kept) == unicodedata.normalize("NFD", " ".join(text.split()))
    assert set(kept) <= {*alphabet, " "}


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
