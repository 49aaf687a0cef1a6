"""What the training set costs as the log grows, and its as-of join beside DuckDB's and Feast's.

    python benchmarks/training_set.py [--rows 2000000 20000000] [--asked 5000] [--out TABLE.md]

Logs as in ``features.py``: thirty days, hourly snapshots. Of each size:

- features: all tables of the log, as `prerank features` builds them.
- whole: `prerank training-set`, from events to examples, on a local Ray that has started. Requests
  a second are those that were written.
- join: `--asked` requests of the last days, every key of each as of the request's time, with the
  packed rows. In one process and thread, the median of three.
- DuckDB: an ASOF JOIN of the same keys and times with the same files, which reads the rows too. In
  one thread, one run, of the smallest log alone, since it takes long.
- Feast: `get_historical_features` of a row for each candidate, with the query's row as its feature,
  as a feature store is usually asked: ten candidates each of a few requests. It reads whole tables
  into pandas, so it is asked for the smallest log alone.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from printed import markdown, show

import features
from interactrank.features.catalogue import Catalogue
from prerank.core.feature_sets import tables_of_log
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.ray_tasks import start_local
from prerank.dataset.build import build_training_set
from prerank.dataset.requests import event_days, read_requests
from prerank.features.asof import as_of
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig
from prerank.features.searches import context_columns, distinct_searches
from prerank.online.store import apply

REPEATS = 3
FEAST_REQUESTS = 100


def prepared(root: Path, rows: int) -> tuple[Home, int, float]:
    """A home with a log, its catalogue and its features; the log's rows; seconds of the build."""
    home, world = Home.at(root), features.World.of(rows)
    days = range(features.DAYS)
    events = sum(features.write_day(home, world, day, rows // features.DAYS) for day in days)
    features.write_manifest(home, features.DAYS, events)
    rng, n = np.random.default_rng(features.SEED), world.items
    titles = [world.queries[at] for at in rng.integers(0, len(world.queries), n)]
    nothing, since = np.zeros((n, 0), np.float32), np.zeros(n, np.int64)
    home.catalogue.parent.mkdir(parents=True)
    Catalogue.build(np.arange(n), titles, [""] * n, nothing, since).save(home.catalogue)
    took = features.seconds(lambda: build_features(home, FeatureConfig(cadence_hours=1)))
    return home, events, took


def asked_pairs(home: Home, count: int) -> tuple[pa.Array, pa.Array, pa.Table]:
    """Keys and times of the last requests of the log, and the requests."""
    manifest = LogManifest.load(home)
    found: list[pa.Table] = []
    for files in reversed(event_days(home)):
        found.insert(0, read_requests([Path(file) for file in files], manifest))
        if sum(len(table) for table in found) >= count:
            break
    requests = pa.concat_tables(found)
    requests = requests.slice(len(requests) - count)
    searches = distinct_searches(requests["query"], context_columns(requests))
    counts = np.diff(searches.key_offsets())
    times = requests["request_time"].cast(pa.timestamp("us", tz="UTC")).combine_chunks()
    own = times.take(pa.array(np.repeat(np.arange(len(counts)), counts)))
    return pa.array(searches.request_keys(), pa.string()), own, requests


def in_duckdb(table: Path, keys: pa.Array, times: pa.Array) -> int:
    """Bytes of the rows that an ASOF JOIN finds."""
    with duckdb.connect(config={"threads": 1}) as db:
        db.execute("SET TimeZone = 'UTC'")
        db.register("asked", pa.table({"engagement_key": keys, "at": times}))
        found = db.execute(
            """SELECT sum(octet_length(rows.row)) FROM asked ASOF JOIN read_parquet(?) rows
            ON asked.engagement_key = rows.engagement_key AND asked.at >= rows.event_timestamp""",
            [str(table / "*.parquet")],
        ).fetchone()
    assert found is not None
    return int(found[0])


def by_feast(home: Home, requests: pa.Table) -> float:
    """Seconds of Feast's retrieval of a row for each candidate of some requests."""
    schema = LogManifest.load(home).schema
    store = apply(home)
    some: Any = requests.slice(len(requests) - FEAST_REQUESTS).to_pandas().explode("items")
    entities = pd.DataFrame(
        {
            "engagement_key": "q:" + some["query"],
            "event_timestamp": some["request_time"],
            "item_id": some["items"],
        }
    ).reset_index(drop=True)
    wanted = [f"{schema.engagement_view}:row"]
    return features.seconds(lambda: store.get_historical_features(entities, wanted).to_df())


def measured(root: Path, rows: int, asked: int, beside: bool) -> Iterator[tuple[str, ...]]:
    """Rows of the table for a log of one size."""
    home, events, took = prepared(root, rows)
    size = f"{events:,}"
    yield size, "features", "", f"{took:.1f}", "", ""
    summary: dict[str, Any] = {}
    whole = features.seconds(lambda: summary.update(build_training_set(home)))
    written = summary["train_requests"] + summary["validation_requests"]
    yield size, "whole", f"{written:,}", f"{whole:.1f}", f"{written / whole:,.0f}", ""
    keys, times, requests = asked_pairs(home, asked)
    table = tables_of_log(home) / "engagement"

    def join() -> int:
        found = as_of(table, "engagement_key", keys, times, ("row",))
        lengths = np.append(pc.binary_length(found.values["row"]).to_numpy(), 0)
        return int(lengths[found.index].sum())

    ours = statistics.median(features.seconds(join) for _ in range(REPEATS))
    yield size, "join", f"{asked:,}", f"{ours:.2f}", f"{asked / ours:,.0f}", ""
    if not beside:
        return
    there = 0

    def other() -> None:
        nonlocal there
        there = in_duckdb(table, keys, times)

    theirs = features.seconds(other)
    assert there == join(), "both must find the same rows"
    ratio = f"{theirs / ours:.1f} x the join"
    yield size, "DuckDB", f"{asked:,}", f"{theirs:.2f}", f"{asked / theirs:,.0f}", ratio
    asked_feast = by_feast(home, requests)
    each = FEAST_REQUESTS / asked_feast
    ratio = f"{asked / ours / each:.0f} times fewer requests a second than the join"
    yield size, "Feast", f"{FEAST_REQUESTS:,}", f"{asked_feast:.2f}", f"{each:,.0f}", ratio


def main() -> None:
    """Print a row for each part of each size."""
    shown_as_is = argparse.RawDescriptionHelpFormatter
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=shown_as_is)
    ask.add_argument("--rows", type=int, nargs="+", default=[2_000_000, 20_000_000])
    ask.add_argument("--alone", action="store_true", help="without DuckDB and Feast")
    ask.add_argument("--asked", type=int, default=5_000, help="requests that are joined")
    ask.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    ask.add_argument("--workdir", type=Path, help="for what is generated; removed at the end")
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    os.environ["PRERANK_PROGRESS"] = "0"
    if args.workdir:
        args.workdir.mkdir(parents=True, exist_ok=True)
    start_local(args.threads)
    table: list[tuple[str, ...]] = []
    for rows in args.rows:
        with tempfile.TemporaryDirectory(dir=args.workdir) as root:
            for row in measured(
                Path(root), rows, args.asked, beside=rows == min(args.rows) and not args.alone
            ):
                print(*row, file=sys.stderr)
                table.append(row)
    head = ("rows of the log", "what", "requests", "seconds", "requests a second", "")
    show(markdown(head, table) + "\n", args.out)


if __name__ == "__main__":
    main()
