"""A feature of a request uses what was known strictly before it, and nothing later (invariant 1).

Two kinds of evidence: events planted into the log's future change no earlier example by a single
bit (while the same events planted into its past do), and every packed row and history equals a
count over the raw log by plain pandas.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from tests.exposure_counts import Exposure, exposures, recount

from interactrank.features.packed_rows import unpack
from interactrank.features.schema import (
    ENGAGE,
    LEVELS,
    USER_CROSS,
    WINDOWS,
    FeatureSchema,
)
from interactrank.features.text import engagement_keys
from prerank.core.feature_sets import manifest_of_log
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.candidates import shown_candidates
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.examples import request_arrays
from prerank.dataset.requests import read_requests
from prerank.features.asof import MISSING
from prerank.features.config import FeatureConfig
from prerank.features.examination import Examination
from prerank.features.offline import offline_inputs

SEGMENTS = ["country", "device"]
ON_MIDNIGHT, MIDDLE = "r0000000300", "r0000000305"
HOUR, DAY = pd.Timedelta(hours=1), pd.Timedelta(days=1)
US = pd.Timedelta(microseconds=1)
STAMP = pa.timestamp("us", tz="UTC")
BuildHome = Callable[..., Home]


class Examples:
    """Every request of a home with its features, read bit by bit."""

    def __init__(self, home: Home) -> None:
        manifest = LogManifest.load(home)
        catalogue, schema = load_catalogue(home), manifest.schema
        requests = read_requests(sorted(home.events.glob("day=*/*.parquet")), manifest)
        arrays = request_arrays(
            schema,
            requests["query"].to_pylist(),
            offline_inputs(home, requests),
            shown_candidates(requests),
            catalogue,
            catalogue.table(),
        )
        self.cross = schema.cross
        self.time = dict(
            zip(
                requests["request_id"].to_pylist(),
                requests["request_time"].to_pandas(),
                strict=True,
            )
        )
        self.x: dict[str, dict[int, np.ndarray]] = {}
        self.request: dict[str, bytes] = {}
        self.history: dict[str, tuple[bytes, bytes, bytes]] = {}
        self.segments = dict(zip(self.time, arrays.segments.tolist(), strict=True))
        for b, name in enumerate(self.time):
            lo, hi = arrays.offsets[b : b + 2]
            items = arrays.candidates[lo:hi].tolist()
            self.x[name] = dict(zip(items, arrays.x[lo:hi], strict=True))
            self.request[name] = arrays.request[b].tobytes()
            lo, hi = arrays.hist_offsets[b : b + 2]
            self.history[name] = (
                arrays.hist_items[lo:hi].tobytes(),
                arrays.hist_actions[lo:hi].tobytes(),
                arrays.hist_times[lo:hi].tobytes(),
            )

    def columns_changed(self, other: Examples, name: str) -> set[str]:
        """Columns of x that differ for a candidate that both have."""
        changed = np.zeros(len(self.cross), bool)
        for item, x in self.x[name].items():
            changed |= x.view(np.uint32) != other.x[name][item].view(np.uint32)
        return {c for c, differs in zip(self.cross, changed, strict=True) if differs}

    def same(self, other: Examples, name: str) -> bool:
        return (
            not self.columns_changed(other, name)
            and self.request[name] == other.request[name]
            and self.history[name] == other.history[name]
            and self.segments[name] == other.segments[name]
        )


@pytest.fixture(scope="module")
def build(build_home: BuildHome) -> BuildHome:
    """Builds homes with the mapping of ``tiny_world``."""
    return partial(build_home, segments=SEGMENTS, exposure=True, graph=True)


@pytest.fixture(scope="module")
def base(tiny_world: Home) -> Examples:
    return Examples(tiny_world)


def plant(
    log: pd.DataFrame, likes: pd.DataFrame, at: pd.Timestamp, request_id: str | None = None
) -> pd.DataFrame:
    """Saves at ``at`` of the users, queries and items of ``likes``; requests of their own, made at
    the same time, unless ``request_id`` says otherwise.
    """
    rows = likes[["user_id", "query", "item_id", *SEGMENTS]].reset_index(drop=True)
    tag = f"{at.value}-{request_id or 'planted'}-" + rows.index.astype(str)
    asked = log.loc[log["request_id"] == request_id, "request_time"]
    return rows.assign(
        event_id=tag,
        request_id=request_id or tag,
        request_time=asked.iloc[0] if request_id else at,
        event_time=at,
        action="save",
        position=pd.array([None] * len(rows), dtype="Int32"),
    )


def grown(log: pd.DataFrame, *planted: pd.DataFrame) -> pd.DataFrame:
    return pd.concat([log, *planted], ignore_index=True)[list(log.columns)]


@pytest.mark.parametrize("anchor", [ON_MIDNIGHT, MIDDLE])
def test_planted_future_changes_nothing(
    anchor: str,
    base: Examples,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    build: BuildHome,
    tmp_path: Path,
) -> None:
    own = tiny_log[tiny_log["request_id"] == anchor]
    time = own["request_time"].iloc[0]
    # The future holds what every earlier request asked for, so whatever leaks changes something.
    past = tiny_log[tiny_log["request_time"] <= time].drop_duplicates(["user_id", "query"])
    likes = pd.concat([own, past])
    others = sorted(set(tiny_items["item_id"]) - set(own["item_id"]))
    unseen = own.head(3).assign(item_id=others[:3])
    planted = [
        plant(tiny_log, likes, time),
        plant(tiny_log, likes, time + US),
        plant(tiny_log, own, time, anchor),
        plant(tiny_log, unseen, time + US, anchor),
        plant(tiny_log, likes, time + HOUR),
        plant(tiny_log, likes, time + 8 * DAY),
    ]
    home = build(tmp_path, grown(tiny_log, *planted), tiny_items)
    after = Examples(home)
    before = [name for name, asked in base.time.items() if asked <= time]
    assert anchor in before
    assert len(before) > 250
    assert [name for name in before if not base.same(after, name)] == []
    later = [name for name, asked in base.time.items() if asked > time + DAY]
    changed = [name for name in later if not base.same(after, name)]
    assert len(changed) == len(later), "the planted events were not counted at all"


def test_a_log_cut_off_at_a_request_gives_it_the_same_features(
    base: Examples,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    build: BuildHome,
    tmp_path: Path,
) -> None:
    time = base.time[ON_MIDNIGHT]
    # What a request showed stays, or it would lose candidates; no later engagement does.
    shown = (tiny_log["request_time"] <= time) & (tiny_log["action"] == "impression")
    after = Examples(build(tmp_path, tiny_log[(tiny_log["event_time"] < time) | shown], tiny_items))
    kept = [name for name, asked in base.time.items() if asked <= time]
    assert len(kept) > 250
    assert [name for name in kept if not base.same(after, name)] == []


def test_planted_past_is_seen(
    base: Examples,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    build: BuildHome,
    tmp_path: Path,
) -> None:
    """So the tests above can fail: the last moment before a cutoff counts, the next does not."""
    own = tiny_log[tiny_log["request_id"] == MIDDLE].head(1)
    time, cutoff = base.time[MIDDLE], base.time[MIDDLE].floor("h")
    assert cutoff < time - US, "the request must lie within an hour for this test to tell"
    stranger = own.assign(user_id="nobody")

    def rebuilt(name: str, planted: pd.DataFrame) -> Examples:
        return Examples(build(tmp_path / name, grown(tiny_log, planted), tiny_items))

    counted = rebuilt("counted", plant(tiny_log, stranger, cutoff - US))
    changed = base.columns_changed(counted, MIDDLE)
    assert {"q:engage:7d", "q:save:all", "s:engage:30d", "g:engage:30d"} <= changed
    assert not changed & set(USER_CROSS)
    assert base.request[MIDDLE] != counted.request[MIDDLE]
    assert base.history[MIDDLE] == counted.history[MIDDLE]

    too_late = rebuilt("too late", plant(tiny_log, stranger, cutoff))
    assert base.same(too_late, MIDDLE)

    remembered = rebuilt("remembered", plant(tiny_log, own, time - US))
    changed = base.columns_changed(remembered, MIDDLE)
    assert set(USER_CROSS) - {"user:decay_30d", "user:decay_1d"} <= changed
    assert not {c for c in changed if c[:2] in ("q:", "s:", "c:", "t:", "g:", "a:")}
    assert base.history[MIDDLE] != remembered.history[MIDDLE]


def brute_counts(
    log: pd.DataFrame,
    shown: list[Exposure],
    schema: FeatureSchema,
    key: str,
    cutoff: pd.Timestamp,
) -> tuple[dict[int, np.ndarray], np.ndarray] | None:
    """Item -> counts by column, and the totals, of events strictly before ``cutoff``."""
    level = next(lv for lv in LEVELS if lv.prefix == key.split(":", 1)[0])
    mine = log["keys"].map(lambda keys: key in keys) & (log["event_time"] < cutoff)
    # Exposure enters the exact query's row alone, the one that has a column for it.
    events = log[mine if level.per_action else mine & log["engaged"]]
    own = recount(shown, schema, level, int(cutoff.value // 1000))
    if events.empty and not own:
        return None
    items = {*events["item_id"].tolist(), *own}
    counts = {item: np.zeros(len(schema.columns(level))) for item in items}
    for shown_item, exposed in own.items():
        counts[shown_item][len(schema.shares(level)) :] = [*exposed.values()]
    for at, column in enumerate(schema.shares(level)):
        action, window = column.split(":")
        days = WINDOWS[window]
        chosen = events[events["engaged"] if action == ENGAGE else events["action"] == action]
        if days is not None:
            chosen = chosen[chosen["event_time"] >= cutoff - days * DAY]
        for item, n in chosen["item_id"].value_counts().items():
            counts[item][at] = n
    return counts, sum(counts.values(), np.zeros(len(schema.columns(level))))


def probes(log: pd.DataFrame, lag: pd.Timedelta) -> pd.DataFrame:
    """Queries of the log at random times, and at the very moments around a publication."""
    rng = np.random.default_rng(5)
    asked = log.drop_duplicates("request_id").sample(30, random_state=5).reset_index(drop=True)
    times = asked["request_time"].copy()
    for i in range(0, 30, 2):
        cutoff = times[i].floor("D" if i % 4 else "h")
        times[i] = cutoff + lag + US * int(rng.integers(-1, 2))
    return pd.DataFrame(
        {
            "query": asked["query"],
            "user_id": asked["user_id"],
            "request_time": times,
            "context": asked[SEGMENTS].to_dict("records"),
        }
    )


def keyed(log: pd.DataFrame) -> pd.DataFrame:
    searches = log[["query", *SEGMENTS]]
    keys = {
        s: frozenset(engagement_keys(s[0], dict(zip(SEGMENTS, s[1:], strict=True))))
        for s in searches.drop_duplicates().itertuples(index=False, name=None)
    }
    mine: Any = [keys[s] for s in searches.itertuples(index=False, name=None)]
    return log.assign(keys=mine, engaged=log["action"] != "impression")


@pytest.mark.parametrize("lag_minutes", [0, 30])
def test_packed_rows_equal_counts_of_the_raw_log(
    lag_minutes: int,
    tiny_log: pd.DataFrame,
    tiny_items: pd.DataFrame,
    tiny_world: Home,
    build: BuildHome,
    tmp_path: Path,
) -> None:
    """A request between a cutoff and its publication sees the older snapshot."""
    home = tiny_world
    if lag_minutes:
        config = FeatureConfig(lag_minutes=lag_minutes)
        home = build(tmp_path, tiny_log, tiny_items, features=config)
    lag = pd.Timedelta(minutes=lag_minutes)
    schema = LogManifest.load(home).schema
    asked, log = probes(tiny_log, lag), keyed(tiny_log)
    inputs = offline_inputs(home, pa.Table.from_pandas(asked))
    told = manifest_of_log(home)["exposure"]["propensities"]
    stamp = log["event_time"].dt.as_unit("us").astype("int64")
    times = {"event_time": stamp, "known_time": stamp}
    shown = exposures(log.assign(**times), schema.passive, Examination.restored(told))
    under: dict[str, list[Exposure]] = {}
    for one in shown:
        for key in set(engagement_keys(one.query)):
            under.setdefault(key, []).append(one)
    seen = 0
    for b, (_, probe) in enumerate(asked.iterrows()):
        keys = engagement_keys(probe["query"], probe["context"])
        assert len([k for k in keys if k.startswith("s:")]) == len(SEGMENTS)
        for k, key in enumerate(keys, inputs.key_offsets[b]):
            level = LEVELS[inputs.key_level[k]]
            cutoff = (probe["request_time"] - lag).floor("D" if level.daily else "h")
            expected = brute_counts(log, under.get(key, []), schema, key, cutoff)
            block = inputs.key_block[k]
            if expected is None:
                assert block == MISSING, (key, probe)
                continue
            assert block != MISSING, (key, probe)
            start = inputs.block_start[block]
            data = inputs.blocks[start : start + inputs.block_size[block]].tobytes()
            row = unpack(data, schema.columns(level))
            counts, totals = expected
            assert row.ids.tolist() == sorted(counts)
            own = [counts[i] for i in row.ids.tolist()]
            # The code of a fraction is off by more, of its own size, than that of a whole number.
            np.testing.assert_allclose(row.counts, own, rtol=2e-4, atol=2e-4, err_msg=key)
            np.testing.assert_array_equal(row.totals, totals.astype(np.float32))
            seen += 1
    assert seen > 300


def test_labels_are_engagements_inside_the_window(
    tiny_log: pd.DataFrame, tiny_items: pd.DataFrame, build: BuildHome, tmp_path: Path
) -> None:
    own = tiny_log[tiny_log["request_id"] == MIDDLE]
    cold = own[~own["item_id"].isin(own.loc[own["action"] != "impression", "item_id"])]
    time = own["request_time"].iloc[0]
    delays = [pd.Timedelta(seconds=1), DAY, DAY + US]
    planted = [
        plant(tiny_log, cold.iloc[[i]], time + delay, MIDDLE) for i, delay in enumerate(delays)
    ]
    home = build(tmp_path, grown(tiny_log, *planted), tiny_items, features=None)
    manifest = LogManifest.load(home)
    requests = read_requests(sorted(home.events.glob("day=*/*.parquet")), manifest).to_pylist()
    found = next(r for r in requests if r["request_id"] == MIDDLE)
    labels = dict(zip(found["items"], found["labels"], strict=True))
    weights = dict(zip(found["items"], found["weights"], strict=True))
    soon, last, late = cold["item_id"].iloc[:3].tolist()
    saved = 0b011  # heads are engagement, save, long_click
    assert manifest.head_order == ("engagement", "save", "long_click")
    assert (labels[soon], labels[last], labels[late]) == (saved, saved, 0)
    assert (weights[soon], weights[last], weights[late]) == (7.0, 7.0, 5.0)
