"""What the features of requests are made from: packed rows and histories, offline and online alike.

:class:`FeatureInputs` is what the offline join and the online store both hand over. Here are its
checks and what it says of a request alone; :mod:`interactrank.features.engagement` makes the cross
features.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numba as nb
import numpy as np
from numpy.typing import NDArray

from interactrank.features.packed_rows import RowError, columns_crc, mass_column, row_bytes
from interactrank.features.schema import (
    HISTORY_LENGTH,
    LEVELS,
    REQUEST_NUMERIC,
    ROW_VERSION,
    FeatureSchema,
    Level,
)

MISSING_BLOCK = -1
"""``key_block`` of a key that has no row."""
HOUR_US = 3.6e9

LEVEL_CODE = {level.prefix: code for code, level in enumerate(LEVELS)}
"""Level prefix -> index in LEVELS."""


def level_code(key: str) -> int:
    """Index in LEVELS of an engagement key's level."""
    return LEVEL_CODE[key.split(":", 1)[0]]


@dataclass(frozen=True)
class FeatureInputs:
    """What the features of B requests are made from, offline and online alike.

    Attributes:
        time: int64 [B], microseconds since 1970.
        blocks: uint8, packed rows end to end (each a multiple of 8 bytes).
        block_start, block_size: int64 [distinct rows].
        key_block: int64 [keys of all requests], row of each key, -1 where it has none;
            ``key_level`` int64 likewise, ``key_offsets`` int64 [B + 1].
        hist_items, hist_actions, hist_times: int64 [E], oldest first; ``hist_offsets`` [B + 1].
        hist_queries: int64 [E], code of the query that led to each (text.query_code), 0 for none.
        query: int64 [B], code of the request's own query.
        tokens: int64 [B], word tokens of the query.
        segments: int64 [B, S], bucket of each segment column's value; [0, 0] if none was given.
    """

    time: NDArray[np.int64]
    blocks: NDArray[np.uint8]
    block_start: NDArray[np.int64]
    block_size: NDArray[np.int64]
    key_block: NDArray[np.int64]
    key_level: NDArray[np.int64]
    key_offsets: NDArray[np.int64]
    hist_items: NDArray[np.int64]
    hist_actions: NDArray[np.int64]
    hist_times: NDArray[np.int64]
    hist_queries: NDArray[np.int64]
    hist_offsets: NDArray[np.int64]
    query: NDArray[np.int64]
    tokens: NDArray[np.int64]
    segments: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 0), np.int64))

    def slice(self, low: int, high: int) -> FeatureInputs:
        """Inputs of requests low to high - 1, as views: the packed rows are shared, not copied."""
        keys = slice(self.key_offsets[low], self.key_offsets[high])
        events = slice(self.hist_offsets[low], self.hist_offsets[high])
        return replace(
            self,
            time=self.time[low:high],
            key_block=self.key_block[keys],
            key_level=self.key_level[keys],
            key_offsets=self.key_offsets[low : high + 1] - self.key_offsets[low],
            hist_items=self.hist_items[events],
            hist_actions=self.hist_actions[events],
            hist_times=self.hist_times[events],
            hist_queries=self.hist_queries[events],
            hist_offsets=self.hist_offsets[low : high + 1] - self.hist_offsets[low],
            query=self.query[low:high],
            tokens=self.tokens[low:high],
            segments=self.segments[low:high],
        )


@nb.njit(cache=True, nogil=True)
def _check_rows(
    blocks: NDArray[np.uint8],
    start: NDArray[np.int64],
    size: NDArray[np.int64],
    level: NDArray[np.int64],
    columns: NDArray[np.int64],
    crc: NDArray[np.int64],
) -> int:
    """Index of the first row that its header contradicts, or -1."""
    for r in range(start.size):
        if size[r] < 16 or level[r] < 0:
            return r
        head = blocks[start[r] : start[r] + 16].view(np.uint32)
        version, f = head[0] & 0xFFFF, head[0] >> 16
        if version != ROW_VERSION or f != columns[level[r]] or head[2] != crc[level[r]]:
            return r
        if size[r] != row_bytes(np.int64(head[1]), np.int64(f)):
            return r
    return -1


def check_rows(schema: FeatureSchema, inputs: FeatureInputs) -> None:
    """Refuse damaged rows and rows of another schema.

    Raises:
        RowError: naming the level.
    """
    columns = [schema.columns(lv) for lv in LEVELS]
    widths = np.array([len(c) for c in columns])
    crc = np.array([columns_crc(c) for c in columns])
    level = np.full(len(inputs.block_start), -1, np.int64)
    used = inputs.key_block >= 0
    level[inputs.key_block[used]] = inputs.key_level[used]
    some = np.flatnonzero(level >= 0)
    bad = _check_rows(
        inputs.blocks, inputs.block_start[some], inputs.block_size[some], level[some], widths, crc
    )
    if bad >= 0:
        lv: Level = LEVELS[level[some[bad]]]
        raise RowError(
            f"a packed row of level '{lv.prefix}' is damaged or was written with other columns "
            f"than {schema.columns(lv)}: rebuild the features and materialise them again"
        )


def request_features(schema: FeatureSchema, inputs: FeatureInputs) -> NDArray[np.float32]:
    """Query and user statistics, once a request: float32 [B, R], columns ``REQUEST_NUMERIC``.

    The query's are the header of its ``q:`` row; the user's come from the history.
    """
    query = LEVEL_CODE["q"]
    level = LEVELS[query]
    out = np.zeros((len(inputs.time), len(REQUEST_NUMERIC)), np.float32)
    of = np.repeat(np.arange(len(inputs.time)), np.diff(inputs.key_offsets))
    found = (inputs.key_level == query) & (inputs.key_block >= 0)
    start = inputs.block_start[inputs.key_block[found]]
    f = len(schema.columns(level))
    if len(start):
        at = start[:, None] + np.arange(16 + 4 * f)
        heads = np.ascontiguousarray(inputs.blocks[at])
        totals = heads[:, 16:].copy().view(np.float32)
        distinct = heads[:, 12:16].copy().view(np.uint32)[:, 0]
        total, recent = totals[:, mass_column(level)], totals[:, level.windows.index("30d")]
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
