"""A small log in a home, with a user who stands in every place in which a user can stand."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tests.without_ray import stages_here

from prerank.core.feature_sets import manifest_of_log
from prerank.core.files import publish, write_json, written
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.served import REQUESTS, events_folder, requests_folder
from prerank.core.trust import add_flags
from prerank.dataset.build import build_training_set
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig
from prerank.ingest.mapping import LogMapping
from prerank.ingest.report import IngestReport
from prerank.ingest.run import ingest
from prerank.online.dead_letters import DeadLetters
from prerank.online.history import Event
from prerank.online.journal import Journal
from prerank.online.records import record_of
from prerank.online.segments import segment_name

GONE, STAYS = "searcher-7f3a", "searcher-1b2c"
SECRET = "quite private words"
"""A query that nobody else has."""
DAY = 86_400_000_000
START = 19_800 * DAY
DAYS, REQUESTS_PER_DAY, ITEMS = 5, 24, 12
MAPPING = {"name": "log", "segments": ["country"], "events": {"user_id": "visitor"}}


def log(days: int = DAYS, first: int = 0) -> pd.DataFrame:
    """Requests of eight users, of whom GONE has every eighth; two shown, one or two clicked."""
    rng, rows = np.random.default_rng(first), []
    users = [GONE, STAYS, *(f"searcher-{n}" for n in range(6))]
    queries = ["red shoe", "blue lamp", "garden table"]
    for n in range(first * REQUESTS_PER_DAY, (first + days) * REQUESTS_PER_DAY):
        user = users[n % len(users)]
        at = START + n * (DAY // REQUESTS_PER_DAY) + int(rng.integers(0, 600_000_000))
        own = {
            "request_id": f"r{n}",
            "request_time": at,
            "visitor": user,
            "query": SECRET if user == GONE and n % 3 == 0 else queries[n % len(queries)],
            "country": ("de", "us", "")[n % 3],
        }
        for place, item in enumerate(rng.choice(ITEMS, 3, replace=False).tolist()):
            shown = own | {"item_id": item, "position": place}
            rows.append(shown | {"event_time": at, "action": "impression"})
            if place < 1 + n % 2:
                rows.append(
                    shown | {"event_time": at + 30_000_000 * (place + 1), "action": "click"}
                )
    frame = pd.DataFrame(rows)
    for name in ("request_time", "event_time"):
        frame[name] = pd.to_datetime(frame[name].astype("datetime64[us]"), utc=True)
    return frame


def ingested(home: Home, events: pd.DataFrame, place: Path | None = None) -> IngestReport:
    """Add events to the log of a home, or those of a file that has them already."""
    folder = home.root.with_name(f"{home.root.name}-raw")
    folder.mkdir(parents=True, exist_ok=True)
    events.to_parquet(folder / "events.parquet")
    items = pd.DataFrame({"item_id": range(ITEMS), "title": [f"thing {i}" for i in range(ITEMS)]})
    items.to_parquet(folder / "items.parquet")
    with stages_here():
        mapping = LogMapping.model_validate(MAPPING)
        log = place or folder / "events.parquet"
        return ingest(log, folder / "items.parquet", home, mapping)


def built(home: Home, events: pd.DataFrame, training_set: bool = False) -> Home:
    """A home with a log, its features in two builds, and a training set."""
    cut = pd.Timestamp(START + 3 * DAY, unit="us", tz="UTC")
    for part in (events[events["request_time"] < cut], events[events["request_time"] >= cut]):
        ingested(home, part)
        with stages_here():
            build_features(home, FeatureConfig(cadence_hours=6, lag_minutes=10))
    if training_set:
        with stages_here():
            build_training_set(home)
    return home


def plant(home: Home) -> None:
    """Put GONE and STAYS into the places of ``home`` beside its log, features and online store."""
    bad = [json.dumps({"visitor": user, "item_id": None}) for user in (GONE, STAYS)]
    bad.append(f'{{"visitor": "{GONE}", "it')
    schema = pa.schema([("reason", pa.string()), ("row", pa.string()), ("source", pa.string())])
    table = pa.table([["broken"] * 3, bad, ["file:1"] * 3], schema=schema)
    for folder in (home.quarantine, home.refused):
        folder.mkdir(exist_ok=True)
        pq.write_table(table, folder / "part-00009.parquet")
    events = [event(n, user) for user in (GONE, STAYS) for n in range(3)]
    file = home.journal / segment_name(0, 17)
    Journal(file).append([record_of(e, 1_700_000_000) for e in events])
    letters = [(vars(event(n, user)), "no row") for n, user in enumerate((GONE, STAYS))]
    DeadLetters(home.journal).add([*letters, ("torn " + GONE, "no JSON")])
    served(home)
    # Known so late that no snapshot counts by them.
    add_flags(home, [GONE, STAYS], [0.5, 0.5], [4_000_000_000_000_000] * 2)
    write_json(home.root / "check.json", {"busy": [{"user_id": GONE}]})
    (home.root / "check.html").write_text(f"<p>{GONE}</p>")
    (home.root / ".ingest").mkdir()
    (home.root / ".ingest" / "rows").write_text(GONE)
    left = home.pointer.with_name(f"{home.log_id}-1")
    left.mkdir(exist_ok=True)
    (left / "rows").write_text(GONE)
    other_schema(home)
    # A replacement that was killed between its two renames, and one before.
    killed = {"0123456789abcdef": "old", "fedcba9876543210": "partial"}
    for name, kind in killed.items():
        beside = home.features / f".{name}.{'0' * 32}.{kind}"
        beside.mkdir()
        (beside / "rows").write_text(GONE)


def event(n: int, user: str) -> Event:
    at = START + (DAYS + 1) * DAY + n
    return Event(user, n, "click", at, 1_000_000 + 10 * n + (user == GONE), SECRET)


def served(home: Home) -> None:
    """Answers and events of both users, as a deployment writes them down."""
    day = f"day={datetime.now(UTC):%Y-%m-%d}"
    row = dict.fromkeys(REQUESTS.names) | {"context": [], "retriever": [], "query": SECRET}
    row |= {"request_time": START, "items": ["1"], "scores": [1.0], "degraded": []}
    folder = requests_folder(home) / day
    folder.mkdir(parents=True)
    for name, users in (("both", [GONE, STAYS]), ("one", [GONE])):
        rows = [row | {"user_id": user, "request_id": f"{name}-{user}"} for user in users]
        pq.write_table(pa.Table.from_pylist(rows, REQUESTS), folder / f"{name}.parquet")
    lines = [
        {"user_id": user, "query": SECRET, "item_id": "1", "action": "click", "event_time": START}
        | {"event_id": f"{n}-{user}", "request_id": None, "position": None}
        for n, user in enumerate([GONE, STAYS, GONE, STAYS])
    ]
    events_folder(home).joinpath(day).mkdir(parents=True)
    file = events_folder(home) / day / "one.jsonl"
    file.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in lines))


def other_schema(home: Home) -> None:
    """Tables of a schema whose log is gone, with histories of both users."""
    folder = home.features_of("0123456789abcdef")
    stamp = pd.to_datetime([START], unit="us", utc=True).repeat(2)
    rows = pa.table({"user_id": sorted([GONE, STAYS]), "event_timestamp": stamp})
    for table in ("user_history", "state/users"):
        (folder / table).mkdir(parents=True)
        pq.write_table(rows, folder / table / "shard-0000-of-0001-0000000-0000006.parquet")
    (folder / "engagement").mkdir()
    own = manifest_of_log(home)
    views = {"engagement": "old_rows", "user_history": "old_histories"}
    other = own | {"schema_hash": "0123456789abcdef", "log_id": "gone", "views": views}
    write_json(folder / "manifest.json", other)


def mentions(home: Home, text: str) -> list[str]:
    """Files of a home in which a text stands, be it packed, as paths in it."""
    return sorted(
        str(path.relative_to(home.root))
        for path in home.root.rglob("*")
        if path.is_file() and not path.is_symlink() and text.encode() in b"\n".join(_bytes(path))
    )


def _bytes(path: Path) -> Iterator[bytes]:
    data = path.read_bytes()
    yield data
    if path.suffix == ".parquet":
        table = pq.read_table(path, partitioning=None)
        yield str(table.to_pydict()).encode()
        yield str(pq.read_metadata(path).to_dict()).encode()
    elif data[:6] == b"SQLite":
        with closing(sqlite3.connect(path)) as db:
            yield "\n".join(db.iterdump()).encode("utf-8", "replace")


def tables(home: Home) -> dict[str, pa.Table]:
    """The feature tables of a home's log by name, in an order of their own."""
    folder = home.features_of(LogManifest.load(home).schema.hash())
    found = {}
    for name, key in (("engagement", "engagement_key"), ("user_history", "user_id")):
        rows: Any = pa.concat_tables(pq.read_table(f) for f in (folder / name).glob("*.parquet"))
        order = [(key, "ascending"), ("event_timestamp", "ascending")]
        found[name] = rows.sort_by(order).combine_chunks()
    return found


def bad_rows(log: pd.DataFrame) -> pd.DataFrame:
    """The log, and rows of both users that are refused."""
    bad = log[log["visitor"].isin([GONE, STAYS])].tail(20).assign(item_id=None)
    return pd.concat([log.astype({"item_id": object}), bad])


def plant_published(home: Home) -> None:
    """Put GONE and STAYS into what this node publishes, and into what one that died has not."""
    add_flags(home, [GONE, STAYS], [0.5, 0.5], [START] * 2)
    served(home)
    for file in [*home.served.rglob("*.parquet"), *home.served.rglob("*.jsonl")]:
        publish(file)
    dead = events_folder(home) / "day=2026-01-01" / ".dead-000001.jsonl"
    dead.parent.mkdir()
    dead.write_text("".join(f'{{"user_id": "{u}"}}\n' for u in (GONE, STAYS)))
    write_json(home.root / "check.json", {"busy": [{"user_id": GONE}]})
    with written(home.root / "check.html") as page:
        page.write(GONE.encode())
    leftovers = (
        home.root / ".ingest" / "buckets" / "0" / "new-0.arrow",
        home.features / f".0123456789abcdef.{'0' * 32}.partial" / "rows",
        home.root / "log" / "dead-1234-99" / "events" / "rows",
    )
    for file in leftovers:
        file.parent.mkdir(parents=True)
        file.write_text(GONE)
