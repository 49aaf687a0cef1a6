"""What was shown, expected and engaged under a key, against a recount of the raw requests."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.exposure_counts import exposures, recount
from tests.growing_log import DAY, HOUR, START
from tests.shown_log import MANIFEST, MINUTE, ShownLog, estimates_often, home_of

from interactrank.features.engagement import cross_features
from interactrank.features.packed_rows import Row, unpack
from interactrank.features.schema import LEVELS, Level
from interactrank.features.text import engagement_keys
from prerank.core.feature_sets import manifest_of_log, tables_of_log
from prerank.core.home import Home
from prerank.core.propensities import Propensities
from prerank.core.times import UTC_US
from prerank.core.trust import Flags, add_flags
from prerank.features.build import build_features
from prerank.features.config import FeatureConfig
from prerank.features.examination import NO_POSITION, Estimate, Examination
from prerank.features.offline import offline_inputs
from prerank.features.states import UNIT

SCHEMA = MANIFEST.schema
BY_PREFIX = {level.prefix: level for level in LEVELS}


def rows_of(home: Home) -> dict[str, list[tuple[int, bytes]]]:
    """Cutoff (microseconds) and packed row of each row, by key."""
    found = defaultdict(list)
    for file in sorted((tables_of_log(home) / "engagement").glob("*.parquet")):
        table = pq.read_table(file)
        cutoffs = table["cutoff"].cast(pa.int64()).to_pylist()
        keys, packed = table["engagement_key"].to_pylist(), table["row"].to_pylist()
        for key, cutoff, row in zip(keys, cutoffs, packed, strict=True):
            found[key].append((cutoff, row))
    return found


def latest(rows: list[tuple[int, bytes]], level: Level, cutoff: int) -> Row | None:
    known = [row for at, row in sorted(rows) if at <= cutoff]
    return unpack(known[-1], SCHEMA.columns(level)) if known else None


@pytest.mark.parametrize(("seed", "hours", "cap", "flags"), [(0, 1, 1, 0), (1, 24, None, 5)])
def test_the_latest_row_is_a_recount(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    hours: int,
    cap: int | None,
    flags: int,
) -> None:
    """With late impressions, clicks and flags, in two builds. A cap changes nothing of it."""
    estimates_often(monkeypatch)
    log, rng = ShownLog(tmp_path, seed, hours, cap=cap), np.random.default_rng(seed)
    # On midnights, when what they change of exposure counts as well.
    log.flag(flags, START, START + 30 * DAY)
    log.grow(20, 6.0, 0.0)
    log.grow(20, 6.0, 3.0)
    told = manifest_of_log(log.home)["exposure"]
    examination, flagged = Examination.restored(told["propensities"]), Flags.load(log.home)
    assert len(examination.estimates) > 3
    shown = exposures(pd.concat(log.batches), SCHEMA.passive, examination)
    assert told["shown"] == sum(one.known < log.published() for one in shown)
    assert 0 < told["without_position"] < told["shown"] / 5
    rows, compared = rows_of(log.home), 0
    for key in ("q:red shoe", "t:shoe", "g:^red", "a:"):
        level = BY_PREFIX[key[0]]
        own = [one for one in shown if key in engagement_keys(one.query)]
        for cutoff in (START + rng.integers(5, 38, 6) * DAY).tolist():
            row = latest(rows[key], level, cutoff)
            expected = recount(own, SCHEMA, level, cutoff, flagged.as_of(cutoff))
            names = SCHEMA.exposures(level)
            first = len(SCHEMA.shares(level))
            found = {} if row is None else dict(zip(row.ids.tolist(), row.counts, strict=True))
            some = {item: c[first:] for item, c in found.items() if c[first:].any()}
            assert some.keys() == expected.keys()
            for item, counts in expected.items():
                want = [counts[name] for name in names]
                np.testing.assert_allclose(some[item], want, rtol=3e-4, atol=1e-6)
            compared += len(expected)
    assert compared > 150


def plain(rows: list[dict[str, Any]], root: Path, hours: int = 1) -> ShownLog:
    """A log of these rows of one request each, and of a last one that ends it."""
    log = ShownLog(root, 0, hours)
    asked = {"query": "shoe", "country": "", "position": None, "user_id": "u"}
    end = {"request_id": "end", "item_id": 99, "action": "impression", "at": 50 * DAY}
    events = [asked | row for row in [*rows, end]]
    table = pd.DataFrame(events)
    table["event_time"] = START + table.pop("at")
    table["request_time"] = table.groupby("request_id")["event_time"].transform("min")
    table["position"] = table["position"].astype("Int32")
    log.add(table.assign(event_id=range(len(table))), 0)
    log.build()
    return log


def exposure_at(log: ShownLog, key: str, item: int, time: int) -> list[float]:
    """An item's exposure under a key, whole numbers where nothing is estimated."""
    level = BY_PREFIX[key[0]]
    row = latest(rows_of(log.home).get(key, []), level, START + time)
    if row is None or item not in row.ids:
        return [0.0] * len(SCHEMA.exposures(level))
    found: list[float] = row.counts[row.ids.tolist().index(item)].round(2).tolist()
    return found[len(SCHEMA.shares(level)) :]


def test_what_is_shown_and_engaged_again_in_a_request_counts_once(tmp_path: Path) -> None:
    row = {"request_id": "r", "item_id": 1}
    rows = [row | {"action": a, "at": HOUR} for a in ("impression",) * 3 + ("click",) * 4]
    log = plain([*rows, row | {"action": "save", "at": 2 * HOUR}], tmp_path)
    # Expected in 30 days and ever, engaged in 30 days and ever, shown.
    assert exposure_at(log, "q:shoe", 1, DAY) == [1, 1, 1, 1, 1]
    assert exposure_at(log, "q:shoe", 1, DAY - 1) == [0, 0, 0, 0, 0]
    assert exposure_at(log, "t:shoe", 1, 20 * DAY) == [1, 1]
    assert exposure_at(log, "q:shoe", 1, 31 * DAY) == [0, 1, 0, 1, 1]
    assert exposure_at(log, "t:shoe", 1, 31 * DAY) == [0, 0]


def test_an_engagement_of_what_was_not_shown_is_none_here(tmp_path: Path) -> None:
    rows = [{"request_id": "r", "item_id": 1, "action": "click", "at": HOUR}]
    log = plain(rows, tmp_path)
    assert exposure_at(log, "q:shoe", 1, 2 * DAY) == [0, 0, 0, 0, 0]
    level = BY_PREFIX["q"]
    row = latest(rows_of(log.home)["q:shoe"], level, START + 2 * DAY)
    assert row is not None
    assert row.totals[SCHEMA.columns(level).index("engage:all")] == 1


def test_a_click_days_later_counts_from_then_on_and_leaves_with_its_impression(
    tmp_path: Path,
) -> None:
    row = {"request_id": "r", "item_id": 1}
    shown, clicked = ({"action": a, "at": at} for a, at in (("impression", 0), ("click", 5 * DAY)))
    log = plain([row | shown, row | clicked], tmp_path)
    assert exposure_at(log, "a:", 1, 5 * DAY) == [1, 1, 0, 0, 1]
    assert exposure_at(log, "a:", 1, 6 * DAY) == [1, 1, 1, 1, 1]
    assert exposure_at(log, "a:", 1, 31 * DAY) == [0, 1, 0, 1, 1]


def test_the_compact_query_and_segments_have_no_row_of_what_was_only_shown(tmp_path: Path) -> None:
    shown = {"request_id": "r", "item_id": 1, "action": "impression", "at": 0, "country": "de"}
    log = plain([shown], tmp_path)
    assert {key[0] for key in rows_of(log.home)} == {"q", "t", "g", "a"}


def test_an_item_shown_often_never_stands_in_the_place_of_an_engaged_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(SCHEMA), "cap", lambda *_: 3)
    often = [
        {"request_id": f"r{n}-{item}", "item_id": item, "action": "impression", "at": n * HOUR}
        for n in range(20)
        for item in (1, 2)
    ]
    clicks = [
        {"request_id": f"c{item}", "item_id": item, "action": a, "at": HOUR}
        for item in (7, 8)
        for a in ("impression", "click")
    ]
    log = plain([*often, *clicks], tmp_path)
    for key in ("q:shoe", "t:shoe", "a:"):
        row = latest(rows_of(log.home)[key], BY_PREFIX[key[0]], START + 2 * DAY)
        assert row is not None
        assert row.ids.tolist() == [1, 7, 8]
        assert row.distinct == 4


def test_an_impression_weighs_by_the_latest_estimate_before_it() -> None:
    two = [
        Estimate(10, Propensities((1, 3), (1.0, 0.5), 9, "item")),
        Estimate(20, Propensities((1,), (0.25,), 9, "item")),
    ]
    known, position = np.array([9, 10, 10, 19, 20, 20]), np.array([3, 3, 1, 4, 1, NO_POSITION])
    found = Examination(tuple(two)).weights(known, position)
    assert found.tolist() == [UNIT, UNIT / 2, UNIT, UNIT / 2, UNIT / 4, UNIT]
    assert Examination.restored(Examination(tuple(two)).told()) == Examination(tuple(two))


def features_at(home: Home, times: list[int]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Cross features of a request at each time, and the bytes of its rows."""
    found = []
    for time in times:
        request = pa.table(
            {
                "query": ["red shoe"],
                "user_id": ["u3"],
                "request_time": pa.array([time]).cast(UTC_US),
                "context": [{"country": "de"}],
            }
        )
        inputs = offline_inputs(home, request)
        ids = np.arange(-3, 9)
        bounds, created = np.array([0, len(ids)]), np.zeros(len(ids), np.int64)
        found.append((cross_features(SCHEMA, inputs, ids, bounds, created), inputs.blocks))
    return found


def swapped(log: ShownLog, since: int, known: int) -> pd.DataFrame:
    """The order of what was shown turned round in requests of after ``since``, with clicks on what
    stood last, and known from ``known`` on.
    """
    shown = pd.concat(log.batches).drop(columns="known_time")
    shown = shown[shown["action"] == "impression"].head(400)
    planted = shown.assign(
        position=9 - shown["position"],
        request_id="planted-" + shown["request_id"],
        request_time=since,
        event_time=since,
    )
    clicks = planted.assign(action="click", event_time=since + MINUTE)
    both = pd.concat([planted, clicks[clicks["position"] > 6]], ignore_index=True)
    stamp = np.maximum(both["event_time"], known)
    return both.assign(event_id=np.arange(len(both)) + 2**62, known_time=stamp)


def test_what_is_shown_and_clicked_later_changes_no_earlier_feature(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Planted swaps of after a moment, and of before it that became known after it."""
    estimates_often(monkeypatch, days=4)
    log = ShownLog(tmp_path / "log", 7, 1)
    log.grow(24, 8.0, 0.0)
    moment = START + 11 * DAY + 30 * MINUTE
    times = [START + 9 * DAY, moment - 1, moment, moment + HOUR, moment + 3 * DAY]
    before = features_at(log.home, times)
    coec = [n for n, name in enumerate(SCHEMA.cross) if name in SCHEMA.exposure_cross]
    assert all(x[:, coec].any(axis=0).all() for x, _ in before)
    for name, since in (("future", moment), ("late", moment - 9 * DAY)):
        log.batches.append(swapped(log, since, moment))
        home = home_of(log, tmp_path / name)
        build_features(home, FeatureConfig(cadence_hours=1))
        log.batches.pop()
        pairs = zip(before, features_at(home, times), strict=True)
        same = [all(map(np.array_equal, one, other)) for one, other in pairs]
        assert same == [True, True, True, False, False], name
        told = [manifest_of_log(h)["exposure"]["propensities"] for h in (log.home, home)]
        early = [[e for e in estimates if e["cutoff_us"] <= moment] for estimates in told]
        assert early[0] == early[1] != []
        assert told[0][-1] != told[1][-1], "the swaps were not counted at all"


def test_a_log_that_lost_users_keeps_what_positions_weigh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    estimates_often(monkeypatch)
    log = ShownLog(tmp_path, 8, 24)
    log.grow(20, 8.0, 0.0)
    told = manifest_of_log(log.home)["exposure"]
    log.batches = [batch[batch["user_id"] != "u3"] for batch in log.batches]
    for file in log.home.events.rglob("*.parquet"):
        file.unlink()
    log.write(log.home, log.batches)
    build_features(log.home, restate=True)
    again = manifest_of_log(log.home)["exposure"]
    assert again["propensities"] == told["propensities"] != []
    assert again["shown"] < told["shown"]


def test_flags_weigh_what_was_shown_expected_and_engaged_alike(tmp_path: Path) -> None:
    log = ShownLog(tmp_path / "log", 0, 1)
    row = {"request_id": "r", "item_id": 1, "query": "shoe", "country": "", "user_id": "keen"}
    told = [(DAY // 2, "impression"), (DAY // 2, "click"), (40 * DAY, "impression")]
    rows = [row | {"event_time": START + at, "action": a, "position": 2} for at, a in told]
    rows[-1] |= {"request_id": "other", "item_id": 2}
    table = pd.DataFrame(rows).assign(request_time=START + DAY // 2, event_id=range(3))
    add_flags(log.home, ["keen", "keen"], [0.25, 1.0], [START + 4 * DAY, START + 9 * DAY])
    log.add(table.assign(position=table["position"].astype("Int32")), 0)
    log.build()
    found = [exposure_at(log, "q:shoe", 1, day * DAY) for day in (2, 5, 11)]
    assert found == [[1] * 5, [0.25] * 5, [1] * 5]
