"""What is found of a log and its catalogue, the mapping that follows, and what `run` assumes."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prerank import cli
from prerank.core.errors import DataError
from prerank.core.home import Home
from prerank.ingest.inspection import sample
from prerank.ingest.inspection.actions import Action
from prerank.ingest.inspection.assume import assumed, assumptions, mapping_of_home
from prerank.ingest.inspection.look import Inspection, inspect
from prerank.ingest.inspection.proposal import lacking, proposal
from prerank.ingest.inspection.text import profile_text
from prerank.ingest.mapping import LogMapping, load_mapping
from prerank.ingest.report import IngestReport

Ingested = Callable[..., tuple[IngestReport, Home]]
Frame = pd.DataFrame

START = pd.Timestamp("2024-03-01T00:00:00Z")
NOW = int(pd.Timestamp("2024-12-01T00:00:00Z").value // 1000)
WORDS = ("red shoe", "blue bag", "warm hat", "long coat", "rain boots")
ITEMS = pd.DataFrame(
    {
        "item_id": range(40),
        "title": [f"{WORDS[i % 5]} number {i}" for i in range(40)],
        "category": [f"c{i % 4}" for i in range(40)],
        "price": [1.5 * i for i in range(40)],
    }
)


def shop(requests: int = 120, hours: float = 24.0) -> Frame:
    """Lists of five, a click half an hour after every second list; a request each ``hours``."""
    rows = []
    for r in range(requests):
        asked = START + pd.Timedelta(hours=r * hours)
        own = {
            "request_id": f"r{r}",
            "request_time": asked,
            "user_id": f"u{r % 17}",
            "query": WORDS[r % 5],
            "device": ("phone", "desktop")[r % 17 % 2],
        }
        for place in range(5):
            shown = own | {"item_id": (7 * r + place) % 40, "position": place}
            rows.append(shown | {"event_time": asked, "action": "impression"})
            if r % 2 and place == r % 5:
                later = asked + pd.Timedelta(minutes=20 + r % 20)
                rows.append(shown | {"event_time": later, "action": "click"})
    return pd.DataFrame(rows)


def touches() -> Frame:
    """Two days with one time: lists of five with a click, and touches, each its own request."""
    rows = []
    for r in range(300):
        at = START + pd.Timedelta(minutes=9.5 * r)
        own = {
            "request_id": f"r{r}",
            "timestamp": at,
            "user_id": f"u{r // 6}",
            "session_id": f"s{r // 6}",
            "query": WORDS[(r // 2) % 5],
            "device": ("phone", "desktop")[r // 6 % 2],
        }
        if r % 3:
            touch = own | {"item_id": r % 40, "action": ("image", "info")[r % 3 % 2]}
            rows.append(touch | {"position": None, "price": None})
            continue
        for place in range(5):
            shown = own | {"item_id": (r + place) % 40, "position": place, "price": 10.0 + place}
            rows.append(shown | {"action": "impression"})
        rows.append(rows[-5] | {"action": "click"})
    return pd.DataFrame(rows)


def clicks(requests: int = 60, hours: float = 24.0) -> Frame:
    """Clicks alone, some seconds after the search."""
    asked = [START + pd.Timedelta(hours=hours * r) for r in range(requests)]
    return pd.DataFrame(
        {
            "request_id": [f"r{r}" for r in range(requests)],
            "request_time": asked,
            "event_time": [t + pd.Timedelta(seconds=5 + r % 50) for r, t in enumerate(asked)],
            "user_id": [f"u{r % 7}" for r in range(requests)],
            "query": [WORDS[r % 5] for r in range(requests)],
            "item_id": [r % 40 for r in range(requests)],
            "action": "click",
        }
    )


def written(folder: Path, events: Frame, items: Frame = ITEMS) -> tuple[Path, Path]:
    paths = folder / "events.parquet", folder / "items.parquet"
    events.to_parquet(paths[0])
    items.to_parquet(paths[1])
    return paths


def seen(folder: Path, events: Frame, items: Frame = ITEMS) -> Inspection:
    return inspect(*written(folder, events, items), NOW)


def columns(found: Inspection) -> dict[str, str | None]:
    return {role: choice.column for role, choice in found.roles.items()}


def action(found: Inspection, name: str) -> Action:
    return next(a for a in found.actions if a.name == name)


def notes(found: Inspection) -> dict[str, str]:
    return {o.column: o.why for o in found.others}


@pytest.fixture(scope="module")
def of_shop(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return seen(tmp_path_factory.mktemp("shop"), shop())


@pytest.fixture(scope="module")
def of_touches(tmp_path_factory: pytest.TempPathFactory) -> Inspection:
    return seen(tmp_path_factory.mktemp("touches"), touches())


# Columns


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


# Times


@pytest.mark.parametrize(("unit", "per_second"), [("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
@pytest.mark.parametrize("as_text", [False, True])
def test_the_unit_of_numbers(unit: str, per_second: float, as_text: bool, tmp_path: Path) -> None:
    frame = shop()
    for name in ("request_time", "event_time"):
        whole = (frame[name].astype("int64") // int(1e9 // per_second)).astype("int64")
        frame[name] = whole.astype(str) if as_text else whole
    found = seen(tmp_path, frame)
    assert proposal(found).settings["time_unit"] == unit
    assert found.faults == ()
    assert assumptions(found).mapping.time_unit == unit


def test_the_earlier_of_two_times_is_the_requests(tmp_path: Path) -> None:
    frame = clicks().rename(columns={"request_time": "timestamp", "event_time": "click_ts"})
    found = seen(tmp_path, frame)
    assert columns(found)["request_time"] == "timestamp"
    assert columns(found)["event_time"] == "click_ts"
    swapped = clicks().rename(columns={"request_time": "searched_at", "event_time": "timestamp"})
    assert columns(seen(tmp_path, swapped))["event_time"] == "timestamp"


def test_a_time_that_is_before_the_event_half_the_time_is_not_the_requests(tmp_path: Path) -> None:
    frame = clicks().rename(columns={"event_time": "click_ts", "request_time": "timestamp"})
    shift = np.where(frame.index % 2 == 0, 1, -1)
    frame["timestamp"] = frame["click_ts"] + pd.to_timedelta(shift, unit="h")
    frame = frame.drop(columns="request_id")
    assert columns(seen(tmp_path, frame)).keys() & {"request_time", "timestamp"} == set()


def test_a_day_that_may_be_a_month_is_no_time(tmp_path: Path) -> None:
    frame = clicks().drop(columns=["request_time", "event_time"])
    frame["date"] = "03/04/2024"
    found = seen(tmp_path, frame)
    assert "timestamp" in lacking(found)
    assert any("tell the day from the month" in fault for fault in found.faults)


# Requests


def test_a_session_is_no_request(tmp_path: Path) -> None:
    frame = touches()
    found = seen(tmp_path, frame)
    assert columns(found)["request_id"] == "request_id"
    assert notes(found)["session_id"].startswith("a session: 3.")
    frame["request_id"] = frame["session_id"]
    found = seen(tmp_path, frame.drop(columns="session_id"))
    assert found.roles["request_id"].column is None
    mapping = proposal(found).mapping()
    assert mapping.events.request_id is None
    assert "request_id" in mapping.events.model_fields_set
    assert any("Requests are told by user, query and time" in f for f in found.faults)


def test_a_log_whose_only_time_is_the_events_is_told_so(tmp_path: Path) -> None:
    frame = shop().drop(columns="request_time").rename(columns={"event_time": "timestamp"})
    found = seen(tmp_path, frame)
    assert found.roles["request_id"].column is None
    assert any("add a column with the time of the search" in fault for fault in found.faults)


def test_an_id_without_a_usual_name_is_found_by_what_its_rows_share(tmp_path: Path) -> None:
    frame = shop().rename(columns={"request_id": "bundle"})
    found = seen(tmp_path, frame)
    assert columns(found)["request_id"] == "bundle"
    assert found.roles["request_id"].confidence == "guess"
    assert assumptions(found).mapping == LogMapping()


# Actions


def renamed(frame: Frame, **names: str) -> Frame:
    return frame.assign(action=frame["action"].replace(names))


@pytest.mark.parametrize("name", ["shown", "seen", "served", "search_impression", "view"])
def test_what_is_shown_becomes_an_impression(name: str, tmp_path: Path) -> None:
    found = seen(tmp_path, renamed(shop(), impression=name))
    assert action(found, name).passive
    assert found.has_impressions
    mapping = proposal(found).mapping()
    assert mapping.actions == {name: "impression", "click": "click"}
    assert mapping.passive == ("impression",)


def test_an_unknown_name_is_exposure_by_its_numbers(tmp_path: Path) -> None:
    frame = renamed(shop(), impression="zeile")
    # Reported by the page, a second after the search.
    frame.loc[frame["action"] == "zeile", "event_time"] += pd.Timedelta(seconds=1)
    found = seen(tmp_path, frame)
    assert action(found, "zeile").passive
    assert action(found, "zeile").confidence == "guess"


@pytest.mark.parametrize("name", ["seen", "view", "viewed"])
def test_numbers_that_contradict_a_name_win(name: str, tmp_path: Path) -> None:
    """What was engaged was never shown so, and a request has one."""
    frame = clicks()
    frame["action"] = np.where(frame.index % 3 == 0, "click", name)
    found = seen(tmp_path, frame)
    assert not action(found, name).passive
    assert not found.has_impressions
    assert proposal(found).mapping().passive == ()


def test_touches_beside_lists_are_engagements(of_touches: Inspection) -> None:
    assert {a.name: a.passive for a in of_touches.actions} == {
        "impression": True,
        "image": False,
        "info": False,
        "click": False,
    }
    assert action(of_touches, "impression").per_request == 5.0


def test_a_page_view_beside_impressions_is_an_engagement(tmp_path: Path) -> None:
    found = seen(tmp_path, renamed(shop(), click="view"))
    assert not action(found, "view").passive
    assert "a page that was opened; 1.0 a request" in action(found, "view").why


def test_names_that_cannot_stand_are_renamed(tmp_path: Path) -> None:
    found = seen(tmp_path, renamed(shop(), click="add to cart!"))
    assert proposal(found).mapping().actions == {
        "impression": "impression",
        "add to cart!": "add_to_cart",
    }


# Label window


def test_a_log_of_two_days_gets_a_short_window(of_touches: Inspection) -> None:
    assert proposal(of_touches).settings["label_window_hours"] == 1
    text = profile_text(of_touches)
    assert "1 h keeps 100.0% of the engagements and leaves out 2.0% of the requests" in text
    assert "24 h, the default, would keep 100.0% of the engagements and leave out 50" in text
    assert "labels come at once" in text


def test_a_long_log_keeps_the_default(of_shop: Inspection) -> None:
    assert proposal(of_shop).settings["label_window_hours"] == 24
    assert "24 h keeps 100.0% of the engagements and leaves out" in profile_text(of_shop)


def test_late_engagements_get_a_longer_window(tmp_path: Path) -> None:
    frame = clicks(requests=200)
    frame["event_time"] = frame["request_time"] + pd.Timedelta(hours=60)
    assert proposal(seen(tmp_path, frame)).settings["label_window_hours"] == 72


def test_a_conflict_of_window_and_span_is_said(tmp_path: Path) -> None:
    frame = clicks(requests=60, hours=1)
    frame["event_time"] = frame["request_time"] + pd.Timedelta(hours=30)
    found = seen(tmp_path, frame)
    assert "no window keeps 95% of the engagements and 95% of the requests" in profile_text(found)


# What is left


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


# Faults


def faulty(change: Callable[[Frame], object]) -> Frame:
    frame = shop()
    change(frame)
    return frame


def _ahead(frame: Frame) -> None:
    frame.loc[frame.index < 60, ["request_time", "event_time"]] += pd.Timedelta(days=2000)
    frame["request_id"] = frame["request_id"] + (frame.index < 60).astype(str)


def _zero(frame: Frame) -> None:
    frame.loc[frame.index < 60, "request_time"] = pd.Timestamp(0, tz="UTC")


def _early(frame: Frame) -> None:
    frame.loc[frame["action"] == "click", "event_time"] -= pd.Timedelta(hours=1)


def _zones(frame: Frame) -> None:
    frame.loc[frame["action"] == "click", "event_time"] = frame["request_time"] + pd.Timedelta(
        hours=2, seconds=40
    )


def _nobody(frame: Frame) -> None:
    frame.loc[frame.index < 60, "user_id"] = None


def _kinds(frame: Frame) -> None:
    frame["item_id"] = frame["item_id"].astype(str).replace("3", "three")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_ahead, "lie in the future"),
        (_zero, "before 1971"),
        (_early, "an event before its request"),
        (_zones, "2 h after it, to within minutes: the two times seem to be of two time zones"),
        (_nobody, "have no user_id"),
        (_kinds, "two kinds of ids"),
    ],
)
def test_faults_are_named(change: Callable[[Frame], object], says: str, tmp_path: Path) -> None:
    faults = seen(tmp_path, faulty(change)).faults
    assert any(says in fault for fault in faults), faults


def test_repeated_rows_and_items_without_a_catalogue(tmp_path: Path) -> None:
    frame = pd.concat([shop(), shop()[:66]])
    items = pd.concat([ITEMS[:20], ITEMS[:2].assign(title="other")])
    faults = seen(tmp_path, frame, items).faults
    assert any(fault.startswith("9.1% of the rows repeat another one") for fault in faults), faults
    assert any("50.0% of the log's items are in no catalogue" in fault for fault in faults)
    assert any("2 rows of the catalogue repeat an item id" in fault for fault in faults)


def test_a_sound_log_has_no_fault(of_shop: Inspection) -> None:
    assert of_shop.faults == ()
    assert "problems\n  none found" in profile_text(of_shop)


def test_one_time_and_times_without_a_zone_are_noted(tmp_path: Path) -> None:
    frame = touches()
    frame["timestamp"] = frame["timestamp"].dt.tz_localize(None)
    remarks = seen(tmp_path, frame).remarks
    assert remarks[0].startswith("timestamp is the only time")
    assert remarks[1:] == ("timestamp has no zone and is read as UTC",)


# Catalogue


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


# The mapping


LOGS: dict[str, Callable[[], Frame]] = {
    "shop": shop,
    "touches": touches,
    "clicks": clicks,
    "renamed": lambda: renamed(shop(), impression="shown", click="add to cart").rename(
        columns={"query": "q", "device": "my device: 1", "user_id": "on"}
    ),
    "no action": lambda: clicks().drop(columns="action"),
}


@pytest.mark.parametrize("name", LOGS)
def test_the_yaml_that_is_written_is_the_mapping(name: str, tmp_path: Path) -> None:
    made = proposal(seen(tmp_path, LOGS[name]()))
    path = tmp_path / "mapping.yaml"
    path.write_text(made.to_yaml("A heading."))
    assert load_mapping(path) == made.mapping()
    assert path.read_text().startswith("# A heading.\n")


def test_each_choice_of_the_yaml_has_its_reason(of_touches: Inspection) -> None:
    text = proposal(of_touches).to_yaml("A heading.")
    assert "  # certain: named so\n  user_id: user_id\n" in text
    assert "# Exposure. Engagements are the others: click, image, info.\n" in text
    assert "# 1 h keeps 100.0%" in text
    assert "  # guess: the position is known of 100% of what was shown" in text


@pytest.mark.parametrize("name", ["shop", "touches", "clicks", "no action"])
def test_ingest_takes_the_mapping_as_it_is(name: str, tmp_path: Path, ingested: Ingested) -> None:
    places = written(tmp_path, LOGS[name]())
    made = proposal(inspect(*places, NOW))
    report, _ = ingested(*places, **made.settings)
    manifest = report.manifest
    assert manifest.rows["quarantined"] == 0
    assert manifest.label_window_hours == made.settings["label_window_hours"]
    assert manifest.segments == tuple(made.settings.get("segments", ()))
    assert ("rank" in manifest.retriever) == (name in ("shop", "touches"))
    assert manifest.candidate_features == (("price",) if name == "touches" else ())


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "jsonl"])
def test_text_is_looked_at_as_parquet_is(ending: str, tmp_path: Path) -> None:
    as_parquet = seen(tmp_path, touches())
    path = tmp_path / f"events.{ending}"
    if ending == "jsonl":
        touches().to_json(path, orient="records", lines=True, date_format="iso")
    else:
        touches().to_csv(path, index=False)
    found = inspect(path, tmp_path / "items.parquet", NOW)
    assert proposal(found).settings == proposal(as_parquet).settings
    assert found.faults == as_parquet.faults == ()


def test_of_a_long_log_a_sample_is_read_and_all_actions_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    frame = shop(requests=2000, hours=1.0)
    frame.loc[frame.index == 4321, "action"] = "purchase"
    monkeypatch.setattr(sample, "SAMPLE_ROWS", 2000)
    found = seen(tmp_path, frame)
    assert len(found.sample.rows) == 2000
    assert action(found, "impression").rows == (frame["action"] == "impression").sum()
    assert action(found, "purchase").rows == 1
    text = profile_text(found)
    assert "looked at 2,000 rows from all over it: shares are estimates" in text
    assert proposal(found).mapping().passive == ("impression",)


def test_a_profile_is_aligned_and_names_everything(of_touches: Inspection) -> None:
    text = profile_text(of_touches)
    for title in ("log", "event columns", "actions", "label window", "segments", "retriever"):
        assert f"{title}\n  " in text
    assert "300 requests, 50 users" in text
    rows = text.split("event columns\n")[1].split("\n\n")[0].splitlines()
    assert len({row.index("certain") for row in rows if "certain" in row}) == 1


# What run assumes


def test_what_is_assumed_is_said_a_line_each(tmp_path: Path) -> None:
    frame = renamed(touches(), click="view", image="view", info="view")
    frame = frame[frame["action"] == "view"].rename(columns={"query": "q"})
    frame = frame.drop(columns=["position", "price"])
    found = assumed(*written(tmp_path, frame), NOW)
    assert found.mapping.events.query == "q"
    assert found.mapping.label_window_hours == 1
    assert found.mapping.passive == ("impression",)
    assert found.mapping.segments == ()
    said = "\n".join(found.said)
    assert "assumed `events.query: q`: a usual name of it" in said
    assert "assumed `passive: ['impression']`: the log has no impressions" in said
    assert "assumed `label_window_hours: 1`: 24 h would leave out 5" in said
    assert "not used: device could be `segments`" in said


def test_segments_numbers_and_ranks_are_only_said(of_shop: Inspection) -> None:
    found = assumptions(of_shop)
    assert found.mapping == LogMapping()
    assert list(found.said) == [
        "not used: device could be `segments` (see `prerank inspect`)",
        "not used: price could be `items.numeric` (see `prerank inspect`)",
        "not used: position could be `retriever_rank` (see `prerank inspect`)",
    ]


def test_a_view_beside_impressions_stays_as_it_is(tmp_path: Path) -> None:
    frame = pd.concat([shop(), renamed(shop(), impression="view")[lambda f: f["position"] == 0]])
    assert assumed(*written(tmp_path, frame), NOW).mapping == LogMapping()


def test_a_log_of_a_month_keeps_its_window(tmp_path: Path) -> None:
    assert assumed(*written(tmp_path, shop(requests=30)), NOW).mapping == LogMapping()


def test_a_home_keeps_the_mapping_that_its_log_was_read_by(
    tmp_path: Path, ingested: Ingested
) -> None:
    home, said = Home.at(tmp_path / "home"), list[str]()
    home.create()
    places = written(tmp_path, touches())
    first = mapping_of_home(home, *places, said.append)
    assert first == LogMapping(name="events", label_window_hours=1.0)
    assert said[-1] == (
        f"written to {home.root / 'assumed-mapping.yaml'}: for new days of this log, give it with "
        "--mapping"
    )
    ingested(*places, home, **first.model_dump(exclude_unset=True))
    later = touches().rename(columns={"query": "q"})
    assert mapping_of_home(home, *written(tmp_path, later), said.append) == first
    assert said[-1].endswith("as assumed before")


def test_a_home_whose_log_was_read_without_assumptions_stays_so(
    tmp_path: Path, ingested: Ingested
) -> None:
    home = Home.at(tmp_path / "home")
    places = written(tmp_path, touches())
    ingested(*places, home)
    assert mapping_of_home(home, *places, pytest.fail) == LogMapping()


# The command


def test_the_command_prints_the_profile_and_writes_the_mapping(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The command sets variables for its children.
    monkeypatch.setattr(os, "environ", os.environ.copy())
    events, items = map(str, written(tmp_path, touches()))
    out = tmp_path / "mapping.yaml"
    cli.main(["inspect", "--events", events, "--items", items, "--out", str(out)])
    printed = capsys.readouterr().out
    assert printed.startswith("log\n  800 rows in 1 file\n")
    assert f"--mapping {out}" in printed
    assert load_mapping(out).label_window_hours == 1
    cli.main(["inspect", "--events", events, "--items", items])
    assert out.read_text().split("\n", 1)[1].strip() in capsys.readouterr().out


def test_a_ubi_log_needs_no_columns(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    asked = [START + pd.Timedelta(hours=24 * r) for r in range(60)]
    queries = [
        {
            "query_id": f"q{r}",
            "client_id": f"u{r % 7}",
            "user_query": WORDS[r % 5],
            "timestamp": at.isoformat(),
            "query_response_hit_ids": [str((r + place) % 40) for place in range(5)],
        }
        for r, at in enumerate(asked)
    ]
    done = [
        {
            "query_id": f"q{r}",
            "action_name": "click",
            "timestamp": (at + pd.Timedelta(seconds=20)).isoformat(),
            "event_attributes": {"object": {"object_id": str(r % 40)}, "position": {"ordinal": 1}},
        }
        for r, at in enumerate(asked)
    ]
    for name, rows in (("ubi_queries", queries), ("ubi_events", done)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    items = tmp_path / "items.parquet"
    ITEMS.to_parquet(items)
    found = inspect(folder, items, NOW)
    settings = proposal(found).settings
    assert found.is_ubi
    assert found.has_impressions
    assert lacking(found) == []
    assert settings.keys() == {"name", "items", "passive", "label_window_hours"}
    assert assumptions(found).mapping == LogMapping()


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="The log is empty"):
        seen(tmp_path, shop()[:0])
