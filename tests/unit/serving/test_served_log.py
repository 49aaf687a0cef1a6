"""The served log: what is written down of answers and events, what is not, and what is lost."""

from __future__ import annotations

import asyncio
import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load
from tests import samples
from tests.api_bodies import NOW, SCHEMA, WALL
from tests.http_calls import LOCAL, api_of, call, no_writers, whole
from tests.plain_requests import Request, as_inputs
from tests.served_logs import ALL, EVENT, ITEMS, events_of, requests_of, send, served
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer

from interactrank.features.inputs import FeatureInputs
from prerank.core.forgotten import remember
from prerank.core.home import Home
from prerank.core.ids import given_event_id
from prerank.core.served import (
    EVENT_FIELDS,
    SETTLED,
    events_folder,
    last_ended,
    requests_folder,
)
from prerank.serving import served_log
from prerank.serving.api import parse_events
from prerank.serving.config import ServeConfig
from prerank.serving.deployment import PreRanker
from prerank.serving.http import HttpApi
from prerank.serving.served_log import LogConfig, ServedLog
from prerank.serving.served_rows import lines_of, packed


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home.at(tmp_path / "home")


def test_nothing_is_written_down_of_a_user_who_was_forgotten_even_since(home: Home) -> None:
    api, log = served(home)
    for user in ("u7", "u8"):
        body = {"user_id": user, "query": "red", "candidates": ITEMS[:3], "request_id": f"r-{user}"}
        send(api, "/v1/prerank", body)
    home.root.mkdir(exist_ok=True)
    remember(home, {"u7"})
    send(api, "/v1/events", {"events": [EVENT | {"user_id": user} for user in ("u7", "u8")]})
    log.close()
    assert [row["user_id"] for row in requests_of(home)] == ["u8"]
    assert [row["user_id"] for row in events_of(home)] == ["u8"]


def test_an_answer_is_written_down_with_all_that_it_was_made_from(home: Home) -> None:
    api, log = served(home)
    candidates = [
        {"id": i, "score": i / 8, "rank": n, "features": {"offer": i / 4}}
        for n, i in enumerate(ITEMS[9::-1])
    ]
    body = {"user_id": "u7", "query": "Red  Shoe", "candidates": candidates, "request_id": "r1"}
    told = send(api, "/v1/prerank", body | {"context": {"country": "de"}, "k": 5})
    log.close()
    (row,) = requests_of(home)
    best = [item["id"] for item in told["items"]][: ALL.items]
    assert row["request_id"] == "r1"
    assert row["user_id"] == "u7"
    assert row["query"] == "red shoe"
    assert dict(row["context"]) == {"country": "de", "device": ""}
    assert row["items"] == [str(i) for i in best]
    assert row["scores"] == pytest.approx([i["score"] for i in told["items"]][: ALL.items])
    assert (row["model_version"], row["run_id"]) == ("1", "run")
    assert row["candidates"] == len(candidates)
    said = dict(row["retriever"])
    assert said["score"] == [i / 8 for i in best]
    assert said["rank"] == [ITEMS[9::-1].index(i) for i in best]
    assert said["candidate_offer"] == [i / 4 for i in best]
    assert abs(row["request_time"].timestamp() - time.time()) < 600
    inputs = FeatureInputs.restored(load(row["inputs"]))
    assert np.array_equal(inputs.time, as_inputs([Request()]).time)


def days_of(home: Home) -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Day -> requests of the answers, and of the events, that stand on it."""
    answers = {
        file.parent.name: [row["request_id"] for row in pq.read_table(file).to_pylist()]
        for file in sorted(requests_folder(home).glob("day=*/*.parquet"))
    }
    events = {
        file.parent.name: [json.loads(line)["request_id"] for line in file.open()]
        for file in sorted(events_folder(home).glob("day=*/*.jsonl"))
    }
    return answers, events


def test_an_answer_stands_on_the_day_on_which_it_was_given(home: Home) -> None:
    """So that what is reported of it before midnight finds it there."""
    midnight = datetime(2026, 3, 2, tzinfo=UTC).timestamp()
    now = [midnight - 5]
    api, log = served(home, clock=lambda: now[0])
    ask = {"user_id": "u", "query": "red", "candidates": ITEMS[:1]}
    send(api, "/v1/prerank", ask | {"request_id": "late"})
    send(api, "/v1/events", {"events": [EVENT | {"request_id": "late"}]})
    now[0] = midnight + 5
    send(api, "/v1/prerank", ask | {"request_id": "early"})
    log.close()
    answers, events = days_of(home)
    assert answers == {"day=2026-03-01": ["late"], "day=2026-03-02": ["early"]}
    assert events == {"day=2026-03-01": ["late"]}


@pytest.mark.parametrize(
    ("now", "ended"),
    [("00:00:59", "2026-03-01"), ("00:02:00", "2026-03-02"), ("23:59", "2026-03-02")],
)
def test_a_day_has_ended_when_its_last_answers_are_written(now: str, ended: str) -> None:
    assert str(last_ended(datetime.fromisoformat(f"2026-03-03T{now}+00:00"))) == ended
    assert timedelta(seconds=2 * served_log.EVERY_S) <= SETTLED


def test_without_a_clock_the_days_are_those_that_requests_and_events_bring(home: Home) -> None:
    api, log = served(home, clock=None, limits=replace(SAMPLE, replay=True))
    ask = {"user_id": "u", "query": "red", "candidates": ITEMS[:1]}
    for name, at in (("first", "2026-03-01T12:00Z"), ("late", "2026-02-27T12:00Z")):
        send(api, "/v1/prerank", ask | {"request_id": name, "time": at})
    click = EVENT | {"request_id": "first", "event_time": "2026-03-02T00:00:01Z"}
    send(api, "/v1/events", {"events": [click]})
    send(api, "/v1/prerank", ask | {"request_id": "last", "time": "2026-03-02T00:00:00Z"})
    log.close()
    answers, events = days_of(home)
    assert answers == {"day=2026-03-01": ["first", "late"], "day=2026-03-02": ["last"]}
    assert events == {"day=2026-03-02": ["first"]}


def test_a_deployment_of_old_logs_has_their_days_and_removes_none(home: Home) -> None:
    (requests_folder(home) / "day=2001-02-03").mkdir(parents=True)
    config = ServeConfig(home=str(home.root), clock="replay", log_share=1.0, log_days=1)
    log = served_log.served_log_of(config)
    assert log is not None
    engine: Any = SmallEngine(replace(SAMPLE, replay=True), sample_scorer())
    api = HttpApi(config, engine, no_writers, log=log)
    body = {"user_id": "u", "query": "red", "candidates": ITEMS[:1], "time": "2002-03-04T05:06Z"}
    send(api, "/v1/prerank", body)
    log.close()
    days = sorted(folder.name for folder in requests_folder(home).glob("day=*"))
    assert days == ["day=2001-02-03", "day=2002-03-04"]


def test_every_form_of_a_ranking_is_written_down(home: Home) -> None:
    api, log = served(home)
    send(api, "/v1/prerank", {"user_id": "u", "query": "red", "candidates": ITEMS[:2], "k": 1})
    send(api, "/v1/rerank", {"query": "red", "documents": [str(i) for i in ITEMS[:2]]})
    raw = np.array(ITEMS[:2], "<i8").tobytes()
    binary = LOCAL | {"Content-Type": "application/octet-stream"}
    asyncio.run(call(api, "/v1/prerank", whole(raw), binary, query=b"user_id=u&query=red"))
    log.close()
    assert [len(row["items"]) for row in requests_of(home)] == [1, 2, 2]


def test_a_share_of_the_requests_is_the_same_for_everybody(home: Home, tmp_path: Path) -> None:
    names = [f"r{n}" for n in range(400)]
    found = []
    for place in (home, Home.at(tmp_path / "other")):
        api, log = served(place, LogConfig(share=0.25, items=1, days=None))
        for name in names:
            body = {"user_id": "u", "query": "q", "candidates": ITEMS[:1], "request_id": name}
            send(api, "/v1/prerank", body)
        log.close()
        found.append([row["request_id"] for row in requests_of(place)])
    assert found[0] == found[1]
    assert 60 < len(found[0]) < 140


def test_events_are_written_when_they_are_acknowledged(home: Home) -> None:
    api, log = served(home)
    shown = EVENT | {"action": "view", "request_id": 12, "position": 3, "event_id": "e1"}
    item = samples.CATALOGUE.ids[0].item()
    events = [EVENT | {"item_id": item, "query": "Red SHOE"}, shown | {"item_id": str(item)}]
    send(api, "/v1/events", {"events": events})
    first, second = events_of(home)
    assert first.keys() == second.keys() == EVENT_FIELDS.keys()
    assert (first["query"], first["request_id"], first["position"]) == ("red shoe", None, None)
    assert (second["request_id"], second["position"], second["event_id"]) == ("12", 3, "e1")
    assert first["item_id"] == second["item_id"] == str(item)
    log.close()


def test_a_refused_event_is_not_written(home: Home) -> None:
    api, log = served(home)
    body = orjson.dumps({"events": [EVENT | {"position": 0}]})
    refused = asyncio.run(call(api, "/v1/events", whole(body)))
    assert refused.status_code == 400
    assert orjson.loads(refused.body)["field"] == "events[0].position"
    log.close()
    assert not events_of(home)


@given(
    st.sampled_from([{}, {"event_id": "e"}, {"request_id": "r"}, {"request_id": 3}]),
    st.sampled_from(SCHEMA.actions),
    st.integers(-(2**53), 2**53),
)
def test_the_id_of_an_event_is_that_of_its_history(
    given_ids: dict[str, Any], action: str, item: int
) -> None:
    body = orjson.dumps({"events": [EVENT | given_ids | {"action": action, "item_id": item}]})
    events = parse_events(body, WALL, NOW)
    assert [given_event_id(line["event_id"]) for line in lines_of(body, events)] == [
        event.event_id for event in events
    ]


@pytest.fixture
def full_disk(home: Home) -> Iterator[None]:
    home.served.parent.mkdir(parents=True)
    home.served.write_text("a file where the folder should be")
    yield
    home.served.unlink()


def test_what_cannot_be_written_is_counted_and_said(home: Home, full_disk: None) -> None:
    api, log = served(home)
    send(api, "/v1/prerank", {"user_id": "u", "query": "q", "candidates": ITEMS[:1]})
    send(api, "/v1/events", {"events": [EVENT | {"action": "view"}]})
    log.flush()
    assert log.lost == {"answers": 1, "events": 1}
    health = orjson.loads(asyncio.run(call(api, "/health")).body)
    assert any("served log" in note for note in health["notes"])
    home.served.unlink()
    send(api, "/v1/events", {"events": [EVENT | {"action": "view"}]})
    assert log.problem == ""
    shutil.rmtree(home.served)
    home.served.write_text("")


def test_answers_beyond_the_memory_for_them_are_lost_and_counted(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served_log, "HELD_BYTES", 20_000)
    api, log = served(home)
    for _ in range(9):
        send(api, "/v1/prerank", {"user_id": "u", "query": "q", "candidates": ITEMS[:1]})
    log.close()
    assert len(requests_of(home)) + log.lost["answers"] == 9
    assert log.lost["answers"] > 0


def test_old_days_are_removed(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    for parent in (requests_folder(home), events_folder(home)):
        for day in ("day=2001-02-03", "day=2999-01-01"):
            (parent / day).mkdir(parents=True)
    monkeypatch.setattr(served_log, "EVERY_S", 0.01)
    log = ServedLog(home, LogConfig(1.0, 1, 30.0))
    log.start()
    deadline = time.monotonic() + 20
    while list(home.served.glob("*/day=2001-02-03")):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    log.close()
    assert len(list(home.served.glob("*/day=2999-01-01"))) == 2


def test_inputs_come_back_as_they_were() -> None:
    inputs = as_inputs([Request()])
    again = FeatureInputs.restored(load(packed(inputs)))
    for name, array in vars(inputs).items():
        assert np.array_equal(array, getattr(again, name)), name


def test_a_deployment_without_a_share_writes_nothing(home: Home) -> None:
    assert served_log.served_log_of(ServeConfig(home=str(home.root))) is None
    api = api_of(SmallEngine(SAMPLE, sample_scorer()))
    send(api, "/v1/prerank", {"user_id": "u", "query": "q", "candidates": ITEMS[:1]})
    assert not home.served.exists()


def test_a_replica_that_ends_writes_its_last_answers_down(home: Home) -> None:
    api, log = served(home)
    send(api, "/v1/prerank", {"user_id": "u", "query": "q", "candidates": ITEMS[:1]})
    # mypy does not see what a class decorator makes of a class.
    deployment: Any = PreRanker
    replica = deployment.func_or_class.__new__(deployment.func_or_class)
    replica.log = log
    # As Serve ends it.
    replica.__del__()
    assert len(requests_of(home)) == 1
