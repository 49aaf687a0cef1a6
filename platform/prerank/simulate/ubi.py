"""A log as User Behavior Insights 1.0: what was answered to each query, and what was done then.

    ubi_queries   query_id, client_id, user_query, timestamp, query_response_hit_ids,
                  query_attributes {country, device}
    ubi_events    action_name, query_id, client_id, timestamp, user_query,
                  event_attributes {object {object_id, object_id_field}, position {ordinal}}

Impressions are the hit ids of a query, by position; they are no events. Ordinals count from 1.
Ids of items are texts, as UBI has them.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

APPLICATION = "pinboard"
ID_FIELD = "item_id"


def queries(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Objects of ubi_queries from event rows, which are sorted by request and position."""
    shown = table.filter(pc.equal(table["action"], "impression"))
    query: dict[str, Any] = {}
    for row in _rows(shown):
        if row["request_id"] != query.get("query_id"):
            if query:
                yield query
            query = {
                "application": APPLICATION,
                "query_id": row["request_id"],
                "client_id": row["user_id"],
                "user_query": row["query"],
                "object_id_field": ID_FIELD,
                "timestamp": row["request_time"],
                "query_response_hit_ids": [],
                "query_attributes": {"country": row["country"], "device": row["device"]},
            }
        query["query_response_hit_ids"].append(str(row["item_id"]))
    if query:
        yield query


def events(table: pa.Table) -> Iterator[dict[str, Any]]:
    """Objects of ubi_events from event rows: every action but impressions."""
    for row in _rows(table.filter(pc.not_equal(table["action"], "impression"))):
        yield {
            "application": APPLICATION,
            "action_name": row["action"],
            "query_id": row["request_id"],
            "client_id": row["user_id"],
            "timestamp": row["event_time"],
            "user_query": row["query"],
            "event_attributes": {
                "object": {"object_id": str(row["item_id"]), "object_id_field": ID_FIELD},
                "position": {"ordinal": row["position"]},
            },
        }


def _rows(table: pa.Table) -> Iterator[dict[str, Any]]:
    for batch in table.to_batches(max_chunksize=8_192):
        yield from batch.to_pylist()
