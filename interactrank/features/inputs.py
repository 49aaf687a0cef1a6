"""What the features of requests are made from: packed rows and histories, offline and online alike.

``FeatureInputs`` is what the offline join and the online store both hand over, and ``check_inputs``
says whether features can be made of it: ``interactrank.features.request_statistics`` makes those of
a request alone, ``interactrank.features.engagement`` the cross features.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cache
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
from numpy.typing import NDArray

from interactrank.features.bounds import check_bounds
from interactrank.features.item_vectors import ItemVectors
from interactrank.features.near import Near
from interactrank.features.packed_rows import RowError, columns_crc, row_fits
from interactrank.features.schema import LEVELS, FeatureSchema
from interactrank.features.searches import Searches
from interactrank.kernels import kernel

MISSING_BLOCK = -1
"""``key_block`` of a key that has no row."""
HOUR_US = 3.6e9


_FLOATS = ("near_user", "near_query", "user_vectors", "query_vectors")
_MATRICES = ("segments", "user_vectors", "query_vectors")


class HistoryError(ValueError):
    """A user's history is damaged, or of another log."""


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
        near_items … near_cutoffs: as in ``Near``; of schemas that have it.
        snapshots: vectors of items by their cutoffs, those of ``near_cutoffs`` among them. Beside
            the arrays: they lie in mapped files, and are neither stored nor sent.
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
    near_items: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    near_user: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    near_query: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    near_offsets: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    user_vectors: NDArray[np.float32] = field(default_factory=lambda: Near.nothing(0).user_vectors)
    query_vectors: NDArray[np.float32] = field(default_factory=lambda: Near.nothing(0).user_vectors)
    near_cutoffs: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    snapshots: Mapping[int, ItemVectors] = field(default_factory=dict)

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

    @classmethod
    def restored(
        cls,
        arrays: Mapping[str, NDArray[Any]],
        snapshots: Mapping[int, ItemVectors] | None = None,
    ) -> FeatureInputs:
        """Inputs from their arrays by name, as they were stored; ``check_inputs`` says if they fit.

        Raises:
            ValueError: an array is missing, or has another type or number of dimensions.
        """
        found = {}
        for name in cls.names():
            array = arrays.get(name)
            if array is None and name in Near._fields:
                continue  # written by a release that knew none of them
            floats = np.float32 if name in _FLOATS else np.int64
            dtype = np.dtype(np.uint8 if name == "blocks" else floats)
            ndim = 2 if name in _MATRICES else 1
            if array is None or array.dtype != dtype or array.ndim != ndim:
                raise ValueError(f"{name} must be {dtype} of {ndim} dimensions")
            found[name] = array
        # As the online store's are: numba compiles a kernel anew for an array that may be written.
        found["blocks"].flags.writeable = False
        return cls(**found, snapshots=snapshots or {})

    @classmethod
    def names(cls) -> tuple[str, ...]:
        """Of the arrays."""
        return tuple(of.name for of in fields(cls) if of.name != "snapshots")

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, to be stored or sent; ``restored`` takes them."""
        return {name: getattr(self, name) for name in self.names()}

    @property
    def near(self) -> Near:
        """What is near to the requests."""
        if not len(self.near_offsets) and not len(self.near_items):
            return Near.nothing(len(self.time))
        return Near(*(getattr(self, name) for name in Near._fields))

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
            **self.near.slice(low, high)._asdict(),
        )


@cache
def _layouts(schema: FeatureSchema) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Number of a row's columns and their checksum, by level."""
    columns = [schema.columns(lv) for lv in LEVELS]
    return np.array([len(c) for c in columns]), np.array([columns_crc(c) for c in columns])


@kernel
def _bad_key(
    blocks: NDArray[np.uint8],
    start: NDArray[np.int64],
    size: NDArray[np.int64],
    key_block: NDArray[np.int64],
    key_level: NDArray[np.int64],
    columns: NDArray[np.int64],
    crc: NDArray[np.int64],
) -> int:
    """The first key that has a row which is not of its level, or no level; or -1."""
    for k in range(key_block.size):
        r, level = key_block[k], key_level[k]
        if not 0 <= level < columns.size or r >= start.size:
            return k
        if r < 0:
            continue
        # No sum, which could pass the end of 64 bits.
        if not (0 <= size[r] <= blocks.size and 0 <= start[r] <= blocks.size - size[r]):
            return k
        if not row_fits(blocks[start[r] : start[r] + size[r]], columns[level], crc[level]):
            return k
    return -1


def _check_rows(schema: FeatureSchema, inputs: FeatureInputs) -> None:
    check_bounds("key_offsets", inputs.key_offsets, len(inputs.time), len(inputs.key_block))
    if len(inputs.key_level) != len(inputs.key_block):
        raise ValueError("key_level must have an entry for each of key_block")
    if len(inputs.block_size) != len(inputs.block_start):
        raise RowError("block_size must have an entry for each of block_start")
    bad = _bad_key(
        inputs.blocks,
        inputs.block_start,
        inputs.block_size,
        inputs.key_block,
        inputs.key_level,
        *_layouts(schema),
    )
    if bad < 0:
        return
    level = int(inputs.key_level[bad])
    if not 0 <= level < len(LEVELS):
        raise ValueError(f"key_level must be below {len(LEVELS)}, found {level}")
    raise RowError(
        f"a packed row of level '{LEVELS[level].prefix}' is damaged or was written with other "
        f"columns than {schema.columns(LEVELS[level])}: rebuild the features and materialise them "
        "again"
    )


@kernel
def _bad_event(
    time: NDArray[np.int64],
    offsets: NDArray[np.int64],
    actions: NDArray[np.int64],
    times: NDArray[np.int64],
    known: int,
) -> int:
    """The first event whose action is none of the ``known``, or that follows its request; or -1."""
    for b in range(time.size):
        for e in range(offsets[b], offsets[b + 1]):
            if not (0 <= actions[e] < known and 0 <= times[e] <= time[b]):
                return e
    return -1


def _check_histories(schema: FeatureSchema, inputs: FeatureInputs) -> None:
    *columns, bounds = inputs.histories
    if len({len(column) for column in columns}) > 1:
        raise HistoryError("the columns of the histories differ in length")
    try:
        check_bounds("hist_offsets", bounds, len(inputs.time), len(inputs.hist_times))
    except ValueError as error:
        raise HistoryError(str(error)) from None
    bad = _bad_event(
        inputs.time, bounds, inputs.hist_actions, inputs.hist_times, len(schema.actions)
    )
    if bad >= 0:
        raise HistoryError(
            f"a history is damaged or of another log: action {inputs.hist_actions[bad]} must be "
            f"below {len(schema.actions)}, and time {inputs.hist_times[bad]} between 0 and the "
            "request's: rebuild the features and materialise them again"
        )


_SOUND: WeakValueDictionary[tuple[int, FeatureSchema], FeatureInputs] = WeakValueDictionary()
"""Inputs that are alive and were checked, by their identity and the schema of the check."""


def check_inputs(schema: FeatureSchema, inputs: FeatureInputs) -> None:
    """Refuse inputs that would make a kernel read or write beyond an array, or yield no number.

    Every function that hands ``inputs`` to a compiled kernel calls it, for a kernel checks nothing.
    Nobody writes into the arrays of inputs, so they are gone over once for a schema, though several
    such functions work on a request. Others that are made of them (``dataclasses.replace``) are
    gone over again.

    Raises:
        RowError: a packed row is damaged or of another schema; names the level.
        HistoryError: a history is damaged: columns of other lengths, or an action or a time that
            cannot be.
        ValueError: the requests' own arrays do not fit together; names them.
    """
    key = id(inputs), schema
    if _SOUND.get(key) is inputs:
        return
    if not len(inputs.time) == len(inputs.query) == len(inputs.tokens):
        raise ValueError("query and tokens must have an entry for each of time")
    _check_rows(schema, inputs)
    _check_histories(schema, inputs)
    inputs.near.check(len(inputs.time), {c: s.width for c, s in inputs.snapshots.items()})
    _SOUND[key] = inputs
