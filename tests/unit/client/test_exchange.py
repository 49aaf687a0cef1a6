"""When a call is tried again, and when not: on a clock of the test's own, nothing is sent."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest

from prerank.client.errors import (
    ClientError,
    DeadlineError,
    RefusedError,
    ServerError,
    UnavailableError,
)
from prerank.client.exchange import (
    BASE_S,
    LONGEST_S,
    Attempt,
    Call,
    Lost,
    Reply,
    Steps,
    Tries,
    exchange,
    retry_after,
)
from prerank.core.errors import ConfigError

CALL = Call("GET", "/health")
NO_CONNECTION = Lost("connection", "nobody there")
DONE = Reply(200, {}, b"{}")
BUSY = Reply(503, {}, b'{"detail": "busy", "field": "service"}')


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def steps(
    clock: Clock, timeout: float = 10.0, retries: int = 3, share: float = 1.0
) -> Steps[Reply]:
    return exchange(lambda _: CALL, Tries(timeout, retries, clock, lambda: share), "r1")


def failed(reply: Reply | Lost, of: Steps[Reply]) -> ClientError:
    next(of)
    with pytest.raises(ClientError) as caught:
        of.send(reply)
    return caught.value


def result(reply: Reply, of: Steps[Reply]) -> Reply:
    with pytest.raises(StopIteration) as end:
        of.send(reply)
    found: Reply = end.value.value
    return found


def test_an_answer_ends_the_call() -> None:
    of = steps(Clock())
    assert next(of) == Attempt(CALL, 0.0, 10.0)
    assert result(DONE, of) is DONE


@pytest.mark.parametrize("reply", [NO_CONNECTION, BUSY, Reply(502, {}, b""), Reply(504, {}, b"")])
def test_waits_double_up_to_a_bound_and_the_last_failure_is_told(reply: Reply | Lost) -> None:
    of = steps(Clock(), timeout=100.0, retries=7)
    next(of)
    waits = [of.send(reply).delay for _ in range(7)]
    assert waits == pytest.approx([min(LONGEST_S, BASE_S * 2**n) for n in range(7)])
    with pytest.raises(UnavailableError) as caught:
        of.send(reply)
    assert caught.value.exit_code == 5
    assert caught.value.problem.request_id == "r1"


def test_waits_are_a_random_share_of_the_bound() -> None:
    of = steps(Clock(), share=0.25)
    next(of)
    assert of.send(BUSY).delay == pytest.approx(0.25 * BASE_S)


def test_a_wait_that_is_asked_for_is_kept() -> None:
    of = steps(Clock())
    next(of)
    attempt = of.send(Reply(503, {"retry-after": "3"}, b""))
    assert (attempt.delay, attempt.seconds) == (3.0, 7.0)


def test_a_wait_that_would_outlast_the_time_is_not_begun() -> None:
    error = failed(Reply(503, {"retry-after": "10"}, b'{"detail": "loading"}'), steps(Clock()))
    assert isinstance(error, UnavailableError)
    assert error.problem.detail == "loading"


def test_each_try_has_what_is_left() -> None:
    clock = Clock()
    of = steps(clock)
    next(of)
    clock.now += 4
    assert of.send(Lost("connection", "")).seconds == pytest.approx(6 - BASE_S)
    clock.now += 5.95
    with pytest.raises(UnavailableError):
        of.send(Lost("connection", ""))


def test_no_try_begins_when_the_time_is_over() -> None:
    clock = Clock()
    of = steps(clock)
    clock.now += 10
    with pytest.raises(DeadlineError, match="within 10 s"):
        next(of)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 408, 413, 421, 429])
def test_what_is_refused_is_not_sent_again(status: int) -> None:
    body = b'{"title": "?", "status": 400, "detail": "0 is no positive integer", "field": "k"}'
    error = failed(Reply(status, {"retry-after": "0"}, body), steps(Clock()))
    assert isinstance(error, RefusedError)
    assert (error.problem.status, error.problem.field) == (status, "k")
    assert str(error).startswith("k: 0 is no positive integer (4")
    assert "request r1" in str(error)


@pytest.mark.parametrize(
    "reply", [Reply(500, {}, b""), Reply(301, {}, b""), Lost("unreadable", "no HTTP")]
)
def test_what_no_deployment_answers_is_not_asked_again(reply: Reply | Lost) -> None:
    assert isinstance(failed(reply, steps(Clock())), ServerError)


def test_a_time_that_is_over_is_told_as_such() -> None:
    assert isinstance(failed(Lost("deadline", ""), steps(Clock())), DeadlineError)


@pytest.mark.parametrize("body", [b"<html>no</html>", b"", b"[]", b'{"field": 1}', b"\xff"])
def test_a_refusal_of_a_proxy_is_told_in_its_words(body: bytes) -> None:
    error = failed(Reply(413, {}, body), steps(Clock()))
    assert error.problem.title.startswith(("Request Entity", "Content Too"))
    assert error.problem.detail


def test_both_forms_of_retry_after_are_read() -> None:
    assert retry_after({}) == 0.0
    assert retry_after({"retry-after": " 7 "}) == 7.0
    later = formatdate(time.time() + 100, usegmt=True)
    assert 90 < retry_after({"retry-after": later}) <= 100
    for text in (formatdate(0, usegmt=True), "-1", "soon", "nan", "inf", "1e9"):
        assert retry_after({"retry-after": text}) == 0.0


@pytest.mark.parametrize(("timeout", "retries"), [(0, 1), (-1, 1), (float("nan"), 1), (1, -1)])
def test_numbers_without_a_meaning_are_refused(timeout: float, retries: int) -> None:
    with pytest.raises(ConfigError, match=r"timeout|retries"):
        Tries(timeout, retries)
