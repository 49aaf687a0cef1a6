"""What the features of requests are made from: packed rows and histories, offline and online alike.

``FeatureInputs`` is what the offline join and the online store both hand over. Here are its
checks and what it says of a request alone; ``interactrank.features.engagement`` makes the cross
features.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from interactrank.features.packed_rows import (
    RowError,
    columns_crc,
    mass_column,
    row_distinct,
    row_fits,
    row_total,
)
from interactrank.features.schema import (
    HISTORY_LENGTH,
    LEVELS,
    REQUEST_NUMERIC,
    FeatureSchema,
    Level,
)
from interactrank.features.searches import LEVEL_CODE, Searches

MISSING_BLOCK = -1
"""``key_block`` of a key that has no row."""
HOUR_US = 3.6e9


class KeyRows(NamedTuple):
    """The packed rows of the keys of some requests; fields as in ``FeatureInputs``."""

    blocks: NDArray[np.uint8]
    block_start: NDArray[np.int64]
    block_size: NDArray[np.int64]
    key_block: NDArray[np.int64]


class Histories(NamedTuple):
    """The users' histories of some requests as columns; fields as in ``FeatureInputs``."""

    hist_items: NDArray[np.int64]
    hist_actions: NDArray[np.int64]
    hist_times: NDArray[np.int64]
    hist_queries: NDArray[np.int64]
    hist_offsets: NDArray[np.int64]


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

    @classmethod
    def of(
        cls, searches: Searches, time: NDArray[np.int64], rows: KeyRows, histories: Histories
    ) -> FeatureInputs:
        """Put together what was read for B requests; the as-of join and the online read both do so.

        Args:
            searches: of the B requests; what a text says is computed here and nowhere else.
            time: int64 [B], microseconds since 1970.
            rows: of the keys ``searches.request_keys()``, in their order.
            histories: of the B requests' users, with no event at or after the request.
        """
        return cls(
            time=time,
            **rows._asdict(),
            key_level=searches.key_levels(),
            key_offsets=searches.key_offsets(),
            **histories._asdict(),
            query=searches.query_codes(),
            tokens=searches.token_counts(),
            segments=searches.segments(),
        )

    @property
    def histories(self) -> Histories:
        """The histories' columns, as kernels take them."""
        return Histories(
            self.hist_items,
            self.hist_actions,
            self.hist_times,
            self.hist_queries,
            self.hist_offsets,
        )

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
        row = blocks[start[r] : start[r] + size[r]]
        if level[r] < 0 or not row_fits(row, columns[level[r]], crc[level[r]]):
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


@nb.njit(cache=True, nogil=True)
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
    """
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
