"""Vectors of items, and of requests from them: cosines say how alike items are.

``interactrank.graph.vectors`` makes an item's. A user's is the mean of those of the last ANCHORS
engagements, a query's that of its top items, by their shares: what a request holds in hand, as of
the same moment as its neighbours (``interactrank.features.neighbours``). Two features of a
candidate are its cosines to these. Vectors of two snapshots do not compare, so a request says which
snapshot it is of (``near_cutoffs``), and candidates are looked up there.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from interactrank.features.id_table import IdTable, find, slot_of
from interactrank.features.inputs import FeatureInputs
from interactrank.features.near import NO_SNAPSHOT
from interactrank.features.neighbours import ANCHORS
from interactrank.features.prefetch import prefetch
from interactrank.features.schema import FeatureSchema
from interactrank.features.top_items import top_items_of
from interactrank.kernels import kernel

ROUNDING = 2.0**-8
"""A cosine that bf16 may make of nothing."""
BLOCK = 32
"""Candidates whose vectors are on their way at a time."""
LINE = 32
"""Numbers of bf16 in a line of memory."""
FAST = {"reassoc", "contract", "nsz", "arcp"}
"""What the compiler may do to sums, so that they are vectorised."""


@dataclass(frozen=True)
class ItemVectors:
    """Vectors of n items, as of a cutoff.

    Attributes:
        ids: int64 [n], distinct.
        bits: uint16 [n, W], unit vectors in bf16; zeros of an item that nothing is known of.
    """

    ids: NDArray[np.int64]
    bits: NDArray[np.uint16]

    @cached_property
    def table(self) -> IdTable:
        """Places by item id."""
        return IdTable(self.ids)

    def of(self, items: NDArray[np.int64]) -> NDArray[np.float32]:
        """Vectors float32 [m, W] of ``items`` int64 [m]; zeros where there is none."""
        rows = self.table.rows(items)
        found = widened(self.bits[np.maximum(rows, 0)]) if len(self.ids) else None
        if found is None:
            return np.zeros((len(items), self.bits.shape[1]), np.float32)
        found[rows < 0] = 0.0
        return found

    @property
    def width(self) -> int:
        """W."""
        return self.bits.shape[1]

    def only(self, items: NDArray[np.int64]) -> ItemVectors:
        """Of some items alone, of those that are here."""
        rows = self.table.rows(np.unique(items))
        rows = rows[rows >= 0]
        return ItemVectors(self.ids[rows], self.bits[rows])

    def users(self, inputs: FeatureInputs) -> NDArray[np.float32]:
        """Unit vectors float32 [B, W] of the users of B requests; zeros where nothing is known."""
        ends = inputs.hist_offsets[1:]
        begins = np.maximum(inputs.hist_offsets[:-1], ends - ANCHORS)
        return self._means(inputs.hist_items, None, begins, ends)

    def queries(self, schema: FeatureSchema, inputs: FeatureInputs) -> NDArray[np.float32]:
        """The same of their queries.

        Raises:
            ValueError: of ``check_inputs``.
        """
        items, counts, offsets = top_items_of(schema, inputs)
        return self._means(items, counts, offsets[:-1], offsets[1:])

    def nearest(
        self, vector: NDArray[np.float32], most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The ``most`` items with the greatest cosine to a unit vector [W], and these, if any."""
        cosines = widened(self.bits) @ vector
        order = np.lexsort((self.ids, -cosines))[:most]
        order = order[cosines[order] > ROUNDING]
        return self.ids[order], cosines[order]

    def _means(
        self,
        items: NDArray[np.int64],
        weights: NDArray[np.float32] | None,
        begins: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        slots, shift = self.table.slots()
        some = np.zeros(0, np.float32) if weights is None else weights
        sums = np.zeros((len(begins), self.width))
        _add_up(self.bits, slots, shift, items, some, begins, ends, sums)
        length = np.sqrt(np.square(sums).sum(1, keepdims=True))
        unit: NDArray[np.float32] = (sums / np.where(length > 0, length, 1.0)).astype(np.float32)
        return unit


def cosines(
    inputs: FeatureInputs, candidates: NDArray[np.int64], offsets: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Cosines of candidates to the user and to the query, each in its request's snapshot.

    Args:
        inputs: of B requests, checked by the caller.
        candidates: int64 [N] item ids.
        offsets: int64 [B + 1], bounds of each request's candidates.

    Returns:
        float32 [N, 2], from -1 to 1 but for rounding; 0 where nothing is known.
    """
    found, near = np.zeros((len(candidates), 2), np.float32), inputs.near
    for cutoff in np.unique(near.near_cutoffs).tolist():
        if cutoff != NO_SNAPSHOT:
            of = inputs.snapshots[cutoff]
            mine = near.near_cutoffs == cutoff
            vectors = mine, near.user_vectors, near.query_vectors
            _cosines(of.bits, *of.table.slots(), *vectors, candidates, offsets, found)
    return found


@kernel(inline="always")
def _number(bits: int) -> np.float32:
    """A number of bf16."""
    number: np.float32 = np.uint32(np.uint32(bits) << np.uint32(16)).view(np.float32)
    return number


@kernel
def _add_up(
    bits: NDArray[np.uint16],
    slots: NDArray[np.int64],
    shift: int,
    items: NDArray[np.int64],
    weights: NDArray[np.float32],
    begins: NDArray[np.int64],
    ends: NDArray[np.int64],
    sums: NDArray[np.float64],
) -> None:
    """Sums of items' vectors; without ``weights`` each counts as much."""
    for b in range(begins.size):
        for i in range(begins[b], ends[b]):
            row = find(items[i], slots, shift)
            if row >= 0:
                weight = weights[i] if weights.size else np.float32(1.0)
                for d in range(bits.shape[1]):
                    sums[b, d] += weight * _number(bits[row, d])


@kernel(fastmath=FAST)
def _cosines(
    bits: NDArray[np.uint16],
    slots: NDArray[np.int64],
    shift: int,
    mine: NDArray[np.bool_],
    users: NDArray[np.float32],
    queries: NDArray[np.float32],
    candidates: NDArray[np.int64],
    offsets: NDArray[np.int64],
    found: NDArray[np.float32],
) -> None:
    """Write the cosines of candidates of the requests that are ``mine``.

    A block is gone over three times, so that memory is on its way before it is read: the slots,
    the vectors, the products.
    """
    width = bits.shape[1]
    rows = np.empty(BLOCK, np.int64)
    for b in range(mine.size):
        if not mine[b]:
            continue
        for begin in range(offsets[b], offsets[b + 1], BLOCK):
            size = min(BLOCK, offsets[b + 1] - begin)
            for i in range(size):
                prefetch(slots, 2 * slot_of(candidates[begin + i], shift))
            for i in range(size):
                rows[i] = find(candidates[begin + i], slots, shift)
                for at in range(0, width, LINE):
                    prefetch(bits, max(rows[i], 0) * width + at)
            for i in range(size):
                if rows[i] < 0:
                    continue
                user, query = np.float32(0.0), np.float32(0.0)
                for d in range(width):
                    number = _number(bits[rows[i], d])
                    user += number * users[b, d]
                    query += number * queries[b, d]
                found[begin + i, 0], found[begin + i, 1] = user, query


def narrowed(vectors: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 as the bits of bf16, rounded to the nearest, ties to even; of finite numbers."""
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16).astype(
        np.uint16
    )


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The bits of bf16 as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
