"""What an event may hold, and what is said about everything else. No Ray, no store."""

from __future__ import annotations

import contextlib
from typing import Any

import orjson
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.api_bodies import JSON, NOW, REPLAY, WALL

from prerank.core.ids import event_id, given_event_id
from prerank.core.times import EARLIEST, LATEST, UTC_US, utc
from prerank.ingest.parsing import check_times
from prerank.serving.api import AHEAD_US, Limits, RequestError, parse_events

EVENT: dict[str, Any] = {"user_id": "ann", "item_id": 5, "action": "click", "event_time": NOW}


def events(*rows: Any, limits: Limits = WALL) -> Any:
    return parse_events(orjson.dumps({"events": list(rows)}), limits, NOW)


def test_an_event_has_the_id_that_ingest_gives_it() -> None:
    plain, own, of_request = events(
        EVENT, {**EVENT, "event_id": "e1"}, {**EVENT, "request_id": "r1"}
    )
    assert plain.event_id == event_id("ann", 5, "click", NOW)
    assert own.event_id == given_event_id("e1")
    assert of_request.event_id == event_id("r1", 5, "click", NOW)


def test_an_event_keeps_the_query_that_led_to_it_in_its_normal_form() -> None:
    without, with_one = events(EVENT, {**EVENT, "query": "  Red  SHOE "})
    assert (without.query, with_one.query) == ("", "red shoe")
    assert without.event_id == with_one.event_id


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"user_id": None}, "user_id"),
        ({"item_id": None}, "item_id"),
        ({"item_id": "five"}, "item_id"),
        ({"item_id": 2**60}, "item_id"),
        ({"action": "zap"}, "action"),
        ({"action": ["click"]}, "action"),
        ({"event_time": None}, "event_time"),
        ({"event_time": "soon"}, "event_time"),
        ({"event_time": NOW + AHEAD_US + 1}, "event_time"),
        ({"event_id": {}}, "event_id"),
        ({"query": 5}, "query"),
        ({"query": " "}, "query"),
        ({"colour": 1}, "colour"),
    ],
)
def test_a_wrong_event_is_named_by_place_and_field(change: dict[str, Any], field: str) -> None:
    with pytest.raises(RequestError) as caught:
        events(EVENT, {**EVENT, **change})
    assert caught.value.field == f"events[1].{field}"


@pytest.mark.parametrize(
    ("time", "fix"),
    [
        ("0001-01-01T00:00:00", "before 1971"),
        ("1970-12-31T23:59:59.999999Z", "before 1971"),
        ("2200-01-01T00:00:00Z", "after 2199"),
        (0, "microseconds since 1970"),
        (-1, "microseconds since 1970"),
        (1_700_000_000, "looks like seconds: send 1700000000000000"),
        ("1700000000", "looks like seconds: send 1700000000000000"),
        (1_700_000_000.25, "looks like seconds: send 1700000000250000"),
        (1_700_000_000_000, "looks like milliseconds: send 1700000000000000"),
        (1_700_000_000_000_000_000, "looks like nanoseconds: send 1700000000000000"),
        (20240105, "write 2024-01-05"),
        ("20240105", "write 2024-01-05"),
        (20241305, "microseconds since 1970"),
        (7_258_118_400_000_000, "microseconds since 1970"),
    ],
)
@pytest.mark.parametrize("limits", [WALL, REPLAY])
def test_a_time_that_cannot_be_meant_is_refused_with_the_fix(
    time: Any, fix: str, limits: Limits
) -> None:
    with pytest.raises(RequestError, match=fix) as caught:
        events(EVENT, {**EVENT, "event_time": time}, limits=limits)
    assert caught.value.field == "events[1].event_time"


@pytest.mark.parametrize("time", ["1971-01-01", "2199-12-31T23:59:59.999999Z"])
def test_the_bounds_of_times_are_those_of_ingest(time: str) -> None:
    found = events({**EVENT, "event_time": time}, limits=REPLAY)[0].time
    assert EARLIEST <= utc(found) < LATEST
    check_times(pa.array([found], UTC_US), "event_time", None)


def test_an_unknown_action_is_answered_with_the_allowed_ones() -> None:
    with pytest.raises(RequestError, match=r"impression.*click.*save"):
        events({**EVENT, "action": "zap"})


@pytest.mark.parametrize("body", [b"{}", b'{"events": {}}', b'{"events": [1]}', b"[", b"[]"])
def test_a_body_that_holds_no_events(body: bytes) -> None:
    with pytest.raises(RequestError):
        parse_events(body, WALL, NOW)


def test_replay_accepts_events_of_any_time() -> None:
    assert events({**EVENT, "event_time": NOW * 2}, limits=REPLAY)[0].time == NOW * 2


@given(st.dictionaries(st.sampled_from([*EVENT, "event_id", "request_id"]), JSON))
def test_no_event_is_anything_but_read_or_refused(changes: dict[str, Any]) -> None:
    with contextlib.suppress(RequestError):
        assert len(events({**EVENT, **changes})) == 1
