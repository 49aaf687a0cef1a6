"""What Feast knows of the platform: two entities, two feature views, one feature service.

Feast imports every ``.py`` of this folder on ``feast apply``; this is the only one. It describes
tables that ``prerank features`` writes under ``PRERANK_HOME`` and imports nothing of ``prerank``.

One packed row (a ``Bytes`` value, see ``interactrank.features.packed_rows``) holds every item of
a key, so a request is one multi-get however many candidates it has.
"""

from __future__ import annotations

import os
from datetime import timedelta

from feast import Entity, FeatureService, FeatureView, Field, FileSource, PushSource, ValueType
from feast.data_format import ParquetFormat
from feast.types import Array, Bytes, Int64

from interactrank.features.schema import HISTORY_TTL_DAYS

FEATURES = f"{os.environ['PRERANK_HOME']}/features"

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

engagement = FeatureView(
    name="engagement",
    entities=[engagement_key],
    # A key's row is rewritten whenever a window moves, so the latest one never goes stale.
    ttl=timedelta(0),
    schema=[Field(name="row", dtype=Bytes)],
    source=FileSource(
        name="engagement_rows",
        path=f"{FEATURES}/engagement/*.parquet",
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
    ),
    description="Packed engagement counts of a key's items, one row per snapshot that changes it.",
)

user_history_push = PushSource(
    name="user_history_push",
    batch_source=FileSource(
        name="user_histories",
        path=f"{FEATURES}/user_history/*.parquet",
        file_format=ParquetFormat(),
        timestamp_field="event_timestamp",
    ),
)

user_history = FeatureView(
    name="user_history",
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
    source=user_history_push,
    description="A user's last engagements, oldest first, pushed by the single history writer.",
)

prerank = FeatureService(
    name="prerank",
    features=[engagement, user_history],
    description="Everything one pre-ranking request reads.",
)
