"""Columns that are left, and those of the catalogue."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
from tests.inspected_logs import (
    ITEMS,
    clicks,
    notes,
    seen,
    shop,
    touches,
)

from prerank.ingest.inspection.assume import assumptions
from prerank.ingest.inspection.proposal import proposal
from prerank.ingest.inspection.text import profile_text


def test_columns_about_the_searcher_and_of_candidates(tmp_path: Path) -> None:
    frame = touches()
    frame["filters"] = [f"f{i % 9}" if i % 10 == 0 else None for i in range(len(frame))]
    frame["version"] = "v1"
    found = seen(tmp_path, frame)
    assert proposal(found).settings["segments"] == ["device"]
    assert proposal(found).settings["candidate_features"] == ["price"]
    assert notes(found)["price"].endswith("known of 100% of what was shown")
    assert "candidate features\n  price: " in profile_text(found)
    assert notes(found)["version"] == "always 'v1'"
    assert "filters" in notes(found)


def test_a_number_that_is_no_candidate_feature_says_why(tmp_path: Path) -> None:
    frame = touches()
    shown = frame["action"] == "impression"
    frame["seller_id"] = range(len(frame))
    frame["dwell_s"] = [None if s else 1.5 * i for i, s in enumerate(shown)]
    frame["seldom"] = [float(i) if i % 5 < 2 else None for i in range(len(frame))]
    frame["price in EUR"] = frame["price"]
    frame["stock"] = [float(i % 7) for i in range(len(frame))]
    found = seen(tmp_path, frame)
    assert proposal(found).settings["candidate_features"] == ["price", "stock"]
    assert notes(found)["seller_id"] == "an id, not used"
    assert notes(found)["dwell_s"].endswith("not used")
    assert notes(found)["seldom"] == "a number, known of 40% of what was shown: not used"
    assert "rename the column" in notes(found)["price in EUR"]
    unseen = seen(tmp_path, frame[~shown])
    assert "candidate_features" not in proposal(unseen).settings
    said = assumptions(found).said
    assert "not used: price, stock could be `candidate_features` (see `prerank inspect`)" in said


def test_an_id_among_numbers_is_told_by_its_name(tmp_path: Path) -> None:
    frame = shop()
    names = ("sellerId", "shop.id", "ID", "bid", "paid")
    for name in names:
        frame[name] = range(len(frame))
    found = seen(tmp_path, frame)
    assert proposal(found).settings["candidate_features"] == ["bid", "paid"]


def test_an_attribute_of_the_item_is_no_segment(tmp_path: Path) -> None:
    frame = clicks(requests=400)
    frame["item_id"] = [(3 * r + r // 40) % 40 for r in range(400)]
    frame["department"] = "d" + (frame["item_id"] % 3).astype(str)
    frame["country"] = [("de", "fr")[r % 7 % 2] for r in range(400)]
    found = seen(tmp_path, frame)
    assert "one value per item" in notes(found)["department"]
    assert proposal(found).settings["segments"] == ["country"]


def test_the_order_shown_is_named_for_the_retrievers_rank(tmp_path: Path) -> None:
    found = seen(tmp_path, touches())
    assert proposal(found).settings["events"]["retriever_rank"] == "position"
    assert "before any click" in profile_text(found)
    assert "draws clicks" in profile_text(found)
    scored = touches().assign(retriever_score=0.5)
    assert seen(tmp_path, scored).rank_by_place is None
    assert seen(tmp_path, clicks().assign(position=1)).rank_by_place is None


def test_the_columns_of_a_catalogue(tmp_path: Path) -> None:
    items = ITEMS.rename(columns={"item_id": "sku", "title": "name", "category": "department"})
    items["released"] = pd.Timestamp("2020-01-01T00:00:00Z")
    items["added_at"] = pd.date_range("2020-01-01", periods=40, tz="UTC")
    items["vec"] = [[0.1 * i, 0.2] for i in range(40)]
    items["nothing"] = None
    mapping = proposal(seen(tmp_path, shop(), items)).mapping()
    assert mapping.items.item_id == "sku"
    assert mapping.items.title == "name"
    assert mapping.items.category == "department"
    assert mapping.items.created_at == "added_at"
    assert mapping.items.numeric == ("price",)
    assert mapping.items.embedding == ("vec",)


def test_an_age_that_the_log_itself_tells_is_not_used(tmp_path: Path) -> None:
    frame = shop()
    first = frame.groupby("item_id")["request_time"].min()
    items = ITEMS.assign(created_at=ITEMS["item_id"].map(first))
    found = seen(tmp_path, frame, items)
    assert found.catalogue.choices["created_at"].column is None
    assert proposal(found).settings["items"]["created_at"] is None
    assert "tell the future" in profile_text(found)


def test_a_title_of_nulls_gives_way_to_the_text_that_is_there(tmp_path: Path) -> None:
    items = ITEMS.assign(words=ITEMS["title"], title=None)
    assert seen(tmp_path, shop(), items).catalogue.choices["title"].column == "words"
