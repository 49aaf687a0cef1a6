"""Which candidates stand in a packed row or the history of a request, or near it, and which cannot.

A filter of hashed bits: a candidate whose bit is not set stands nowhere. One whose bit is set
mostly does; the few that do not cost the time of their features and nothing else.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.features.id_table import slot_of
from interactrank.features.inputs import FeatureInputs, check_inputs
from interactrank.features.packed_rows import row_ids
from interactrank.features.schema import HISTORY_LENGTH, FeatureSchema
from interactrank.kernels import kernel

BITS = 18
"""log2 of the filter's bits: 32 KiB, which stays in the nearest cache."""


@kernel(inline="always")
def _bit(item: int) -> tuple[int, int]:
    """Word of the filter, and bit of the word."""
    at = slot_of(item, 64 - BITS)
    return at >> 6, np.uint64(1) << np.uint64(at & 63)  # type: ignore[return-value]


@kernel
def _filter(
    blocks: NDArray[np.uint8],
    block_start: NDArray[np.int64],
    key_block: NDArray[np.int64],
    history: NDArray[np.int64],
    near: NDArray[np.int64],
) -> NDArray[np.uint64]:
    words = np.zeros(1 << (BITS - 6), np.uint64)
    for k in range(key_block.size):
        if key_block[k] >= 0:
            for item in row_ids(blocks[block_start[key_block[k]] :]):
                word, bit = _bit(item)
                words[word] |= bit
    for items in (history, near):
        for item in items:
            word, bit = _bit(item)
            words[word] |= bit
    return words


@kernel
def _among(items: NDArray[np.int64], words: NDArray[np.uint64]) -> NDArray[np.int64]:
    positions, found = np.empty(items.size, np.int64), 0
    for i in range(items.size):
        word, bit = _bit(items[i])
        # Without a branch, which would be guessed wrong.
        positions[found] = i
        found += int((words[word] & bit) != 0)
    return positions[:found]


class Reached:
    """The items that the rows and the history of one request may hold, or that are near to it.

    Args:
        schema: of the features.
        inputs: of exactly one request.

    Raises:
        ValueError: of ``check_inputs``.
    """

    def __init__(self, schema: FeatureSchema, inputs: FeatureInputs) -> None:
        check_inputs(schema, inputs)
        self._inputs = inputs
        self._words = _filter(
            inputs.blocks,
            inputs.block_start,
            inputs.key_block,
            inputs.hist_items[-HISTORY_LENGTH:],
            inputs.near_items,
        )

    def among(self, items: NDArray[np.int64]) -> NDArray[np.int64]:
        """Positions in ``items`` int64 [n] of those that may stand somewhere, ascending."""
        found: NDArray[np.int64] = _among(items, self._words)
        return found

    def nobody(self) -> int:
        """An id that stands nowhere in the request, and that no vector is known of."""
        one = np.full(1, np.iinfo(np.int64).min)
        while len(self.among(one)) or any(
            of.table.rows(one)[0] >= 0 for of in self._inputs.snapshots.values()
        ):
            one += 1
        return int(one[0])

    def items(self) -> NDArray[np.int64]:
        """Every item that stands somewhere, ascending: int64 [n]."""
        i = self._inputs
        rows = [i.blocks[i.block_start[block] :] for block in i.key_block if block >= 0]
        held = [row_ids(row) for row in rows]
        return np.unique(np.concatenate((*held, i.hist_items[-HISTORY_LENGTH:], i.near_items)))
