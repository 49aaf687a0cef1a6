"""Vectors of items: cosines say how alike items are.

``interactrank.graph.vectors`` makes them; ``interactrank.features.alike`` compares requests.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from interactrank.features.id_table import IdTable, find
from interactrank.kernels import kernel

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

    @property
    def width(self) -> int:
        """W."""
        return self.bits.shape[1]

    def only(self, items: NDArray[np.int64]) -> ItemVectors:
        """Of some items alone, of those that are here."""
        rows = self.table.rows(np.unique(items))
        rows = rows[rows >= 0]
        return ItemVectors(self.ids[rows], self.bits[rows])

    def nearest(
        self, vector: NDArray[np.float32], most: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """The ``most`` items with the greatest cosine to a unit vector [W], and these, if any."""
        cosines = widened(self.bits) @ vector
        order = np.lexsort((self.ids, -cosines))[:most]
        order = order[cosines[order] > ROUNDING]
        return self.ids[order], cosines[order]

    def means(
        self,
        items: NDArray[np.int64],
        weights: NDArray[np.float32] | None,
        begins: NDArray[np.int64],
        ends: NDArray[np.int64],
    ) -> NDArray[np.float32]:
        """Means of vectors, at length 1.

        Args:
            items: int64 [n], of all means.
            weights: float32 [n]; None for all the same.
            begins, ends: int64 [B], bounds of each mean's items.

        Returns:
            float32 [B, W]; zeros where nothing is known.
        """
        slots, shift = self.table.slots()
        some = np.zeros(0, np.float32) if weights is None else weights
        sums = np.zeros((len(begins), self.width))
        _add_up(self.bits, slots, shift, items, some, begins, ends, sums)
        length = np.sqrt(np.square(sums).sum(1, keepdims=True))
        unit: NDArray[np.float32] = (sums / np.where(length > 0, length, 1.0)).astype(np.float32)
        return unit


@kernel(inline="always")
def number_of(bits: int) -> np.float32:
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
                    sums[b, d] += weight * number_of(bits[row, d])


def narrowed(vectors: NDArray[np.float32]) -> NDArray[np.uint16]:
    """float32 as the bits of bf16, rounded to the nearest, ties to even; of finite numbers."""
    bits = np.ascontiguousarray(vectors).view(np.uint32)
    return ((bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))) >> 16).astype(
        np.uint16
    )


def widened(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """The bits of bf16 as float32."""
    return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
