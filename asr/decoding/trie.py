"""Spellings as a prefix tree on flat arrays."""

from typing import NamedTuple

import numpy as np

from asr.decoding.lexicon import Lexicon
from asr.jit import kernel

ROOT = 0

TRIE_NODE = np.dtype(
    [
        ("token", np.int32),  # that leads to this node
        ("first_child", np.int32),  # children are first_child to the next node's, sorted by token
        ("first_entry", np.int32),  # so are the entries that end here
        ("ahead", np.float32),  # best score of a word at or below this node
    ]
)


class Trie(NamedTuple):
    """`nodes` in order of depth, the root first, and one more that closes the last ranges;
    `entries` are spellings by node, as indices into the lexicon."""

    nodes: np.ndarray
    entries: np.ndarray


def build_trie(lexicon: Lexicon, scores: np.ndarray) -> Trie:
    """Build the trie, level by level; `scores` `float[len(lexicon)]` are smeared towards the root."""
    lengths = np.diff(lexicon.offsets)
    depth = int(lengths.max(initial=0))
    # One row a spelling, zero padded: sorted, equal prefixes lie side by side and the shortest first.
    narrow = int(lexicon.tokens.max(initial=0)) < 256  # a quarter of the bytes to sort
    table = np.zeros((len(lexicon), depth), dtype=np.dtype("u1" if narrow else ">u4"))
    table[np.arange(depth) < lengths[:, None]] = lexicon.tokens
    row = f"S{table.itemsize * depth}"
    order = np.argsort(table.view(row)[:, 0], kind="stable") if depth else np.arange(0)
    table, lengths, scores = table[order], lengths[order], scores[order]

    top = float(scores.max()) if len(scores) else 0.0
    levels = [np.array([(0, 0, 0, top)], dtype=TRIE_NODE)]
    parents = [np.array([-1], dtype=np.int32)]
    count = 1
    place = np.zeros(len(lexicon), dtype=np.int32)  # node that each row has come to
    for column in range(depth):
        rows = np.flatnonzero(lengths > column)
        parent, token = place[rows], table[rows, column]
        first = np.ones(len(rows), dtype=bool)
        first[1:] = (parent[1:] != parent[:-1]) | (token[1:] != token[:-1])
        starts = np.flatnonzero(first)
        place[rows] = count - 1 + np.cumsum(first)
        level = np.zeros(len(starts), dtype=TRIE_NODE)
        level["token"], level["ahead"] = token[starts], np.maximum.reduceat(scores[rows], starts)
        levels.append(level)
        parents.append(parent[starts])
        count += len(starts)

    nodes = np.concatenate([*levels, np.zeros(1, dtype=TRIE_NODE)])
    numbers = np.arange(count + 1, dtype=np.int32)
    nodes["first_child"] = np.searchsorted(np.concatenate(parents), numbers)
    by_node = np.argsort(place, kind="stable")
    nodes["first_entry"] = np.searchsorted(place[by_node], numbers)
    return Trie(nodes, order[by_node].astype(np.int32))


@kernel
def find_child(nodes: np.ndarray, node: int, token: int) -> int:
    """The child of `node` by `token`, or -1."""
    low, high = nodes[node].first_child, nodes[node + 1].first_child
    while low < high:
        middle = (low + high) >> 1
        if nodes[middle].token < token:
            low = middle + 1
        else:
            high = middle
    if low < nodes[node + 1].first_child and nodes[low].token == token:
        return low
    return -1
