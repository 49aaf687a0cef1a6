"""Times, their units, and what makes a request."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.inspected_logs import (
    clicks,
    columns,
    notes,
    seen,
    shop,
    touches,
)

from prerank.ingest.inspection.assume import assumptions
from prerank.ingest.inspection.proposal import lacking, proposal
from prerank.ingest.mapping import LogMapping


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
