"""What becomes of a client's calls when a deployment fails, and what its errors show."""

from __future__ import annotations

import pickle
import re
import socket
import time
import traceback
from collections.abc import Callable
from typing import Any

import httpx
import orjson
import pytest
from tests.http_servers import BUSY, HANG, RANKED, TRICKLE, FaultyServer, answered

from prerank import (
    Client,
    ClientError,
    QueryRequest,
    RankRequest,
    RerankRequest,
)
from prerank.client.errors import (
    DeadlineError,
    DegradedError,
    Problem,
    RefusedError,
    ServerError,
    UnavailableError,
)

Ask = Callable[..., Any]
TOKEN = "s3cret-s3cret"
RANK = RankRequest(user_id="ann", query="red shoe", candidates=[3, 1])


@pytest.mark.parametrize("reply", [None, BUSY, answered(502), answered(504, b"<html>")])
def test_a_call_that_fails_for_now_is_made_again(ask: Ask, reply: bytes | None) -> None:
    with FaultyServer(reply, reply, answered(200, RANKED)) as server:
        assert ask(server.url, "rank", RANK).ids.tolist() == [3]
    assert len(server.requests) == 3
    assert len(set(server.requests)) == 1


def test_a_call_that_never_succeeds_ends_with_the_last_problem(ask: Ask) -> None:
    with FaultyServer(BUSY) as server, pytest.raises(UnavailableError) as caught:
        ask(server.url, "rank", RANK, options={"retries": 2})
    assert len(server.requests) == 3
    problem = caught.value.problem
    assert (problem.status, problem.detail, problem.field) == (503, "busy", "service")
    assert problem.request_id == RANK.request_id


def test_nobody_at_the_address(ask: Ask) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(UnavailableError, match=re.escape(url)) as caught:
            ask(url, "health", options={"retries": 1})
    assert (caught.value.problem.status, caught.value.exit_code) == (None, 5)


@pytest.mark.parametrize("reply", [HANG, TRICKLE])
def test_a_server_that_does_not_end_its_answer_is_given_up_in_time(ask: Ask, reply: str) -> None:
    with FaultyServer(reply) as server:
        began = time.monotonic()
        with pytest.raises(DeadlineError, match=r"within 0\.2 s"):
            ask(server.url, "rank", RANK, timeout=0.2)
        assert time.monotonic() - began < 5
    assert len(server.requests) == 1


def test_each_phase_of_a_request_has_what_the_others_left() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        limits, begin = request.extensions["timeout"], request.extensions["trace"]
        assert 0 < limits["connect"] <= 2
        before = dict(limits)
        time.sleep(0.01)
        begin("http11.receive_response_headers.started", {})
        assert 0 < limits["read"] < before["read"] <= 5
        assert limits["write"] < before["write"]
        return httpx.Response(200, content=RANKED)

    with Client(transport=httpx.MockTransport(answer), timeout=5.0) as client:
        assert client.rank(RANK).ids.tolist() == [3]


def test_a_deployment_that_asks_for_more_time_than_there_is_is_not_waited_for(ask: Ask) -> None:
    with FaultyServer(answered(503, b"{}", Retry_After="3600")) as server:
        began = time.monotonic()
        with pytest.raises(UnavailableError):
            ask(server.url, "rank", RANK, timeout=60.0)
        assert time.monotonic() - began < 30
    assert len(server.requests) == 1


@pytest.mark.parametrize("candidates", [[3, 1], ["3", "1"]])
def test_what_is_left_of_the_time_is_told_where_it_is_asked_for(
    ask: Ask, candidates: list[Any]
) -> None:
    def told(head: bytes, body: bytes) -> float:
        text = re.search(rb'timeout_ms(?:=|":)([\d.]+)', head + body)
        assert text
        return float(text[1])

    request = RankRequest(
        user_id="ann", query="red", candidates=candidates, timeout_ms=float("inf")
    )
    with FaultyServer(BUSY, answered(200, RANKED)) as server:
        ask(server.url, "rank", request, timeout=30.0)
    first, second = (told(*sent) for sent in server.requests)
    assert 0 < second < first <= 30_000
    less = RankRequest(user_id="ann", query="red", candidates=candidates, timeout_ms=20.0)
    with FaultyServer(answered(200, RANKED)) as server:
        ask(server.url, "rank", less)
        ask(server.url, "rank", RANK)
    assert told(*server.requests[0]) == 20
    assert b"timeout_ms" not in b"".join(server.requests[1])


@pytest.mark.parametrize("method", ["rank", "rank_many", "rerank", "query", "item", "health"])
@pytest.mark.parametrize("body", [b"<html>", b"[]", b"{}", b'{"items": 3}', b"null"])
def test_another_service_at_the_address_is_recognised(method: str, body: bytes) -> None:
    asked: dict[str, Any] = {
        "rank": RANK,
        "rank_many": [RANK],
        "rerank": RerankRequest(query="q", documents=["1"]),
        "query": QueryRequest(user_id="u", query="q"),
        "item": 5,
    }
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=body))
    with Client(transport=transport) as client:
        call = getattr(client, method)
        with pytest.raises(ServerError, match="no answer of a pre-ranking deployment"):
            call(asked[method]) if method in asked else call()


@pytest.mark.parametrize("status", [400, 401, 500, 503, 200])
def test_a_token_is_in_no_error(ask: Ask, status: int) -> None:
    echo = orjson.dumps({"detail": f"you sent Bearer {TOKEN}", "field": "Authorization"})
    reply = answered(status, echo, Retry_After="0")
    with FaultyServer(reply) as server, pytest.raises(ClientError) as caught:
        ask(server.url, "rank", RANK, options={"token": TOKEN, "retries": 1})
    assert_hidden(caught.value)
    assert TOKEN.encode() in server.requests[0][0]


@pytest.mark.parametrize("reply", [None, HANG, b"no HTTP at all\r\n\r\n"])
def test_a_token_is_in_no_error_of_a_connection(ask: Ask, reply: bytes | str | None) -> None:
    options = {"token": TOKEN, "retries": 0}
    with FaultyServer(reply) as server, pytest.raises(ClientError) as caught:
        ask(server.url, "rank", RANK, options=options, timeout=0.5)
    assert_hidden(caught.value)


def assert_hidden(error: ClientError) -> None:
    """Neither the error nor what it came from holds the token, or the request that did."""
    assert TOKEN not in "".join(traceback.format_exception(error))
    assert TOKEN not in repr(error)
    assert error.__cause__ is None
    assert error.__context__ is None
    assert not any(isinstance(value, httpx.Request) for value in vars(error).values())


def test_errors_can_be_sent_between_processes() -> None:
    problem = Problem("no", 400, "Bad Request", "k", "r1")
    for error in (RefusedError(problem), DegradedError(problem, ("scores",), [1])):
        found = pickle.loads(pickle.dumps(error))
        assert type(found) is type(error)
        assert found.problem == problem
        assert str(found) == str(error) == "k: no (400 Bad Request, request r1)"
    assert found.degraded == ("scores",)
