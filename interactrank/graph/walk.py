"""Neighbours of items by two steps of a random walk: to a key that led to the item, and back.

A key is a user, a query or a word of a query. With A[k, i] the weight of the edge between key k and
item i, each relation r (users, queries, words) walks by itself, so that the rarer one is not
drowned by the other:

    S[i, j] = sum over r, over keys k of r, of A[k, i] / sum_k' A[k', i] * A[k, j] / sum_j' A[k, j']

An item keeps its NEIGHBOURS greatest S. Lists are pruned before the walk (``Relation``), so its
cost is linear in the edges: each is passed at most as often as a key keeps items.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from interactrank.features.neighbours import CODES, Neighbours
from interactrank.features.schema import NEIGHBOURS
from interactrank.kernels import kernel


class Relation(NamedTuple):
    """Edges between keys of one kind and n items, from both sides; either side may be pruned.

    ``keys`` int32 of each item end to end, ``key_weights`` float32 likewise, ``item_offsets`` int64
    [n + 1]; ``items`` int32 of each key, ``item_weights`` float32 likewise, ``key_offsets`` int64
    [keys + 1]. ``key_totals`` float32 [keys] and ``item_totals`` float32 [n]: weight of all edges
    of each, those that were pruned too.
    """

    keys: NDArray[np.int32]
    key_weights: NDArray[np.float32]
    item_offsets: NDArray[np.int64]
    items: NDArray[np.int32]
    item_weights: NDArray[np.float32]
    key_offsets: NDArray[np.int64]
    key_totals: NDArray[np.float32]
    item_totals: NDArray[np.float32]


def walked(ids: NDArray[np.int64], relations: Sequence[Relation]) -> Neighbours:
    """Neighbours of the items ``ids`` int64 [n], ascending, under some relations."""
    n = len(ids)
    rows = np.full((n, NEIGHBOURS), -1, np.int32)
    codes, scale = np.zeros((n, NEIGHBOURS), np.uint16), np.zeros(n, np.float32)
    if relations:
        _walk(tuple(relations), rows, codes, scale)
    return Neighbours(ids, rows, codes, scale)


@kernel
def _step(
    item: int, r: Relation, sums: NDArray[np.float32], touched: NDArray[np.int32], n: int
) -> int:
    """Add the walk of ``item`` through one relation to ``sums``; returns how many it touched."""
    if r.item_totals[item] <= 0.0:
        return n
    for e in range(r.item_offsets[item], r.item_offsets[item + 1]):
        key = r.keys[e]
        passed = r.key_weights[e] / r.item_totals[item] / r.key_totals[key]
        for f in range(r.key_offsets[key], r.key_offsets[key + 1]):
            other = r.items[f]
            if other != item:
                if sums[other] == 0.0:
                    touched[n] = other
                    n += 1
                sums[other] += passed * r.item_weights[f]
    return n


@kernel
def _keep(sums: NDArray[np.float32], touched: NDArray[np.int32], rows: NDArray[np.int32]) -> int:
    """Put the items ``touched`` with the greatest sums into ``rows``, ties by place; how many."""
    if touched.size > rows.size:
        weights = np.sort(sums[touched])
        least = weights[touched.size - rows.size]
        above = 0
        for i in range(touched.size):
            above += sums[touched[i]] > least
        ties, kept = rows.size - above, np.empty(rows.size, np.int32)
        used = 0
        # ``touched`` is in ascending order, so that of equals the first stay.
        for i in range(touched.size):
            weight = sums[touched[i]]
            if weight > least or (weight == least and ties > 0):
                ties -= weight == least
                kept[used] = touched[i]
                used += 1
        touched = kept[:used]
    order = np.argsort(-sums[touched], kind="mergesort")
    for j in range(touched.size):
        rows[j] = touched[order[j]]
    return touched.size


@kernel
def _walk(
    relations: tuple[Relation, ...],
    rows: NDArray[np.int32],
    codes: NDArray[np.uint16],
    scale: NDArray[np.float32],
) -> None:
    n = rows.shape[0]
    sums, touched = np.zeros(n, np.float32), np.empty(n, np.int32)
    for item in range(n):
        reached = 0
        for r in relations:
            reached = _step(item, r, sums, touched, reached)
        found = np.sort(touched[:reached])
        kept = _keep(sums, found, rows[item])
        if kept:
            scale[item] = sums[rows[item, 0]]
        for j in range(kept):
            part = sums[rows[item, j]] / scale[item]
            codes[item, j] = np.uint16(max(np.rint(part * CODES), 1.0))
        for other in found:
            sums[other] = 0.0
