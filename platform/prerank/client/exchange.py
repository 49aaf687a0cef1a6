"""Trying a call until it is answered, without doing any of it: sync and async callers share this.

``exchange`` is a generator. It yields one ``Attempt`` after another, is sent what became of each,
and returns the answer. Whoever drives it waits and sends (``prerank.client.client``).

Every call may be tried again: a ranking changes nothing, and an event that is repeated counts once.
"""

from __future__ import annotations

import email.utils
import random
import time
from collections.abc import Callable, Collection, Generator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Literal, TypeVar

import orjson

from prerank.client.errors import (
    ClientError,
    DeadlineError,
    Problem,
    RefusedError,
    ServerError,
    UnavailableError,
)
from prerank.core.errors import ConfigError

T = TypeVar("T")
BASE_S, LONGEST_S = 0.1, 2.0
"""Bound of the wait before the second try, and of all waits."""
NOT_NOW = (502, 503, 504)
"""A proxy's 502 and 504 are connections that failed behind it."""
MAX_TEXT = 300
"""Characters of a body that an error repeats, where it is no problem of a deployment."""


@dataclass(frozen=True)
class Call:
    """One request of HTTP.

    Attributes:
        method, path: the path with its query string, percent-encoded.
        content: the body.
        kind: its media type; empty for a GET.
    """

    method: str
    path: str
    content: bytes = b""
    kind: str = ""


@dataclass(frozen=True)
class Attempt:
    """Wait ``delay`` seconds, then send ``call``, whose answer is worth ``seconds`` from then."""

    call: Call
    delay: float
    seconds: float


@dataclass(frozen=True)
class Reply:
    """What was answered. Names of ``headers`` are looked up in small letters."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class Lost:
    """No answer: the connection failed, the time was over, or it cannot be sent or read."""

    why: Literal["connection", "deadline", "unreadable"]
    detail: str


Steps = Generator[Attempt, Reply | Lost, T]
"""Attempts out, what became of them in, a T at the end."""


class Tries:
    """How much time a call has left, and whether and when it is tried again.

    The wait before a further try is random between 0 and a bound that doubles (full jitter), so
    that callers who failed together do not come back together. A ``Retry-After`` is waited for in
    full. A wait that would not leave any time is not begun: the call ends at once with its error.

    Args:
        timeout: seconds from now for everything, waits included.
        retries: tries after the first, of each request.
        clock: seconds that only grow.
        share: a random number in [0, 1).

    Raises:
        ConfigError: ``timeout`` is not above 0, or ``retries`` below 0.
    """

    def __init__(
        self,
        timeout: float,
        retries: int,
        clock: Callable[[], float] = time.monotonic,
        share: Callable[[], float] = random.random,
    ) -> None:
        if not timeout > 0:
            raise ConfigError(f"`timeout` is {timeout}: give seconds above 0.")
        if retries < 0:
            raise ConfigError(f"`retries` is {retries}: give 0 for a single try, or more.")
        self.timeout, self.retries = timeout, retries
        self._clock, self._share = clock, share
        self._until = clock() + timeout

    def left(self) -> float:
        """Seconds that are left; not above 0 when the time is over."""
        return self._until - self._clock()

    def delay(self, failed: int, error: ClientError, retry_after: float) -> float:
        """Seconds to wait after the ``failed``-th try, 1 for the first.

        Raises:
            ClientError: ``error``, where another try cannot help or there is no time for it.
        """
        if not isinstance(error, UnavailableError) or failed > self.retries:
            raise error
        wait = max(retry_after, self._share() * min(LONGEST_S, BASE_S * 2 ** (failed - 1)))
        if wait >= self.left():
            raise error
        return wait


def exchange(
    call_of: Callable[[float], Call],
    tries: Tries,
    request_id: str | None = None,
    answers: Collection[int] = (HTTPStatus.OK,),
) -> Steps[Reply]:
    """Try a call until its answer has one of the statuses ``answers``.

    Args:
        call_of: makes the call, from the seconds that are left for its answer.
        tries: of the whole operation.
        request_id: for errors.

    Raises:
        RefusedError, UnavailableError, DeadlineError, ServerError: it is not answered so.
    """
    failed, delay = 0, 0.0
    while True:
        seconds = tries.left() - delay
        if seconds <= 0:
            raise DeadlineError(_too_late(tries, request_id))
        reply = yield Attempt(call_of(seconds), delay, seconds)
        if isinstance(reply, Reply) and reply.status in answers:
            return reply
        failed += 1
        if isinstance(reply, Lost):
            delay = tries.delay(failed, _lost(reply, tries, request_id), 0.0)
        else:
            error = error_of(reply, request_id)
            delay = tries.delay(failed, error, retry_after(reply.headers))


def error_of(reply: Reply, request_id: str | None) -> ClientError:
    """What a status other than 200 means."""
    problem = _problem(reply, request_id)
    if reply.status in NOT_NOW:
        return UnavailableError(problem)
    return RefusedError(problem) if 400 <= reply.status < 500 else ServerError(problem)


def retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that ``Retry-After`` asks to wait, in either of its forms; 0 without it."""
    text = headers.get("retry-after", "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return 0.0


def _lost(lost: Lost, tries: Tries, request_id: str | None) -> ClientError:
    if lost.why == "deadline":
        return DeadlineError(_too_late(tries, request_id))
    problem = Problem(lost.detail, request_id=request_id)
    return UnavailableError(problem) if lost.why == "connection" else ServerError(problem)


def _too_late(tries: Tries, request_id: str | None) -> Problem:
    return Problem(
        f"no answer within {tries.timeout:g} s (`timeout`); a ranking and an event may be sent "
        "again",
        request_id=request_id,
    )


def _problem(reply: Reply, request_id: str | None) -> Problem:
    """The problem details of a refusal; those of a proxy before the deployment are its text."""
    try:
        title = HTTPStatus(reply.status).phrase
    except ValueError:
        title = ""
    try:
        told = orjson.loads(reply.body)
        detail, field = str(told["detail"]), str(told.get("field", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        text = " ".join(reply.body.decode(errors="replace").split())
        detail, field = text[:MAX_TEXT] or "the answer says no more", ""
    return Problem(detail, reply.status, title, field, request_id)
