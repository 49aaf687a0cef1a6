"""Which column is what, by its name and by what it holds."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.inspected_logs import (
    ITEMS,
    NOW,
    START,
    clicks,
    columns,
    seen,
    shop,
    written,
)

from prerank.ingest.inspection.assume import assumptions
from prerank.ingest.inspection.look import inspect
from prerank.ingest.inspection.proposal import lacking
from prerank.ingest.mapping import LogMapping


@settings(max_examples=6)
@given(
    data=st.data(),
    extra=st.sets(st.sampled_from(["position", "event_id", "retriever_score", "retriever_rank"])),
    names=st.sampled_from([("impression", "click"), ("click", "buy"), ("impression", "view")]),
    single=st.booleans(),
)
def test_canonical_names_are_recognised_as_themselves(
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
    extra: set[str],
    names: tuple[str, str],
    single: bool,
) -> None:
    shown, engaged = names
    text = st.text("abcdef 0123é", min_size=1, max_size=12).filter(str.strip)
    queries = data.draw(st.lists(text, min_size=2, max_size=5, unique_by=lambda q: q.strip()))
    delays = data.draw(st.lists(st.integers(0, 80_000), min_size=3, max_size=3))
    rows: list[dict[str, object]] = []
    for r in range(40):
        asked = START + pd.Timedelta(hours=36 * r)
        for place in range(data.draw(st.integers(1, 4)) if r < 5 else 3):
            for name in (shown, engaged)[: 1 + (r % 2)]:
                late = 0 if single or name == shown else delays[r % 3]
                rows.append(
                    {
                        "request_id": r,
                        "user_id": r % 6,
                        "query": queries[r % len(queries)],
                        "item_id": (r + place) % 40,
                        "action": name,
                        "position": place,
                        "event_id": f"e{len(rows)}",
                        "retriever_score": 0.5 * place,
                        "retriever_rank": place,
                        "request_time": asked,
                        "event_time": asked + pd.Timedelta(seconds=late),
                    }
                )
    frame = pd.DataFrame(rows)
    optional = {"position", "event_id", "retriever_score", "retriever_rank"}
    frame = frame.drop(columns=sorted(optional - extra))
    if single:
        frame = frame.rename(columns={"request_time": "timestamp"}).drop(columns="event_time")
    places = written(tmp_path_factory.mktemp("log"), frame)
    found = inspect(*places, NOW)
    assert columns(found) == {name: name for name in frame.columns}
    assert {c.confidence for c in found.roles.values()} == {"certain"}
    assert lacking(found) == []
    taken = assumptions(found)
    assert taken.mapping == LogMapping()
    assert taken.mapping.model_fields_set == set()


@pytest.mark.parametrize(
    "names",
    [
        {"user_id": "uid", "query": "q", "item_id": "sku", "action": "event"},
        {"user_id": "customer", "query": "keyword", "item_id": "product_id", "action": "type"},
        {"user_id": "client_id", "query": "search", "item_id": "doc_id", "action": "eventType"},
        {"user_id": "userId", "query": "searchTerm", "item_id": "itemId", "action": "event_name"},
        {"request_id": "search_id", "position": "rank", "request_time": "searched_at"},
        {"request_id": "queryId", "position": "slot", "event_time": "click_ts"},
        {"request_time": "ts", "event_time": "click_time"},
        {"user_id": "log.user.id", "item_id": "log.object.id"},
    ],
)
def test_usual_names_are_understood(names: dict[str, str], tmp_path: Path) -> None:
    found = seen(tmp_path, shop().rename(columns=names))
    assert columns(found).items() >= names.items()
    assert [r for r in names if found.roles[r].confidence == "guess"] == []


def test_what_a_column_holds_outweighs_its_name(tmp_path: Path) -> None:
    frame = shop().drop(columns=["position", "request_id"])
    frame["time"] = "soon"
    frame["rank"] = 0.5 * frame.index
    frame["type"] = [f"kind {i}" for i in range(len(frame))]
    found = seen(tmp_path, frame)
    assert columns(found)["request_time"] == "request_time"
    assert {"timestamp", "position"} & columns(found).keys() == set()
    assert columns(found)["action"] == "action"


def test_two_columns_of_one_name_are_a_guess_and_not_assumed(tmp_path: Path) -> None:
    frame = shop().rename(columns={"user_id": "uid"})
    frame["customer_id"] = frame["uid"].str.upper()
    found = seen(tmp_path, frame)
    assert found.roles["user_id"].confidence == "guess"
    assert "customer_id" in found.roles["user_id"].why
    assert "events" not in assumptions(found).proposal.settings


def test_the_only_times_the_words_and_the_catalogues_ids_tell_columns(tmp_path: Path) -> None:
    frame = clicks().drop(columns=["event_time", "request_id"])
    frame["action"] = ["click", "purchase"] * 30
    frame["item_id"] = "sku-" + frame["item_id"].astype(str)
    frame.columns = ["wann", "user_id", "was", "ding", "tat"]
    items = ITEMS.assign(item_id="sku-" + ITEMS["item_id"].astype(str))
    items = items.rename(columns={"item_id": "nummer"})
    found = seen(tmp_path, frame, items)
    assert columns(found) == {
        "timestamp": "wann",
        "user_id": "user_id",
        "query": "was",
        "item_id": "ding",
        "action": "tat",
    }
    assert found.roles["query"].confidence == "guess"
    assert found.catalogue.choices["item_id"].column == "nummer"


def test_a_needed_column_that_is_not_there_is_named(tmp_path: Path) -> None:
    found = seen(tmp_path, shop().rename(columns={"user_id": "colour"}))
    assert lacking(found) == ["user_id"]
    assert any("no column looks like the user_id" in fault for fault in found.faults)
