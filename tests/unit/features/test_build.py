"""Feature tables that are brought on day by day are those of one build, however the days fall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from tests import online_log
from tests.kills import killed

from prerank.core.feature_sets import manifest_of_log, tables_of_log
from prerank.core.home import Home
from prerank.features import shard
from prerank.features.build import FeatureConfig, build_features
from prerank.features.parts import bounded

HOUR, DAY = 3_600_000_000, 86_400_000_000
START = 19_000 * DAY
MANIFEST = replace(online_log.MANIFEST, segments=("country",), retriever=())
QUERIES = ["red shoe", "red lamp", "blue shoe", "", "lamp"]
TABLES = {"engagement": "engagement_key", "user_history": "user_id"}


class Log:
    """A home's log that grows: what a batch holds, and when it became known (decision 8)."""

    def __init__(self, root: Path, seed: int, hours: int, lag: int = 0) -> None:
        self.home, self.rng = Home.at(root), np.random.default_rng(seed)
        self.config = FeatureConfig(cadence_hours=hours, lag_minutes=lag)
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
        replace(MANIFEST, events=count, last_time=last, fingerprint=str(count)).save(home)
        for column in ("event_time", "known_time"):
            events[column] = pd.to_datetime(events[column].astype("datetime64[us]"), utc=True)
        for day, own in events.groupby(events["event_time"].dt.strftime("%Y-%m-%d")):
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

    def published(self) -> int:
        """The last cutoff, microseconds; 0 before the first build."""
        return manifest_of_log(self.home)["last_cutoff_us"] if self.batches else 0

    def build(self) -> dict[str, Any]:
        return build_features(self.home, self.config)

    def anew(self, root: Path) -> Home:
        """The tables of one build of all events."""
        home = Home.at(root)
        self.write(home, self.batches)
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


CASES = [(0, 1, 0), (1, 6, 30), (2, 24, 0), (3, 48, 5)]


@pytest.mark.parametrize(("seed", "hours", "lag"), CASES)
def test_days_one_by_one_make_the_tables_of_one_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int, hours: int, lag: int
) -> None:
    """With late events, pauses in which windows end, and files that are merged meanwhile."""
    limit = 2
    monkeypatch.setattr(
        shard, "bounded", lambda *args, **options: bounded(*args, **options | {"limit": limit})
    )
    monkeypatch.setattr(shard, "MAX_PARTS", limit)
    log, rng = Log(tmp_path / "log", seed, hours, lag), np.random.default_rng(seed)
    before: dict[str, pa.Table] = {}
    for step in range(6):
        days = int(rng.choice([1, 1, 2, 3, 12, 35])) if step else 20
        log.grow(days, busy=rng.choice([2.0, 9.0]), late=rng.choice([0.0, 2.0]))
        for name, rows in tables(log.home):
            if name in before:
                stamp = pc.max(before[name]["event_timestamp"])
                published = rows.filter(pc.less_equal(rows["event_timestamp"], stamp))
                assert published.equals(before[name]), "a published row changed"
            before[name] = rows
    same(log.home, log.anew(tmp_path / "whole"))
    per_shard = Counter((path.rpartition("/")[0], path[-32:-16]) for path in files(log.home))
    assert max(per_shard.values()) <= limit


def test_a_day_adds_files_and_changes_none(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", 4, 1)
    log.grow(5, 9.0, 0.0)
    folder = tables_of_log(log.home)
    before = {name: (folder / name).read_bytes() for name in files(log.home)}
    named = manifest_of_log(log.home)["tables"]
    log.grow(1, 9.0, 1.0)
    assert files(log.home) > before.keys()
    assert all((folder / name).read_bytes() == data for name, data in before.items())
    assert manifest_of_log(log.home)["tables"] == named
    again = files(log.home)
    log.build()
    assert files(log.home) == again, "nothing was new"


def test_late_events_alone_wait_for_the_next_cutoff(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", 5, 1)
    log.grow(3, 9.0, 0.0)
    before, published = dict(tables(log.home)), log.published()
    log.add(log.drawn(START, published, 20), published)
    log.build()
    assert log.published() == published
    assert all(rows.equals(before[name]) for name, rows in tables(log.home))
    log.grow(1, 9.0, 0.0)
    same(log.home, log.anew(tmp_path / "whole"))


def test_events_that_the_tables_missed_are_counted_by_a_build_of_all(tmp_path: Path) -> None:
    """As when an ingest began before a build and ended after it: they seem to be known to it."""
    log = Log(tmp_path / "log", 6, 1)
    log.grow(3, 9.0, 0.0)
    named, published = manifest_of_log(log.home)["tables"], log.published()
    log.add(log.drawn(START, published, 5), 0)
    log.grow(1, 9.0, 0.0)
    assert manifest_of_log(log.home)["tables"] != named
    same(log.home, log.anew(tmp_path / "whole"))


def test_another_cadence_builds_all_and_none_keeps_the_one_that_is(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", 7, 6)
    log.grow(3, 9.0, 0.0)
    log.config = FeatureConfig()
    assert log.build()["cadence_hours"] == 6
    log.config = FeatureConfig(cadence_hours=24)
    assert log.build()["cadence_hours"] == 24
    same(log.home, log.anew(tmp_path / "whole"))


def test_a_build_that_is_killed_has_published_all_or_nothing(tmp_path: Path) -> None:
    log = Log(tmp_path / "log", 8, 24)
    log.grow(9, 3.0, 0.0)
    log.grow(2, 3.0, 1.0)
    old = dict(tables(log.home))
    published = log.published()
    log.add(log.drawn(published, published + 2 * DAY, 9), published)
    whole = log.anew(tmp_path / "whole")
    new = dict(tables(whole))
    states = []
    at = 1
    while killed(log.build, at):
        found = dict(tables(log.home))
        states.append(all(rows.equals(new[name]) for name, rows in found.items()))
        assert states[-1] or all(rows.equals(old[name]) for name, rows in found.items())
        at += 1 if states[-1] else 12
    assert len(states) > 5
    same(log.home, whole)
