"""What a replica logs while it handles a request: the request, and nothing that is the caller's."""

from __future__ import annotations

import asyncio
import io
import json
import logging
from pathlib import Path
from typing import Any

import orjson
from tests.api_bodies import WALL
from tests.http_calls import LOCAL, NoEngine, api_of, call, client_of, token_file, whole

from prerank.serving.answer import Answer
from prerank.serving.api import PrerankRequest
from prerank.serving.http import HttpApi

RANKING = {"user_id": "the-user", "query": "the-query", "candidates": [1], "request_id": "r7"}
TOKENS = "shop rank r4nk-r4nk\nops admin 4dmin-4dmin"


class Talks(NoEngine):
    """Says in the scoring thread that it scores, or fails there."""

    error: Exception | None = None

    def answer(self, request: PrerankRequest) -> Answer:
        logging.getLogger("prerank.online.reader").warning("the store is slow")
        if self.error is not None:
            raise self.error
        return super().answer(request)


def send(api: HttpApi, path: str, body: Any, token: str = "r4nk-r4nk", **headers: str) -> int:
    given = LOCAL | {"Authorization": f"Bearer {token}"} | headers
    return asyncio.run(call(api, path, whole(orjson.dumps(body)), given)).status_code


def told(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_of_the_scoring_thread_names_the_request_its_route_and_its_token(
    lines: io.StringIO, tmp_path: Path
) -> None:
    api = api_of(Talks(WALL), token_file=token_file(tmp_path, TOKENS))
    assert send(api, "/v1/prerank", RANKING) == 200
    (line,) = told(lines)
    found = {name: line[name] for name in ("request_id", "route", "token", "model_version")}
    assert found == {"request_id": "r7", "route": "prerank", "token": "shop", "model_version": "7"}


def test_an_internal_error_is_logged_under_the_id_that_the_caller_is_told(
    lines: io.StringIO,
) -> None:
    engine = Talks(WALL)
    engine.error = ValueError("a bug")
    body = {name: value for name, value in RANKING.items() if name != "request_id"}
    with client_of(api_of(engine)) as client:
        answer = client.post("/v1/prerank", json=body)
    problem = answer.json()
    assert problem["status"] == 500
    (failed,) = [line for line in told(lines) if line["level"] == "ERROR"]
    assert failed["request_id"] == problem["request_id"] == answer.headers["X-Request-Id"]
    assert "a bug" in failed["error"]


def test_no_line_at_info_holds_a_token_a_query_or_a_user(
    lines: io.StringIO, tmp_path: Path
) -> None:
    api = api_of(NoEngine(WALL), token_file=token_file(tmp_path, TOKENS))
    for body, status in (
        (RANKING, 200),
        (RANKING | {"k": 0}, 400),
        (RANKING | {"the-query": 1}, 400),
        (RANKING | {"weights": {"the-user": 1}}, 400),
        (RANKING | {"query": ["the-query"]}, 400),
    ):
        assert send(api, "/v1/prerank", body) == status
    assert send(api, "/v1/events", {"events": []}) == 403
    assert send(api, "/v1/prerank", RANKING, "wr0ng-wr0ng") == 401
    assert send(api, "/v1/prerank", RANKING, Origin="http://the-user.example") == 403
    assert send(api, "/the-query", RANKING) == 404
    for secret in ("r4nk-r4nk", "4dmin-4dmin", "wr0ng-wr0ng", "the-user", "the-query"):
        assert secret not in lines.getvalue()
    refused = [line for line in told(lines) if line["message"] != "tokens were read again"]
    assert [line["message"] for line in refused] == [
        *["refused: bad_request"] * 4,
        "refused: scope",
        "refused: unknown_token",
        "refused: origin",
        "refused: not_found",
    ]
    assert {line["level"] for line in refused} == {"INFO"}
    assert [line.get("token") for line in refused] == [*["shop"] * 5, None, None, "shop"]
