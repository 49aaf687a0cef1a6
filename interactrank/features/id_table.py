"""id -> row: an open-addressing table over int64 item ids, probed by compiled kernels.

Linear probing over a power-of-two table at most half full. A slot holds the id beside its row, so
that a look-up reads one line of memory; many look-ups ask for their lines ahead of time.
``rows_reference`` is the NumPy definition that the table is tested against.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.features.prefetch import prefetch
from interactrank.kernels import kernel

MISSING = -1
AHEAD = 16
"""Look-ups whose memory is on its way at a time; more are not faster here."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)


@kernel(inline="always")
def slot_of(key: int, shift: int) -> int:
    """Hash of ``key``, of 64 - ``shift`` bits."""
    at: int = np.int64((np.uint64(key) * _MULTIPLIER) >> np.uint64(shift))  # type: ignore[assignment]
    return at


@kernel
def empty_slots(bits: int) -> NDArray[np.int64]:
    """A table of 2^bits free slots: int64 [slots, 2], id and row; a row of -1 is a free slot."""
    slots = np.empty((1 << bits, 2), np.int64)
    slots[:, 1] = MISSING
    return slots


@kernel
def fill(keys: NDArray[np.int64], slots: NDArray[np.int64], shift: int) -> int:
    """Insert ``keys`` [n] into ``slots``; return the number of repeated keys."""
    mask = slots.shape[0] - 1
    repeated = 0
    for row in range(keys.size):
        at = slot_of(keys[row], shift)
        while slots[at, 1] >= 0 and slots[at, 0] != keys[row]:
            at = (at + 1) & mask
        if slots[at, 1] >= 0:
            repeated += 1
        else:
            slots[at, 0], slots[at, 1] = keys[row], row
    return repeated


@kernel(inline="always")
def find(key: int, slots: NDArray[np.int64], shift: int) -> int:
    """Row of ``key``, or -1."""
    mask = slots.shape[0] - 1
    at = slot_of(key, shift)
    while slots[at, 1] >= 0:
        if slots[at, 0] == key:
            return slots[at, 1]
        at = (at + 1) & mask
    return MISSING


@kernel
def _find_all(wanted: NDArray[np.int64], slots: NDArray[np.int64], shift: int) -> NDArray[np.int64]:
    n = wanted.size
    rows = np.empty(n, np.int64)
    for i in range(min(AHEAD, n)):
        prefetch(slots, 2 * slot_of(wanted[i], shift))
    for i in range(n):
        if i + AHEAD < n:
            prefetch(slots, 2 * slot_of(wanted[i + AHEAD], shift))
        rows[i] = find(wanted[i], slots, shift)
    return rows


@kernel(inline="always")
def table_bits(n: int) -> int:
    """log2 of the table size that keeps ``n`` keys at most half full."""
    bits = 3
    while (1 << bits) < 2 * n:
        bits += 1
    return bits


class IdTable:
    """Immutable map from item id (int64) to its row: where it stands in the array, or as given.

    Args:
        ids: int64 [n].
        rows: int64 [n], of each id, none negative; its place in ``ids`` where left out.

    Raises:
        ValueError: an id stands twice.
    """

    def __init__(self, ids: NDArray[np.int64], rows: NDArray[np.int64] | None = None) -> None:
        bits = table_bits(max(len(ids), 1))
        self.ids = np.ascontiguousarray(ids, dtype=np.int64)
        # NumPy's memory, for which it asks for huge pages: a look-up then seldom has to find its
        # page first, which takes as long as to read the slot.
        self._slots = np.empty((1 << bits, 2), np.int64)
        self._slots[:, 1] = MISSING
        self._shift = 64 - bits
        if repeated := fill(self.ids, self._slots, self._shift):
            raise ValueError(f"item ids must be unique: {repeated} stand more than once")
        if rows is not None:
            taken = np.flatnonzero(self._slots[:, 1] >= 0)
            self._slots[taken, 1] = rows[self._slots[taken, 1]]

    def __len__(self) -> int:
        return len(self.ids)

    def slots(self) -> tuple[NDArray[np.int64], int]:
        """The table and its shift, as ``find`` takes them."""
        return self._slots, self._shift

    def rows(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Rows of ``wanted`` [n] as int64 [n]; -1 where the id is unknown."""
        wanted = np.ascontiguousarray(wanted, dtype=np.int64)
        found: NDArray[np.int64] = _find_all(wanted, self._slots, self._shift)
        return found


def overlaid(
    ids: NDArray[np.int64], others: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What stands where when the items ``others`` [m] join ``ids`` [n], or take their places.

    Returns:
        The distinct ids of both, ascending, and the row of each: of ``others`` plus n, where it
        stands there, else of ``ids``.
    """
    kept = np.flatnonzero(IdTable(others).rows(ids) < 0)
    both = np.concatenate((ids[kept], others))
    rows = np.concatenate((kept, len(ids) + np.arange(len(others))))
    order = np.argsort(both, kind="stable")
    return both[order], rows[order]


def rows_reference(ids: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """The same answer as ``IdTable.rows``, by sorting."""
    if not len(ids):
        return np.full(len(wanted), MISSING, dtype=np.int64)
    order = np.argsort(ids, kind="stable")
    at = np.minimum(np.searchsorted(ids, wanted, sorter=order), len(ids) - 1)
    rows = order[at]
    return np.where(ids[rows] == wanted, rows, MISSING)
