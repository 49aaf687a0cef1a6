"""A UBI log (searches with their hits, and events) becomes one log of impressions and actions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from prerank.core.errors import ConfigError
from prerank.core.home import Home
from prerank.ingest.report import IngestReport

Ingested = Callable[..., tuple[IngestReport, Home]]
AT = pd.Timestamp("2024-03-01T10:00:00Z")
QUERIES: list[dict[str, Any]] = [
    {
        "query_id": "q1",
        "client_id": "ann",
        "user_query": "Red Shoes",
        "timestamp": AT.isoformat(),
        "query_response_hit_ids": ["a", "b", "c"],
        "query_attributes": {"country": "de"},
    },
    {
        "query_id": "q2",
        "client_id": "bob",
        "user_query": "socks",
        # Some clients log ISO 8601, others milliseconds.
        "timestamp": int(AT.timestamp() * 1000) + 60_000,
        "query_response_hit_ids": [],
    },
]


def event(query: str, action: str, seconds: int, item: str | None, ordinal: int | None) -> Any:
    attributes: dict[str, Any] = {"session_id": "s"}
    if item:
        attributes["object"] = {"object_id": item, "object_id_field": "sku"}
    if ordinal:
        attributes["position"] = {"ordinal": ordinal}
    return {
        "query_id": query,
        "action_name": action,
        "client_id": "x",
        "timestamp": int(AT.timestamp() * 1000) + seconds * 1000,
        "event_attributes": attributes,
    }


EVENTS = [
    event("q1", "click", 5, "b", 2),
    event("q1", "add_to_cart", 9, "b", None),
    event("q1", "impression", 1, "c", 3),
    event("q1", "on_search", 0, None, None),
    event("q2", "click", 65, "d", 4),
    event("lost", "click", 70, "d", 1),
]
ROWS = {
    ("q1", "ann", "red shoes", "a", "impression", 0, 0),
    ("q1", "ann", "red shoes", "b", "impression", 1, 0),
    ("q1", "ann", "red shoes", "b", "click", 1, 5),
    ("q1", "ann", "red shoes", "b", "add_to_cart", 1, 9),
    ("q1", "ann", "red shoes", "c", "impression", 2, 1),
    ("q2", "bob", "socks", "d", "click", 3, 65),
}


def lines(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))


def parquet(path: Path, rows: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    times = [
        pd.Timestamp(at)
        if isinstance(at := r["timestamp"], str)
        else pd.Timestamp(at, unit="ms", tz="UTC")
        for r in rows
    ]
    pq.write_table(
        pa.Table.from_pylist([r | {"timestamp": t} for r, t in zip(rows, times, strict=True)]), path
    )


def exported(path: Path, rows: list[Any]) -> None:
    lines(path, [{"_index": "ubi", "_source": row} for row in rows])


FORMS: dict[str, tuple[Callable[[Path, list[Any]], None], str]] = {
    "JSON lines": (lines, ".jsonl"),
    "folders of Parquet": (parquet, "/part-0.parquet"),
    "an export": (exported, "-2024.json"),
}


@pytest.fixture
def items(tmp_path: Path) -> Path:
    (tmp_path / "items.csv").write_text("item_id,title\na,A\nb,B\n")
    return tmp_path / "items.csv"


@pytest.mark.parametrize("form", FORMS)
def test_both_halves_become_one_log(
    tmp_path: Path, items: Path, ingested: Ingested, form: str
) -> None:
    write, suffix = FORMS[form]
    write(tmp_path / "ubi" / f"ubi_queries{suffix}", [*QUERIES, QUERIES[0]])
    write(tmp_path / "ubi" / f"ubi_events{suffix}", EVENTS)
    report, home = ingested(tmp_path / "ubi", items)
    items_table = pq.read_table(home.items)
    ids, names = (items_table[n].to_pylist() for n in ("item_id", "item_ref"))
    refs = dict(zip(ids, names, strict=True))
    found = pads.dataset(str(home.events)).to_table().to_pylist()
    assert {
        (
            row["request_id"],
            row["user_id"],
            row["query"],
            refs[row["item_id"]],
            row["action"],
            row["position"],
            (row["event_time"] - AT).total_seconds(),
        )
        for row in found
    } == ROWS
    assert len(found) == len(ROWS)
    asked = {row["request_id"]: (row["request_time"] - AT).total_seconds() for row in found}
    assert asked == {"q1": 0, "q2": 60}
    assert report.manifest.rows == {"in": 7, "out": 6, "quarantined": 1, "duplicates": 0}
    assert "UBI events without an object left out: 1" in str(report)
    (bad,) = pads.dataset(str(home.quarantine)).to_table().to_pylist()
    assert bad["reason"] == "request_time is missing or not a time"
    assert bad["source"].endswith(":5" if "parquet" in suffix else ":6")
    assert "ubi" not in bad["row"]


def test_segments_and_actions_of_the_mapping(
    tmp_path: Path, items: Path, ingested: Ingested
) -> None:
    lines(tmp_path / "ubi" / "ubi_queries.jsonl", QUERIES)
    lines(tmp_path / "ubi" / "ubi_events.jsonl", EVENTS[:3])
    actions = {"click": "click", "add_to_cart": "cart", "impression": "impression"}
    for mapped in (actions, {k: v for k, v in actions.items() if v != "impression"}):
        log = tmp_path / "ubi"
        if len(mapped) == 2:
            lines(log / "ubi_events.jsonl", EVENTS[:2])
        _, home = ingested(log, items, segments=["query_attributes.country"], actions=mapped)
        frame = pads.dataset(str(home.events)).to_table().to_pandas()
        assert set(frame["action"]) == {"click", "cart", "impression"}
        assert set(frame["query_attributes.country"]) == {"de"}


def test_what_ubi_settles_and_needs_is_said(
    tmp_path: Path, items: Path, ingested: Ingested
) -> None:
    lines(tmp_path / "ubi" / "ubi_queries.jsonl", QUERIES)
    lines(tmp_path / "ubi" / "ubi_events.jsonl", EVENTS)
    with pytest.raises(ConfigError, match=r"The log is UBI.*take `events`"):
        ingested(tmp_path / "ubi", items, events={"query": "user_query"})
    lines(tmp_path / "ubi" / "ubi_queries.jsonl", [{"query_id": "q1"}])
    with pytest.raises(ConfigError, match=r"ubi_queries\.jsonl has no column 'client_id'"):
        ingested(tmp_path / "ubi", items)
