"""What a deployment wrote down becomes the log of the home that it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pandas as pd
import pyarrow.parquet as pq
import pytest
from tests.http_calls import LOCAL, NoEngine, call, no_writers, whole
from tests.plain_requests import Request, as_inputs

from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.served import events_folder
from prerank.ingest.mapping import LogMapping
from prerank.ingest.run import ingest
from prerank.ingest.served import ingest_served
from prerank.online.reader import OnlineRead
from prerank.serving.answer import Answer
from prerank.serving.api import Limits, PrerankRequest, parse_events
from prerank.serving.config import ServeConfig, limits_of
from prerank.serving.http import HttpApi
from prerank.serving.served_log import LogConfig, ServedLog

TODAY = datetime.now(UTC).date()
MAPPING = {
    "events": {"item_id": "pin", "action": "what", "timestamp": "at"},
    "actions": {"seen": "impression", "clicked": "click", "kept": "save"},
    "segments": ["country"],
}


class Ranks(NoEngine):
    """Answers with the candidates in their order, one point less each."""

    def answer(self, request: PrerankRequest) -> Answer:
        ids = request.keys[: request.k]
        items = [{"id": i, "score": -n} for n, i in enumerate(request.shown(ids))]
        read = OnlineRead(as_inputs([Request()]), 0, 0, None, ())
        body = {"items": items, "model_version": "1"}
        return Answer(body, read, candidates=len(request.keys), ids=ids, run_id="run")


class Deployment:
    """The routes of a deployment of ``home``, and its served log."""

    def __init__(self, home: Home) -> None:
        config = ServeConfig(home=str(home.root), clock="replay")
        self.log = ServedLog(home, LogConfig(share=1.0, items=100, days=None))
        self.limits: Limits = limits_of(home, config)
        engine: Any = Ranks(self.limits)
        self.api = HttpApi(config, engine, no_writers, log=self.log)

    def send(self, path: str, body: Any) -> dict[str, Any]:
        got = asyncio.run(call(self.api, path, whole(orjson.dumps(body)), LOCAL))
        assert got.status_code == 200, bytes(got.body)
        told: dict[str, Any] = orjson.loads(got.body)
        return told

    def report(self, **event: Any) -> int:
        """Report an event; its id online."""
        body = {"events": [event]}
        self.send("/v1/events", body)
        (parsed,) = parse_events(orjson.dumps(body), self.limits, 0)
        return parsed.event_id


@pytest.fixture
def home(ray_local: None, tmp_path: Path) -> Home:
    at = pd.to_datetime(["2024-03-01T10:00:00Z", "2024-03-01T10:00:01Z", "2024-03-01T10:00:02Z"])
    events = pd.DataFrame(
        {
            "at": at,
            "user_id": ["u1", "u2", "u3"],
            "query": ["red", "red", "blue"],
            "pin": [1, 2, 3],
            "what": ["seen", "clicked", "kept"],
            "country": ["de", "fr", None],
        }
    )
    items = pd.DataFrame({"item_id": [1, 2, 3, 4], "title": ["a", "b", "c", "d"]})
    home = Home.at(tmp_path / "home")
    events.to_parquet(tmp_path / "events.parquet")
    items.to_parquet(tmp_path / "items.parquet")
    mapping = LogMapping.model_validate(MAPPING)
    ingest(tmp_path / "events.parquet", tmp_path / "items.parquet", home, mapping)
    return home


def log_of(home: Home) -> pd.DataFrame:
    log: pd.DataFrame = pq.read_table(home.events, partitioning=None).to_pandas()
    return log.sort_values(["request_time", "request_id", "event_time", "position"])


ASKED = {"user_id": "u7", "query": "Red", "context": {"country": "de"}}


@pytest.fixture
def deployment(home: Home) -> Iterator[Deployment]:
    found = Deployment(home)
    yield found
    found.log.close()


@pytest.mark.slow
def test_what_was_answered_and_reported_joins_the_log(home: Home, deployment: Deployment) -> None:
    day = "2024-03-02T10:00:0{}Z"
    ask, report = deployment.send, deployment.report
    ask("/v1/prerank", ASKED | {"candidates": [4, 2, 3], "time": day.format(0), "request_id": "r1"})
    ask("/v1/prerank", ASKED | {"candidates": [1, 2], "time": day.format(1), "request_id": "r2"})
    of_r1 = {"user_id": "u7", "request_id": "r1", "event_time": day.format(5)}
    clicked = report(item_id=2, action="click", **of_r1)
    assert clicked == report(item_id=2, action="click", **of_r1), "reported twice"
    # The caller of r2 knows what was shown in the end.
    of_r2 = of_r1 | {"request_id": "r2", "event_time": day.format(6)}
    report(item_id=2, action="impression", position=1, **of_r2)
    # Of a request that nobody wrote down, and of another user's.
    lone = report(user_id="u9", query="green", item_id=3, action="save", event_time=day.format(7))
    other = report(**of_r1 | {"user_id": "u8"}, query="red", item_id=4, action="click")
    wordless = {"user_id": "u9", "item_id": 1, "action": "save", "event_time": day.format(8)}
    report(**wordless)
    deployment.log.close()
    before = LogManifest.load(home)

    found = ingest_served(home, TODAY)

    assert found is not None
    assert found.ingested is not None
    assert (found.answers, found.events, found.credited, found.unread) == (2, 5, 2, 0)
    after = LogManifest.load(home)
    assert found.ingested.manifest.rows == {
        "in": 8,
        "out": 7,
        "quarantined": 1,
        "duplicates": 0,
    }
    assert after.mapping == before.mapping
    assert (after.items, after.segments) == (before.items, before.segments)
    log = log_of(home)
    log = log[log["request_time"] >= "2024-03-02"]
    first = log[log["request_id"] == "r1"]
    shown = first[first["action"] == "impression"]
    assert shown[["item_id", "position"]].to_numpy().tolist() == [[4, 1], [2, 2], [3, 3]]
    (click,) = first[first["action"] == "click"].itertuples()
    assert (click.item_id, click.position, click.event_id) == (2, 2, clicked)
    assert set(first["query"]) == {"red"}
    assert set(first["country"]) == {"de"}
    assert str(click.request_time) == "2024-03-02 10:00:00+00:00"
    second = log[log["request_id"] == "r2"]
    assert second[["item_id", "position"]].to_numpy().tolist() == [[2, 1]]
    assert set(second["action"]) == {"impression"}
    rest = log[~log["request_id"].isin(["r1", "r2"])]
    assert dict(zip(rest["user_id"], rest["event_id"], strict=True)) == {"u8": other, "u9": lone}
    assert (rest["request_time"] == rest["event_time"]).all()

    assert ingest_served(home, TODAY) is None, "a day is read once"
    (home.served / "ingested.json").unlink()
    again = ingest_served(home, TODAY)
    assert again is not None
    assert again.ingested is not None
    assert again.ingested.manifest.rows["out"] == 0, "what is read again counts once"
    assert len(log_of(home)) == after.events


@pytest.mark.slow
def test_a_day_that_has_not_ended_waits(home: Home, deployment: Deployment) -> None:
    deployment.report(
        user_id="u", item_id=1, query="q", action="click", event_time="2024-03-02T00:00:00Z"
    )
    assert ingest_served(home, TODAY - timedelta(days=1)) is None


@pytest.mark.slow
def test_an_event_of_yesterdays_answer_is_credited(home: Home, deployment: Deployment) -> None:
    at = "2024-03-02T23:59:59Z"
    deployment.send("/v1/prerank", ASKED | {"candidates": [1, 2], "time": at, "request_id": "r"})
    deployment.log.close()
    for kind in home.served.iterdir():
        for folder in kind.iterdir():
            folder.rename(folder.with_name(f"day={TODAY - timedelta(days=1)}"))
    first = ingest_served(home, TODAY - timedelta(days=1))
    assert first is not None
    assert (first.answers, first.events) == (1, 0)
    late = deployment.report(
        user_id="u7", item_id=2, request_id="r", action="click", event_time="2024-03-03T00:00:09Z"
    )
    second = ingest_served(home, TODAY)
    assert second is not None
    assert (second.answers, second.events, second.credited) == (0, 1, 1)
    log = log_of(home)
    (click,) = log[log["event_id"] == late].itertuples()
    assert (click.request_id, click.query) == ("r", "red")
    assert second.ingested is not None
    assert second.ingested.manifest.rows["in"] == 1, "no impression is read twice"


@pytest.mark.slow
def test_a_torn_line_is_counted_and_the_others_are_read(home: Home, deployment: Deployment) -> None:
    deployment.report(
        user_id="u", item_id=1, query="q", action="click", event_time="2024-03-02T00:00:00Z"
    )
    (file,) = events_folder(home).glob("*/*.jsonl")
    file.write_bytes(file.read_bytes() + file.read_bytes()[:40])
    found = ingest_served(home, TODAY)
    assert found is not None
    assert (found.events, found.unread) == (1, 1)
