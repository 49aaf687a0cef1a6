"""What capped and flagged users' events count, against a recount of the raw events."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.growing_log import DAY, HOUR, MANIFEST, START, Log

from interactrank.features.engagement import cross_features
from interactrank.features.packed_rows import Row, unpack
from interactrank.features.schema import ENGAGE, LEVELS, WINDOWS, Level
from interactrank.features.text import engagement_keys, segment_key
from prerank.core.feature_sets import tables_of_log
from prerank.core.home import Home
from prerank.core.times import UTC_US
from prerank.core.trust import Flags, add_flags
from prerank.features.offline import offline_inputs

SCHEMA = MANIFEST.schema
BY_PREFIX = {level.prefix: level for level in LEVELS}
Counts = dict[int, dict[str, float]]


def rows_of(home: Home) -> dict[str, list[tuple[int, bytes]]]:
    """Cutoff (microseconds) and packed row of each row, by key."""
    found = defaultdict(list)
    for file in sorted((tables_of_log(home) / "engagement").glob("*.parquet")):
        table = pq.read_table(file)
        cutoffs = table["cutoff"].cast(pa.int64()).to_pylist()
        keys, packed = table["engagement_key"].to_pylist(), table["row"].to_pylist()
        rows = zip(keys, cutoffs, packed, strict=True)
        for key, cutoff, row in rows:
            found[key].append((cutoff, row))
    return found


def latest(rows: list[tuple[int, bytes]], level: Level, cutoff: int) -> Row | None:
    known = [row for at, row in sorted(rows) if at <= cutoff]
    return unpack(known[-1], SCHEMA.columns(level)) if known else None


def under(events: pd.DataFrame, key: str) -> pd.DataFrame:
    """The events that count under a key."""
    told = zip(events["query"], events["country"], events["action"], strict=True)

    def counts(query: str, country: str, action: str) -> bool:
        if action in SCHEMA.passive:
            return key == engagement_keys(query)[0]
        return key in engagement_keys(query) or key == segment_key("country", country, query)

    return events[[counts(*own) for own in told]]


def recount(
    events: pd.DataFrame, flags: Flags, cap: int | None, level: Level, cutoff: int, cadence: int
) -> Counts:
    """Item -> column -> count of events under a key at a cutoff, told by the definition."""
    bucket, known = events["event_time"] // cadence, events["known_time"] // cadence
    own = events.assign(bucket=bucket)[known < cutoff // cadence].sort_values("bucket")
    engaged = ~own["action"].isin(SCHEMA.passive)
    later = own.groupby(["user_id", "item_id", "action"]).cumcount(ascending=False)
    own = own[~engaged | (later < (len(own) if cap is None else cap))]
    trust = flags.as_of(cutoff // cadence * cadence)
    found: Counts = {}
    row: Any
    for row in own.itertuples():
        weight = round(trust.get(str(row.user_id), 1.0) * 256) / 256
        if not weight:
            continue
        counts = found.setdefault(int(row.item_id), dict.fromkeys(SCHEMA.columns(level), 0.0))
        for window in level.windows:
            days = WINDOWS[window]
            if days is None or row.bucket >= cutoff // cadence - days * DAY // cadence:
                groups = [str(row.action)] * level.per_action
                groups += [ENGAGE] * (row.action not in SCHEMA.passive)
                for group in groups:
                    counts[f"{group}:{window}"] += weight
    return found


@pytest.mark.parametrize(("seed", "hours", "cap", "flags"), [(0, 6, 1, 0), (1, 24, 2, 5)])
def test_the_latest_row_is_a_recount(
    tmp_path: Path, seed: int, hours: int, cap: int | None, flags: int
) -> None:
    """With late events and flags, in two builds."""
    log, rng = Log(tmp_path, seed, hours, cap=cap), np.random.default_rng(seed)
    log.flag(flags, START, START + 30 * DAY)
    log.grow(20, 15.0, 0.0)
    log.flag(flags, START, START + 40 * DAY)
    log.grow(20, 15.0, 3.0)
    events, told = pd.concat(log.batches), Flags.load(log.home)
    rows, cadence = rows_of(log.home), hours * HOUR
    keys = ["q:red shoe", "t:shoe", "c:redshoe", "a:", segment_key("country", "de", "red shoe")]
    assert rows.keys() >= {*keys}
    end = log.published() // cadence
    capped = weighed = 0
    for key in keys:
        level, own = BY_PREFIX[key[0]], under(events, key)
        stride = max(DAY // cadence, 1) if level.daily else 1
        for at in [*rng.integers(START // cadence, end + 1, 9).tolist(), end]:
            row = latest(rows[key], level, at * cadence)
            cutoff = at // stride * stride * cadence
            expected = recount(own, told, cap, level, cutoff, cadence)
            plain = recount(own, Flags.none(), None, level, cutoff, cadence)
            found = {} if row is None else dict(zip(row.ids.tolist(), row.counts, strict=True))
            assert found.keys() == expected.keys()
            for item, counts in expected.items():
                np.testing.assert_allclose(found[item], [*counts.values()], rtol=3e-4, atol=1e-6)
            if row is None:
                continue
            totals = [sum(c[n] for c in expected.values()) for n in SCHEMA.columns(level)]
            assert row.totals.tolist() == totals
            assert row.distinct == len(expected)
            capped += totals[-1] < sum(c[SCHEMA.columns(level)[-1]] for c in plain.values())
            weighed += any(total % 1 for total in totals)
    assert capped > 5
    assert (weighed > 5) == bool(flags)


def plain_log(root: Path, times: list[int], cap: int | None) -> Log:
    """One user's clicks on item 1, by one query; and another's on item 2, at the end."""
    log = Log(root, 0, 1, cap=cap)
    count = len(times)
    log.add(
        pd.DataFrame(
            {
                "user_id": ["keen"] * count + ["other"],
                "query": ["red shoe"] * (count + 1),
                "item_id": [1] * count + [2],
                "action": ["click"] * (count + 1),
                "event_time": [*times, times[-1] + 40 * DAY],
                "country": [""] * (count + 1),
                "event_id": range(count + 1),
            }
        ),
        0,
    )
    return log


def counts_of(log: Log, item: int, time: int) -> dict[str, float]:
    """An item's counts under the query at a cutoff."""
    level = BY_PREFIX["q"]
    row = latest(rows_of(log.home)["q:red shoe"], level, time)
    assert row is not None
    of = row.counts[row.ids.tolist().index(item)].round(2).tolist()
    return dict(zip(SCHEMA.columns(level), of, strict=True))


def test_a_window_counts_the_latest_of_a_user_up_to_the_cap(tmp_path: Path) -> None:
    log = plain_log(tmp_path, [START + day * DAY for day in (0, 1, 2, 5)], cap=2)
    log.build()
    counted = {day: counts_of(log, 1, START + day * DAY + HOUR) for day in (0, 1, 2, 5, 10, 20, 33)}
    assert [c["engage:all"] for c in counted.values()] == [1, 2, 2, 2, 2, 2, 2]
    assert [c["engage:7d"] for c in counted.values()] == [1, 2, 2, 2, 1, 0, 0]
    assert [c["click:30d"] for c in counted.values()] == [1, 2, 2, 2, 2, 2, 1]


def test_a_flag_weighs_what_was_and_what_comes(tmp_path: Path) -> None:
    log = plain_log(tmp_path, [START + day * DAY for day in (0, 1, 2, 5)], cap=None)
    add_flags(log.home, ["keen", "keen"], [0.25, 1.0], [START + 4 * DAY, START + 9 * DAY])
    log.build()
    counted = [counts_of(log, 1, START + day * DAY + HOUR) for day in (2, 4, 5, 9)]
    assert [c["engage:all"] for c in counted] == [3, 0.75, 1, 4]


def test_an_item_that_nobody_trusted_engaged_leaves_the_row(tmp_path: Path) -> None:
    log = plain_log(tmp_path, [START], cap=None)
    add_flags(log.home, ["keen"], [0.0], [START + DAY])
    log.build()
    level = BY_PREFIX["q"]
    rows = [unpack(row, SCHEMA.columns(level)) for _, row in rows_of(log.home)["q:red shoe"]]
    assert [row.ids.tolist() for row in rows][:2] == [[1], []]
    assert rows[-1].ids.tolist() == [2]
    assert rows[1].distinct == 0


def features_at(home: Home, time: int) -> tuple[np.ndarray, np.ndarray]:
    """Cross features of a request, and the counts of its query's row."""
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
    return cross_features(SCHEMA, inputs, ids, bounds, created), inputs.blocks


@pytest.mark.parametrize("cap", [None, 1])
def test_a_flag_that_is_known_after_a_request_changes_nothing_of_it(
    tmp_path: Path, cap: int | None
) -> None:
    log = Log(tmp_path / "log", 5, 1, cap=cap)
    log.grow(20, 15.0, 0.0)
    known = START + 12 * DAY + 30 * 60_000_000
    times = [START + 9 * DAY, known - 1, known, known + HOUR, known + 3 * DAY]
    before = [features_at(log.home, time) for time in times]
    users = [f"u{n}" for n in range(9)]
    # Of a home where nothing was published yet, which counts a flag from its own time on.
    fresh = Log(tmp_path / "fresh", 5, 1, cap=cap)
    add_flags(fresh.home, users, [0.5] * 9, [known] * 9)
    fresh.add(pd.concat(log.batches).drop(columns="known_time"), 0)
    fresh.build()
    after = [features_at(fresh.home, time) for time in times]
    same = [all(map(np.array_equal, one, other)) for one, other in zip(before, after, strict=True)]
    assert same == [True, True, True, False, False]
