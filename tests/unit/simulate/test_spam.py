"""Accounts that boost items: what each kind does, and that only truth/ says who they are."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tests.simulated import MOVING, read_events

from prerank.simulate import load_oracles, simulate


@pytest.fixture(scope="module")
def spammed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spammed")
    simulate(folder, MOVING, progress=False)
    return folder


@pytest.fixture(scope="module")
def spammers(spammed: Path) -> pd.DataFrame:
    frame: pd.DataFrame = pq.read_table(spammed / "truth" / "spammers.parquet").to_pandas()
    return frame.set_index("user_id")


@pytest.fixture(scope="module")
def clicks(spammed: Path, spammers: pd.DataFrame) -> pd.DataFrame:
    """Clicks of the spamming accounts, with what is true of them."""
    events = read_events(spammed)
    joined: pd.DataFrame = events[events["action"] == "click"].join(
        spammers.rename(columns={"item_id": "target", "query": "target_query"}), on="user_id"
    )
    return joined.dropna(subset=["kind"])


def test_every_kind_is_in_the_truth_and_in_the_log(
    spammers: pd.DataFrame, clicks: pd.DataFrame
) -> None:
    assert {"greedy", "ring", "sybil"} <= set(spammers["kind"])
    assert {"greedy", "ring", "sybil"} <= set(clicks["kind"])
    assert spammers.index.is_unique


def test_a_greedy_bot_clicks_its_one_item_again_and_again(clicks: pd.DataFrame) -> None:
    greedy = clicks[clicks["kind"] == "greedy"]
    assert (greedy["item_id"] == greedy["target"]).all()
    assert (greedy["query"] == greedy["target_query"]).all()
    assert greedy.groupby("user_id").size().min() > 20


def test_members_of_a_ring_click_each_others_items(
    spammers: pd.DataFrame, clicks: pd.DataFrame
) -> None:
    ring = clicks[clicks["kind"] == "ring"]
    members = spammers[spammers["kind"] == "ring"].reset_index()[["campaign", "item_id"]]
    of_the_ring = ring.merge(members, on=["campaign", "item_id"])
    assert len(of_the_ring) > 0.2 * len(ring)
    assert (ring["item_id"] == ring["target"]).mean() < 0.1


def test_sybils_are_many_accounts_with_few_events(
    spammers: pd.DataFrame, clicks: pd.DataFrame
) -> None:
    sybil = clicks[clicks["kind"] == "sybil"]
    assert (sybil["item_id"] == sybil["target"]).all()
    assert sybil.groupby("user_id").size().max() < 10
    assert spammers[spammers["kind"] == "sybil"].groupby("campaign").size().max() >= 10


def test_nothing_but_the_truth_tells_who_spams(spammed: Path, spammers: pd.DataFrame) -> None:
    events = read_events(spammed)
    assert not {"kind", "campaign", "spammer"} & set(events.columns)
    boosting = spammers[spammers["kind"] != "clicker"].index
    number = boosting.str[1:].astype(int)
    # Were they named last, their mean place would be that of the last accounts.
    assert number.min() < MOVING.users / 2


def test_what_is_boosted_is_on_the_page(spammed: Path, clicks: pd.DataFrame) -> None:
    events = read_events(spammed)
    shown = events[events["action"] == "impression"]
    page = clicks.merge(shown, on=["request_id", "item_id", "position"], how="left")
    assert len(page) == len(clicks)
    assert page["event_id_y"].notna().all()


def test_the_oracle_of_true_relevance_knows_a_boost(spammed: Path, clicks: pd.DataFrame) -> None:
    oracle = load_oracles(spammed)["oracle_relevance"]
    for row in clicks[clicks["kind"] == "greedy"].head(20).itertuples():
        assert oracle.score(str(row.request_id), np.array([row.item_id]))[0] == 1.0


def test_the_share_of_spammers_is_what_was_asked_for(tmp_path: Path) -> None:
    simulate(tmp_path, replace(MOVING, users=300), spammers=0.2, progress=False)
    spammers = pq.read_table(tmp_path / "truth" / "spammers.parquet").to_pandas()
    boosting = (spammers["kind"] != "clicker").sum()
    # Of 75 accounts some sybils have no request: theirs are one or two by chance.
    assert 50 < boosting <= 75


def test_without_spammers_the_truth_names_careless_clickers_alone(tmp_path: Path) -> None:
    simulate(tmp_path, replace(MOVING, users=300), days=3, spammers=0.0, progress=False)
    spammers = pq.read_table(tmp_path / "truth" / "spammers.parquet").to_pandas()
    assert set(spammers["kind"]) == {"clicker"}
    assert spammers[["campaign", "item_id", "query"]].isna().all().all()
