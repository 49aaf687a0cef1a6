"""``Client`` calls a deployment and waits for each answer."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, TypeVar

import httpx

from prerank.client import calls
from prerank.client.answers import (
    Accepted,
    Health,
    Item,
    Ranking,
    Readiness,
    Reranking,
)
from prerank.client.caller import CONNECT_S, RETRIES, TIMEOUT_S, Caller, certificates
from prerank.client.exchange import Attempt, Lost, Reply, Steps
from prerank.client.query_parts import QueryParts
from prerank.client.requests import Event, QueryRequest, RankRequest, RerankRequest

T = TypeVar("T")


class Client(Caller[httpx.Client]):
    """Calls a deployment and waits for the answer; threads may share one.

    A call that fails for want of a connection or with 503 is made again, within its timeout. What a
    deployment refuses is not. See ``prerank.client.errors`` for what may be raised.

    Args:
        url: of the deployment; PRERANK_URL's, else that of ``deployments/prerank.yaml``.
        token: PRERANK_TOKEN's, if there is one.
        timeout: seconds for a call, further tries and waits included.
        retries: tries after the first, of each request.
        transport: of httpx, for certificates or a proxy of your own; it is closed with the client.

    Raises:
        ConfigError: the address, the token or a number is none.
    """

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT_S,
        retries: int = RETRIES,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        super().__init__(url, token, timeout, retries)
        self._http = httpx.Client(
            base_url=self._url,
            headers=self._headers,
            verify=certificates(),
            transport=transport,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def rank(
        self,
        request: RankRequest,
        *,
        timeout: float | None = None,
        require_features: bool = False,
    ) -> Ranking:
        """The best k of a request's candidates.

        Args:
            request: of integer candidates goes in the binary form, of text ones as JSON.
            timeout: seconds for this call; the client's by default.
            require_features: raise where the answer is degraded.

        Raises:
            ClientError: there is no answer, or a degraded one where features are required.
        """
        return self._run(calls.rank(request, self._tries(timeout), require_features))

    def rank_many(
        self,
        requests: Sequence[RankRequest],
        *,
        timeout: float | None = None,
        require_features: bool = False,
    ) -> list[Ranking]:
        """The best k of each request, in their order, in as few calls as the deployment takes.

        The requests of one call are scored with one model version; another call may find another.

        Args:
            requests: with ``candidates``, and without ``weights``, ``explain``, ``timeout_ms``,
                ``exclude`` and ``exclude_engaged``, which the form lacks; the candidates of all are
                integers, or those of all are texts.
            timeout, require_features: as in ``rank``, of all calls together.

        Raises:
            ClientError: as in ``rank``; a wrong request is named by its place, as
                ``rows[3].query``.
        """
        return self._run(calls.rank_many(requests, self._tries(timeout), require_features))

    def rerank(
        self,
        request: RerankRequest,
        *,
        timeout: float | None = None,
        require_features: bool = False,
    ) -> Reranking:
        """Documents by relevance, each of them an item. Arguments and errors: see ``rank``."""
        return self._run(calls.rerank(request, self._tries(timeout), require_features))

    def query(
        self,
        request: QueryRequest,
        *,
        timeout: float | None = None,
        require_features: bool = False,
    ) -> QueryParts:
        """The parts of a request's scores. Arguments and errors: see ``rank``."""
        return self._run(calls.query(request, self._tries(timeout), require_features))

    def item(self, item_id: int | str, *, timeout: float | None = None) -> Item:
        """What is known of an item.

        Raises:
            RefusedError: with the status 404 where the deployment knows no such item.
            ClientError: there is no answer.
        """
        return self._run(calls.item(item_id, self._tries(timeout)))

    def events(self, events: Sequence[Event], *, timeout: float | None = None) -> Accepted:
        """Add events to users' histories, in as many calls as the deployment's limits need.

        Where this raises, some events may have been acknowledged. Send all of them again: those
        count once.

        Raises:
            ClientError: not all events were acknowledged; a wrong one is named by its place, as
                ``events[3].action``.
        """
        return self._run(calls.events(events, self._tries(timeout)))

    def health(self, *, timeout: float | None = None) -> Health:
        """What runs there.

        Raises:
            ClientError: there is no answer.
        """
        return self._run(calls.health(self._tries(timeout)))

    def ready(self, *, timeout: float | None = None) -> Readiness:
        """Whether requests are answered; asked once, unless there is no connection.

        Raises:
            ClientError: there is no answer.
        """
        return self._run(calls.ready(self._tries(timeout)))

    def _run(self, steps: Steps[T]) -> T:
        try:
            attempt = next(steps)
            while True:
                attempt = steps.send(self._attempt(attempt))
        except StopIteration as end:
            done: T = end.value
            return done

    def _attempt(self, attempt: Attempt) -> Reply | Lost:
        time.sleep(attempt.delay)
        until = time.monotonic() + attempt.seconds
        left = dict.fromkeys(("connect", "read", "write", "pool"), attempt.seconds)
        left["connect"] = min(CONNECT_S, attempt.seconds)

        def next_phase(event: str, _: Mapping[str, Any]) -> None:
            # httpx has a limit per phase of a request only: each gets what the others left.
            if event.endswith(".started"):
                left["read"] = left["write"] = max(until - time.monotonic(), 1e-3)

        extensions = {"timeout": left, "trace": next_phase}
        try:
            with self._http.stream(**self._request(attempt), extensions=extensions) as response:
                body = bytearray()
                for part in response.iter_bytes():
                    body += part
                    if time.monotonic() > until:
                        return Lost("deadline", "")
                return self._reply(response, bytes(body))
        except httpx.HTTPError as error:
            return self._lost(error)
