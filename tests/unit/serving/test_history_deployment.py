"""The deployment of a history writer, without Ray: when it opens, and for whom it waits."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.online_events import T0, event, ids, wait_until
from tests.online_log import MANIFEST, empty_tables, filled, mark_online

from prerank.core.errors import NotReadyError
from prerank.core.home import Home
from prerank.online.ownership import Ownership
from prerank.online.store import REDIS_ENV, open_store
from prerank.serving.writers import HistoryWriterDeployment

NewDeployment = Callable[[], Any]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.delenv(REDIS_ENV, raising=False)
    home = Home.at(tmp_path / "home")
    MANIFEST.save(home)
    empty_tables(home, MANIFEST.schema)
    mark_online(home, MANIFEST.schema)
    return home


@pytest.fixture
def new_deployment(home: Home) -> Iterator[NewDeployment]:
    # mypy does not see what a class decorator makes of a class.
    deployment: Any = HistoryWriterDeployment
    started = []

    def new() -> Any:
        started.append(deployment.func_or_class({"home": str(home.root)}, 0))
        return started[-1]

    yield new
    for replica in started:
        # As Serve does before it ends one.
        replica.__del__()


def test_events_wait_for_the_owner_before_that_is_about_to_end(
    home: Home, new_deployment: NewDeployment
) -> None:
    filled(home, MANIFEST.schema)
    before = Ownership(home.journal, 0, 1, 0)
    ends = threading.Timer(0.3, before.release)
    ends.start()
    deployment = new_deployment()

    async def both() -> list[Any]:
        return await asyncio.gather(*(deployment.write([event(n)]) for n in (1, 2)))

    assert [written.online for written in asyncio.run(both())] == [True, True]
    ends.join()
    assert ids(open_store(home), schema=MANIFEST.schema) == [1, 2]


def test_a_replica_that_ends_leaves_the_users_to_its_successor(
    home: Home, new_deployment: NewDeployment
) -> None:
    filled(home, MANIFEST.schema)
    for n in (1, 2):
        deployment = new_deployment()
        asyncio.run(deployment.write([event(n, time=T0 + n)]))
        deployment.__del__()
    assert ids(open_store(home), schema=MANIFEST.schema) == [1, 2]


def test_it_opens_when_there_is_something_to_open(
    home: Home, new_deployment: NewDeployment
) -> None:
    deployment = new_deployment()
    with pytest.raises(NotReadyError, match="prerank materialise"):
        asyncio.run(deployment.write([event(1)]))
    filled(home, MANIFEST.schema)

    def written() -> bool:
        try:
            return bool(asyncio.run(deployment.write([event(1)])).online)
        except NotReadyError:
            return False

    wait_until(written, "the writer did not open")
