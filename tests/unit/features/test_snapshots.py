"""Snapshot rows against a recount of the raw events at that snapshot."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from interactrank.features.packed_rows import Row, pack, unpack
from interactrank.features.schema import ENGAGE, LEVELS, WINDOWS, FeatureSchema, Level
from prerank.core.errors import DataError
from prerank.features.keyed import KeyEvents
from prerank.features.snapshots import (
    CHUNK_BYTES,
    Chunk,
    LevelPlan,
    Span,
    shard_rows,
)
from prerank.features.states import STATES, UNIT, States

SCHEMA = FeatureSchema(("view", "click", "save"), ("view",), ("engagement",), segments=("country",))
HOUR, DAY = 3_600_000_000, 86_400_000_000
BY_PREFIX = {level.prefix: level for level in LEVELS}


def stream(rng: np.random.Generator, events: int, days: int, cadence: int) -> pd.DataFrame:
    start = 400 * DAY
    times = start + rng.integers(0, days * DAY, events)
    # Some events stand exactly on a cutoff, where "strictly earlier" decides.
    times = np.where(rng.random(events) < 0.2, times // cadence * cadence, times)
    frame = pd.DataFrame(
        {
            "key": rng.choice(["q:a", "q:b", "t:é", "t:z"], events),
            "item_id": rng.choice([-7, 1, 2, 3, 2**62], events),
            "action": rng.integers(0, 3, events).astype(np.int8),
            "time": times,
        }
    )
    frame["bucket"] = frame.time // cadence
    return frame.sort_values(["key", "bucket"], kind="stable")


def keyed(frame: pd.DataFrame) -> KeyEvents:
    frame = frame if "known" in frame else frame.assign(known=frame["bucket"])
    frame = frame if "weight" in frame else frame.assign(weight=np.int16(UNIT))
    columns = ("item_id", "action", "bucket", "known", "weight")
    events = pa.table({c: frame[c].to_numpy() for c in columns})
    return KeyEvents.of(events.append_column("key", pa.array(frame["key"].tolist(), pa.string())))


def chunks(
    frame: pd.DataFrame, level: Level, span: Span, states: pa.Table, chunk_bytes: int = CHUNK_BYTES
) -> list[Chunk]:
    events, plan = keyed(frame), LevelPlan.of(SCHEMA, level, span.cadence_us)
    held = States.of(events.names, states)
    return [
        # Copied: the next chunk is written over the rows of this one.
        replace(chunk, rows=chunk.rows.take(pa.array(np.arange(len(chunk.rows)))))
        for chunk in shard_rows(plan, events, held, span, chunk_bytes)
    ]


def built(
    frame: pd.DataFrame,
    level: Level,
    cadence: int,
    last: int,
    lag: int = 0,
    chunk_bytes: int = CHUNK_BYTES,
) -> pa.Table:
    span = Span(None, last, cadence, lag)
    made = chunks(frame, level, span, STATES.empty_table(), chunk_bytes)
    return pa.concat_tables(c.rows for c in made) if made else pa.table({"row": []})


def micros(table: pa.Table, column: str) -> np.ndarray:
    return table[column].cast(pa.int64()).to_numpy()


def latest(table: pa.Table, level: Level, key: str, cutoff: int) -> Row | None:
    mine = np.array([k == key for k in table["engagement_key"].to_pylist()], bool)
    at = np.flatnonzero(mine & (micros(table, "cutoff") <= cutoff))
    if not len(at):
        return None
    return unpack(table["row"][int(at[-1])].as_py(), SCHEMA.columns(level))


def recount(
    frame: pd.DataFrame, level: Level, key: str, snapshot: int, cadence: int
) -> dict[int, dict[str, float]]:
    """Item -> column -> count, from the raw times: a window holds whole buckets before cutoff."""
    cutoff = snapshot * cadence
    past = frame[(frame.key == key) & (frame.time < cutoff)]
    if "known" in past:
        past = past[past.known < snapshot]
    counts = {int(i): dict.fromkeys(SCHEMA.columns(level), 0.0) for i in past.item_id}
    row: Any
    for row in past.itertuples():
        action = SCHEMA.actions[row.action]
        for window in level.windows:
            days = WINDOWS[window]
            if days is None or row.time >= cutoff - days * DAY:
                if action not in SCHEMA.passive:
                    counts[row.item_id][f"{ENGAGE}:{window}"] += 1
                if level.per_action:
                    counts[row.item_id][f"{action}:{window}"] += 1
    # An item of which nothing counts stands in no row.
    return {item: own for item, own in counts.items() if any(own.values())}


CADENCES = [HOUR, 6 * HOUR, DAY]


def with_late(frame: pd.DataFrame, rng: np.random.Generator, cadence: int) -> pd.DataFrame:
    """A third of the events became known later, some after their shorter windows had closed."""
    delay = rng.choice([0, 0, 1, 24, 10 * 24, 45 * 24], len(frame)) * HOUR // cadence
    return frame.assign(known=frame.bucket + delay).sort_values(["key", "known"], kind="stable")


@pytest.mark.parametrize("late", [False, True], ids=["timely", "late"])
@pytest.mark.parametrize("level", LEVELS, ids=lambda lv: lv.prefix)
@pytest.mark.parametrize("seed", range(4))
def test_the_latest_row_is_a_recount_at_that_snapshot(level: Level, seed: int, late: bool) -> None:
    rng = np.random.default_rng([seed, ord(level.prefix)])
    cadence = CADENCES[seed % 3]
    frame = stream(rng, [3, 40, 250, 120][seed], [60, 45, 20, 3][seed], cadence)
    if late:
        frame = with_late(frame, rng, cadence)
    first, end = frame.bucket.min(), frame.bucket.max() + 40 * DAY // cadence
    stride = DAY // cadence if level.daily else 1
    table = built(frame, level, cadence, end)
    near = (
        rng.choice(frame.bucket, 40)
        + rng.choice([0, 1, 2], 40)
        + rng.choice([0, 7, 30], 40) * DAY // cadence
    )
    columns = SCHEMA.columns(level)
    for key in (*frame.key.unique(), "q:never"):
        for snapshot in (*rng.integers(first - 2, end, 40), *near):
            row = latest(table, level, key, int(snapshot) * cadence)
            # A daily level is as old as the last midnight; its events are too.
            expected = recount(frame, level, key, int(snapshot) // stride * stride, cadence)
            if row is None:
                assert not expected
                continue
            found = {
                int(i): dict(zip(columns, np.rint(c).tolist(), strict=True))
                for i, c in zip(row.ids, row.counts, strict=True)
            }
            assert found == expected
            assert row.distinct == len(expected)
            assert row.totals.tolist() == [sum(e[c] for e in expected.values()) for c in columns]


@pytest.mark.parametrize("level", LEVELS, ids=lambda lv: lv.prefix)
def test_what_happens_at_or_after_a_cutoff_changes_no_row_before(level: Level) -> None:
    rng = np.random.default_rng(5)
    frame = stream(rng, 200, 30, HOUR)
    end = int(frame.bucket.max()) + 1
    whole = built(frame, level, HOUR, end)
    for snapshot in rng.choice(frame.bucket, 8):
        past = built(frame[frame.time < snapshot * HOUR], level, HOUR, int(snapshot))
        before = whole.filter(pa.array(micros(whole, "cutoff") <= snapshot * HOUR))
        assert past.equals(before)


@pytest.mark.parametrize("level", LEVELS, ids=lambda lv: lv.prefix)
def test_what_becomes_known_later_changes_no_row_before(level: Level) -> None:
    rng = np.random.default_rng(6)
    frame = with_late(stream(rng, 200, 30, HOUR), rng, HOUR)
    whole = built(frame, level, HOUR, int(frame.known.max()) + 1)
    for snapshot in rng.choice(frame.known, 8):
        past = built(frame[frame.known < snapshot], level, HOUR, int(snapshot))
        assert past.equals(whole.filter(pa.array(micros(whole, "cutoff") <= snapshot * HOUR)))


@pytest.mark.parametrize("chunk_bytes", [1, 300, 5_000])
def test_chunks_make_the_same_table(chunk_bytes: int) -> None:
    """A chunk may end anywhere, even within one key's rows."""
    rng = np.random.default_rng(7)
    frame = with_late(stream(rng, 300, 40, HOUR), rng, HOUR)
    for level in LEVELS:
        whole = built(frame, level, HOUR, int(frame.known.max()) + 900)
        parts = built(frame, level, HOUR, int(frame.known.max()) + 900, chunk_bytes=chunk_bytes)
        assert parts["row"].num_chunks > max(whole["row"].nbytes // (chunk_bytes + 500), 2)
        assert parts.equals(whole)


def test_rows_are_rewritten_only_where_something_changed() -> None:
    frame = pd.DataFrame(
        {
            "key": ["q:a"],
            "item_id": [3],
            "action": np.array([1], np.int8),
            "bucket": [1000],
            "time": [1000 * HOUR + 1],
        }
    )
    table = built(frame, BY_PREFIX["q"], HOUR, 5000, lag=7)
    cutoffs = micros(table, "cutoff") // HOUR
    assert cutoffs.tolist() == [1001, 1001 + 7 * 24, 1001 + 30 * 24]
    assert (micros(table, "event_timestamp") - micros(table, "cutoff")).tolist() == [7, 7, 7]
    assert micros(built(frame, BY_PREFIX["q"], HOUR, 1168), "cutoff").tolist() == [1001 * HOUR]
    assert built(frame, BY_PREFIX["q"], HOUR, 1000).num_rows == 0


def test_a_daily_level_changes_at_midnight_only() -> None:
    frame = stream(np.random.default_rng(2), 300, 40, HOUR)
    table = built(frame, BY_PREFIX["a"], HOUR, int(frame.bucket.max()) + 900)
    assert table.num_rows > 40
    assert not (micros(table, "cutoff") % DAY).any()


def test_rows_stand_in_order_of_key_and_time_once_each() -> None:
    frame = stream(np.random.default_rng(3), 400, 40, HOUR)
    table = built(frame, BY_PREFIX["t"], HOUR, int(frame.bucket.max()))
    order = list(zip(table["engagement_key"].to_pylist(), micros(table, "cutoff"), strict=True))
    assert all(a < b for a, b in itertools.pairwise(order))


def test_a_shard_with_many_rows_and_bytes_outgrows_its_buffers() -> None:
    rng = np.random.default_rng(4)
    events, cadence = 3000, HOUR
    frame = pd.DataFrame(
        {
            "key": "a:",
            "item_id": rng.permutation(events),
            "time": np.arange(events) * HOUR,
            "action": np.ones(events, np.int8),
            "bucket": np.arange(events),
        }
    )
    level = Level("t", 8, 100, ("7d", "30d", "all"))
    table = built(frame, level, cadence, events)
    assert table.num_rows == events
    assert table["row"].nbytes > 2 << 20
    for s in (1, 500, 1024, 1025, 2999, 3000):
        row = unpack(table["row"][s - 1].as_py(), SCHEMA.columns(level))
        assert row.totals.tolist() == [min(s, 168), min(s, 720), s]
        assert row.distinct == s
        assert row.truncated[-1] == max(s - 100, 0)


def test_an_empty_shard_has_no_rows() -> None:
    frame = stream(np.random.default_rng(0), 5, 2, HOUR).iloc[:0]
    for level in LEVELS:
        assert built(frame, level, HOUR, 100).num_rows == 0


@pytest.mark.parametrize("code", [-1, len(SCHEMA.actions)])
def test_an_action_that_the_log_does_not_know_is_refused(code: int) -> None:
    frame = stream(np.random.default_rng(0), 5, 2, HOUR)
    frame["action"] = frame["action"].where(frame.index != frame.index[3], code)
    with pytest.raises(DataError, match=r"code is not below 3: ingest again"):
        built(frame, LEVELS[0], HOUR, int(frame.bucket.max()) + 1)


@pytest.mark.parametrize("late", [False, True], ids=["timely", "late"])
@pytest.mark.parametrize("level", LEVELS, ids=lambda lv: lv.prefix)
def test_a_build_goes_on_from_the_states_of_the_one_before(level: Level, late: bool) -> None:
    """In spans of random lengths, from events that enter or leave a window in each alone."""
    rng = np.random.default_rng([8, ord(level.prefix)])
    for cadence in CADENCES:
        frame = stream(rng, 300, 50, cadence)
        frame = with_late(frame, rng, cadence) if late else frame.assign(known=frame.bucket)
        end = int(frame.known.max()) + 1
        whole = built(frame, level, cadence, end)
        cuts = sorted({*rng.integers(frame.bucket.min() - 2, end, 6).tolist(), end})
        plan = LevelPlan.of(SCHEMA, level, cadence)
        states: dict[str, bytes] = {}
        tables, after = [], None
        for last in cuts:
            known, ends = frame.known.to_numpy(), frame.bucket.to_numpy()[:, None] + plan.windows
            first = plan.settled(after)
            needed = (known >= first) | ((ends >= first) & (ends < last)).any(axis=1)
            before = pa.table([[*states], [*states.values()]], schema=STATES)
            part = frame[needed & (known < last)]
            for chunk in chunks(part, level, Span(after, last, cadence, 0), before, 3_000):
                tables.append(chunk.rows)
                states |= dict(zip(*chunk.states.to_pydict().values(), strict=True))
            after = last
        parts = pa.concat_tables(tables)
        order = [("engagement_key", "ascending"), ("cutoff", "ascending")]
        assert parts.sort_by(order).equals(whole.sort_by(order))


def test_a_row_is_what_packing_the_counts_gives() -> None:
    """Capped and not, with ties at the cap."""
    rng = np.random.default_rng(9)
    level = Level("t", 8, 6, ("7d", "30d", "all"))
    frame = stream(rng, 1_500, 40, HOUR).assign(key="t:a")
    frame["item_id"] = rng.integers(0, 12, len(frame)) ** 2 // 12
    table = built(frame, level, HOUR, int(frame.bucket.max()) + 1)
    columns = SCHEMA.columns(level)
    for at in (0, 3, 10, 40, 200, len(table) - 1):
        snapshot = int(micros(table, "cutoff")[at]) // HOUR
        counts = recount(frame, level, "t:a", snapshot, HOUR)
        ids = np.array(sorted(counts), np.int64)
        values = np.array([[counts[i][c] for c in columns] for i in ids]).reshape(-1, len(columns))
        assert table["row"][at].as_py() == pack(ids, values, columns, level)
    assert len(ids) > level.cap
