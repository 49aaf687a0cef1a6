"""The most engaged items of a query (the reference code's ``query_item_xperf_seq``).

They are read from the packed rows that the cross features use, so they cost no read of their own
and are as of the same snapshot.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.features.inputs import FeatureInputs, check_inputs
from interactrank.features.packed_rows import (
    DECODE,
    mass_column,
    row_codes,
    row_ids,
    row_shape,
    row_total,
)
from interactrank.features.schema import LEVELS, FeatureSchema
from interactrank.kernels import kernel

TOP_ITEMS_LENGTH = 20
"""Items kept per query, as in the public reference code."""

_ANY = next(code for code, level in enumerate(LEVELS) if level.prefix == "a")
_MASS = np.array([mass_column(level) for level in LEVELS])


@kernel
def _top_items(  # type: ignore[no-untyped-def]
    blocks,
    block_start,
    key_block,
    key_level,
    key_offsets,
    mass,
    any_level,
    decode,
    length,
    out_items,
    out_counts,
    out_offsets,
):
    used = 0
    for b in range(key_offsets.size - 1):
        best_level, best_total, block = any_level, 0.0, -1
        for k in range(key_offsets[b], key_offsets[b + 1]):
            if key_block[k] < 0 or key_level[k] == any_level:
                continue
            total = row_total(blocks, block_start[key_block[k]], mass[key_level[k]])
            exact = block < 0 or key_level[k] < best_level
            rarer = key_level[k] == best_level and total < best_total
            if total > 0 and (exact or rarer):
                best_level, best_total, block = key_level[k], total, key_block[k]
        if block >= 0:
            row = blocks[block_start[block] :]
            n, f = row_shape(row)
            items, codes = row_ids(row), row_codes(row)
            begin = used
            for i in range(n):
                count = decode[codes[i * f + mass[best_level]]]
                full = used - begin == length
                if count <= 0 or (full and count <= out_counts[used - 1]):
                    continue
                # The best so far are kept in order: a later one goes behind its equals.
                at = used - 1 if full else used
                used = at + 1
                while at > begin and out_counts[at - 1] < count:
                    out_items[at], out_counts[at] = out_items[at - 1], out_counts[at - 1]
                    at -= 1
                out_items[at], out_counts[at] = items[i], count
        out_offsets[b + 1] = used
    return used


def top_items_of(
    schema: FeatureSchema, inputs: FeatureInputs
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Most engaged items of each request's query, best first, ties by item id.

    They come from the most exact key that has a row: the query itself, the query without blanks,
    its rarest token, its rarest sub-word; never from all queries together.

    Returns:
        ids int64 [P], engagement counts float32 [P], offsets int64 [B + 1].

    Raises:
        ValueError: of ``check_inputs``.
    """
    check_inputs(schema, inputs)
    requests = len(inputs.time)
    items = np.empty(requests * TOP_ITEMS_LENGTH, np.int64)
    counts = np.empty(requests * TOP_ITEMS_LENGTH, np.float32)
    offsets = np.zeros(requests + 1, np.int64)
    used = _top_items(
        inputs.blocks,
        inputs.block_start,
        inputs.key_block,
        inputs.key_level,
        inputs.key_offsets,
        _MASS,
        _ANY,
        DECODE,
        TOP_ITEMS_LENGTH,
        items,
        counts,
        offsets,
    )
    return items[:used], counts[:used], offsets
