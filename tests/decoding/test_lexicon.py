"""Lexicons and their tries."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asr.decoding.lexicon import ROOT, Lexicon, Trie, build_trie, find_child, read_lexicon, spell, spellable
from asr.errors import AsrError, TextError
from asr.lm.ngram import Vocabulary
from asr.text import Tokenizer

PHONES = Tokenizer(("AH", "B", "T"))


def test_words_are_spelt_by_their_characters() -> None:
    vocabulary = Vocabulary.of(["IT'S", "naïve", "A B", "ZOË", "OK"])
    lexicon, ids = spell(vocabulary, Tokenizer())
    assert list(lexicon.words) == ["IT'S", "OK"]
    assert [vocabulary[i] for i in ids] == ["IT'S", "OK"]
    assert [Tokenizer().decode(lexicon.spelling(i)) for i in range(len(lexicon))] == ["IT'S", "OK"]
    assert len(spell(Vocabulary.of([]), Tokenizer("<unk>/s "))[0]) == 0


@given(st.lists(st.text("AB' é語"), max_size=4), st.permutations("BA'é"))
def test_spelling_agrees_with_the_tokenizer(words: list[str], alphabet: list[str]) -> None:
    tokenizer = Tokenizer("".join(alphabet) + " ")
    lexicon, _ = spell(Vocabulary.of(words), tokenizer)
    assert list(lexicon.words) == sorted(
        {word for word in words if word and " " not in word and not tokenizer.unknown(word)}, key=str.encode
    )
    assert [tokenizer.decode(lexicon.spelling(i)) for i in range(len(lexicon))] == list(lexicon.words)


def test_a_lexicon_of_phones(tmp_path: Path) -> None:
    content = "ABBOT\tAH B AH T\n\nABBOT\tAH B T\r\nBUT B AH T\nABBOT\tAH  B T\n"
    (tmp_path / "plain.txt").write_text(content, encoding="utf-8")
    (tmp_path / "packed.txt.gz").write_bytes(gzip.compress(content.encode()))
    for name in ("plain.txt", "packed.txt.gz"):
        lexicon = read_lexicon(tmp_path / name, PHONES)
        assert lexicon.words == ["ABBOT", "ABBOT", "BUT"]
        assert [PHONES.decode(lexicon.spelling(i)) for i in range(3)] == ["AH B AH T", "AH B T", "B AH T"]


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n", "\t\r\n"])
def test_a_word_list_is_spelt_by_characters(tmp_path: Path, end: str) -> None:
    (tmp_path / "words").write_bytes(f"ONE{end}{end}TWO\tT W O O{end}".encode("utf-8-sig"))
    lexicon = read_lexicon(tmp_path / "words", Tokenizer())
    assert [Tokenizer().decode(lexicon.spelling(i)) for i in range(2)] == ["ONE", "TWOO"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"BUT\tB AH T\nBIT\tB IH T\n", ":2: BIT: .* 'IH'"),
        (b"BUT\n", ":1: BUT: .* 'U'"),
        (b"bbt\n", ":1: bbt: .* 'b'; it has 'B'"),
        (b"\tB AH T\n", ":1: expected WORD"),
        (b"A BUT\tB AH T\n", ":1: expected WORD.*A BUT"),
        (b"\n\n", ": the lexicon is empty"),
        (b"B\xff", ":1: not UTF-8"),
        (gzip.compress(b"BUT\tB AH T\n")[:-9], ": cut off or damaged"),
        (b"\x1f\x8b\x08" + bytes(7) + b"\xff" * 9, ": cut off or damaged"),
        (None, ": No such file"),
    ],
)
def test_broken_lexicons(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "lexicon.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(AsrError, match=re.escape(str(path)) + message):
        read_lexicon(path, PHONES)


def test_spellable() -> None:
    tokenizer = Tokenizer(" AB")
    for text, expected in (("A b", "A B"), (" “a—b!” \n", "A B"), ("Ä", "A")):
        assert spellable(text, tokenizer) == expected
    assert spellable("aa  B-0", Tokenizer(("aa", "B-0"))) == "aa  B-0"
    for text, message in (("a 12b", "'12' in '12B'"), (" ?! ", "no word")):
        with pytest.raises(TextError, match=message):
            spellable(text, tokenizer)


def walk(trie: Trie, node: int = ROOT) -> dict[tuple[int, ...], tuple[list[int], float]]:
    """Entries and lookahead of every node by its spelling."""
    here, following = trie.nodes[node], trie.nodes[node + 1]
    entries = trie.entries[here["first_entry"] : following["first_entry"]].tolist()
    found = {(): (entries, float(here["lookahead"]))}
    for child in range(here["first_child"], following["first_child"]):
        token = int(trie.nodes[child]["token"])
        assert find_child(trie.nodes, node, token) == child
        found |= {(token, *rest): value for rest, value in walk(trie, child).items()}
    assert find_child(trie.nodes, node, 99) == -1
    return found


@given(
    st.lists(st.tuples(st.lists(st.integers(1, 3), min_size=1, max_size=4), st.integers(-9, 0)), max_size=12)
)
def test_the_trie_holds_each_spelling_and_the_best_score_below(entries: list[tuple[list[int], int]]) -> None:
    lexicon = Lexicon(
        words=[""] * len(entries),
        tokens=np.array([token for spelling, _ in entries for token in spelling], np.int32),
        offsets=np.cumsum([0, *(len(spelling) for spelling, _ in entries)]),
    )
    found = walk(build_trie(lexicon, np.array([float(score) for _, score in entries])))
    prefixes = {tuple(spelling[:n]) for spelling, _ in entries for n in range(len(spelling) + 1)} | {()}
    assert set(found) == prefixes
    for prefix, (ending, lookahead) in found.items():
        assert ending == [i for i, (spelling, _) in enumerate(entries) if tuple(spelling) == prefix]
        below = [score for spelling, score in entries if tuple(spelling[: len(prefix)]) == prefix]
        assert lookahead == max(below, default=0.0)
