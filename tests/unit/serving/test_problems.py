"""Every refusal is a problem (RFC 9457) that names the field and the remedy."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import orjson
import pytest
from starlette.responses import Response
from tests.api_bodies import WALL
from tests.http_calls import LOCAL, NoEngine, api_of, call, endless, whole

from prerank.core.errors import NotReadyError
from prerank.core.tokens import TOKEN_ENV
from prerank.serving.answer import Answer
from prerank.serving.api import PrerankRequest, RequestError
from prerank.serving.lane import MAX_BODY
from prerank.serving.problems import MEANINGS, PROBLEM, REASONS, problem, refusal_of

MEMBERS = ["type", "title", "status", "detail", "field", "request_id"]
RANKING = orjson.dumps({"user_id": "u", "query": "red", "candidates": [3]})


class Fails(NoEngine):
    """Cannot answer, for the reason given; nor is it ready."""

    def __init__(self, error: Exception) -> None:
        super().__init__(WALL)
        self.error = error

    def answer(self, request: PrerankRequest) -> Answer:
        raise self.error

    def ready(self) -> tuple[bool, str]:
        return False, str(self.error)


def told(response: Response) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(response.body)
    assert response.headers["Content-Type"] == PROBLEM
    assert list(body) == MEMBERS
    assert body["type"] == "about:blank"
    assert (body["status"], body["title"]) == (
        response.status_code,
        HTTPStatus(response.status_code).phrase,
    )
    assert body["detail"]
    return body


@pytest.mark.parametrize(
    ("path", "method", "body", "headers", "status", "field"),
    [
        ("/v1/prerank", "POST", b"{", {}, 400, "body"),
        ("/v1/events", "POST", b"{}", {}, 400, "events"),
        ("/v1/events", "POST", b"{}", {"Origin": "http://e.example"}, 403, "Origin"),
        ("/v2", "GET", b"", {}, 404, "path"),
        ("/", "GET", b"", {}, 404, "path"),
        ("/v1/prerank", "GET", b"", {}, 405, "method"),
        ("/health", "OPTIONS", b"", {}, 405, "method"),
        ("/v1/prerank", "POST", b"", {"Content-Length": str(MAX_BODY + 1)}, 413, "body"),
        ("/v1/prerank", "POST", b"", {"Content-Type": "text/plain"}, 415, "Content-Type"),
        ("/health", "GET", b"", {"Host": "evil.example"}, 421, "Host"),
    ],
)
def test_what_is_wrong_with_a_request_is_a_problem(
    path: str, method: str, body: bytes, headers: Mapping[str, str], status: int, field: str
) -> None:
    api = api_of(NoEngine(WALL))
    answer = asyncio.run(call(api, path, whole(body), LOCAL | dict(headers), method))
    found = told(answer)
    assert (found["status"], found["field"]) == (status, field)


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (NotReadyError("Promote one."), 503, "Promote one."),
        (ValueError("row 7 of table secret"), 500, "the replica's log has the cause"),
        (RequestError("k", "0 is no positive integer"), 400, "0 is no positive integer"),
    ],
)
def test_what_fails_inside_is_a_problem(error: Exception, status: int, says: str) -> None:
    answer = asyncio.run(call(api_of(Fails(error)), "/v1/prerank", whole(RANKING)))
    found = told(answer)
    assert found["status"] == status
    assert says in found["detail"]
    assert "secret" not in found["detail"]


def test_a_replica_that_is_not_ready_and_a_token_that_is_missing_are_problems(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(TOKEN_ENV, "s3cret-s3cret")
    api = api_of(Fails(NotReadyError("Promote one.")), body_seconds=0.05)
    ready = asyncio.run(call(api, "/ready"))
    made = ready.headers["X-Request-Id"]
    assert told(ready) == problem(503, "model", "Promote one.", made)
    assert ready.headers["Retry-After"] == "1"
    refused = asyncio.run(call(api, "/health"))
    assert told(refused)["status"] == 401
    assert refused.headers["WWW-Authenticate"] == "Bearer"
    token = {"Authorization": "Bearer s3cret-s3cret"}
    late = asyncio.run(call(api, "/v1/events", endless(b"{"), LOCAL | token))
    assert told(late)["status"] == 408


def test_a_wrong_method_is_told_the_right_one() -> None:
    answer = asyncio.run(call(api_of(NoEngine(WALL)), "/v1/events", None, method="DELETE"))
    assert told(answer)["status"] == 405
    assert answer.headers["Allow"] == "POST"


def test_a_path_is_repeated_in_part_only() -> None:
    answer = asyncio.run(call(api_of(NoEngine(WALL)), "/" + "x" * 100_000))
    assert told(answer)["status"] == 404
    assert len(answer.body) < 1_000


def test_every_status_that_a_request_can_cause_has_a_reason() -> None:
    assert REASONS.keys() == MEANINGS.keys() - {500, 503}
    assert len(set(REASONS.values())) == len(REASONS)


def test_every_status_has_a_meaning() -> None:
    for status in MEANINGS:
        assert told(refusal_of(RequestError("field", "why", status)))["status"] == status
