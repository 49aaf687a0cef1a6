"""``AsyncClient`` calls a deployment from tasks of asyncio."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

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


class AsyncClient(Caller[httpx.AsyncClient]):
    """``Client`` for asyncio: the same arguments, calls, answers and errors."""

    def __init__(
        self,
        url: str | None = None,
        token: str | None = None,
        *,
        timeout: float = TIMEOUT_S,
        retries: int = RETRIES,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        super().__init__(url, token, timeout, retries)
        self._http = httpx.AsyncClient(
            base_url=self._url,
            headers=self._headers,
            verify=certificates(),
            transport=transport,
        )

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def rank(
        self,
        request: RankRequest,
        *,
        timeout: float | None = None,
        require_features: bool = False,
    ) -> Ranking:
        """See ``Client.rank``."""
        return await self._run(calls.rank(request, self._tries(timeout), require_features))

    async def rank_many(
        self,
        requests: Sequence[RankRequest],
        *,
        timeout: float | None = None,
        require_features: bool = False,
    ) -> list[Ranking]:
        """See ``Client.rank_many``."""
        return await self._run(calls.rank_many(requests, self._tries(timeout), require_features))

    async def rerank(
        self,
        request: RerankRequest,
        *,
        timeout: float | None = None,
        require_features: bool = False,
    ) -> Reranking:
        """See ``Client.rerank``."""
        return await self._run(calls.rerank(request, self._tries(timeout), require_features))

    async def query(
        self,
        request: QueryRequest,
        *,
        timeout: float | None = None,
        require_features: bool = False,
    ) -> QueryParts:
        """See ``Client.query``."""
        return await self._run(calls.query(request, self._tries(timeout), require_features))

    async def item(self, item_id: int | str, *, timeout: float | None = None) -> Item:
        """See ``Client.item``."""
        return await self._run(calls.item(item_id, self._tries(timeout)))

    async def events(self, events: Sequence[Event], *, timeout: float | None = None) -> Accepted:
        """See ``Client.events``."""
        return await self._run(calls.events(events, self._tries(timeout)))

    async def health(self, *, timeout: float | None = None) -> Health:
        """See ``Client.health``."""
        return await self._run(calls.health(self._tries(timeout)))

    async def ready(self, *, timeout: float | None = None) -> Readiness:
        """See ``Client.ready``."""
        return await self._run(calls.ready(self._tries(timeout)))

    async def _run(self, steps: Steps[T]) -> T:
        try:
            attempt = next(steps)
            while True:
                attempt = steps.send(await self._attempt(attempt))
        except StopIteration as end:
            done: T = end.value
            return done

    async def _attempt(self, attempt: Attempt) -> Reply | Lost:
        await asyncio.sleep(attempt.delay)
        limits = httpx.Timeout(attempt.seconds, connect=min(CONNECT_S, attempt.seconds))
        try:
            # The limits of httpx are of a request's phases; this one is of all of it.
            async with asyncio.timeout(attempt.seconds):
                response = await self._http.request(**self._request(attempt), timeout=limits)
            return self._reply(response, response.content)
        except TimeoutError:
            return Lost("deadline", "")
        except httpx.HTTPError as error:
            return self._lost(error)
