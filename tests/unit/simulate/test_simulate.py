"""The simulated world: same bytes for a seed, a lawful log, oracles in their proper order."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.simulated import POSITIVE, mean_reciprocal_rank

from prerank.simulate import (
    PRESETS,
    InvalidSizeError,
    MissingSimulationError,
    NotImpressedError,
    OutputExistsError,
    SimulationSummary,
    UnknownPresetError,
    UnknownRequestError,
    load_oracles,
    simulate,
)
from prerank.simulate.presets import DAY, LOG_START
from prerank.simulate.relevance import MEMORY, Memory
from prerank.simulate.world import build_world

KEY = ["request_id", "item_id"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, SimulationSummary]:
    folder = tmp_path_factory.mktemp("world")
    return folder, simulate(folder, "tiny", progress=False)


@pytest.fixture(scope="module")
def events(world: tuple[Path, SimulationSummary]) -> pd.DataFrame:
    frame: pd.DataFrame = pq.read_table(world[0] / "events").to_pandas()
    return frame


def _digests(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_seed_writes_the_same_bytes(
    world: tuple[Path, SimulationSummary], tmp_path: Path
) -> None:
    simulate(tmp_path / "again", "tiny", progress=False)
    simulate(tmp_path / "other", "tiny", seed=8, progress=False)
    assert _digests(tmp_path / "again") == _digests(world[0])
    assert _digests(tmp_path / "other") != _digests(world[0])


def test_schemas_are_the_contract(world: tuple[Path, SimulationSummary]) -> None:
    time, string = pa.timestamp("us", tz="UTC"), pa.string()
    assert dict(_fields(world[0] / "events" / "part-00000.parquet")) == {
        "event_id": string,
        "request_id": string,
        "request_time": time,
        "event_time": time,
        "user_id": string,
        "query": string,
        "item_id": pa.int64(),
        "action": string,
        "position": pa.int32(),
        "country": string,
        "device": string,
    }
    assert dict(_fields(world[0] / "items.parquet")) == {
        "item_id": pa.int64(),
        "title": string,
        "category": string,
        "created_at": time,
        "price": pa.float32(),
    }


def _fields(path: Path) -> list[tuple[str, pa.DataType]]:
    return [(field.name, field.type) for field in pq.read_schema(path)]


def test_nothing_is_null_and_ids_are_unique(events: pd.DataFrame) -> None:
    assert not events.isna().any().any()
    assert events["event_id"].is_unique
    assert set(events["action"]) == {"impression", *POSITIVE}


def test_events_follow_their_request_within_a_day(events: pd.DataFrame) -> None:
    delay = events["event_time"] - events["request_time"]
    assert (delay >= pd.Timedelta(0)).all()
    assert (delay < pd.Timedelta(days=1)).all()


def test_every_action_has_its_impression(events: pd.DataFrame) -> None:
    shown = events[events["action"] == "impression"]
    assert not shown.duplicated(KEY).any()
    joined = events.merge(shown[[*KEY, "position", "event_time"]], on=KEY, how="left")
    assert (joined["position_x"] == joined["position_y"]).all()
    assert (joined["event_time_x"] >= joined["event_time_y"]).all()


def test_positions_count_from_one_without_gaps(events: pd.DataFrame) -> None:
    shown = events[events["action"] == "impression"]
    for _, positions in shown.groupby("request_id")["position"]:
        assert positions.tolist() == list(range(1, len(positions) + 1))


def test_shown_items_exist_already(
    world: tuple[Path, SimulationSummary], events: pd.DataFrame
) -> None:
    items = pq.read_table(world[0] / "items.parquet").to_pandas()
    assert items["item_id"].is_unique
    joined = events.merge(items, on="item_id", how="left")
    assert (joined["created_at"] < joined["request_time"]).all()


def test_summary_agrees_with_the_log(
    world: tuple[Path, SimulationSummary], events: pd.DataFrame
) -> None:
    folder, summary = world
    written = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    assert written == json.loads(json.dumps(asdict(summary)))
    assert summary.requests == PRESETS["tiny"].requests == events["request_id"].nunique()
    assert summary.rows == len(events)
    engaged = events.loc[events["action"] == "click", "request_id"].nunique()
    assert summary.abandoned_share == pytest.approx(1 - engaged / summary.requests, abs=1e-6)


def test_tail_share_agrees_with_a_plain_count(
    world: tuple[Path, SimulationSummary], events: pd.DataFrame
) -> None:
    requests = events.drop_duplicates("request_id").sort_values("request_id")
    assert requests["request_time"].is_monotonic_increasing
    earlier = requests.groupby("query").cumcount()
    engaged = requests["request_id"].isin(events.loc[events["action"] == "click", "request_id"])
    share = float((earlier[engaged] < 10).mean())
    assert world[1].tail_query_share == pytest.approx(share, abs=1e-6)


def test_truth_beats_observer_beats_chance(
    world: tuple[Path, SimulationSummary], events: pd.DataFrame
) -> None:
    oracles = load_oracles(world[0])
    truth = mean_reciprocal_rank(events, oracles["oracle_relevance"])
    log_only = mean_reciprocal_rank(events, oracles["oracle_log"])
    chance = mean_reciprocal_rank(events, None)
    assert truth > log_only + 0.02
    assert log_only > chance + 0.2


def test_oracles_score_any_impression_in_any_order(
    world: tuple[Path, SimulationSummary], events: pd.DataFrame
) -> None:
    shown = events[events["action"] == "impression"]
    for oracle in load_oracles(world[0]).values():
        for request, items in shown.groupby("request_id")["item_id"]:
            ids = items.to_numpy()
            scores = oracle.score(str(request), ids)
            assert scores.dtype == np.float64
            assert ((scores >= 0) & (scores <= 1)).all()
            assert np.array_equal(oracle.score(str(request), ids[::-1]), scores[::-1])


def test_truth_is_calibrated_where_everything_is_examined(
    world: tuple[Path, SimulationSummary], events: pd.DataFrame
) -> None:
    """At position 1 every list is examined, so clicks there happen at the oracle's rate."""
    first = events[events["position"] == 1]
    clicks = int((first["action"] == "click").sum())
    truth = load_oracles(world[0])["oracle_relevance"]
    shown = first[first["action"] == "impression"]
    chances = np.array(
        [
            truth.score(request, np.array([item]))[0]
            for request, item in zip(shown["request_id"], shown["item_id"], strict=True)
        ]
    )
    spread = np.sqrt((chances * (1 - chances)).sum())
    assert abs(clicks - chances.sum()) < 4 * spread


def test_a_touch_counts_only_after_it_happened() -> None:
    """What the log oracle believes at a tick holds no action of that tick or later."""
    world = build_world(PRESETS["tiny"], seed=7)
    memory = Memory(world)
    user, item = np.array([3]), np.array([5])
    now = LOG_START + DAY
    before = memory.beliefs(user, np.array([now]))
    memory.note_touches(np.array([now]), user, item)
    memory.advance(now)
    assert np.isinf(memory.touch_age(user, np.array([now]), item[None]))[0, 0]
    assert np.array_equal(memory.beliefs(user, np.array([now])), before)

    memory.advance(now + 1)
    assert memory.touch_age(user, np.array([now + 1]), item[None])[0, 0] == pytest.approx(1)
    likelier = memory.beliefs(user, np.array([now + 1])) > before
    assert likelier[0, world.items.topics[5].argmax()]


def test_memory_keeps_a_users_latest_touches() -> None:
    world = build_world(PRESETS["tiny"], seed=7)
    memory = Memory(world)
    items = np.arange(MEMORY + 2)
    memory.note_touches(LOG_START + items.astype(np.float64), np.zeros_like(items), items)
    memory.advance(LOG_START + DAY)
    assert set(memory.items[0]) == set(items[2:].tolist())


def test_unknown_request_and_item_are_named(world: tuple[Path, SimulationSummary]) -> None:
    oracle = load_oracles(world[0])["oracle_relevance"]
    with pytest.raises(UnknownRequestError, match="'r-nobody'"):
        oracle.score("r-nobody", np.array([1]))
    with pytest.raises(NotImpressedError, match="item -5"):
        oracle.score("r0000000001", np.array([-5]))


def test_user_errors_are_named(tmp_path: Path, world: tuple[Path, SimulationSummary]) -> None:
    known = "demo, impressions, priced, reference, sequential, stream, tiny"
    with pytest.raises(UnknownPresetError, match=f"'huge'.*{known}"):
        simulate(tmp_path / "huge", "huge")
    with pytest.raises(InvalidSizeError, match="requests=0"):
        simulate(tmp_path / "none", "tiny", requests=0)
    with pytest.raises(OutputExistsError, match="already holds"):
        simulate(world[0], "tiny")
    with pytest.raises(MissingSimulationError, match="holds no hidden"):
        load_oracles(tmp_path)
