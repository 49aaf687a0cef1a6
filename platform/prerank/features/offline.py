"""Features of past requests, joined as of each request's time from the feature tables."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.features.inputs import MISSING_BLOCK, FeatureInputs, level_code
from interactrank.features.schema import HISTORY_TTL_DAYS
from interactrank.features.text import tokens
from prerank.core.home import Home
from prerank.core.times import DAY_US, micros
from prerank.features.asof import as_of
from prerank.features.searches import context_columns, distinct_searches

HISTORY_COLUMNS = ("item_ids", "actions", "times", "queries")


def binary_blocks(rows: pa.ChunkedArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Packed rows end to end: bytes, and offsets int64 [rows + 1]."""
    column = rows.cast(pa.large_binary()).combine_chunks()
    if not len(column):
        return np.zeros(0, np.uint8), np.zeros(1, np.int64)
    _, offsets, data = column.buffers()
    at = np.frombuffer(offsets, np.int64)[column.offset : column.offset + len(column) + 1]
    return np.frombuffer(data, np.uint8), at


def offline_inputs(home: Home, requests: pa.Table) -> FeatureInputs:
    """Features of past requests, joined as of each request's time from the feature tables.

    ``requests`` needs ``query``, ``user_id`` and ``request_time``, and ``context`` where the log
    has segments.
    """
    searches = distinct_searches(requests["query"], context_columns(requests))
    keys, search = searches.keys(), searches.code
    counts = np.array([len(k) for k in keys], np.int64)[search]
    flat = [k for s in search for k in keys[s]]
    of = np.repeat(np.arange(len(search)), counts)
    times = requests["request_time"].cast(pa.timestamp("us", tz="UTC")).combine_chunks()
    joined = as_of(
        home.features / "engagement",
        "engagement_key",
        pa.array(flat, pa.string()),
        times.take(pa.array(of)),
        ("row",),
    )
    blocks, at = binary_blocks(joined.values["row"])
    history = _histories(home, requests, times)
    return FeatureInputs(
        time=micros(requests["request_time"]),
        blocks=blocks,
        block_start=at[:-1],
        block_size=np.diff(at),
        key_block=joined.index,
        key_level=np.array([level_code(k) for k in flat], np.int64),
        key_offsets=np.concatenate((np.zeros(1, np.int64), np.cumsum(counts))),
        hist_items=history["item_ids"],
        hist_actions=history["actions"],
        hist_times=history["times"],
        hist_queries=history["queries"],
        hist_offsets=history["offsets"],
        query=searches.query_codes(),
        tokens=np.array([len(tokens(q)) for q in searches.queries], np.int64)[search],
        segments=searches.segments(),
    )


def _histories(home: Home, requests: pa.Table, times: pa.Array) -> dict[str, NDArray[np.int64]]:
    joined = as_of(
        home.features / "user_history", "user_id", requests["user_id"], times, HISTORY_COLUMNS
    )
    index = joined.index
    if len(joined.values):
        stamp = micros(joined.values["event_timestamp"])[np.maximum(index, 0)]
        fresh = stamp >= micros(requests["request_time"]) - HISTORY_TTL_DAYS * DAY_US
        index = np.where(fresh, index, MISSING_BLOCK)
    chosen = pa.array(index, mask=index < 0)
    lists = {c: joined.values[c].combine_chunks().take(chosen) for c in HISTORY_COLUMNS}
    lengths = pc.fill_null(pc.list_value_length(lists["item_ids"]), 0).to_numpy()
    flat = {c: lists[c].flatten().to_numpy().astype(np.int64) for c in HISTORY_COLUMNS}
    return {**flat, "offsets": np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))}
