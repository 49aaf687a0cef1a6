"""What is near to a request: neighbours of the items that its user and its query engaged lately.

An item's neighbours are those that the same users, queries and words led to (``interactrank.graph``
finds them). Two features of a candidate add up how near it is,

    user(p) = sum over the user's last ANCHORS engagements h of S[h, p]
    query(p) = sum over the query's top items t of share(t) S[t, p]

where S[i, p] is the weight of p among the neighbours of i. Both reach items that neither the user
nor the query has met, which is what a cut among many candidates lives from. A request reads the
neighbours of at most 40 items, however many candidates it has.

Neighbours are learned from the log, so they are snapshots with a cutoff, and a request takes those
that were published before it, as it takes counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from interactrank.features.id_table import IdTable, find, slot_of
from interactrank.features.inputs import FeatureInputs
from interactrank.features.near import Near
from interactrank.features.schema import NEIGHBOURS, FeatureSchema
from interactrank.features.top_items import top_items_of
from interactrank.kernels import kernel

ANCHORS = 20
"""A user's engagements that neighbours are looked up for, the latest ones."""
CODES = 65_535
"""Largest code of a weight; an item's weights are parts of its greatest one."""
SLOT_BITS = 13
"""log2 of a request's table: twice as many slots as neighbours it can have, at least."""


@dataclass(frozen=True)
class Neighbours:
    """Neighbours of n items, as of a cutoff.

    Attributes:
        ids: int64 [n], distinct.
        rows: int32 [n, NEIGHBOURS], the neighbours as places in ``ids``, nearest first; -1 ends.
        codes: uint16 [n, NEIGHBOURS], their weights as parts of ``scale``, CODES of them.
        scale: float32 [n], the weight of the nearest.
    """

    ids: NDArray[np.int64]
    rows: NDArray[np.int32]
    codes: NDArray[np.uint16]
    scale: NDArray[np.float32]

    @cached_property
    def table(self) -> IdTable:
        """Places by item id."""
        return IdTable(self.ids)

    @property
    def weights(self) -> NDArray[np.float32]:
        """S of the neighbours, float32 [n, NEIGHBOURS]; 0 where there is none."""
        found: NDArray[np.float32] = self.scale[:, None] * self.codes.astype(np.float32)
        return found / np.float32(CODES)

    def near(self, schema: FeatureSchema, inputs: FeatureInputs) -> Near:
        """What is near to the B requests of ``inputs``.

        Raises:
            ValueError: the arrays of the neighbours do not fit together; and of ``check_inputs``.
        """
        self._check()
        top_items, top_counts, top_offsets = top_items_of(schema, inputs)
        slots, shift = self.table.slots()
        found: tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
        found = _near(
            self.ids,
            self.rows,
            self.codes,
            self.scale,
            slots,
            shift,
            inputs.hist_items,
            inputs.hist_offsets,
            top_items,
            top_counts,
            top_offsets,
        )
        return Near(*found)

    def _check(self) -> None:
        n, shape = len(self.ids), (len(self.ids), NEIGHBOURS)
        if self.rows.shape != shape or self.codes.shape != shape or self.scale.shape != (n,):
            raise ValueError(f"the neighbours of {n} items must be {shape}: build the graph again")


@kernel(inline="always")
def _count(near: NDArray[np.int32]) -> int:
    """How many neighbours an item has."""
    n = 0
    while n < near.size and near[n] >= 0:
        n += 1
    return n


@kernel(inline="always")
def _add(
    row: int,
    weight: float,
    side: int,
    keys: NDArray[np.int32],
    places: NDArray[np.int32],
    rows: NDArray[np.int32],
    sums: NDArray[np.float32],
    begin: int,
    used: int,
) -> int:
    """Add ``weight`` to what a request holds of a row; returns how many rows are held now."""
    mask = keys.size - 1
    at = slot_of(row, 64 - SLOT_BITS)
    while keys[at] >= 0 and keys[at] != row:
        at = (at + 1) & mask
    if keys[at] < 0:
        keys[at], places[at] = row, used - begin
        rows[used], sums[used, 0], sums[used, 1] = row, 0.0, 0.0
        used += 1
    sums[begin + places[at], side] += np.float32(weight)
    return used


@kernel
def _near(  # type: ignore[no-untyped-def]
    ids,
    neighbours,
    codes,
    scale,
    slots,
    shift,
    history,
    history_offsets,
    top_items,
    top_counts,
    top_offsets,
):
    requests, width = history_offsets.size - 1, neighbours.shape[1]
    most = 0
    for b in range(requests):
        anchors = min(history_offsets[b + 1] - history_offsets[b], ANCHORS)
        most += (anchors + top_offsets[b + 1] - top_offsets[b]) * width
    rows, sums = np.empty(most, np.int32), np.empty((most, 2), np.float32)
    keys, places = np.empty(1 << SLOT_BITS, np.int32), np.empty(1 << SLOT_BITS, np.int32)
    offsets, used = np.zeros(requests + 1, np.int64), 0
    for b in range(requests):
        begin, end = used, history_offsets[b + 1]
        keys[:] = -1
        for e in range(max(history_offsets[b], end - ANCHORS), end):
            item = find(history[e], slots, shift)
            if item >= 0:
                near, parts = neighbours[item], codes[item]
                for j in range(_count(near)):
                    weight = scale[item] * np.float32(parts[j]) / np.float32(CODES)
                    used = _add(near[j], weight, 0, keys, places, rows, sums, begin, used)
        total = np.float32(0.0)
        for t in range(top_offsets[b], top_offsets[b + 1]):
            total += top_counts[t]
        for t in range(top_offsets[b], top_offsets[b + 1]):
            item = find(top_items[t], slots, shift)
            if item >= 0:
                share, near, parts = top_counts[t] / total, neighbours[item], codes[item]
                for j in range(_count(near)):
                    weight = scale[item] * np.float32(parts[j]) / np.float32(CODES)
                    used = _add(near[j], share * weight, 1, keys, places, rows, sums, begin, used)
        offsets[b + 1] = used
    items = np.empty(used, np.int64)
    for m in range(used):
        items[m] = ids[rows[m]]
    return items, sums[:used, 0].copy(), sums[:used, 1].copy(), offsets
