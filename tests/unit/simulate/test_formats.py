"""The same log in other forms: CSV, JSON lines, and User Behavior Insights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from tests.simulated import read_events

from prerank.simulate import OutputExistsError, UnknownFormatError, simulate

REQUESTS = 60


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    folder = tmp_path_factory.mktemp("plain")
    simulate(folder, "tiny", requests=REQUESTS, progress=False)
    return read_events(folder)


def written(folder: Path, file_format: str) -> Path:
    simulate(folder, "tiny", requests=REQUESTS, file_format=file_format, progress=False)
    return folder


def lines(folder: Path) -> list[dict[str, Any]]:
    paths = sorted(folder.glob("*.jsonl"))
    return [json.loads(line) for path in paths for line in path.read_text().splitlines()]


def equal(found: pd.DataFrame, plain: pd.DataFrame) -> None:
    for column in ("request_time", "event_time"):
        found[column] = pd.to_datetime(found[column], format="ISO8601")
    pd.testing.assert_frame_equal(found, plain, check_dtype=False)


def test_csv_holds_the_same_rows(plain: pd.DataFrame, tmp_path: Path) -> None:
    folder = written(tmp_path, "csv")
    equal(pd.read_csv(folder / "events" / "part-00000.csv"), plain)
    assert len(pd.read_csv(folder / "items.csv")) == 200


def test_json_lines_hold_the_same_rows(plain: pd.DataFrame, tmp_path: Path) -> None:
    folder = written(tmp_path, "jsonl")
    equal(pd.DataFrame(lines(folder / "events")), plain)
    assert {"item_id", "title", "created_at"} <= set(
        json.loads((folder / "items.jsonl").read_text().splitlines()[0])
    )


def test_ubi_queries_hold_what_was_shown_in_order(plain: pd.DataFrame, tmp_path: Path) -> None:
    queries = lines(written(tmp_path, "ubi") / "ubi_queries")
    shown = plain[plain["action"] == "impression"]
    assert [q["query_id"] for q in queries] == shown["request_id"].unique().tolist()
    for query in queries:
        own = shown[shown["request_id"] == query["query_id"]]
        assert query["query_response_hit_ids"] == own["item_id"].astype(str).tolist()
        assert query["user_query"] == own["query"].iloc[0]
        assert query["client_id"] == own["user_id"].iloc[0]
        assert pd.Timestamp(query["timestamp"]) == own["request_time"].iloc[0]


def test_ubi_events_hold_what_was_done(plain: pd.DataFrame, tmp_path: Path) -> None:
    events = lines(written(tmp_path, "ubi") / "ubi_events")
    done = plain[plain["action"] != "impression"]
    assert len(events) == len(done) > 0
    for event, row in zip(events, done.itertuples(), strict=True):
        assert event["action_name"] == row.action
        assert event["query_id"] == row.request_id
        assert event["client_id"] == row.user_id
        assert pd.Timestamp(event["timestamp"]) == row.event_time
        assert event["event_attributes"]["object"]["object_id"] == str(row.item_id)
        assert event["event_attributes"]["position"]["ordinal"] == row.position


def test_a_log_is_not_mixed_with_another_form_of_it(tmp_path: Path) -> None:
    written(tmp_path, "ubi")
    with pytest.raises(OutputExistsError):
        written(tmp_path, "csv")


def test_an_unknown_format_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnknownFormatError, match=r"'xml'.*csv, jsonl, parquet, ubi"):
        written(tmp_path, "xml")
