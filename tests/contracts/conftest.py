"""Untrained models of every configuration, and Redis; who differentiates says so."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from tests.redis_server import DURABLE, databases
from tests.samples import BASELINES, VARIANTS, new_model

from interactrank.model.interactrank import InteractRank
from prerank.online.store import REDIS_ENV


@pytest.fixture(params=VARIANTS, scope="module")
def model(request: pytest.FixtureRequest) -> InteractRank:
    """InteractRank, with parts left out."""
    return new_model(VARIANTS[request.param])


@pytest.fixture(params=[*VARIANTS, *BASELINES], scope="module")
def neural(request: pytest.FixtureRequest) -> InteractRank:
    """InteractRank and the baselines of another architecture."""
    return new_model((VARIANTS | BASELINES)[request.param])


@pytest.fixture(autouse=True)
def _no_gradients() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.fixture(scope="session")
def new_database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], str]]:
    """PRERANK_REDIS of an empty database, at each call, on a server that syncs every write."""
    with databases(tmp_path_factory.mktemp("redis"), *DURABLE) as found:
        yield found


@pytest.fixture
def in_redis(new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(REDIS_ENV, new_database())
