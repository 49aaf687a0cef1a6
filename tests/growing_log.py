"""A log that grows day by day, with the feature tables that builds without Ray make of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from tests import online_log

from prerank.core.feature_sets import manifest_of_log, tables_of_log
from prerank.core.home import Home
from prerank.core.trust import add_flags
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig

HOUR, DAY = 3_600_000_000, 86_400_000_000
START = 19_000 * DAY
MANIFEST = replace(online_log.MANIFEST, segments=("country",), retriever=(), exposure=False)
QUERIES = ["red shoe", "red lamp", "blue shoe", "", "lamp"]
TABLES = {"engagement": "engagement_key", "user_history": "user_id"}


class Log:
    """A home's log that grows: what a batch holds, and when it became known (decision 8)."""

    manifest = MANIFEST

    def __init__(
        self, root: Path, seed: int, hours: int, lag: int = 0, cap: int | None = None
    ) -> None:
        self.home, self.rng = Home.at(root), np.random.default_rng(seed)
        self.config = FeatureConfig(cadence_hours=hours, lag_minutes=lag, user_cap=cap)
        self.batches: list[pd.DataFrame] = []

    def drawn(self, low: int, high: int, count: int) -> pd.DataFrame:
        """Events of the times [low, high)."""
        rng = self.rng
        time = rng.integers(low, high, count)
        # Some stand exactly on a cutoff, where "strictly earlier" decides.
        time = np.where(rng.random(count) < 0.2, time // HOUR * HOUR, time)
        return pd.DataFrame(
            {
                "user_id": rng.choice([f"u{n}" for n in range(9)], count),
                "query": rng.choice(QUERIES, count, p=[0.6, 0.2, 0.1, 0.05, 0.05]),
                "item_id": rng.integers(0, 12, count) - 3,
                "action": rng.choice(MANIFEST.actions, count),
                "event_time": time,
                "country": rng.choice(["de", "us", ""], count),
                "event_id": rng.integers(-(2**62), 2**62, count),
            }
        )

    def add(self, events: pd.DataFrame, published_us: int) -> None:
        """Ingest ``events``, after features up to ``published_us`` were published."""
        known = np.maximum(events["event_time"], published_us)
        self.batches.append(events.assign(known_time=known))
        self.write(self.home, self.batches)

    def write(self, home: Home, batches: list[pd.DataFrame]) -> None:
        """As ingest does: every event again, by day."""
        events = pd.concat(batches)
        end = np.datetime64(int(events["event_time"].max()), "us")
        count, last = len(events), np.datetime_as_string(end) + "Z"
        begin = np.datetime_as_string(np.datetime64(int(events["event_time"].min()), "us")) + "Z"
        replace(
            self.manifest, events=count, fingerprint=str(count), first_time=begin, last_time=last
        ).save(home)
        for column in events.columns[events.columns.str.endswith("_time")]:
            events[column] = pd.to_datetime(events[column].astype("datetime64[us]"), utc=True)
        day_of = "request_time" if "request_time" in events else "event_time"
        for day, own in events.groupby(events[day_of].dt.strftime("%Y-%m-%d")):
            folder = home.events / f"day={day}"
            folder.mkdir(parents=True, exist_ok=True)
            table = pa.Table.from_pandas(own, preserve_index=False)
            pq.write_table(table, folder / "part-0.parquet")

    def grow(self, days: int, busy: float, late: float) -> None:
        """Ingest some days, some of them without an event, and late ones, and build."""
        published = self.published()
        begin = published or START
        end = (begin // DAY + days) * DAY if busy else begin + DAY
        known = [self.drawn(begin, end, max(int(days * busy), 1))]
        if published and late:
            known.append(self.drawn(max(START, begin - 40 * DAY), begin, int(days * late)))
        self.add(pd.concat(known), published)
        self.build()

    def flag(self, count: int, low: int, high: int) -> None:
        """Flag some users as of times in [low, high)."""
        users, rng = [f"u{n}" for n in self.rng.integers(0, 9, count)], self.rng
        weights = rng.choice([0.0, 0.0, 0.25, 0.3, 1.0], count)
        add_flags(self.home, users, weights.tolist(), rng.integers(low, high, count).tolist())

    def published(self) -> int:
        """The last cutoff, microseconds; 0 before the first build."""
        return manifest_of_log(self.home)["last_cutoff_us"] if self.batches else 0

    def build(self) -> dict[str, Any]:
        return build_features(self.home, self.config)

    def anew(self, root: Path) -> Home:
        """The tables of one build of all events."""
        home = Home.at(root)
        self.write(home, self.batches)
        if self.home.flags.exists():
            home.flags.write_bytes(self.home.flags.read_bytes())
        build_features(home, self.config)
        return home


def tables(home: Home) -> Iterator[tuple[str, pa.Table]]:
    """Each table's rows by key and time, whatever its files."""
    for name, key in TABLES.items():
        files = sorted((tables_of_log(home) / name).glob("*.parquet"))
        rows = pa.concat_tables(pq.read_table(file) for file in files)
        yield name, rows.sort_by([(key, "ascending"), ("event_timestamp", "ascending")])


def same(home: Home, other: Home) -> None:
    for (name, rows), (_, others) in zip(tables(home), tables(other), strict=True):
        assert rows.combine_chunks().equals(others.combine_chunks()), name


def files(home: Home) -> set[str]:
    folder = tables_of_log(home)
    return {str(path.relative_to(folder)) for path in folder.rglob("*.parquet")}
