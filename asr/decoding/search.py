"""CTC prefix beam search (Hannun et al., 2014) with a trie, an n-gram LM and hotwords, in numba.

A prefix is a text so far, as a node of a tree: all alignments that collapse to it are summed, in two
parts, those that end in a blank and those that end in its last token. Spaces at the begin, at the end
and next to each other are one space, so that the sum is over all alignments which give the same words.
All scores are natural logs.

Where one text is wanted and no list, prefixes from which all goes on alike are recombined: one that is no
better than another, whatever comes, is dropped, which leaves the beam to others. It stays as long as a longer
prefix in the beam has something to get from it, or a shorter one more than a little to give. Spellings of
one word are then not summed, but the best is taken.
"""

from math import inf

import numpy as np

from asr.decoding.candidates import (
    CANDIDATE,
    HYPOTHESIS,
    Frame,
    entry_range,
    extend,
    log_add,
    prune_to_beam,
    repeat_or_blank,
)
from asr.decoding.hotwords import BETWEEN
from asr.decoding.posteriors import FLOOR
from asr.decoding.prefixes import (
    NO_WORD,
    PREFIX,
    UNKNOWN_WORD,
    KernelOptions,
    Models,
    add_child,
    has_child_in_beam,
)
from asr.decoding.trie import ROOT
from asr.jit import compiled, kernel
from asr.lm.ngram import score_word
from asr.lm.vocabulary import END
from asr.text import BLANK

NEGLIGIBLE = 3.0
"""A shorter prefix that is less likely by this (natural log) gives little more to a longer one."""


def start(begin_state: int) -> tuple[np.ndarray, int, np.ndarray]:
    """The empty text: prefixes, how many of them are in use, and the beam."""
    prefixes = np.zeros(1024, dtype=PREFIX)
    prefixes[0] = (-1, BLANK, NO_WORD, ROOT, begin_state, BETWEEN, 0, -1, -1, NO_WORD, 0, 0, 0, 0)
    return prefixes, 1, np.array([(0, 0, -inf, 0)], dtype=HYPOTHESIS)


@compiled
def _with_room(array: np.ndarray, length: int) -> np.ndarray:
    """`array`, or a larger copy if it is shorter than `length`."""
    if length <= len(array):
        return array
    larger = np.empty(2 * length, dtype=array.dtype)
    larger[: len(array)] = array
    return larger


@compiled
def advance(
    log_probs: np.ndarray,
    prefixes: np.ndarray,
    count: int,
    beam: np.ndarray,
    models: Models,
    options: KernelOptions,
) -> tuple[np.ndarray, int, np.ndarray]:
    """Take in `float32[T, V]`; returns prefixes, count and beam as they stand after it."""
    vocabulary = log_probs.shape[1]
    candidates = np.empty(4 * options.beam + vocabulary * (1 + options.homophones), dtype=CANDIDATE)
    row = np.empty(vocabulary)
    tokens = np.empty(vocabulary, dtype=np.int32)
    for frame in range(len(log_probs)):
        least = log_probs[frame].max() - options.beam_threshold
        if options.token_top_k < vocabulary:
            least = max(least, np.partition(log_probs[frame], -options.token_top_k)[-options.token_top_k])
        kept = _keep_tokens(log_probs[frame], least, options.separator, row, tokens)
        if kept == 0 and (options.separator < 0 or row[options.separator] == -inf):
            for slot in range(len(beam)):  # nothing but blank: all go down alike, and none can be added
                beam[slot].total += row[BLANK]
                beam[slot].blank = beam[slot].total
                beam[slot].label = -inf
            continue
        now = Frame(row, tokens[:kept], beam, prefixes, candidates, models, options)
        cut = repeat_or_blank(now)
        found, slot = len(beam), 0
        while slot < len(beam):
            slot, found, cut = extend(now, slot, found, cut)
            found, cut = prune_to_beam(candidates, found, cut, options.beam)
        prefixes = _with_room(prefixes, count + found)
        count, beam = _step(candidates[:found], prefixes, count, beam, models, options)
    return prefixes, count, beam


@kernel
def _keep_tokens(
    log_probs: np.ndarray, least: float, separator: int, row: np.ndarray, tokens: np.ndarray
) -> int:
    """Fill `row` with what is kept of a frame, and `tokens` with what of it goes on in a word, best first."""
    kept = 0
    for token in range(len(log_probs)):
        row[token] = -inf
        if log_probs[token] < least and token != BLANK:
            continue
        row[token] = max(log_probs[token], FLOOR)
        if token in (BLANK, separator):
            continue
        place = kept
        while place > 0 and row[tokens[place - 1]] < row[token]:
            tokens[place] = tokens[place - 1]
            place -= 1
        tokens[place] = token
        kept += 1
    return kept


@compiled
def _step(
    candidates: np.ndarray,
    prefixes: np.ndarray,
    count: int,
    beam: np.ndarray,
    models: Models,
    options: KernelOptions,
) -> tuple[int, np.ndarray]:
    """The candidates become the beam, best first; returns how many prefixes there are now, and the beam."""
    order = np.argsort(-candidates["rank"], kind="mergesort")
    after = np.empty(len(candidates), dtype=HYPOTHESIS)
    table = np.full(_table_size(len(candidates)) if options.recombine else 0, -1, dtype=np.int32)
    count, kept = _enter(candidates, order, prefixes, count, beam, after, table, models, options)
    return count, after[:kept]


@kernel
def _enter(
    candidates: np.ndarray,
    order: np.ndarray,
    prefixes: np.ndarray,
    count: int,
    before: np.ndarray,
    after: np.ndarray,
    table: np.ndarray,
    models: Models,
    options: KernelOptions,
) -> tuple[int, int]:
    for slot in range(len(before)):
        prefixes[before[slot].prefix].slot = -1
    for slot in range(len(after)):
        new = candidates[order[slot]]
        node = before[new.source].prefix
        if new.token != BLANK:
            node, count = add_child(prefixes, count, node, new.token, new.entry, new.place, models, options)
        prefixes[node].slot = slot
        after[slot].prefix = node
        after[slot].blank = new.blank
        after[slot].label = new.label
        after[slot].total = new.total
    if len(table) == 0:
        return count, len(after)
    kept = 0
    for slot in range(len(after)):
        node = after[slot].prefix
        after[kept] = after[slot]
        if _is_dominated(after, kept, prefixes, table) and _stands_alone(after, slot, prefixes):
            prefixes[node].slot = -1
        else:
            prefixes[node].slot = kept
            kept += 1
    return count, kept


@kernel
def _stands_alone(beam: np.ndarray, slot: int, prefixes: np.ndarray) -> bool:
    """Whether little comes to a hypothesis from a shorter one, and nothing goes from it to a longer one."""
    node = beam[slot].prefix
    parent = prefixes[node].parent
    if parent >= 0 and prefixes[parent].slot >= 0:
        from_parent = beam[prefixes[parent].slot].total
        if from_parent > beam[slot].total - NEGLIGIBLE:
            return False
    return not has_child_in_beam(prefixes, node)


@kernel
def _table_size(entries: int) -> int:
    """A power of two that leaves room."""
    size = 4
    while size < 2 * entries:
        size *= 2
    return size


@kernel
def _is_dominated(beam: np.ndarray, slot: int, prefixes: np.ndarray, table: np.ndarray) -> bool:
    """Whether an earlier hypothesis goes on as this one does, and is no worse whatever comes.

    `table` holds, by a hash of what decides how they go on, the first slot of each kind.
    """
    hypothesis = beam[slot]
    prefix = prefixes[hypothesis.prefix]
    mixed = np.int64(prefix.place) * 73856093 ^ np.int64(prefix.lm_state) * 19349663
    mixed ^= np.int64(prefix.token) * 83492791 ^ np.int64(prefix.hot_state) * 49979687
    at = (mixed ^ (mixed >> 15)) & (len(table) - 1)
    while table[at] >= 0:
        other = beam[table[at]]
        same = prefixes[other.prefix]
        if (
            same.place == prefix.place
            and same.lm_state == prefix.lm_state
            and same.token == prefix.token
            and same.hot_state == prefix.hot_state
        ):
            ahead = same.score - prefix.score
            return bool(other.blank + ahead >= hypothesis.blank and other.label + ahead >= hypothesis.label)
        at = (at + 1) & (len(table) - 1)
    table[at] = slot
    return False


@compiled
def finish(
    prefixes: np.ndarray, count: int, beam: np.ndarray, models: Models, options: KernelOptions
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """End the text: prefixes, and of each that is made of whole words its index, log-probability by CTC
    `float64[n]`, and the score of its words `float64[n]`, the sentence's end included.

    A word under way is ended where the vocabulary allows; where that saves none, it is cut off the best.
    """
    prefixes = _with_room(prefixes, count + len(beam) * max(1, options.homophones))
    most = len(beam) * max(1, options.homophones)
    ends, totals = np.empty(most, dtype=np.int64), np.empty(most)
    for slot in range(len(beam)):
        prefixes[beam[slot].prefix].slot = -1  # from here on the place among the ends
    found = 0
    for slot in range(len(beam)):
        node = beam[slot].prefix
        place = prefixes[node].place
        first, last = entry_range(models.trie, place)
        entries = models.trie.entries[first:last]
        if place == ROOT:
            entries = np.full(1, NO_WORD, dtype=np.int32)
        elif options.separator < 0:
            continue
        elif first == last and options.open_vocabulary:
            entries = np.full(1, UNKNOWN_WORD, dtype=np.int32)
        for entry in entries:
            end = node
            if place != ROOT:
                end, count = add_child(prefixes, count, node, options.separator, entry, ROOT, models, options)
            if prefixes[end].slot < 0:
                prefixes[end].slot = found
                ends[found], totals[found] = end, -inf
                found += 1
            same = prefixes[end].slot
            totals[same] = log_add(totals[same], beam[slot].total)
    if found == 0:
        node = beam[0].prefix  # the best
        while prefixes[node].place != ROOT:
            node = prefixes[node].parent
        ends[0], totals[0] = node, beam[0].total
        found = 1
    scores = np.empty(found)
    for i in range(found):
        log_prob, _ = score_word(models.lm, prefixes[ends[i]].lm_state, END)
        scores[i] = prefixes[ends[i]].score + options.lm_weight * log_prob
    order = np.argsort(-(totals[:found] + scores), kind="mergesort")
    return prefixes, ends[order], totals[order], scores[order]
