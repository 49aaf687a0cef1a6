"""What Feast knows of the platform: its entities, and each feature schema's views and service.

Feast imports every ``.py`` of this folder on ``feast apply``; this is the only one. It describes
the tables that ``prerank features`` wrote under ``PRERANK_HOME``, a folder per schema, and imports
nothing of ``prerank``. Views are named by schema: a model goes on reading the rows of its own
schema when the log has another.

One packed row (a ``Bytes`` value, see ``interactrank.features.packed_rows``) holds every item of
a key, so a request is one multi-get however many candidates it has.
"""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bytes, Float32, Int64

from interactrank.features.schema import HISTORY_TTL_DAYS

HOME = Path(os.environ["PRERANK_HOME"])
FEATURES = HOME / "features"

engagement_key = Entity(
    name="engagement_key",
    join_keys=["engagement_key"],
    value_type=ValueType.STRING,
    description="A prefixed text: q: query, s: query in a segment, c: query without spaces, "
    "t: token, g: 4-gram, a: all.",
)
user = Entity(
    name="user",
    join_keys=["user_id"],
    value_type=ValueType.STRING,
    description="The searcher.",
)
item = Entity(
    name="item",
    join_keys=["item_id"],
    value_type=ValueType.INT64,
    description="A candidate, by its id in the log's tables.",
)
OFFLINE = ("item_neighbours",)
"""Views of what a replica maps as a file: no request reads them online."""


def source(name: str, folder: Path) -> FileSource:
    """The Parquet files of a table."""
    return FileSource(
        name=name,
        path=f"{folder}/*.parquet",
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
    )


def engagement(name: str, tables: Path) -> FeatureView:
    """The packed rows of a schema."""
    return FeatureView(
        name=name,
        entities=[engagement_key],
        # A key's row is rewritten whenever a window moves, so the latest one never goes stale.
        ttl=timedelta(0),
        schema=[Field(name="row", dtype=Bytes)],
        source=source(f"{name}_rows", tables / "engagement"),
        description="Packed engagement counts of a key's items, one row per snapshot that "
        "changes it.",
    )


def user_history(name: str, tables: Path) -> FeatureView:
    """The histories of all schemas whose engagement actions have the same codes."""
    return FeatureView(
        name=name,
        entities=[user],
        # Enforced offline by Feast and online by the platform's one reader (Feast's ignores it).
        ttl=timedelta(days=HISTORY_TTL_DAYS),
        schema=[
            Field(name="item_ids", dtype=Array(Int64)),
            Field(name="actions", dtype=Array(Int64)),
            Field(name="times", dtype=Array(Int64)),
            Field(name="event_ids", dtype=Array(Int64)),
            Field(name="queries", dtype=Array(Int64)),
        ],
        source=PushSource(
            name=f"{name}_push", batch_source=source(f"{name}_rows", tables / "user_history")
        ),
        description="A user's last engagements, oldest first, pushed by the history writers.",
    )


def item_neighbours(name: str, tables: Path) -> FeatureView:
    """The item graph of a schema, of which ``prerank graph --export`` writes the table."""
    return FeatureView(
        name=name,
        entities=[item],
        # The table itself ends the row of an item that left the graph.
        ttl=timedelta(0),
        schema=[
            Field(name="neighbours", dtype=Array(Int64)),
            Field(name="weights", dtype=Array(Float32)),
            Field(name="vector", dtype=Array(Float32)),
        ],
        source=source(f"{name}_rows", tables / "item_neighbours"),
        online=False,
        description="An item's neighbours, nearest first, and its vector, a row per snapshot.",
    )


def log_id() -> str:
    """The log that the home holds; tables of a log that was replaced name another."""
    pointer = HOME / "log" / "current.json"
    if not pointer.exists():
        return "plain"
    return str(json.loads(pointer.read_text())["folder"]).partition("-")[0]


def age(manifest: dict[str, Any]) -> tuple[bool, int]:
    """Sorts the log's present tables last: they are the source of a view that several share."""
    return manifest.get("log_id", "plain") == log_id(), manifest["last_cutoff_us"]


def definitions() -> dict[str, Any]:
    """Views and services of every schema whose tables are there, by name."""
    # Folders whose names begin with a dot are being written.
    found = [json.loads(p.read_text()) for p in FEATURES.glob("[0-9a-f]*/manifest.json")]
    made: dict[str, Any] = {}
    for manifest in sorted(found, key=age):
        tables, views = FEATURES / manifest["schema_hash"], manifest["views"]
        made[views["engagement"]] = engagement(views["engagement"], tables)
        made[views["user_history"]] = user_history(views["user_history"], tables)
        # Tables of schemas without a graph, and of earlier releases, have no such view.
        if name := views.get("item_neighbours"):
            made[name] = item_neighbours(name, tables)
    for manifest in found:
        service = f"prerank_{manifest['schema_hash']}"
        made[service] = FeatureService(
            name=service,
            features=[made[v] for k, v in manifest["views"].items() if k not in OFFLINE],
            description="Everything one pre-ranking request reads online.",
        )
    return made


# Feast looks for its objects among the names of a module.
globals().update(definitions())
