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
    blocks: NDArray[np.uint8], start: NDArray[np.int64], total: int, recent: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.uint32]]:
    """Totals of two columns, and distinct items, of the rows that begin at ``start`` [n]: [n]."""
    n = start.size
    totals, recents = np.empty(n, np.float32), np.empty(n, np.float32)
    distinct = np.empty(n, np.uint32)
    for r in range(n):
        totals[r] = row_total(blocks, start[r], total)
        recents[r] = row_total(blocks, start[r], recent)
        distinct[r] = row_distinct(blocks[start[r] :])
    return totals, recents, distinct


def request_features(schema: FeatureSchema, inputs: FeatureInputs) -> NDArray[np.float32]:
    """Query and user statistics, once per request: float32 [B, R], columns ``REQUEST_NUMERIC``.

    The query's are the header of its ``q:`` row; the user's come from the history.

    Raises:
        ValueError: of ``check_inputs``.
    """
    check_inputs(schema, inputs)
    query = LEVEL_CODE["q"]
    level = LEVELS[query]
    mass, month = mass_column(level), level.windows.index("30d")
    out = np.zeros((len(inputs.time), len(REQUEST_NUMERIC)), np.float32)
    of = np.repeat(np.arange(len(inputs.time)), np.diff(inputs.key_offsets))
    found = (inputs.key_level == query) & (inputs.key_block >= 0)
    start = inputs.block_start[inputs.key_block[found]]
    total, recent, distinct = _row_statistics(inputs.blocks, start, mass, month)
    rows = of[found]
    out[rows, 0] = np.log1p(total)
    out[rows, 1] = np.log1p(distinct)
    out[rows, 2] = recent / np.maximum(total, 1.0)
    out[rows, 3] = -total / (total + 3.0)
    out[:, 3] += 1.0
    out[:, 4] = np.log1p(inputs.tokens)
    lengths = np.minimum(np.diff(inputs.hist_offsets), HISTORY_LENGTH)
    out[:, 5] = np.log1p(lengths)
    out[:, 6] = np.nan
    some = lengths > 0
    last = inputs.hist_times[inputs.hist_offsets[1:][some] - 1]
    out[some, 6] = np.log1p((inputs.time[some] - last) / HOUR_US)
    out[:, 7] = np.nan
    out[some, 7] = 1.0 - _distinct_items(inputs, lengths)[some] / lengths[some]
    return out


def _distinct_items(inputs: FeatureInputs, lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Distinct items among the last ``lengths`` [B] events of each history, [B]."""
    of = np.repeat(np.arange(len(lengths)), lengths)
    starts = np.cumsum(lengths) - lengths
    first = inputs.hist_offsets[1:] - lengths
    items = inputs.hist_items[np.arange(len(of)) + (first - starts)[of]]
    order = np.lexsort((items, of))
    new = np.ones(len(of), bool)
    new[1:] = (np.diff(items[order]) != 0) | (np.diff(of[order]) != 0)
    return np.bincount(of[order], weights=new, minlength=len(lengths)).astype(np.int64)
