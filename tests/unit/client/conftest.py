"""Deployments over real HTTP, and both kinds of client to ask them with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.http_calls import api_of
from tests.http_servers import Served, served
from tests.small_engine import SAMPLE, SmallEngine, sample_scorer

from prerank import AsyncClient, Client
from prerank.core.environment import URL_ENV
from prerank.core.tokens import TOKEN_ENV

Ask = Callable[..., Any]


def _sync(url: str, method: str, *args: Any, options: Any = (), **named: Any) -> Any:
    with Client(url, **dict(options)) as client:
        return getattr(client, method)(*args, **named)


def _async(url: str, method: str, *args: Any, options: Any = (), **named: Any) -> Any:
    async def main() -> Any:
        async with AsyncClient(url, **dict(options)) as client:
            return await getattr(client, method)(*args, **named)

    return asyncio.run(main())


@pytest.fixture(params=[_sync, _async], ids=["sync", "async"])
def ask(request: pytest.FixtureRequest) -> Ask:
    """``ask(url, method, ..., options=)``: a call of a new client of either kind."""
    found: Ask = request.param
    return found


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (URL_ENV, TOKEN_ENV):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def deployment() -> Iterator[Served]:
    """Replicas of a small model, whose candidates may be 200 at once."""
    with served(api_of(SmallEngine(SAMPLE, sample_scorer()))) as found:
        yield found
