"""Events of engagement keys in the order in which snapshots are counted."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

KEYED = pa.schema(
    {
        "key": pa.dictionary(pa.int32(), pa.string()),
        "item_id": pa.int64(),
        "action": pa.int8(),
        "bucket": pa.int64(),
        "known": pa.int64(),
        "weight": pa.int16(),
    }
)
"""One row per event and engagement key: ``bucket`` is when it happened, ``known`` from when on it
counts, both in cadences since 1970; ``weight`` is how much, in parts of ``states.UNIT``."""


@dataclass(frozen=True)
class KeyEvents:
    """Events by key, and of a key in the order in which they became known.

    ``names`` string [k], ascending and distinct; ``starts`` int64 [k + 1]: the events of key ``i``
    are those from ``starts[i]`` on of ``items`` int64, ``actions`` int8, ``known`` and ``buckets``
    int64, ``weights`` int16 [n].
    """

    names: pa.Array
    starts: NDArray[np.int64]
    items: NDArray[np.int64]
    actions: NDArray[np.int8]
    known: NDArray[np.int64]
    buckets: NDArray[np.int64]
    weights: NDArray[np.int16]

    @classmethod
    def of(cls, events: pa.Table) -> KeyEvents:
        """Of a table as KEYED, in any order."""
        names, code = ranked(events["key"])
        known, weights = events["known"].to_numpy(), events["weight"].to_numpy()
        order = np.lexsort((known, code))
        starts = np.searchsorted(code[order], np.arange(len(names) + 1))
        items, actions, buckets = (events[c].to_numpy() for c in ("item_id", "action", "bucket"))
        columns = (items, actions, known, buckets, weights)
        return cls(names, starts, *(column[order] for column in columns))

    def with_prefix(self, prefix: str) -> KeyEvents:
        """The keys that begin with ``prefix``; their events stay where they are."""
        low, high = prefix_bounds(self.names, prefix)
        return replace(self, names=self.names[low:high], starts=self.starts[low : high + 1])


def ranked(names: pa.ChunkedArray) -> tuple[pa.Array, NDArray[np.int64]]:
    """The distinct values of a string column [n], ascending, and the place of each row's: [n]."""
    whole = names.unify_dictionaries() if pa.types.is_dictionary(names.type) else names
    column = whole.combine_chunks()
    if isinstance(column, pa.ChunkedArray):  # of no chunk at all
        column = pa.concat_arrays(column.chunks) if column.chunks else pa.array([], names.type)
    encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    used = np.unique(encoded.indices.to_numpy())
    texts = encoded.dictionary.take(pa.array(used)).cast(pa.string())
    order = pc.sort_indices(texts).to_numpy()
    rank = np.empty(len(encoded.dictionary), np.int64)
    rank[used[order]] = np.arange(len(order))
    return texts.take(pa.array(order)), rank[encoded.indices.to_numpy()]


def prefix_bounds(names: pa.Array, prefix: str) -> tuple[int, int]:
    """Where those of ascending ``names`` that begin with ``prefix`` begin and end."""

    def place(text: bytes) -> int:
        return bisect_left(names, text, key=lambda name: name.as_py().encode())

    return place(prefix.encode()), place(prefix.encode() + b"\xff")
