"""The counts of a key that a build leaves to the next, as bytes.

A state is ``i64 item_ids[n]`` ascending and ``i64 counts[n, F]`` in parts of UNIT: all items of the
key and all windows, where a packed row is capped and rounded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.kernels import kernel

STATES = pa.schema({"key": pa.string(), "state": pa.large_binary()})
UNIT = 256
"""Parts of an event that are counted: whole numbers, whose sums do not depend on their order. A
power of two, so that dividing by it is exact."""


@dataclass(frozen=True)
class States:
    """The states of some keys [k]: ``data`` uint8 holds that of key ``i`` from ``starts[i]`` to
    ``ends[i]``, two equal ones where it has none.
    """

    data: NDArray[np.uint8]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, names: pa.Array, held: pa.Table) -> States:
        """States of the keys ``names``, of a table as STATES."""
        column = held["state"].cast(pa.large_binary()).combine_chunks()
        if not len(column):
            none = np.zeros(len(names), np.int64)
            return cls(np.zeros(0, np.uint8), none, none)
        _, offsets, data = column.buffers()
        at = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
        where = pc.index_in(names, held["key"].combine_chunks())
        there = where.is_valid().to_numpy(zero_copy_only=False)
        row = where.fill_null(0).to_numpy()
        starts, ends = np.where(there, at[row], 0), np.where(there, at[row + 1], 0)
        return cls(np.frombuffer(data, np.uint8), starts, ends)


@kernel
def grown(buffer: NDArray[np.uint8], need: int) -> NDArray[np.uint8]:
    """``buffer``, or a copy of it in a larger one with zeros, of at least ``need`` bytes."""
    if need <= buffer.size:
        return buffer
    larger = np.zeros(max(need, 2 * buffer.size), np.uint8)
    larger[: buffer.size] = buffer
    return larger


@kernel
def state_items(
    state: NDArray[np.uint8], columns: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Items [n] and counts [n * F] of a state of F ``columns``; none of one without a byte."""
    n = state.size // (8 + 8 * columns)
    numbers = state.view(np.int64)
    return numbers[:n], numbers[n:]


@kernel
def append_state(
    out: NDArray[np.uint8],
    used: int,
    ids: NDArray[np.int64],
    counts: NDArray[np.int64],
    present: NDArray[np.int64],
) -> tuple[NDArray[np.uint8], int]:
    """Write the items ``present`` of ``ids`` and ``counts`` [n, F] after ``used`` bytes of ``out``.

    Returns:
        ``out``, or a larger one in its place, and how much of it is used then.
    """
    n, n_cols = present.size, counts.shape[1]
    size = 8 * n + 8 * n * n_cols
    out = grown(out, used + size)
    held = out[used : used + 8 * n].view(np.int64)
    numbers = out[used + 8 * n : used + size].view(np.int64)
    for i in range(n):
        held[i] = ids[present[i]]
        for column in range(n_cols):
            numbers[i * n_cols + column] = counts[present[i], column]
    return out, used + size


def blocks(data: NDArray[np.uint8], ends: NDArray[np.int64]) -> pa.Array:
    """Bytes end to end as an Arrow column, without a copy."""
    offsets = np.concatenate((np.zeros(1, np.int64), ends))
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(ends), buffers)
