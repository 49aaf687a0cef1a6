"""Histories as of a request: what its user engaged with strictly before, capped, oldest first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from interactrank.features.schema import HISTORY_LENGTH, HISTORY_TTL_DAYS
from interactrank.features.text import normalise, query_code
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.features.offline import offline_inputs

DAY, US = pd.Timedelta(days=1), pd.Timedelta(microseconds=1)
BuildHome = Callable[..., Home]


def histories(home: Home, asked: pd.DataFrame) -> list[list[tuple[int, int, int, int]]]:
    inputs = offline_inputs(home, pa.Table.from_pandas(asked))
    entries = list(
        zip(
            inputs.hist_items.tolist(),
            inputs.hist_actions.tolist(),
            inputs.hist_times.tolist(),
            inputs.hist_queries.tolist(),
            strict=True,
        )
    )
    return [entries[inputs.hist_offsets[b] : inputs.hist_offsets[b + 1]] for b in range(len(asked))]


def test_histories_equal_the_raw_log(tiny_log: pd.DataFrame, tiny_world: Home) -> None:
    manifest = LogManifest.load(tiny_world)
    asked = tiny_log.drop_duplicates("request_id").reset_index(drop=True)
    found = histories(tiny_world, asked[["query", "user_id", "request_time"]])
    engaged = tiny_log[tiny_log["action"] != "impression"]
    longest = 0
    for probe, history in zip(asked.to_dict("records"), found, strict=True):
        own = engaged[
            (engaged["user_id"] == probe["user_id"])
            & (engaged["event_time"] < probe["request_time"])
        ]
        entries = sorted(
            (t.value // 1000, i, manifest.actions.index(a), query_code(normalise(q)))
            for t, i, a, q in zip(
                own["event_time"], own["item_id"], own["action"], own["query"], strict=True
            )
        )
        last = entries[-HISTORY_LENGTH:]
        assert [t for _, _, t, _ in history] == [t for t, *_ in last]
        assert sorted((t, i, a, q) for i, a, t, q in history) == last
        longest = max(longest, len(history))
    assert longest > 20


def test_histories_are_capped_and_expire(build_home: BuildHome, tmp_path: Path) -> None:
    start = pd.Timestamp("2021-03-01T12:00:00Z")
    clicks: list[dict[str, Any]] = []
    for i in range(150):
        at = start + pd.Timedelta(minutes=i // 2)  # two at every instant
        clicks.append({"user_id": "busy", "item_id": i, "event_time": at})
    clicks.append({"user_id": "once", "item_id": 7, "event_time": start})
    events = pd.DataFrame(clicks).assign(query="shoes", action="click")
    events["request_time"] = events["event_time"]
    items = pd.DataFrame({"item_id": range(150), "title": "shoe"})
    home = build_home(tmp_path, events, items)
    last, ttl = start + pd.Timedelta(minutes=74), HISTORY_TTL_DAYS * DAY
    asked = [
        ("busy", last),
        ("busy", last + US),
        ("busy", last + DAY),
        ("busy", last + US + ttl),
        ("busy", last + 2 * US + ttl),
        ("once", start),
        ("once", start + US),
        ("once", start + US + ttl),
        ("once", start + 2 * US + ttl),
        ("never", last),
    ]
    frame = pd.DataFrame(asked, columns=["user_id", "request_time"]).assign(query="shoes")
    frame["request_time"] = frame["request_time"].astype("datetime64[us, UTC]")
    found = histories(home, frame)
    # A row is stamped one microsecond after its last event, and lives for the ttl from there.
    assert [len(h) for h in found] == [100, 100, 100, 100, 0, 0, 1, 1, 0, 0]
    assert {i for i, *_ in found[0]} == set(range(48, 148))
    assert {i for i, *_ in found[1]} == set(range(50, 150))
    times = [t for _, _, t, _ in found[1]]
    assert times == sorted(times), "a history is oldest first"
