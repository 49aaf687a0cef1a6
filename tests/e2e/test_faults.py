"""Parts of the live deployment are killed under load: what callers see of it, and what is lost.

The faults that take less than a minute; `make faults` has the others (``tests/faults``).
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import yaml
from tests.cluster import ROOT, URL, catalogue, live_user
from tests.load import Load, same_items
from tests.serve_status import ServeStatus, ready

from prerank.core.home import Home
from prerank.core.ids import given_event_id
from prerank.online.logs import acknowledged_events

CALLERS, LOAD_S = 2, 9.0
"""As many callers as replicas: with one of them dead, no ranking has more than one ahead of it, and
none is refused, however slow the machine is."""


@pytest.fixture
def serve(cluster: tuple[Path, str]) -> Iterator[ServeStatus]:
    with ServeStatus(cluster[0]) as found:
        yield found


def deploy(serve: ServeStatus, replicas: int) -> None:
    config = yaml.safe_load((ROOT / "deployments" / "prerank.yaml").read_text())
    # Serve's own number, not that in `args`: it replaces no replica.
    config["applications"][0]["deployments"] = [{"name": "PreRanker", "num_replicas": replicas}]
    serve.deploy(config)
    serve.wait_for(replicas, besides=lambda: ready(URL))


def load_on(home: Path, tag: str) -> Load:
    """Rankings in both forms, and events of users for whom nobody ranks."""
    # Of nobody: by the wall clock, the ages of what a user did grow while the test runs.
    ranking, items = live_user(home) | {"user_id": "nobody", "k": 10}, catalogue(home)
    bodies: list[dict[str, Any]] = [
        {"json": ranking},
        {
            # Larger than the proxy's own buffer: what it may have to send again must fit.
            "content": np.arange(30_000, dtype=np.int64).tobytes(),
            "params": {"user_id": ranking["user_id"], "query": ranking["query"], "k": 10},
            "headers": {"Content-Type": "application/octet-stream"},
        },
    ]
    with httpx.Client(base_url=URL, timeout=60) as client:
        expected = [whole(client, body) for body in bodies]

    def check(place: int, answer: dict[str, Any]) -> str:
        if answer["degraded"]:
            # A busy machine's read took longer than it may, which the answer says.
            return ""
        if answer["model_version"] != expected[place]["model_version"]:
            return f"of version {answer['model_version']}"
        return same_items(answer, expected[place])

    def event(n: int) -> dict[str, Any]:
        return {
            "user_id": f"{tag}{n}",
            "item_id": items[n % len(items)],
            "action": "save",
            "event_time": time.time_ns() // 1000,
            "event_id": f"{tag}-{n}",
        }

    return Load(URL, bodies, check, event, callers=CALLERS)


def whole(client: httpx.Client, body: dict[str, Any]) -> dict[str, Any]:
    """An answer that lacks nothing."""
    deadline = time.monotonic() + 30
    while True:
        found: dict[str, Any] = client.post("/v1/prerank", **body).raise_for_status().json()
        if not found["degraded"]:
            return found
        assert time.monotonic() < deadline, found["degraded"]


def lost(home: Path, load: Load) -> list[str]:
    """Acknowledged events that are not in the journal."""
    journal = acknowledged_events(Home.at(home / ".prerank"))
    there = {e.event_id for batch in journal for e in batch}
    return [id for id in load.acknowledged if given_event_id(id) not in there]


@pytest.mark.slow
def test_a_killed_replica_costs_no_request(cluster: tuple[Path, str], serve: ServeStatus) -> None:
    deploy(serve, 2)
    with load_on(cluster[0], "replica") as load:
        time.sleep(LOAD_S / 4)
        serve.replicas()[0].kill()
        time.sleep(LOAD_S)
    print(load.figures(), load.closed)
    assert set(load.statuses()) == {200}
    assert load.event_statuses.keys() == {200}
    assert load.closed <= CALLERS + 1
    assert load.statuses()[200] > 100
    # The wait of a request that is sent again is that of two; a busy machine's may be longer.
    assert max(s.wait for s in load.seen) < 5
    assert load.wrong == []
    assert lost(cluster[0], load) == []


@pytest.mark.slow
def test_a_killed_writer_loses_no_acknowledged_event(
    cluster: tuple[Path, str], serve: ServeStatus
) -> None:
    with load_on(cluster[0], "writer") as load:
        time.sleep(LOAD_S / 6)
        (writer,) = serve.replicas("HistoryWriter-0")
        writer.kill()
        time.sleep(LOAD_S / 2)
    print(load.figures(), dict(load.event_statuses))
    assert set(load.statuses()) == {200}
    assert load.event_statuses.keys() <= {200, 503}
    assert len(load.acknowledged) > 10
    assert load.wrong == []
    assert lost(cluster[0], load) == []
