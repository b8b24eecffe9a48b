"""What the hypotheses of a beam can become in one frame, in numba."""

from math import exp, inf, log1p
from typing import Any, NamedTuple

import numpy as np

from asr.decoding.hotwords import NO_HOTWORDS
from asr.decoding.prefixes import (
    NO_WORD,
    OFF_TRIE,
    UNKNOWN_WORD,
    KernelOptions,
    Models,
    find_prefix,
    has_child_in_beam,
    score_extension,
)
from asr.decoding.trie import ROOT, Trie, find_child
from asr.jit import compiled, kernel
from asr.text import BLANK

HYPOTHESIS = np.dtype(
    [
        ("prefix", np.int32),
        ("blank", np.float64),  # log-probability of the alignments that end in a blank
        ("label", np.float64),  # of those that end in the last token
        ("total", np.float64),
    ],
    align=True,
)

CANDIDATE = np.dtype(
    [
        ("source", np.int32),  # slot of the hypothesis that it comes from
        ("token", np.int32),  # that it adds; BLANK if none
        ("entry", np.int32),
        ("place", np.int32),
        ("blank", np.float64),
        ("label", np.float64),
        ("total", np.float64),
        ("rank", np.float64),
    ],
    align=True,
)


class Frame(NamedTuple):
    """What goes into the candidates of one frame."""

    row: np.ndarray
    """float64[V], log-probabilities, -inf where a token is not kept"""
    tokens: np.ndarray
    """int32, those kept but blank and separator, the best first"""
    beam: np.ndarray
    prefixes: np.ndarray
    candidates: np.ndarray
    models: Models
    options: KernelOptions


@kernel
def log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    if b == -inf:
        return a
    return a + log1p(exp(b - a))


@kernel
def repeat_or_blank(now: Frame) -> float:
    """One candidate a hypothesis that adds nothing: a blank, or its last token once more; with it goes
    what its parent adds to become the same. Returns the rank from which on candidates count."""
    best = -inf
    for slot in range(len(now.beam)):
        hypothesis = now.beam[slot]
        prefix = now.prefixes[hypothesis.prefix]
        label = -inf
        if prefix.place == ROOT and now.options.separator >= 0:
            # Space after space, or before all words.
            label = hypothesis.total + now.row[now.options.separator]
        elif prefix.parent >= 0:
            label = hypothesis.label + now.row[prefix.token]
        if prefix.parent >= 0 and now.prefixes[prefix.parent].slot >= 0:
            parent = now.prefixes[prefix.parent]
            leaving = _leaving(now.beam[parent.slot], parent.token, prefix.token)
            label = log_add(label, leaving + now.row[prefix.token])
        candidate = now.candidates[slot]
        candidate.source = slot
        candidate.token = BLANK
        candidate.blank = hypothesis.total + now.row[BLANK]
        candidate.label = label
        candidate.total = log_add(candidate.blank, label)
        candidate.rank = candidate.total + prefix.score + prefix.ahead
        best = max(best, candidate.rank)
    return best - now.options.beam_threshold


@kernel
def _leaving(hypothesis: Any, last: int, token: int) -> float:
    """Log-probability of the alignments that `token` can come after: as a repeat it needs a blank between."""
    if token == last:
        return hypothesis.blank
    return hypothesis.total


@kernel
def extend(now: Frame, slot: int, found: int, cut: float) -> tuple[int, int, float]:
    """Extend hypotheses from `slot` on till there are many candidates; returns where to go on."""
    while slot < len(now.beam) and found <= 4 * now.options.beam:
        found, cut = _extend_one(now, slot, found, cut)
        slot += 1
    return slot, found, cut


@kernel
def _extend_one(now: Frame, slot: int, found: int, cut: float) -> tuple[int, float]:
    """Add the candidates that lengthen one hypothesis by a token; returns their number and the new `cut`."""
    trie, separator, is_open = now.models.trie, now.options.separator, now.options.open_vocabulary
    hypothesis = now.beam[slot]
    prefix = now.prefixes[hypothesis.prefix]
    busy = has_child_in_beam(now.prefixes, hypothesis.prefix)
    if separator >= 0 and prefix.place != ROOT:
        log_prob = hypothesis.total + now.row[separator]
        first, last = entry_range(trie, prefix.place)
        for i in range(first, last):
            found, cut = _offer(now, slot, separator, trie.entries[i], ROOT, log_prob, busy, found, cut)
        if first == last and is_open:
            found, cut = _offer(now, slot, separator, UNKNOWN_WORD, ROOT, log_prob, busy, found, cut)
    most = _most(prefix, now.models, now.options)
    for token in now.tokens:
        if hypothesis.total + now.row[token] + most < cut:
            break  # and so it is for all that follow
        log_prob = _leaving(hypothesis, prefix.token, token) + now.row[token]
        place = prefix.place if prefix.place == OFF_TRIE else find_child(trie.nodes, prefix.place, token)
        if place == OFF_TRIE and not is_open:
            continue
        if separator >= 0 or trie.nodes[place].first_child < trie.nodes[place + 1].first_child:
            found, cut = _offer(now, slot, token, NO_WORD, place, log_prob, busy, found, cut)
        if separator < 0:
            for i in range(*entry_range(trie, place)):
                found, cut = _offer(now, slot, token, trie.entries[i], ROOT, log_prob, busy, found, cut)
    return found, cut


@kernel
def _most(prefix: Any, models: Models, options: KernelOptions) -> float:
    """An upper bound of what a prefix that goes on within a word has beside its log-probability by CTC.

    The best word ahead is no better further down the trie. Nothing is known where hotwords are followed,
    nor where the next token may end a word.
    """
    if options.separator < 0 or len(models.hotwords.ahead) > NO_HOTWORDS:
        return inf
    ahead = prefix.ahead
    if prefix.place == ROOT:
        ahead = options.word_bonus + options.lm_weight * models.trie.nodes[ROOT].ahead
    if options.open_vocabulary:
        ahead = max(ahead, options.word_bonus + options.unknown_ahead)
    return prefix.score + ahead


@kernel
def _offer(
    now: Frame,
    slot: int,
    token: int,
    entry: int,
    place: int,
    log_prob: float,
    busy: bool,
    found: int,
    cut: float,
) -> tuple[int, float]:
    """Add a candidate if it is good enough and not in the beam already, where `repeat_or_blank` counts it."""
    node = now.beam[slot].prefix
    score, ahead, _, _ = score_extension(now.prefixes, node, token, entry, place, now.models, now.options)
    rank = log_prob + score + ahead
    if rank < cut or rank == -inf:
        return found, cut
    if busy:
        child = find_prefix(now.prefixes, node, token, entry)
        if child >= 0 and now.prefixes[child].slot >= 0:
            return found, cut
    candidate = now.candidates[found]
    candidate.source = slot
    candidate.token = token
    candidate.entry = entry
    candidate.place = place
    candidate.blank = -inf
    candidate.label = log_prob
    candidate.total = log_prob
    candidate.rank = rank
    return found + 1, max(cut, rank - now.options.beam_threshold)


@kernel
def entry_range(trie: Trie, place: int) -> tuple[int, int]:
    """Range of the entries of the lexicon that end at a node."""
    if place == OFF_TRIE:
        return 0, 0
    return trie.nodes[place].first_entry, trie.nodes[place + 1].first_entry


@compiled
def prune_to_beam(candidates: np.ndarray, found: int, cut: float, beam: int) -> tuple[int, float]:
    """Keep the `beam` best candidates of rank `cut` or more, of equals the first; in place, in their order.

    Returns how many there are, and the rank from which on another one would be among them.
    """
    ranks = np.empty(found)
    kept = 0
    for i in range(found):
        if candidates[i].rank >= cut and candidates[i].rank > -inf:
            candidates[kept] = candidates[i]
            ranks[kept] = candidates[i].rank
            kept += 1
    if kept <= beam:
        return kept, cut
    cut = np.partition(ranks[:kept], kept - beam)[kept - beam]
    equals = beam - np.sum(ranks[:kept] > cut)
    found, kept = kept, 0
    for i in range(found):
        if ranks[i] == cut:
            equals -= 1
        if ranks[i] > cut or (ranks[i] == cut and equals >= 0):
            candidates[kept] = candidates[i]
            kept += 1
    return kept, cut
