"""Which row groups of a feature table's file may hold what is asked for, by their statistics."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

STAMP = "event_timestamp"
_BEFORE_ALL, _AFTER_ALL = "", "\U0010ffff" * 8
_EARLIEST = np.iinfo(np.int64).min


@dataclass(frozen=True)
class KeyGroups:
    """Bounds of a file's row groups.

    Attributes:
        low, high: the least and the greatest key of each.
        earliest: the least stamp, microseconds; where a file has none, before all times.
        ends: number of the first row of each, and of all rows: int64 [groups + 1].
    """

    low: Sequence[str]
    high: Sequence[str]
    earliest: Sequence[int]
    ends: NDArray[np.int64]

    @classmethod
    def of(cls, file: pq.ParquetFile, key: str) -> KeyGroups:
        """Of an open file whose keys are in the column ``key``."""
        names, metadata = file.schema_arrow.names, file.metadata
        key_at = names.index(key)
        stamp_at = names.index(STAMP) if STAMP in names else None
        low, high, earliest, sizes = [], [], [], [0]
        for number in range(metadata.num_row_groups):
            group = metadata.row_group(number)
            sizes.append(group.num_rows)
            keys = group.column(key_at).statistics
            told = keys is not None and keys.has_min_max
            low.append(keys.min if told else _BEFORE_ALL)
            high.append(keys.max if told else _AFTER_ALL)
            stamps = None if stamp_at is None else group.column(stamp_at).statistics
            told = stamps is not None and stamps.has_min_max
            earliest.append(stamps.min_raw if stamps is not None and told else _EARLIEST)
        return cls(low, high, earliest, np.cumsum(sizes, dtype=np.int64))

    def holding(self, keys: Sequence[str]) -> list[int]:
        """Row groups that may hold one of the ascending ``keys``."""
        bounds = zip(self.low, self.high, strict=True)
        return [
            number
            for number, (low, high) in enumerate(bounds)
            if bisect_left(keys, low) < bisect_right(keys, high)
        ]

    def latest(self, keys: Sequence[str], first: Sequence[int], last: Sequence[int]) -> list[int]:
        """Row groups that may hold the latest row of a key at or before one of some times.

        Args:
            keys: ascending.
            first, last: the earliest and the latest time asked for each, microseconds.
        """
        if not all(high <= low for high, low in zip(self.high, self.low[1:], strict=False)):
            until = max(last, default=_EARLIEST)
            return [g for g in self.holding(keys) if self.earliest[g] <= until]
        wanted = set[int]()
        for key, begins, ends in zip(keys, first, last, strict=True):
            # Groups in the order of keys, of one key in that of time.
            start, stop = bisect_left(self.high, key), bisect_right(self.low, key)
            while stop > start and self.earliest[stop - 1] > ends:
                stop -= 1
            # One that holds nothing else and begins in time hides those before it.
            at = max(stop - 1, start)
            while at > start and not (
                self.low[at] == key == self.high[at] and self.earliest[at] <= begins
            ):
                at -= 1
            wanted.update(range(at, stop))
        return sorted(wanted)
