"""Statistics of a request alone: how much is known of its query and of its user.

The query tower and the fusion's gate read them (``schema.REQUEST_NUMERIC``).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.features.inputs import HOUR_US, FeatureInputs, check_inputs
from interactrank.features.packed_rows import mass_column, row_distinct, row_total
from interactrank.features.schema import HISTORY_LENGTH, LEVELS, REQUEST_NUMERIC, FeatureSchema
from interactrank.features.searches import LEVEL_CODE
from interactrank.kernels import kernel


@kernel
def _row_statistics(
    blocks: NDArray[np.uint8],
    block_start: NDArray[np.int64],
    key_block: NDArray[np.int64],
    key_level: NDArray[np.int64],
    key_offsets: NDArray[np.int64],
    level: int,
    total: int,
    recent: int,
    totals: NDArray[np.float32],
    distinct: NDArray[np.int64],
) -> None:
    """Totals [B, 2] of two columns, and distinct items [B], of each request's row of a level."""
    for b in range(key_offsets.size - 1):
        for k in range(key_offsets[b], key_offsets[b + 1]):
            if key_level[k] == level and key_block[k] >= 0:
                start = block_start[key_block[k]]
                totals[b, 0] = row_total(blocks, start, total)
                totals[b, 1] = row_total(blocks, start, recent)
                distinct[b] = row_distinct(blocks[start:])


@kernel
def _distinct_items(
    items: NDArray[np.int64], ends: NDArray[np.int64], lengths: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Distinct items among the last ``lengths`` [B] events of each history: [B]."""
    found = np.zeros(lengths.size, np.int64)
    for b in range(lengths.size):
        first = ends[b] - lengths[b]
        for e in range(first, ends[b]):
            seen = False
            for other in range(first, e):
                seen |= items[other] == items[e]
            found[b] += not seen
    return found


def request_features(schema: FeatureSchema, inputs: FeatureInputs) -> NDArray[np.float32]:
    """Query and user statistics, once per request: float32 [B, R], columns ``REQUEST_NUMERIC``.

    The query's are the header of its ``q:`` row; the user's come from the history.

    Raises:
        ValueError: of ``check_inputs``.
    """
    check_inputs(schema, inputs)
    query = LEVEL_CODE["q"]
    level = LEVELS[query]
    totals = np.zeros((len(inputs.time), 2), np.float32)
    distinct = np.zeros(len(inputs.time), np.int64)
    _row_statistics(
        inputs.blocks,
        inputs.block_start,
        inputs.key_block,
        inputs.key_level,
        inputs.key_offsets,
        query,
        mass_column(level),
        level.windows.index("30d"),
        totals,
        distinct,
    )
    total, recent = totals.T
    ends = inputs.hist_offsets[1:]
    lengths = np.minimum(np.diff(inputs.hist_offsets), HISTORY_LENGTH)
    some = lengths > 0
    out = np.empty((len(inputs.time), len(REQUEST_NUMERIC)), np.float32)
    out[:, 0] = np.log1p(total)
    out[:, 1] = np.log1p(distinct)
    out[:, 2] = recent / np.maximum(total, 1.0)
    out[:, 3] = 1.0 - total / (total + 3.0)
    out[:, 4] = np.log1p(inputs.tokens)
    out[:, 5] = np.log1p(lengths)
    out[:, 6:] = np.nan
    since = inputs.time[some] - inputs.hist_times[ends[some] - 1]
    out[some, 6] = np.log1p(since * (60.0 / HOUR_US))
    out[some, 7] = 1.0 - _distinct_items(inputs.hist_items, ends, lengths)[some] / lengths[some]
    return out
