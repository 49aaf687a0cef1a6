"""What both kinds of client have in common: an address, a token, and how long and how often to try.

A client drives the generators of ``prerank.client.calls``: it waits and sends, and tells them what
became of it.
"""

from __future__ import annotations

import os
import ssl
from functools import cache
from typing import Any, Generic, TypeVar

import httpx

from prerank.client.exchange import Attempt, Lost, Reply, Tries
from prerank.core.environment import SERVE_PORT, URL_ENV, bearer_token
from prerank.core.errors import ConfigError
from prerank.core.redact import HIDDEN, redact

H = TypeVar("H", httpx.Client, httpx.AsyncClient)
TIMEOUT_S = 10.0
RETRIES = 3
CONNECT_S = 2.0
"""A connection that takes longer is lost, and another one is tried."""
_NO_CONNECTION = (
    httpx.ConnectTimeout,
    httpx.NetworkError,
    httpx.RemoteProtocolError,
    httpx.ProxyError,
)


class Caller(Generic[H]):
    """What both clients have: an address, a token, and how long and how often to try."""

    _http: H

    def __init__(self, url: str | None, token: str | None, timeout: float, retries: int) -> None:
        self._url = _checked_url(url)
        self._token = bearer_token(token)
        self._timeout, self._retries = timeout, retries
        self._tries(None)  # refuses numbers that make no sense, before any call

    def __repr__(self) -> str:
        return f"{type(self).__name__}({redact(self._url)!r})"

    @property
    def _headers(self) -> dict[str, str]:
        return {} if self._token is None else {"Authorization": f"Bearer {self._token}"}

    def _tries(self, timeout: float | None) -> Tries:
        return Tries(self._timeout if timeout is None else timeout, self._retries)

    def _request(self, attempt: Attempt) -> dict[str, Any]:
        """Arguments of httpx for a call."""
        call = attempt.call
        headers = {"Content-Type": call.kind} if call.kind else {}
        return {
            "method": call.method,
            "url": call.path,
            "content": call.content or None,
            "headers": headers,
        }

    def _reply(self, response: httpx.Response, body: bytes) -> Reply:
        # What repeats a request, such as an echo or a proxy's page, must not show its token.
        if self._token is not None:
            body = body.replace(self._token.encode(), HIDDEN.encode())
        return Reply(response.status_code, response.headers, body)

    def _lost(self, error: httpx.HTTPError) -> Lost:
        """Why there is no answer. The error itself goes no further: its request has the token."""
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        if isinstance(error, _NO_CONNECTION):
            return Lost("connection", f"no answer from {redact(self._url)} ({what})")
        if isinstance(error, httpx.TimeoutException):
            return Lost("deadline", "")
        return Lost("unreadable", f"{redact(self._url)} cannot be called ({what})")


@cache
def certificates() -> ssl.SSLContext:
    """Those that are trusted, read once: that takes as long as a hundred calls."""
    return httpx.create_ssl_context()


def _checked_url(given: str | None) -> str:
    url = given or os.environ.get(URL_ENV) or f"http://127.0.0.1:{SERVE_PORT}"
    source = "`url`" if given else URL_ENV
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise ConfigError(f"{source} is no URL: {error}.") from None
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise ConfigError(
            f"{source} is {redact(url)!r}: give a URL such as http://127.0.0.1:{SERVE_PORT}."
        )
    return url
