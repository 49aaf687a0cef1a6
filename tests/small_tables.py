"""A log's feature tables of a few hundred keys and users, written in milliseconds, to be filled in.

Of two schemas whose actions have other codes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tests import online_log

from interactrank.features.packed_rows import pack
from interactrank.features.schema import LEVELS
from interactrank.features.searches import level_code
from prerank.core.feature_sets import described
from prerank.core.files import write_json
from prerank.core.home import Home
from prerank.core.manifest import LogManifest

HOUR = 3_600_000_000
CUTOFF = 1_700_000_000_000_000 // HOUR * HOUR
"""Of the last snapshot; all rows are an hour older."""
MANIFEST = replace(online_log.MANIFEST, segments=(), retriever=())
NEXT = replace(MANIFEST, actions=("buy", "click", "impression"), fingerprint="next")
SCHEMA = MANIFEST.schema
QUERY, USER = "red shoe", "u7"
KEYS = [f"q:{QUERY}", *(f"q:word{n}" for n in range(199))]
USERS = [f"u{n}" for n in range(100)]


def write_tables(
    home: Home, log: LogManifest = MANIFEST, fingerprint: str = "one", last_cutoff_us: int = CUTOFF
) -> None:
    """Write a log's manifest and the tables of one hourly snapshot, as its build does."""
    log.save(home)
    schema, tables = log.schema, home.features_of(log.schema.hash())
    stamp = pa.array([CUTOFF - HOUR], pa.timestamp("us", tz="UTC"))
    level = LEVELS[level_code(KEYS[0])]
    columns = schema.columns(level)
    row = pack(np.array([3, 8]), np.ones((2, len(columns))), columns, level)
    history = {
        "item_ids": [[3]],
        "actions": [[1]],
        "times": [[CUTOFF - HOUR - 1]],
        "event_ids": [[5]],
        "queries": [[0]],
    }
    engagement = pa.table({"engagement_key": KEYS, "row": [row] * len(KEYS)})
    histories = pa.table({"user_id": USERS} | {k: v * len(USERS) for k, v in history.items()})
    for name, table in (("engagement", engagement), ("user_history", histories)):
        folder = tables / name
        folder.mkdir(parents=True, exist_ok=True)
        stamps = pa.concat_arrays([stamp] * len(table))
        pq.write_table(table.append_column("event_timestamp", stamps), folder / "0.parquet")
    manifest = {
        **described(schema),
        "cadence_hours": 1,
        "lag_minutes": 0,
        "last_cutoff_us": last_cutoff_us,
        "fingerprint": fingerprint,
    }
    write_json(tables / "manifest.json", manifest)
