"""CTC prefix beam search (Hannun et al., 2014) with a trie, an n-gram LM and hotwords, compiled by numba.

A prefix is a partial transcript. Prefixes form a tree that grows by one token per edge; each records its
node in the lexicon trie, its LM state, its hotword state and the score of its finished words. A hypothesis
is a prefix in the beam with the log-probability of all alignments that collapse to it, in two parts: those
that end in a blank and those that end in its last token. Leading, trailing and repeated spaces collapse to
one, so the sum runs over all alignments that give the same words. All scores are natural logs.

For each frame, `advance`

1. keeps the blank, and the tokens within `beam_threshold` of the best and among the `token_top_k` best;
2. makes one candidate per hypothesis that adds no token (`repeat_or_blank`), and one per token and word end
   that the trie allows (`extend`). A finished word is scored by the LM and the hotwords. A word in progress
   gets a lookahead, for pruning only: the best unigram below its trie node and its best partial hotword;
3. prunes to the `beam` best candidates within `beam_threshold` of the best (`prune_to_beam`);
4. enters them into the tree as the next beam (`_fill_beam`);
5. recombines, if only the best text is wanted (`_recombine`): prefixes with equal trie node, LM state, last
   token and hotword state have the same future, so all but the best are dropped. A prefix stays while it
   gives probability to a longer one in the beam, or receives more than a little from a shorter one.

`finish` ends the last word and the sentence. `commit` makes a prefix final for streams of any length.
"""

from math import exp, inf, log1p
from typing import Any, NamedTuple

import numpy as np

from asr.decoding.hotwords import BETWEEN, NO_HOTWORDS, WORD_END, HotwordGraph
from asr.decoding.lexicon import ROOT, Trie, find_child
from asr.decoding.types import FLOOR
from asr.jit import compiled, kernel
from asr.lm.ngram import END, UNKNOWN, NgramArrays, score_word
from asr.text import BLANK

NEGLIGIBLE = 3.0  # a shorter prefix less likely by this (natural log) adds little to a longer one
OFF_TRIE = -1  # trie node of a prefix whose last word has left the trie
NO_WORD, UNKNOWN_WORD = -1, -2  # entries outside the lexicon: no word ends; a word outside it ends

PREFIX = np.dtype(
    [
        ("parent", np.int32),
        ("token", np.int32),  # last token
        ("entry", np.int32),  # lexicon entry that this token ended, or NO_WORD, UNKNOWN_WORD
        ("trie_node", np.int32),  # of the word in progress; ROOT between words
        ("lm_state", np.uint32),
        ("hot_state", np.int32),
        ("slot", np.int32),  # in the beam; -1 outside
        ("first_child", np.int32),
        ("next_sibling", np.int32),
        ("cached_entry", np.int32),  # word end whose LM state and gain are cached
        ("cached_state", np.uint32),
        ("cached_gain", np.float64),
        ("score", np.float64),  # of the finished words
        ("lookahead", np.float64),  # expected of the word in progress; for pruning only
    ],
    align=True,
)

HYPOTHESIS = np.dtype(
    [
        ("prefix", np.int32),  # of a candidate: the prefix that it extends
        ("token", np.int32),  # that the candidate added; BLANK if none
        ("entry", np.int32),
        ("trie_node", np.int32),
        ("blank", np.float64),  # log-probability of the alignments that end in a blank
        ("label", np.float64),  # of those that end in the last token
        ("total", np.float64),
        ("rank", np.float64),  # total + score + lookahead
    ],
    align=True,
)


class KernelOptions(NamedTuple):
    """DecodingOptions in the kernel's units."""

    beam: int
    beam_threshold: float
    token_top_k: int
    lm_weight: float  # for log10 probabilities
    word_bonus: float
    unknown_penalty: float
    unknown_lookahead: float
    separator: int  # token between words; -1 if there is none
    open_vocabulary: bool
    homophones: int  # most entries that end in one trie node
    recombine: bool


class Setup(NamedTuple):
    """Models that score prefixes, and options."""

    trie: Trie
    word_ids: np.ndarray  # uint32, LM word by lexicon entry
    lm: NgramArrays
    hotwords: HotwordGraph
    options: KernelOptions


class State(NamedTuple):
    """A search in progress."""

    prefixes: np.ndarray  # PREFIX, parents before children, with room to grow
    size: int  # prefixes in use
    beam: np.ndarray  # HYPOTHESIS, best first


class Frame(NamedTuple):
    """Inputs and output of the candidates of one frame."""

    log_probs: np.ndarray  # float64[V], -inf for pruned tokens
    tokens: np.ndarray  # int32, kept tokens except blank and separator, best first
    beam: np.ndarray
    prefixes: np.ndarray
    candidates: np.ndarray  # HYPOTHESIS
    setup: Setup


def start(begin_state: int) -> State:
    """A search that has seen nothing: the empty prefix with LM state `begin_state`."""
    prefixes = np.zeros(1024, dtype=PREFIX)
    prefixes[0] = (-1, BLANK, NO_WORD, ROOT, begin_state, BETWEEN, 0, -1, -1, NO_WORD, 0, 0, 0, 0)
    return State(prefixes, 1, np.array([(0, BLANK, NO_WORD, ROOT, -inf, 0, 0, 0)], dtype=HYPOTHESIS))


@compiled
def advance(log_probs: np.ndarray, state: State, setup: Setup) -> State:
    """Process log-probabilities `float32[T, V]`."""
    prefixes, count, beam = state
    options = setup.options
    vocabulary = log_probs.shape[1]
    candidates = np.empty(4 * options.beam + vocabulary * (1 + options.homophones), dtype=HYPOTHESIS)
    row = np.empty(vocabulary)
    tokens = np.empty(vocabulary, dtype=np.int32)
    for t in range(len(log_probs)):
        least = log_probs[t].max() - options.beam_threshold
        if options.token_top_k < vocabulary:
            least = max(least, np.partition(log_probs[t], -options.token_top_k)[-options.token_top_k])
        kept = _keep_tokens(log_probs[t], least, options.separator, row, tokens)
        if kept == 0 and (options.separator < 0 or row[options.separator] == -inf):
            for slot in range(len(beam)):  # only the blank is left: no ranks change, no prefix is added
                beam[slot].total += row[BLANK]
                beam[slot].blank = beam[slot].total
                beam[slot].label = -inf
            continue
        frame = Frame(row, tokens[:kept], beam, prefixes, candidates, setup)
        limit = repeat_or_blank(frame)
        found = len(beam)
        for slot in range(len(beam)):
            if found > 4 * options.beam:
                found, limit = prune_to_beam(candidates, found, limit, options.beam)
            found, limit = extend(frame, slot, found, limit)
        found, limit = prune_to_beam(candidates, found, limit, options.beam)
        prefixes = _with_room(prefixes, count + found)
        count, beam = _next_beam(candidates[:found], prefixes, count, beam, setup)
    return State(prefixes, count, beam)


@compiled
def finish(state: State, setup: Setup) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """End the text.

    Returns the prefixes, and for each complete text, best first: its prefix, ln p_ctc `float64[n]`, and the
    score of its words and the sentence end `float64[n]`. A word in progress is ended where the vocabulary
    allows. If that leaves no text, the best hypothesis loses its unfinished word.
    """
    prefixes, count, beam = state
    options = setup.options
    most = len(beam) * max(1, options.homophones)
    prefixes = _with_room(prefixes, count + most)
    ends, totals = np.empty(most, dtype=np.int64), np.empty(most)
    for slot in range(len(beam)):
        prefixes[beam[slot].prefix].slot = -1  # from here on the index into `ends`
    found = 0
    for slot in range(len(beam)):
        node = beam[slot].prefix
        trie_node = prefixes[node].trie_node
        first, last = entry_range(setup.trie, trie_node)
        entries = setup.trie.entries[first:last]
        if trie_node == ROOT:
            entries = np.full(1, NO_WORD, dtype=np.int32)
        elif options.separator < 0:
            continue
        elif first == last and options.open_vocabulary:
            entries = np.full(1, UNKNOWN_WORD, dtype=np.int32)
        for entry in entries:
            end = node
            if trie_node != ROOT:
                end, count = add_child(prefixes, count, node, options.separator, entry, ROOT, setup)
            if prefixes[end].slot < 0:
                prefixes[end].slot = found
                ends[found], totals[found] = end, -inf
                found += 1
            same = prefixes[end].slot
            totals[same] = log_add(totals[same], beam[slot].total)
    if found == 0:
        node = beam[0].prefix
        while prefixes[node].trie_node != ROOT:
            node = prefixes[node].parent
        ends[0], totals[0] = node, beam[0].total
        found = 1
    scores = np.empty(found)
    for i in range(found):
        log_prob, _ = score_word(setup.lm, prefixes[ends[i]].lm_state, END)
        scores[i] = prefixes[ends[i]].score + options.lm_weight * log_prob
    order = np.argsort(-(totals[:found] + scores), kind="mergesort")
    return prefixes, ends[order], totals[order], scores[order]


# Candidates of one frame


@kernel
def _keep_tokens(
    log_probs: np.ndarray, least: float, separator: int, row: np.ndarray, tokens: np.ndarray
) -> int:
    """Write the log-probabilities of kept tokens to `row`, and those that continue a word to `tokens`, best
    first. Returns the number of the latter."""
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


@kernel
def repeat_or_blank(frame: Frame) -> float:
    """Add one candidate per hypothesis that adds no token: a blank, or its last token again.

    What its parent gives by adding that token is included. Returns the least rank that counts.
    """
    best = -inf
    separator = frame.setup.options.separator
    for slot in range(len(frame.beam)):
        hypothesis = frame.beam[slot]
        prefix = frame.prefixes[hypothesis.prefix]
        label = -inf
        if prefix.trie_node == ROOT and separator >= 0:  # a space after a space, or before the first word
            label = hypothesis.total + frame.log_probs[separator]
        elif prefix.parent >= 0:
            label = hypothesis.label + frame.log_probs[prefix.token]
        if prefix.parent >= 0 and frame.prefixes[prefix.parent].slot >= 0:
            parent = frame.prefixes[prefix.parent]
            shorter = frame.beam[parent.slot]
            before = shorter.blank if prefix.token == parent.token else shorter.total
            label = log_add(label, before + frame.log_probs[prefix.token])
        candidate = frame.candidates[slot]
        candidate.prefix, candidate.token = hypothesis.prefix, BLANK
        candidate.blank = hypothesis.total + frame.log_probs[BLANK]
        candidate.label = label
        candidate.total = log_add(candidate.blank, label)
        candidate.rank = candidate.total + prefix.score + prefix.lookahead
        best = max(best, candidate.rank)
    return best - frame.setup.options.beam_threshold


@kernel
def extend(frame: Frame, slot: int, found: int, limit: float) -> tuple[int, float]:
    """Add the candidates that extend one hypothesis by a token, after `found` others.

    Returns the number of candidates, and the least rank that counts.
    """
    trie, options = frame.setup.trie, frame.setup.options
    separator, is_open = options.separator, options.open_vocabulary
    hypothesis = frame.beam[slot]
    start = hypothesis.prefix
    prefix = frame.prefixes[start]
    busy = has_child_in_beam(frame.prefixes, start)
    if separator >= 0 and prefix.trie_node != ROOT:
        log_prob = hypothesis.total + frame.log_probs[separator]
        first, last = entry_range(trie, prefix.trie_node)
        for i in range(first, last):
            found, limit = _add(frame, start, separator, trie.entries[i], ROOT, log_prob, busy, found, limit)
        if first == last and is_open:
            found, limit = _add(frame, start, separator, UNKNOWN_WORD, ROOT, log_prob, busy, found, limit)
    bound = _score_bound(prefix, frame.setup)
    for token in frame.tokens:
        if hypothesis.total + frame.log_probs[token] + bound < limit:
            break  # the remaining tokens are less likely
        before = hypothesis.blank if token == prefix.token else hypothesis.total  # a repeat follows a blank
        log_prob = before + frame.log_probs[token]
        node = prefix.trie_node
        if node != OFF_TRIE:
            node = find_child(trie.nodes, node, token)
        if node == OFF_TRIE and not is_open:
            continue
        if separator >= 0 or trie.nodes[node].first_child < trie.nodes[node + 1].first_child:
            found, limit = _add(frame, start, token, NO_WORD, node, log_prob, busy, found, limit)
        if separator < 0:
            for i in range(*entry_range(trie, node)):
                found, limit = _add(frame, start, token, trie.entries[i], ROOT, log_prob, busy, found, limit)
    return found, limit


@kernel
def _score_bound(prefix: Any, setup: Setup) -> float:
    """Upper bound of score + lookahead of an extension within a word; inf where none is known.

    Lookahead does not rise along the trie, but hotwords add to it, and so does a word end.
    """
    options, lookahead = setup.options, prefix.lookahead
    if options.separator < 0 or len(setup.hotwords.lookahead) > NO_HOTWORDS:
        return inf
    if prefix.trie_node == ROOT:
        lookahead = options.word_bonus + options.lm_weight * setup.trie.nodes[ROOT].lookahead
    if options.open_vocabulary:
        lookahead = max(lookahead, options.word_bonus + options.unknown_lookahead)
    return prefix.score + lookahead


@kernel
def _add(
    frame: Frame,
    node: int,
    token: int,
    entry: int,
    trie_node: int,
    log_prob: float,
    busy: bool,
    found: int,
    limit: float,
) -> tuple[int, float]:
    """Add a candidate unless it is below the limit, or in the beam, where `repeat_or_blank` counts it."""
    score, lookahead, _, _ = score_extension(frame.prefixes, node, token, entry, trie_node, frame.setup)
    rank = log_prob + score + lookahead
    if rank < limit or rank == -inf:
        return found, limit
    if busy:
        child = find_prefix(frame.prefixes, node, token, entry)
        if child >= 0 and frame.prefixes[child].slot >= 0:
            return found, limit
    candidate = frame.candidates[found]
    candidate.prefix, candidate.token, candidate.entry, candidate.trie_node = node, token, entry, trie_node
    candidate.blank, candidate.label, candidate.total, candidate.rank = -inf, log_prob, log_prob, rank
    return found + 1, max(limit, rank - frame.setup.options.beam_threshold)


@compiled
def prune_to_beam(candidates: np.ndarray, found: int, limit: float, beam: int) -> tuple[int, float]:
    """Keep the `beam` best candidates with at least the limit's rank, in place and in order.

    Of equal ranks the first are kept. Returns their number, and the least rank that would enter.
    """
    ranks = np.empty(found)
    kept = 0
    for i in range(found):
        if candidates[i].rank >= limit and candidates[i].rank > -inf:
            candidates[kept] = candidates[i]
            ranks[kept] = candidates[i].rank
            kept += 1
    if kept <= beam:
        return kept, limit
    limit = np.partition(ranks[:kept], kept - beam)[kept - beam]
    equals = beam - np.sum(ranks[:kept] > limit)
    found, kept = kept, 0
    for i in range(found):
        if ranks[i] == limit:
            equals -= 1
        if ranks[i] > limit or (ranks[i] == limit and equals >= 0):
            candidates[kept] = candidates[i]
            kept += 1
    return kept, limit


# The next beam


@compiled
def _next_beam(
    candidates: np.ndarray, prefixes: np.ndarray, count: int, before: np.ndarray, setup: Setup
) -> tuple[int, np.ndarray]:
    """Make the candidates the beam; returns the number of prefixes, and the beam."""
    beam = candidates[np.argsort(-candidates["rank"], kind="mergesort")]
    count = _fill_beam(beam, before, prefixes, count, setup)
    if setup.options.recombine:
        size = 4
        while size < 2 * len(beam):
            size *= 2
        return count, beam[: _recombine(beam, prefixes, np.full(size, -1, dtype=np.int32))]
    return count, beam


@kernel
def _fill_beam(beam: np.ndarray, before: np.ndarray, prefixes: np.ndarray, count: int, setup: Setup) -> int:
    """Enter the candidates in `beam` into the prefix tree; returns the number of prefixes."""
    for slot in range(len(before)):
        prefixes[before[slot].prefix].slot = -1
    for slot in range(len(beam)):
        new = beam[slot]
        if new.token != BLANK:
            new.prefix, count = add_child(
                prefixes, count, new.prefix, new.token, new.entry, new.trie_node, setup
            )
        prefixes[new.prefix].slot = slot
    return count


@kernel
def _recombine(beam: np.ndarray, prefixes: np.ndarray, table: np.ndarray) -> int:
    """Drop dominated hypotheses in place; returns the number of the others."""
    kept = 0
    for slot in range(len(beam)):
        node = beam[slot].prefix
        beam[kept] = beam[slot]
        if _is_dominated(beam, kept, prefixes, table) and _is_isolated(beam, slot, prefixes):
            prefixes[node].slot = -1
        else:
            prefixes[node].slot = kept
            kept += 1
    return kept


@kernel
def _is_dominated(beam: np.ndarray, slot: int, prefixes: np.ndarray, table: np.ndarray) -> bool:
    """Test for an earlier hypothesis with the same future that is no worse, whatever follows.

    `table` is a hash table of the first slot of each future, of 2**n entries; -1 is free.
    """
    hypothesis = beam[slot]
    prefix = prefixes[hypothesis.prefix]
    mixed = np.int64(prefix.trie_node) * 73856093 ^ np.int64(prefix.lm_state) * 19349663
    mixed ^= np.int64(prefix.token) * 83492791 ^ np.int64(prefix.hot_state) * 49979687
    at = (mixed ^ (mixed >> 15)) & (len(table) - 1)
    while table[at] >= 0:
        other = beam[table[at]]
        same = prefixes[other.prefix]
        words_agree = same.trie_node == prefix.trie_node and same.lm_state == prefix.lm_state
        if words_agree and same.token == prefix.token and same.hot_state == prefix.hot_state:
            lead = same.score - prefix.score
            return bool(other.blank + lead >= hypothesis.blank and other.label + lead >= hypothesis.label)
        at = (at + 1) & (len(table) - 1)
    table[at] = slot
    return False


@kernel
def _is_isolated(beam: np.ndarray, slot: int, prefixes: np.ndarray) -> bool:
    """Test that a hypothesis gets little from a shorter one and gives nothing to a longer one."""
    node = beam[slot].prefix
    parent = prefixes[node].parent
    above = prefixes[parent].slot if parent >= 0 else -1
    if above >= 0 and beam[above].total > beam[slot].total - NEGLIGIBLE:
        return False
    return not has_child_in_beam(prefixes, node)


# The prefix tree


@kernel
def score_extension(
    prefixes: np.ndarray, node: int, token: int, entry: int, trie_node: int, setup: Setup
) -> tuple[float, float, int, int]:
    """Score, lookahead, LM state and hotword state of `node` extended by a token, which may end a word."""
    prefix = prefixes[node]
    graph, options = setup.hotwords, setup.options
    hot_state = prefix.hot_state
    if token != options.separator:
        hot_state = graph.next_states[hot_state, token]
    if entry == NO_WORD:
        lookahead = options.word_bonus + graph.lookahead[hot_state]
        if trie_node == OFF_TRIE:
            lookahead += options.unknown_lookahead
        else:
            lookahead += options.lm_weight * setup.trie.nodes[trie_node].lookahead
        return prefix.score, lookahead, int(np.int64(prefix.lm_state)), hot_state
    if prefix.cached_entry != entry:  # the same word end is scored in many frames
        word = setup.word_ids[entry] if entry >= 0 else UNKNOWN
        log_prob, state = score_word(setup.lm, prefix.lm_state, word)
        prefix.cached_entry = entry
        prefix.cached_state = state
        prefix.cached_gain = options.lm_weight * log_prob + options.word_bonus
        if word == UNKNOWN:
            prefix.cached_gain += options.unknown_penalty
    hot_state = graph.next_states[hot_state, graph.word_ends[entry] if entry >= 0 else WORD_END]
    score = prefix.score + prefix.cached_gain + graph.rewards[hot_state]
    return score, graph.lookahead[hot_state], int(np.int64(prefix.cached_state)), hot_state


@kernel
def add_child(
    prefixes: np.ndarray, count: int, node: int, token: int, entry: int, trie_node: int, setup: Setup
) -> tuple[int, int]:
    """The extension of `node`, created if new, and the number of prefixes."""
    child = find_prefix(prefixes, node, token, entry)
    if child >= 0:
        return child, count
    prefix = prefixes[count]
    prefix.score, prefix.lookahead, prefix.lm_state, prefix.hot_state = score_extension(
        prefixes, node, token, entry, trie_node, setup
    )
    prefix.parent, prefix.token, prefix.entry, prefix.trie_node = node, token, entry, trie_node
    prefix.slot, prefix.cached_entry = -1, NO_WORD
    prefix.first_child, prefix.next_sibling = -1, prefixes[node].first_child
    prefixes[node].first_child = count
    return count, count + 1


@kernel
def find_prefix(prefixes: np.ndarray, node: int, token: int, entry: int) -> int:
    """The child of `node` by `token` and `entry`; -1 if it does not exist."""
    child = prefixes[node].first_child
    while child >= 0 and (prefixes[child].token != token or prefixes[child].entry != entry):
        child = prefixes[child].next_sibling
    return child


@kernel
def has_child_in_beam(prefixes: np.ndarray, node: int) -> bool:
    """Test for a prefix in the beam that is one token longer."""
    child = prefixes[node].first_child
    while child >= 0:
        if prefixes[child].slot >= 0:
            return True
        child = prefixes[child].next_sibling
    return False


@kernel
def entry_range(trie: Trie, node: int) -> tuple[int, int]:
    """Range of `trie.entries` that end at a trie node."""
    if node == OFF_TRIE:
        return 0, 0
    return trie.nodes[node].first_entry, trie.nodes[node + 1].first_entry


@kernel
def log_add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    larger, smaller = max(a, b), min(a, b)
    return larger if smaller == -inf else larger + log1p(exp(smaller - larger))


@compiled
def _with_room(array: np.ndarray, length: int) -> np.ndarray:
    """`array`, or a larger copy if it is shorter than `length`."""
    if length <= len(array):
        return array
    larger = np.empty(2 * length, dtype=array.dtype)
    larger[: len(array)] = array
    return larger


# Reading and committing prefixes


@compiled
def trace(prefixes: np.ndarray, base: int, node: int) -> np.ndarray:
    """The prefixes after `base` on the way to its descendant `node`, included: `int32[n]`."""
    length, at = 0, node
    while at != base:
        length, at = length + 1, prefixes[at].parent
    nodes = np.empty(length, dtype=np.int32)
    for i in range(length - 1, -1, -1):
        nodes[i] = node
        node = prefixes[node].parent
    return nodes


@compiled
def shared(state: State, base: int, node: int) -> int:
    """The last prefix on the way from `base` to `node` from which all hypotheses descend."""
    prefixes, count, beam = state
    on_path = np.zeros(count, dtype=np.bool_)
    at = node
    while at != base:
        on_path[at] = True
        at = prefixes[at].parent
    on_path[base] = True
    for slot in range(len(beam)):
        at = beam[slot].prefix
        while not on_path[at]:
            at = prefixes[at].parent
        node = min(node, at)  # parents come before their children
    return node


@compiled
def follow(state: State, base: int, tokens: np.ndarray, entries: np.ndarray) -> int:
    """The prefix of the best of the hypotheses that share the most words with a path after `base`."""
    prefixes, count, beam = state
    words = np.full(count, -1, dtype=np.int32)  # up to a prefix on the path
    words[base] = 0
    node, passed = base, 0
    for i in range(len(tokens)):
        node = find_prefix(prefixes, node, tokens[i], entries[i])
        if node < 0:
            break
        passed += entries[i] != NO_WORD
        words[node] = passed
    most, chosen = -1, 0
    for slot in range(len(beam)):  # best first
        at = beam[slot].prefix
        while words[at] < 0:
            at = prefixes[at].parent
        if words[at] > most:
            most, chosen = words[at], slot
    return int(beam[chosen].prefix)


@compiled
def commit(state: State, base: int) -> State:
    """Drop the hypotheses that do not descend from `base`, then all prefixes that no hypothesis needs.

    `base` moves to index 1, after its parent, which marks it as no beginning; to 0 if it has no parent.
    """
    prefixes, count, beam = state
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
    moved = np.full(count, -1, dtype=np.int32)
    found = 0
    if prefixes[base].parent >= 0:
        kept[0] = prefixes[prefixes[base].parent]
        kept[0].parent, kept[0].first_child, kept[0].slot = -1, -1, -1
        found = 1
    for node in range(base, count):
        if not needed[node]:
            continue
        kept[found] = prefixes[node]
        parent = found - 1 if node == base else moved[prefixes[node].parent]
        kept[found].parent, kept[found].first_child, kept[found].slot = parent, -1, -1
        if parent >= 0:
            kept[found].next_sibling = kept[parent].first_child
            kept[parent].first_child = found
        moved[node] = found
        found += 1
    beam = beam[stays]
    for slot in range(len(beam)):
        beam[slot].prefix = moved[beam[slot].prefix]
        kept[beam[slot].prefix].slot = slot
    return State(kept, found, beam)
