"""Vectors of items, and of requests from them: cosines say how alike items are.

``interactrank.graph.vectors`` makes an item's. A user's is the mean of those of the last ANCHORS
engagements, a query's that of its top items, by their shares: what a request holds in hand, as of
the same moment as its neighbours (``interactrank.features.neighbours``). Vectors of two snapshots
do not compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from interactrank.features.id_table import IdTable
from interactrank.features.inputs import FeatureInputs
from interactrank.features.neighbours import ANCHORS
from interactrank.features.schema import FeatureSchema
from interactrank.features.top_items import top_items_of

ROUNDING = 2.0**-8
"""A cosine that bf16 may make of nothing."""


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
        found = np.zeros((len(begins), self.bits.shape[1]), np.float32)
        for b, (low, high) in enumerate(zip(begins, ends, strict=True)):
            own = self.of(items[low:high])
            found[b] = own.sum(0) if weights is None else weights[low:high] @ own
        length = np.sqrt(np.square(found, dtype=np.float64).sum(1, keepdims=True))
        unit: NDArray[np.float32] = (found / np.where(length > 0, length, 1.0)).astype(np.float32)
        return unit


def narrowed(vectors: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 as the bits of bf16, rounded to the nearest, ties to even; of finite numbers."""
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16).astype(
        np.uint16
    )


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The bits of bf16 as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
