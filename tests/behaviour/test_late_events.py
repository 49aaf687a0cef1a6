"""Published rows are immutable: what arrives later is counted from when it became known on.

A log is ingested up to a time, its features are published, and the rest arrives with events that
happened long before (invariants 1 and 8).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from prerank.core.errors import ConfigError, StateError
from prerank.core.feature_sets import manifest_of_log, manifests, tables_of_log
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.build import build_training_set
from prerank.dataset.examples import read_split
from prerank.dataset.requests import event_days
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig
from prerank.ingest.mapping import LogMapping
from prerank.ingest.run import ingest
from prerank.online.materialise import materialise

BuildHome = Callable[..., Home]
HOUR, DAY = pd.Timedelta(hours=1), pd.Timedelta(days=1)
LAG = FeatureConfig(lag_minutes=30)

MAPPING: dict[str, Any] = {"segments": ["country", "device"], "exposure": True, "graph": True}
"""That of ``tiny_world``."""


def add(home: Home, events: pd.DataFrame, items: pd.DataFrame, **mapping: object) -> LogManifest:
    """Ingest more into a home, from files of the names that it knows; returns the manifest."""
    events.to_parquet(home.root.parent / "events.parquet")
    items.to_parquet(home.root.parent / "items.parquet")
    paths = (home.root.parent / "events.parquet", home.root.parent / "items.parquet")
    return ingest(*paths, home, LogMapping.model_validate(mapping)).manifest


def table(home: Home, name: str, key: str) -> pa.Table:
    """A feature table in an order of its own, whatever the shards."""
    files = sorted((tables_of_log(home) / name).glob("*.parquet"))
    tables = pa.concat_tables(pq.read_table(f) for f in files)
    return tables.sort_by([(key, "ascending"), ("event_timestamp", "ascending")]).combine_chunks()


def feature_tables(home: Home) -> tuple[pa.Table, pa.Table]:
    return (
        table(home, "engagement", "engagement_key"),
        table(home, "user_history", "user_id"),
    )


def until(rows: pa.Table, time_us: int) -> pa.Table:
    stamp = rows["event_timestamp"].cast(pa.int64())
    return rows.filter(pc.less_equal(stamp, time_us)).combine_chunks()


def published_us(home: Home) -> int:
    return int(manifest_of_log(home)["last_cutoff_us"])


def middle(log: pd.DataFrame) -> pd.Timestamp:
    """Some minutes after a full hour in the middle of the log, so that a bucket is half full."""
    median: Any = log["request_time"].quantile(0.5)
    return median.floor("h") + pd.Timedelta(minutes=20)


def planted(log: pd.DataFrame, cut: pd.Timestamp) -> pd.DataFrame:
    """Saves of before the cut, by known users for known requests, that arrive after it."""
    shown = log[(log["action"] == "impression") & (log["event_time"] < cut - HOUR)]
    some = shown.groupby("user_id").tail(1).reset_index(drop=True)
    return some.assign(
        action="save",
        event_time=some["event_time"] + pd.Timedelta(seconds=30),
        event_id=[f"planted-{i}" for i in range(len(some))],
    )


@pytest.fixture(scope="module")
def split_log(tiny_log: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """What is known at the cut, what happens later, and what arrives late."""
    cut = middle(tiny_log)
    before = tiny_log["event_time"] < cut
    return tiny_log[before], tiny_log[~before], planted(tiny_log, cut)


@pytest.mark.parametrize("overlap", [False, True], ids=["new rows", "whole log"])
def test_late_events_change_no_published_row_and_enter_the_next(
    overlap: bool,
    split_log: tuple[pd.DataFrame, ...],
    tiny_items: pd.DataFrame,
    build_home: BuildHome,
    tmp_path: Path,
) -> None:
    first, rest, late = split_log
    home = build_home(tmp_path, first, tiny_items, features=LAG, training_set=True)
    published, (rows, histories) = published_us(home), feature_tables(home)
    examples = {
        r["request_id"]: r
        for t in ("train", "validation")
        for p in read_split(home, t)
        for r in p.to_pylist()
    }
    assert until(histories, published).equals(histories)

    more = [first, rest, late] if overlap else [rest, late]
    manifest = add(home, pd.concat(more), tiny_items)
    counted = manifest.rows
    assert counted["in"] == counted["out"] + counted["quarantined"] + counted["duplicates"]
    assert counted["duplicates"] == (len(first) if overlap else 0)
    assert manifest.events == len(first) + len(rest) + len(late)
    assert manifest.late >= len(late) > 20
    build_features(home, LAG)
    assert published_us(home) > published

    lag_us = LAG.lag_minutes * 60_000_000
    after, histories_after = feature_tables(home)
    assert until(after, published + lag_us).equals(rows)
    assert until(histories_after, published).equals(histories)

    # The next snapshot and the next states have them.
    stamp = histories_after["event_timestamp"].cast(pa.int64()).to_pylist()
    users = histories_after["user_id"].to_pylist()
    states = dict(
        zip(zip(users, stamp, strict=True), histories_after["event_ids"].to_pylist(), strict=True)
    )
    known = home_events(home).merge(late[["request_id", "item_id", "event_time"]])
    known = known[known["action"] == "save"]
    assert set(known["known_time"]) == {pd.Timestamp(published, unit="us", tz="UTC")}
    for event in known.itertuples():
        assert event.event_id in states[event.user_id, published + 1]
    hour = published + 3_600_000_000 + lag_us
    queries = {f"q:{q}" for q in known["query"]}
    fresh = after.filter(pc.equal(after["event_timestamp"].cast(pa.int64()), hour))
    assert queries <= set(fresh["engagement_key"].to_pylist())

    build_training_set(home)
    again = {
        r["request_id"]: r
        for t in ("train", "validation")
        for p in read_split(home, t)
        for r in p.to_pylist()
    }
    both = examples.keys() & again.keys()
    assert len(both) > 150
    labelled = set(late["request_id"])
    for name in both:
        # A late engagement labels its own request all the same: labels are no features.
        same = {"time", "text", "request", "x", "candidates"}
        same |= {"hist_items", "hist_actions", "hist_times"}
        same |= set() if name in labelled else {"labels", "weights"}
        for column in same:
            assert str(examples[name][column]) == str(again[name][column]), (name, column)
    assert any(examples[n]["labels"] != again[n]["labels"] for n in both & labelled)


def home_events(home: Home) -> pd.DataFrame:
    files = sorted(home.events.glob("day=*/*.parquet"))
    return pd.concat([pq.read_table(f, partitioning=None).to_pandas() for f in files])


def test_a_log_in_parts_is_the_log(
    tiny_world: Home,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    build_home: BuildHome,
    tmp_path: Path,
) -> None:
    """Where every part ends with a snapshot, nothing is late and nothing tells that there were
    parts; a part that comes again, shuffled, is of no consequence.
    """
    times: Any = tiny_log["event_time"]
    cuts = [times.quantile(q).ceil("h") for q in (0.3, 0.6)]
    part = np.searchsorted(
        pd.DatetimeIndex(cuts), pd.DatetimeIndex(tiny_log["event_time"]), "right"
    )
    home = build_home(tmp_path, tiny_log[part == 0], tiny_items, **MAPPING)
    for n in (1, 2):
        manifest = add(home, tiny_log[part == n], tiny_items, **MAPPING)
        assert manifest.late == 0
        build_features(home)
    whole = LogManifest.load(tiny_world)
    for again in (tiny_log[part == 1].sample(frac=1.0, random_state=0), tiny_log):
        same = ("fingerprint", "events", "requests", "users", "first_time", "last_time", "actions")
        assert [getattr(manifest, k) for k in same] == [getattr(whole, k) for k in same]
        for ours, theirs in zip(feature_tables(home), feature_tables(tiny_world), strict=True):
            assert ours.equals(theirs)
        manifest = add(home, again, tiny_items, **MAPPING)
        assert manifest.rows["duplicates"] == len(again)
        build_features(home)


def test_a_published_cutoff_never_moves_back(
    split_log: tuple[pd.DataFrame, ...],
    tiny_items: pd.DataFrame,
    build_home: BuildHome,
    tmp_path: Path,
) -> None:
    home = build_home(tmp_path, split_log[0], tiny_items, features=FeatureConfig(cadence_hours=24))
    daily = published_us(home)
    build_features(home, FeatureConfig(cadence_hours=1))
    assert published_us(home) == daily
    assert daily % 86_400_000_000 == 0


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another log": ({"name": "other"}, "holds the log 'events'.*`name: events`.*--replace"),
    "another mapping": ({"name": "events", "segments": ["country"]}, "`segments`.*--replace"),
    "a new action": ({}, "action 'share' is new.*--replace"),
}


def test_another_log_is_refused_unless_it_replaces(
    split_log: tuple[pd.DataFrame, ...],
    tiny_items: pd.DataFrame,
    build_home: BuildHome,
    tmp_path: Path,
) -> None:
    first, rest, _ = split_log
    home = build_home(tmp_path, first, tiny_items)
    before, tables = home.manifest.read_text(), manifests(home).keys()
    rest = rest.copy()
    rest.loc[rest.index[0], "action"] = "share"
    for mapping, message in REFUSED.values():
        with pytest.raises(ConfigError, match=message):
            add(home, rest, tiny_items, **mapping)
    assert home.manifest.read_text() == before
    assert len(home_events(home)) == len(first)
    paths = (home.root.parent / "events.parquet", home.root.parent / "items.parquet")
    replaced = ingest(*paths, home, LogMapping(name="other"), replace=True).manifest
    assert replaced.events == len(rest)
    assert "share" in replaced.actions
    assert manifests(home).keys() == tables, "a live model may need them"
    with pytest.raises(StateError, match="prerank features"):
        materialise(home)


def test_an_interrupted_ingest_says_how_to_go_on(
    split_log: tuple[pd.DataFrame, ...],
    tiny_items: pd.DataFrame,
    build_home: BuildHome,
    tmp_path: Path,
) -> None:
    home = build_home(tmp_path, split_log[0], tiny_items, features=None)
    home.manifest.unlink()
    with pytest.raises(StateError, match=r"interrupted.*--replace"):
        add(home, split_log[1], tiny_items)


def test_a_home_of_another_version_is_refused(
    split_log: tuple[pd.DataFrame, ...],
    tiny_items: pd.DataFrame,
    build_home: BuildHome,
    tmp_path: Path,
) -> None:
    home = build_home(tmp_path, split_log[0], tiny_items, features=None)
    manifest = LogManifest.load(home)
    replace(manifest, version=1).save(home)
    with pytest.raises(StateError, match=r"another version.*--replace"):
        add(home, split_log[1], tiny_items)
    with pytest.raises(StateError, match=r"another version.*--replace"):
        build_features(home)
    with pytest.raises(StateError, match=r"another version.*--replace"):
        event_days(home)


def test_requests_per_day_are_those_of_all_events(
    split_log: tuple[pd.DataFrame, ...],
    tiny_items: pd.DataFrame,
    build_home: BuildHome,
    tmp_path: Path,
) -> None:
    first, rest, late = split_log
    home = build_home(tmp_path, first, tiny_items, features=None)
    for log, manifest in (
        (first, LogManifest.load(home)),
        (pd.concat([first, rest, late]), add(home, pd.concat([rest, late]), tiny_items)),
    ):
        days = log.groupby(log["request_time"].dt.strftime("%Y-%m-%d"))["request_id"].nunique()
        assert manifest.requests_per_day == days.to_dict()
        assert sum(manifest.requests_per_day.values()) == manifest.requests


def test_string_ids_of_before_keep_their_text(
    split_log: tuple[pd.DataFrame, ...],
    tiny_items: pd.DataFrame,
    build_home: BuildHome,
    tmp_path: Path,
) -> None:
    def named(frame: pd.DataFrame) -> pd.DataFrame:
        return frame.assign(item_id="pin-" + frame["item_id"].astype(str))

    first, rest, _ = split_log
    known = named(tiny_items)
    home = build_home(tmp_path, named(first), known.iloc[:-1], features=None)
    add(home, named(rest), known.iloc[-1:])
    refs = pq.read_table(home.items)["item_ref"].to_pylist()
    assert set(refs) == {*known["item_id"].iloc[-1:], *named(pd.concat([first, rest]))["item_id"]}
