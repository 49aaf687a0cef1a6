"""What Ray Serve itself answers is a problem like every other refusal, and comes soon."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
import pytest
from ray.serve._private.http_util import convert_object_to_asgi_messages
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from prerank.serving.problems import PROBLEM
from prerank.serving.proxy import LOST, NO_REPLICA, PATIENCE_S, ServeRefusals, middlewares

SCOPE = {"type": "http", "method": "POST", "path": "/", "headers": [(b"x-request-id", b"r7")]}
SOON_S = 0.05


def app_of(*messages: Message, after: Callable[[Receive], Awaitable[Any]] | None = None) -> ASGIApp:
    """Sends messages, once ``after`` has ended."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        if after is not None:
            await after(receive)
        for message in messages:
            await send(message)

    return app


def asked(app: ASGIApp, *body: Message, **how: float) -> list[Message]:
    """What is sent of the answer to a request whose body comes in parts, then stays open."""
    sent: list[Message] = []
    parts = iter(body or [{"type": "http.request", "body": b"", "more_body": False}])

    async def receive() -> Message:
        part = next(parts, None)
        if part is None:
            await asyncio.Event().wait()
            raise AssertionError
        return part

    async def send(message: Message) -> None:
        sent.append(message)

    asyncio.run(ServeRefusals(app, **how)(SCOPE, receive, send))
    return sent


def problem_of(sent: list[Message]) -> tuple[dict[str, str], dict[str, Any]]:
    """Headers and content of an answer that is a problem."""
    start, body = sent
    headers = {k.decode(): v.decode() for k, v in start["headers"]}
    found = orjson.loads(body["body"])
    assert headers["content-type"] == PROBLEM
    assert int(headers["content-length"]) == len(body["body"])
    assert found["status"] == start["status"]
    return headers, found


async def never(_: Receive) -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize(
    ("status", "extra"), [(503, [(b"retry-after", b"4")]), (503, []), (408, []), (404, [])]
)
def test_a_refusal_of_serve_is_a_problem(status: int, extra: list[tuple[bytes, bytes]]) -> None:
    messages = convert_object_to_asgi_messages("too many", status, extra)
    headers, found = problem_of(asked(app_of(*messages)))
    assert found["detail"] == "too many"
    assert found["request_id"] == "r7"
    given = dict(extra).get(b"retry-after", b"1").decode()
    assert headers.get("retry-after") == (given if status == 503 else None)


def test_answers_of_the_application_stay_as_they_are() -> None:
    start = {
        "type": "http.response.start",
        "status": 503,
        "headers": [(b"content-type", PROBLEM.encode())],
    }
    body = {"type": "http.response.body", "body": b"{}"}
    assert asked(app_of(start, body)) == [start, body]
    plain = convert_object_to_asgi_messages("well", 200)
    assert asked(app_of(*plain), patience_s=SOON_S) == plain


def test_a_request_that_no_replica_takes_is_refused_with_the_time_to_come_again() -> None:
    headers, found = problem_of(asked(app_of(after=never), patience_s=SOON_S))
    assert (found["status"], found["detail"]) == (503, NO_REPLICA)
    assert headers["retry-after"] == "1"


def test_an_application_that_ends_without_a_word_when_it_is_cancelled_is_refused_too() -> None:
    async def swallows(receive: Receive) -> None:
        with pytest.raises(asyncio.CancelledError):
            await never(receive)

    _, found = problem_of(asked(app_of(after=swallows), patience_s=SOON_S))
    assert found["detail"] == NO_REPLICA


def test_a_replica_that_dies_with_a_request_is_told_of() -> None:
    _, found = problem_of(asked(app_of(), patience_s=60.0))
    assert (found["status"], found["detail"]) == (503, LOST)


def test_the_time_in_which_a_body_arrives_does_not_count() -> None:
    first = {"type": "http.request", "body": b"{", "more_body": True}
    answer = convert_object_to_asgi_messages("well", 200)

    async def slow(_: Receive) -> None:
        await asyncio.sleep(3 * SOON_S)

    assert asked(app_of(*answer, after=slow), first, patience_s=SOON_S) == answer


def test_an_answer_that_has_begun_may_take_its_time() -> None:
    start, body = convert_object_to_asgi_messages("well", 200)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send(start)
        await asyncio.sleep(3 * SOON_S)
        await send(body)

    assert asked(app, patience_s=SOON_S) == [start, body]


def test_whoever_is_no_replica_has_a_proxy_s_patience() -> None:
    (found,) = middlewares()
    assert found.kwargs == {"patience_s": PATIENCE_S}
