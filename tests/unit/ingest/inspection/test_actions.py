"""Which actions are exposure, and how long a label window is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from tests.inspected_logs import (
    action,
    clicks,
    renamed,
    seen,
    shop,
)

from prerank.ingest.inspection.look import Inspection
from prerank.ingest.inspection.proposal import proposal
from prerank.ingest.inspection.text import profile_text


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
