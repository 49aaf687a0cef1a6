"""Deployments over real HTTP, and both kinds of client to ask them with."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from tests.api_bodies import STRINGS, WALL
from tests.http_calls import api_of
from tests.http_servers import Served, served
from tests.small_engine import SAMPLE, GivenScores, SmallEngine, sample_scorer

from prerank import AsyncClient, Client
from prerank.core.environment import URL_ENV
from prerank.core.tokens import TOKEN_ENV

Ask = Callable[..., Any]
SCORES = {1: 2.0, 2: -1.0, 3: 0.5, 2**60: 9.0}


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


@pytest.fixture(scope="module")
def texts() -> Iterator[Served]:
    """A deployment whose log has text ids, and that knows two items."""
    keys = {STRINGS.ids.to_key(id): score for id, score in (("b/ü", 1.0), ("a", 2.0))}
    with served(api_of(SmallEngine(STRINGS, GivenScores(keys)))) as found:
        yield found


@pytest.fixture(scope="module")
def scores() -> Iterator[Served]:
    """A deployment that knows four items."""
    with served(api_of(SmallEngine(WALL, GivenScores(SCORES)))) as found:
        yield found


@pytest.fixture(scope="module")
def client(deployment: Served) -> Iterator[Client]:
    with Client(deployment.url) as found:
        yield found
