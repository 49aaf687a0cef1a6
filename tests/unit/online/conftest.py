"""A home whose schema is online without a row, and writers that are closed at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from feast import FeatureStore
from tests.online_events import SCHEMA, NewWriter
from tests.online_log import empty_tables, filled
from tests.redis_server import RedisServer
from tests.small_tables import write_tables

from prerank.core.home import Home
from prerank.online.materialise import materialise
from prerank.online.store import REDIS_ENV
from prerank.online.writer import HistoryWriter


@pytest.fixture
def home(tmp_path: Path) -> Home:
    home = Home.at(tmp_path / "home")
    empty_tables(home, SCHEMA)
    return home


@pytest.fixture
def store(
    home: Home, online_store: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> FeatureStore:
    if online_store == "redis":
        monkeypatch.setenv(REDIS_ENV, request.getfixturevalue("new_redis")())
    return filled(home, SCHEMA)


@pytest.fixture
def embedded(home: Home, monkeypatch: pytest.MonkeyPatch) -> FeatureStore:
    """The store of a laptop, for what does not depend on the kind of store."""
    monkeypatch.delenv(REDIS_ENV, raising=False)
    return filled(home, SCHEMA)


@pytest.fixture
def new_writer(home: Home) -> Iterator[NewWriter]:
    with ExitStack() as stack:

        def new(store: FeatureStore, shard: int = 0, shards: int = 1, **how: Any) -> HistoryWriter:
            how = {"wait_s": 0, **how}
            return stack.enter_context(HistoryWriter(home, store, SCHEMA, shard, shards, **how))

        yield new


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, which it may stop, kill and start again."""
    server = RedisServer(tmp_path)
    try:
        server.start()
        yield server
    finally:
        server.kill()


@pytest.fixture
def home_on_server(tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Home:
    """A home with small tables, materialised on ``server``."""
    monkeypatch.setenv(REDIS_ENV, server.address)
    home = Home.at(tmp_path / "home")
    write_tables(home)
    materialise(home, progress=False)
    return home
