"""Features of past requests, joined as of each request's time from the feature tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from interactrank.features.inputs import (
    MISSING_BLOCK,
    FeatureInputs,
    Histories,
    KeyRows,
    check_inputs,
)
from interactrank.features.schema import HISTORY_TTL_DAYS
from prerank.core.errors import DamagedError
from prerank.core.feature_sets import manifest_of_log, tables_of_log
from prerank.core.graphs import GRAPH, Graphs
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.times import DAY_US, micros
from prerank.features.asof import as_of
from prerank.features.searches import context_columns, distinct_searches

HISTORY_COLUMNS = ("item_ids", "actions", "times", "queries")
"""In the order of ``Histories``."""


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
    has segments. The tables are those of the log's present schema.

    Raises:
        DamagedError: a packed row or a history is; the message says which, and the remedy.
    """
    tables = tables_of_log(home)
    home.fetch(tables / "engagement", tables / "user_history")
    searches = distinct_searches(requests["query"], context_columns(requests))
    times = requests["request_time"].cast(pa.timestamp("us", tz="UTC")).combine_chunks()
    counts = np.diff(searches.key_offsets())
    joined = as_of(
        tables / "engagement",
        "engagement_key",
        pa.array(searches.request_keys(), pa.string()),
        times.take(pa.array(np.repeat(np.arange(len(counts)), counts))),
        ("row",),
    )
    blocks, at = binary_blocks(joined.values["row"])
    rows = KeyRows(blocks, at[:-1], np.diff(at), joined.index)
    histories = _histories(tables, requests, times)
    inputs = FeatureInputs.of(searches, micros(requests["request_time"]), rows, histories)
    schema = LogManifest.load(home).schema
    try:
        check_inputs(schema, inputs)
    except ValueError as error:
        raise DamagedError(f"{tables}: {error}") from None
    if not schema.graph:
        return inputs
    home.fetch(tables / GRAPH)
    lag_minutes = manifest_of_log(home)["lag_minutes"]
    return Graphs.of(tables, lag_minutes).with_near(schema, inputs)


def _histories(tables: Path, requests: pa.Table, times: pa.Array) -> Histories:
    joined = as_of(tables / "user_history", "user_id", requests["user_id"], times, HISTORY_COLUMNS)
    index = joined.index
    if len(joined.values):
        stamp = micros(joined.values["event_timestamp"])[np.maximum(index, 0)]
        fresh = stamp >= micros(requests["request_time"]) - HISTORY_TTL_DAYS * DAY_US
        index = np.where(fresh, index, MISSING_BLOCK)
    chosen = pa.array(index, mask=index < 0)
    lists = {c: joined.values[c].combine_chunks().take(chosen) for c in HISTORY_COLUMNS}
    lengths = pc.fill_null(pc.list_value_length(lists["item_ids"]), 0).to_numpy()
    items, actions, stamps, queries = (
        lists[c].flatten().to_numpy().astype(np.int64) for c in HISTORY_COLUMNS
    )
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(lengths)))
    return Histories(items, actions, stamps, queries, offsets)
