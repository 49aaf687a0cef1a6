"""The routes of a replica: what is admitted, how much of it at once, and what never waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from starlette.requests import Request
from starlette.responses import Response
from tests.api_bodies import NOW, WALL
from tests.http_calls import (
    LOCAL,
    Held,
    NoEngine,
    api_of,
    call,
    client_of,
    endless,
    token_file,
    until,
    whole,
)

from prerank.serving.lane import MAX_BODY, MAX_HELD
from prerank.serving.problems import PROBLEM

RANKING = orjson.dumps({"user_id": "u", "query": "red", "candidates": [3, 1], "k": 1})
EVENT = {"user_id": "u", "item_id": 1, "action": "click", "event_time": NOW}
EVENTS = orjson.dumps({"events": [EVENT]})
BODIES = {"/v1/prerank": RANKING, "/v1/events": EVENTS}
ROUTE = pytest.mark.parametrize("path", BODIES)
MIB = bytes(1 << 20)


def problem_of(response: Response) -> dict[str, Any]:
    assert response.media_type == PROBLEM
    told: dict[str, Any] = orjson.loads(response.body)
    assert told["status"] == response.status_code
    return told


def test_routes_answer() -> None:
    with client_of(api_of(NoEngine(WALL))) as client:
        json = {"Content-Type": "application/json"}
        answer = client.post("/v1/prerank", content=RANKING, headers=json)
        assert (answer.status_code, answer.json()) == (200, {"items": [{"id": 3}]})
        raw = client.post(
            "/v1/prerank",
            params={"user_id": "u", "query": "red"},
            content=(7).to_bytes(8, "little"),
            headers={"Content-Type": "application/octet-stream"},
        )
        assert raw.json() == {"items": [{"id": 7}]}
        events = client.post("/v1/events", content=EVENTS, headers=json)
        assert events.json() == {"accepted": 1, "passive": 0, "online": True}
        assert client.get("/ready").json() == {"ready": True}
        assert client.get("/health").json()["waiting"] == {"scoring": 0, "events": 0}
        assert client.get("/v2").status_code == 404
        assert client.get("/v1/prerank").status_code == 405
        bad = client.post("/v1/prerank", content=b"{", headers=json)
        assert (bad.status_code, bad.json()["field"]) == (400, "body")


@ROUTE
def test_a_form_of_a_web_page_is_no_request(path: str) -> None:
    headers = LOCAL | {"Content-Type": "text/plain"}
    answer = asyncio.run(call(api_of(NoEngine(WALL)), path, whole(BODIES[path]), headers))
    assert answer.status_code == 415
    assert "application/json" in problem_of(answer)["detail"]


def test_events_are_json_only() -> None:
    headers = LOCAL | {"Content-Type": "application/octet-stream"}
    answer = asyncio.run(call(api_of(NoEngine(WALL)), "/v1/events", whole(EVENTS), headers))
    assert answer.status_code == 415


def test_a_token_opens_everything_and_readiness_is_open(tmp_path: Path) -> None:
    api = api_of(NoEngine(WALL), token_file=token_file(tmp_path, "s3cret-s3cret\n"))

    async def statuses(headers: dict[str, str]) -> list[int]:
        calls = [call(api, path, whole(body), headers) for path, body in BODIES.items()]
        calls += [call(api, path, None, headers) for path in ("/health", "/ready", "/v2")]
        return [answer.status_code for answer in await asyncio.gather(*calls)]

    assert asyncio.run(statuses(LOCAL)) == [401, 401, 401, 200, 401]
    token = {"Authorization": "Bearer s3cret-s3cret"}
    assert asyncio.run(statuses(LOCAL | token)) == [200, 200, 200, 200, 404]
    refused = asyncio.run(call(api, "/health"))
    assert refused.headers["WWW-Authenticate"] == "Bearer"


def test_another_host_or_page_is_refused_before_the_body_is_read() -> None:
    api = api_of(NoEngine(WALL))
    for change, status in (({"Host": "evil.example"}, 421), ({"Origin": "http://e.example"}, 403)):
        # A body that never ends would hang if anybody asked for it.
        answer = asyncio.run(call(api, "/v1/events", endless(b""), LOCAL | change))
        assert answer.status_code == status
    probe = asyncio.run(call(api, "/ready", None, {"Host": "10.0.0.5:8000"}))
    assert probe.status_code == 200


@ROUTE
def test_a_body_without_a_length_is_read_up_to_the_limit_only(path: str) -> None:
    read = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal read
        for _ in range(96):
            read += len(MIB)
            yield MIB

    answer = asyncio.run(call(api_of(NoEngine(WALL)), path, flood()))
    assert answer.status_code == 413
    assert answer.headers["Connection"] == "close"
    assert problem_of(answer)["field"] == "body"
    assert read <= MAX_BODY + len(MIB)


@ROUTE
def test_a_body_that_declares_too_much_is_not_read(path: str) -> None:
    headers = LOCAL | {"Content-Length": str(MAX_BODY + 1)}
    answer = asyncio.run(call(api_of(NoEngine(WALL)), path, endless(b"{"), headers))
    assert answer.status_code == 413


@ROUTE
def test_a_body_that_does_not_arrive_is_given_up(path: str) -> None:
    answer = asyncio.run(call(api_of(NoEngine(WALL), body_seconds=0.05), path, endless(b"{")))
    assert answer.status_code == 408
    assert "body_seconds" in problem_of(answer)["detail"]
    assert answer.headers["Connection"] == "close"


@ROUTE
def test_slow_uploads_cost_places_and_nothing_else(path: str) -> None:
    async def main() -> None:
        api = api_of(NoEngine(WALL), max_waiting=6, body_seconds=600.0)
        slow = [asyncio.create_task(call(api, path, endless(b"{"))) for _ in range(5)]
        name = "scoring" if path == "/v1/prerank" else "events"
        for task in slow:
            await asyncio.sleep(0)
            assert not task.done()
        assert orjson.loads((await call(api, "/health")).body)["waiting"][name] == 5
        assert (await call(api, "/ready")).status_code == 200
        for route, body in BODIES.items():
            assert (await call(api, route, whole(body))).status_code == 200
        slow.append(asyncio.create_task(call(api, path, endless(b"{"))))
        await asyncio.sleep(0)
        full = await call(api, path, whole(BODIES[path]))
        assert (full.status_code, full.headers["Retry-After"]) == (503, "1")
        assert "6 requests wait" in problem_of(full)["detail"]
        for task in slow:
            task.cancel()
        await asyncio.wait(slow)
        assert (await call(api, path, whole(BODIES[path]))).status_code == 200

    asyncio.run(main())


def test_scoring_is_one_at_a_time_and_health_does_not_wait_for_it() -> None:
    async def main() -> None:
        engine = Held(WALL)
        api = api_of(engine, max_waiting=4, timeout_ms=60_000.0)
        asked = [asyncio.create_task(call(api, "/v1/prerank", whole(RANKING))) for _ in range(4)]
        await until(engine.begun.is_set)
        assert (await call(api, "/health")).status_code == 200
        assert (await call(api, "/ready")).status_code == 200
        assert (await call(api, "/v1/events", whole(EVENTS))).status_code == 200
        assert (await call(api, "/v1/prerank", whole(RANKING))).status_code == 503
        engine.let.set()
        assert [a.status_code for a in await asyncio.gather(*asked)] == [200] * 4
        assert engine.most == 1

    asyncio.run(main())


def test_the_time_that_a_request_waits_to_be_scored_is_of_its_budget() -> None:
    async def main() -> None:
        engine = Held(WALL)
        api = api_of(engine)
        asked = [asyncio.create_task(call(api, "/v1/prerank", whole(RANKING))) for _ in range(2)]
        await until(engine.begun.is_set)
        await asyncio.sleep(0.05)
        engine.let.set()
        await asyncio.gather(*asked)
        assert engine.waited[1] >= 0.04

    asyncio.run(main())


def test_a_caller_that_leaves_gives_its_place_back_and_is_not_scored() -> None:
    async def main() -> None:
        engine = Held(WALL)
        api = api_of(engine, max_waiting=2)
        first, second = (
            asyncio.create_task(call(api, "/v1/prerank", whole(RANKING))) for _ in range(2)
        )
        await until(engine.begun.is_set)
        second.cancel()
        await asyncio.wait([second])
        third = asyncio.create_task(call(api, "/v1/prerank", whole(RANKING)))
        await asyncio.sleep(0)
        engine.let.set()
        assert [(await task).status_code for task in (first, third)] == [200, 200]
        assert engine.scored == 2

    asyncio.run(main())


def test_the_bodies_of_one_lane_have_a_limit_together() -> None:
    async def large() -> AsyncIterator[bytes]:
        for _ in range(MAX_BODY // len(MIB)):
            yield MIB
        await asyncio.Event().wait()

    async def main() -> None:
        api = api_of(NoEngine(WALL), body_seconds=600.0)
        held = [
            asyncio.create_task(call(api, "/v1/events", large()))
            for _ in range(MAX_HELD // MAX_BODY)
        ]
        await asyncio.sleep(0)
        refused = await call(api, "/v1/events", whole(EVENTS))
        assert refused.status_code == 503
        assert "memory" in problem_of(refused)["detail"]
        assert (await call(api, "/v1/prerank", whole(RANKING))).status_code == 200
        for task in held:
            task.cancel()
        await asyncio.wait(held)
        assert (await call(api, "/v1/events", whole(EVENTS))).status_code == 200

    asyncio.run(main())


def test_a_connection_that_ends_is_no_internal_error(caplog: pytest.LogCaptureFixture) -> None:
    async def receive() -> dict[str, Any]:
        return {"type": "http.disconnect"}

    headers = [(k.lower().encode(), v.encode()) for k, v in LOCAL.items()]
    scope = {"type": "http", "method": "POST", "path": "/v1/events", "headers": headers}
    answer = asyncio.run(api_of(NoEngine(WALL)).answer(Request(scope, receive)))
    assert answer.status_code == 400
    assert not caplog.records
