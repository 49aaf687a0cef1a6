"""What is wrong with a log, and what is noted of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from tests.inspected_logs import (
    ITEMS,
    Frame,
    seen,
    shop,
    touches,
)

from prerank.core.errors import DataError
from prerank.ingest.inspection.look import Inspection
from prerank.ingest.inspection.text import profile_text


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


def test_an_empty_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="The log is empty"):
        seen(tmp_path, shop()[:0])
