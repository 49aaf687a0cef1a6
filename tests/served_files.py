"""A served log as deployments write it, made of nothing but what a test says of it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from prerank.core.files import publish
from prerank.core.home import Home
from prerank.core.served import EVENT_FIELDS, REQUESTS, events_folder, requests_folder

START = datetime(2026, 3, 1, 10, tzinfo=UTC)
SHARES = {"control": 0.5, "treatment": 0.5}


def answer(request: str, user: str, variant: str | None, **other: Any) -> dict[str, Any]:
    """A row of an experiment "test", or of none where there is no variant."""
    row = {
        "request_id": request,
        "request_time": START,
        "user_id": user,
        "query": "red",
        "model_version": "1",
        "degraded": [],
        "items": ["1", "2", "3"],
        "latency_ms": 5.0,
    }
    if variant is not None:
        row |= {"experiment": "test", "mode": "ab", "variant": variant, "fallback": False}
        row["shares"] = [*SHARES.items()]
    return row | other


def event(request: str | None, user: str, item: str = "1", **other: Any) -> dict[str, Any]:
    """An event of a click, a minute after ``START``."""
    at = other.pop("at", START + timedelta(minutes=1))
    time = round(at.timestamp() * 1e6)
    line = dict.fromkeys(EVENT_FIELDS) | {
        "request_id": request,
        "user_id": user,
        "item_id": item,
        "action": "click",
        "event_time": time,
        "event_id": f"{request}-{user}-{item}-{time}",
    }
    return line | other


def write_answers(
    home: Home, rows: Iterable[Mapping[str, Any]], name: str = "a", schema: pa.Schema = REQUESTS
) -> None:
    """Write answers into the folder of the day of ``START``."""
    folder = requests_folder(home) / f"day={START:%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    table = pa.Table.from_pylist([*rows], schema)
    pq.write_table(table, folder / f"{name}.parquet")
    publish(folder / f"{name}.parquet")


def write_events(home: Home, lines: Iterable[Mapping[str, Any] | str]) -> None:
    """Write events, or lines as they are, into the folder of the day of ``START``."""
    folder = events_folder(home) / f"day={START:%Y-%m-%d}"
    folder.mkdir(parents=True, exist_ok=True)
    texts = (line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "a.jsonl").write_text("".join(f"{text}\n" for text in texts))
    publish(folder / "a.jsonl")
