"""The texts that a beam search has come to, as a tree that grows token by token, in numba."""

from typing import NamedTuple

import numpy as np

from asr.decoding.hotwords import WORD_END, HotwordGraph
from asr.decoding.trie import Trie
from asr.jit import compiled, kernel
from asr.lm.ngram import NgramArrays, score_word
from asr.lm.vocabulary import UNKNOWN

OFF_TRIE = -1
"""Place of a prefix whose last word has left the trie."""

NO_WORD = -1
UNKNOWN_WORD = -2
"""Where an entry of the lexicon would stand: no word ends here; a word that is in no lexicon."""

PREFIX = np.dtype(
    [
        ("parent", np.int32),
        ("token", np.int32),  # last token
        ("entry", np.int32),  # of the lexicon: the word that this token ended, or NO_WORD, UNKNOWN_WORD
        ("place", np.int32),  # node of the trie: where the word under way stands, ROOT between words
        ("lm_state", np.uint32),
        ("hot_state", np.int32),
        ("slot", np.int32),  # in the beam; -1 outside
        ("first_child", np.int32),
        ("next_sibling", np.int32),
        ("end_entry", np.int32),  # what the two below are kept for
        ("end_state", np.uint32),
        ("end_gain", np.float64),
        ("score", np.float64),  # of the words that have ended
        ("ahead", np.float64),  # expected of the word under way; counts for pruning only
    ],
    align=True,
)


class Models(NamedTuple):
    """What a hypothesis is judged by, beside the posteriors."""

    trie: Trie
    word_ids: np.ndarray
    """uint32, the LM's word by entry of the lexicon"""
    lm: NgramArrays
    hotwords: HotwordGraph


class KernelOptions(NamedTuple):
    """Numbers of BeamOptions; `lm_weight` is for log10, `separator` is -1 where no token parts words."""

    beam: int
    beam_threshold: float
    token_top_k: int
    lm_weight: float
    word_bonus: float
    unknown_penalty: float
    unknown_ahead: float
    separator: int
    open_vocabulary: bool
    homophones: int
    """most entries that end in one node of the trie"""
    recombine: bool
    """whether one best text is wanted, and no list"""


@kernel
def has_child_in_beam(prefixes: np.ndarray, node: int) -> bool:
    """Whether a prefix that is one token longer is in the beam."""
    child = prefixes[node].first_child
    while child >= 0:
        if prefixes[child].slot >= 0:
            return True
        child = prefixes[child].next_sibling
    return False


@kernel
def find_prefix(prefixes: np.ndarray, node: int, token: int, entry: int) -> int:
    """The prefix that lengthens `node` so; -1 if it was never in the beam."""
    child = prefixes[node].first_child
    while child >= 0 and (prefixes[child].token != token or prefixes[child].entry != entry):
        child = prefixes[child].next_sibling
    return child


@kernel
def score_extension(
    prefixes: np.ndarray,
    node: int,
    token: int,
    entry: int,
    place: int,
    models: Models,
    options: KernelOptions,
) -> tuple[float, float, int, int]:
    """Score, what is ahead, LM state and hotword state after `node` and a token, which may end a word."""
    prefix = prefixes[node]
    graph = models.hotwords
    hot_state = prefix.hot_state
    if token != options.separator:
        hot_state = graph.next_states[hot_state, token]
    if entry == NO_WORD:
        ahead = options.word_bonus + graph.ahead[hot_state]
        if place == OFF_TRIE:
            ahead += options.unknown_ahead
        else:
            ahead += options.lm_weight * models.trie.nodes[place].ahead
        return prefix.score, ahead, int(np.int64(prefix.lm_state)), hot_state
    if prefix.end_entry != entry:  # asked in frame after frame, so it is kept
        word = models.word_ids[entry] if entry >= 0 else UNKNOWN
        log_prob, state = score_word(models.lm, prefix.lm_state, word)
        prefix.end_entry = entry
        prefix.end_state = state
        prefix.end_gain = options.lm_weight * log_prob + options.word_bonus
        if word == UNKNOWN:
            prefix.end_gain += options.unknown_penalty
    hot_state = graph.next_states[hot_state, graph.word_ends[entry] if entry >= 0 else WORD_END]
    score = prefix.score + prefix.end_gain + graph.rewards[hot_state]
    return score, graph.ahead[hot_state], int(np.int64(prefix.end_state)), hot_state


@kernel
def add_child(
    prefixes: np.ndarray,
    count: int,
    node: int,
    token: int,
    entry: int,
    place: int,
    models: Models,
    options: KernelOptions,
) -> tuple[int, int]:
    """The prefix that lengthens `node` so, made if it was never in the beam; and how many there are now."""
    child = find_prefix(prefixes, node, token, entry)
    if child >= 0:
        return child, count
    score, ahead, lm_state, hot_state = score_extension(prefixes, node, token, entry, place, models, options)
    prefix = prefixes[count]
    prefix.parent, prefix.token, prefix.entry, prefix.place = node, token, entry, place
    prefix.lm_state, prefix.hot_state = lm_state, hot_state
    prefix.score, prefix.ahead = score, ahead
    prefix.slot = -1
    prefix.first_child, prefix.next_sibling = -1, prefixes[node].first_child
    prefix.end_entry = NO_WORD
    prefixes[node].first_child = count
    return count, count + 1


@compiled
def trace(prefixes: np.ndarray, base: int, node: int) -> np.ndarray:
    """The prefixes from `base`, which is left out, to `node`, which goes on from it: `int32[n]`."""
    length, at = 0, node
    while at != base:
        length, at = length + 1, prefixes[at].parent
    nodes = np.empty(length, dtype=np.int32)
    for i in range(length - 1, -1, -1):
        nodes[i] = node
        node = prefixes[node].parent
    return nodes


@compiled
def prune(
    prefixes: np.ndarray, count: int, beam: np.ndarray, base: int
) -> tuple[np.ndarray, int, np.ndarray]:
    """Drop the hypotheses that do not go on from `base`, then the prefixes that no hypothesis goes through.

    Returns prefixes, how many there are, and the beam. `base` comes to stand at 1, after its own parent,
    which says that it is no beginning; if it has none, at 0.
    """
    needed = np.zeros(count, dtype=np.bool_)
    needed[base] = True
    stays = np.empty(len(beam), dtype=np.bool_)
    for slot in range(len(beam)):
        at = beam[slot].prefix
        while at > base:  # parents come before their children
            at = prefixes[at].parent
        stays[slot] = at == base
        at = beam[slot].prefix
        while stays[slot] and not needed[at]:
            needed[at] = True
            at = prefixes[at].parent
    kept = np.empty(max(1024, 2 * int(needed.sum())), dtype=prefixes.dtype)
    places = np.full(count, -1, dtype=np.int32)
    found = 0
    if prefixes[base].parent >= 0:
        kept[0] = prefixes[prefixes[base].parent]
        kept[0].parent, kept[0].first_child, kept[0].slot = -1, -1, -1
        found = 1
    for node in range(base, count):
        if not needed[node]:
            continue
        kept[found] = prefixes[node]
        parent = found - 1 if node == base else places[prefixes[node].parent]
        kept[found].parent, kept[found].first_child, kept[found].slot = parent, -1, -1
        if parent >= 0:
            kept[found].next_sibling = kept[parent].first_child
            kept[parent].first_child = found
        places[node] = found
        found += 1
    beam = beam[stays]
    for slot in range(len(beam)):
        beam[slot].prefix = places[beam[slot].prefix]
        kept[beam[slot].prefix].slot = slot
    return kept, found, beam
