"""Sessions go on from what was clicked, and what follows can be known from the log's order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.simulated import GOING_ON, mean_reciprocal_rank, read_events

from prerank.simulate import load_oracles, simulate
from prerank.simulate.acts import Outcome
from prerank.simulate.draws import draw_batch, go_on
from prerank.simulate.presets import DAY, LOG_START, Sessions
from prerank.simulate.world import World, build_world

SOON = pd.Timedelta(minutes=15)


@pytest.fixture(scope="module")
def going_on(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sessions")
    simulate(folder, GOING_ON, progress=False)
    return folder


@pytest.fixture(scope="module")
def world() -> World:
    return build_world(GOING_ON, seed=7)


def following(events: pd.DataFrame) -> pd.DataFrame:
    """Clicks, each with its user's click before the request, where that was a short time before."""
    clicks = events[events["action"] == "click"].sort_values("event_time")
    earlier = clicks[["user_id", "event_time", "item_id"]]
    joined = pd.merge_asof(
        clicks.sort_values("request_time"),
        earlier.rename(columns={"event_time": "before", "item_id": "clicked"}),
        left_on="request_time",
        right_on="before",
        by="user_id",
        allow_exact_matches=False,
        tolerance=SOON,
    )
    return joined.dropna(subset=["clicked"])


def test_many_requests_follow_a_click_at_once(going_on: Path) -> None:
    events = read_events(going_on)
    clicks = events[events["action"] == "click"]
    assert len(following(events)) > 0.3 * len(clicks)


def test_the_next_item_stands_on_the_next_step(going_on: Path, world: World) -> None:
    series = world.series
    assert series is not None
    step = dict(zip(world.items.ids.tolist(), series.step.tolist(), strict=True))
    pairs = following(read_events(going_on))
    moved = pairs["item_id"].map(step) - pairs["clicked"].astype(int).map(step)
    share = (moved % Sessions().steps == 1).mean()
    assert share > 1.5 / Sessions().steps


def test_a_session_comes_to_keep_or_to_look(going_on: Path) -> None:
    """Saves of a session resemble each other, more than those of a log without outcomes."""
    spread = []
    indifferent = replace(GOING_ON, sessions=Sessions(saves=0.0))
    simulate(going_on / "indifferent", indifferent, progress=False)
    for folder in (going_on, going_on / "indifferent"):
        events = read_events(folder)
        own = events[events["action"].isin(["click", "save"])]
        counts = own.groupby(["request_id", "action"]).size().unstack(fill_value=0)
        counts = counts[counts["click"] >= 2]
        spread.append((counts["save"] / counts["click"]).std())
    assert spread[0] > spread[1] + 0.02


def test_requests_are_in_order_of_time_within_a_tick_and_named_once(going_on: Path) -> None:
    events = read_events(going_on)
    assert events["event_id"].is_unique
    requests = events.drop_duplicates("request_id")
    assert (requests["request_time"].diff().dropna() > -pd.Timedelta(hours=1)).all()


def test_oracles_stand_in_their_order_where_sessions_go_on(going_on: Path) -> None:
    events, oracles = read_events(going_on), load_oracles(going_on)
    truth = mean_reciprocal_rank(events, oracles["oracle_relevance"])
    log_only = mean_reciprocal_rank(events, oracles["oracle_log"])
    assert truth > log_only + 0.02
    assert log_only > mean_reciprocal_rank(events, None) + 0.2


@pytest.mark.parametrize(("hours", "sign"), [(0.0, 1), (10.0, -1)], ids=["before", "after"])
def test_only_a_save_before_the_next_request_tells_the_outcome(
    world: World, hours: float, sign: int
) -> None:
    rng = np.random.default_rng(0)
    batch, _ = draw_batch(world, 50, np.array([LOG_START, LOG_START + DAY]), rng)
    items = np.zeros((50, 1), dtype=np.int64)
    clicked_at = batch.time[:, None] + 1.0
    saved_at = clicked_at + 1.0 + hours * 3600
    outcome = Outcome(
        items,
        np.ones((4, 50, 1), dtype=np.bool_),
        np.stack([batch.time[:, None], clicked_at, clicked_at, saved_at]),
    )
    after, _ = go_on(world, batch, np.zeros(50, np.int64), outcome, rng)
    assert 10 < len(after.time) < 50
    assert after.going is not None
    assert (np.sign(after.going.evidence) == sign).all()
    assert (after.going.clicked == 0).all()
