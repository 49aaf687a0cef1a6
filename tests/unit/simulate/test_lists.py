"""Sessions about one list: it is shown again, and people go on from the item that they clicked."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.simulated import POSITIVE, mean_reciprocal_rank, read_events

from prerank.simulate import PRESETS, load_oracles, simulate

PRESET = replace(PRESETS["impressions"], requests=1_500, items=300, users=200, days=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lists")
    simulate(folder, PRESET, progress=False)
    return folder


@pytest.fixture(scope="module")
def events(folder: Path) -> pd.DataFrame:
    return read_events(folder)


def lists(events: pd.DataFrame) -> pd.DataFrame:
    """A row a request, by user and time: what it showed, in its order, and where clicks were."""
    events = events.sort_values("position")
    shown = events[events["action"] == "impression"].groupby("request_id")
    rows = shown.agg(
        user=("user_id", "first"),
        query=("query", "first"),
        time=("request_time", "first"),
        items=("item_id", tuple),
    )
    clicks = events[events["action"] == "click"].sort_values("event_time").groupby("request_id")
    rows["last"] = clicks["position"].last() - 1
    return rows.sort_values(["user", "time"])


def coming_back(events: pd.DataFrame) -> pd.DataFrame:
    """Requests that show the list of the user's request before, with the place clicked there."""
    rows = lists(events)
    before = rows.shift()
    same = (rows["user"] == before["user"]) & (rows["items"] == before["items"])
    return rows[same].assign(before=before["last"][same], asked=before["query"][same])


def test_the_same_search_shows_its_list_again(events: pd.DataFrame) -> None:
    again = coming_back(events)
    assert len(again) > 0.25 * events["request_id"].nunique()
    assert (again["query"] == again["asked"]).all()
    assert again["before"].notna().all()


def test_people_go_on_from_what_they_clicked(events: pd.DataFrame) -> None:
    """At the item itself or the one below it, far more than their share of the list."""
    again = coming_back(events).dropna(subset=["last"])
    step = again["last"] - again["before"]
    assert (step == 0).mean() > 0.2
    assert (step == 1).mean() > 2 * (step == -1).mean()


def test_attention_falls_faster_and_the_log_has_the_rank(
    events: pd.DataFrame, tmp_path: Path
) -> None:
    assert (events["retriever_rank"] == events["position"] - 1).all()
    simulate(tmp_path / "slow", replace(PRESET, bias=0.0), progress=False)
    slow = read_events(tmp_path / "slow")
    assert "retriever_rank" not in slow
    at = [e.loc[e["action"] == "click", "position"].mean() for e in (events, slow)]
    assert at[0] < 0.9 * at[1], at


def test_oracles_know_the_place_and_what_was_clicked(events: pd.DataFrame, folder: Path) -> None:
    oracles = load_oracles(folder)
    truth = mean_reciprocal_rank(events, oracles["oracle_relevance"])
    log_only = mean_reciprocal_rank(events, oracles["oracle_log"])
    assert truth > log_only + 0.01
    clicked = events[events["action"].isin(POSITIVE)].groupby("request_id")["position"].min()
    assert log_only > float(np.mean(1 / clicked)) + 0.1
