"""What `prerank run` assumes of a log without a mapping."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from tests.inspected_logs import (
    NOW,
    renamed,
    shop,
    touches,
    written,
)

from prerank.core.home import Home
from prerank.ingest.inspection.assume import assumed, assumptions, mapping_of_home
from prerank.ingest.inspection.look import Inspection
from prerank.ingest.mapping import LogMapping
from prerank.ingest.report import IngestReport

Ingested = Callable[..., tuple[IngestReport, Home]]


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
