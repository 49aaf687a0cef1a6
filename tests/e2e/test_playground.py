"""The playground as the second application of the shipped configuration, behind Serve's HAProxy."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from tests.cluster import configuration, live_user
from tests.serve_status import ServeStatus

STATE = "/playground/api/state"
SECONDS = 120


@pytest.fixture
def replicas(cluster: tuple[Path, str], client: httpx.Client) -> Iterator[list[int]]:
    """Processes of the live replicas, from before the playground was deployed."""
    with ServeStatus(cluster[0]) as serve:
        found = [process.pid for process in serve.replicas()]
        serve.deploy(configuration(playground=True))
        deadline = time.monotonic() + SECONDS
        while not is_open(client):
            assert time.monotonic() < deadline, serve.application()
            time.sleep(0.5)
        try:
            yield found
            assert [process.pid for process in serve.replicas()] == found
        finally:
            serve.deploy(configuration())
            deadline = time.monotonic() + SECONDS
            while client.get("/playground/").status_code == 200:
                assert time.monotonic() < deadline
                time.sleep(0.5)


def is_open(client: httpx.Client) -> bool:
    answer = client.post(STATE, json={})
    return answer.status_code == 200 and bool(answer.json()["champion"])


@pytest.mark.slow
def test_the_playground_ranks_as_the_deployment_beside_it(
    cluster: tuple[Path, str], client: httpx.Client, replicas: list[int]
) -> None:
    assert len(replicas) >= 1
    live = live_user(cluster[0]) | {"user_id": "nobody", "k": 20}
    answer = client.post("/v1/prerank", json=live).raise_for_status().json()
    source = {"kind": "ids", "ids": [str(id) for id in live["candidates"]]}
    search = {"user_id": "nobody", "query": live["query"], "source": source}
    search |= {"rankers": ["champion", "bm25", "version:1"], "rows": 20}
    found = client.post("/playground/api/rank", json=search).raise_for_status().json()
    first, _, same = found["columns"]
    assert [item["id"] for item in first["items"]] == [str(i["id"]) for i in answer["items"]]
    assert [item["moved"] for item in same["items"]] == [0] * len(same["items"])
    assert first["degraded"] == []
    assert client.get("/playground").headers["location"] == "/playground/"
    page = client.get("/playground/")
    assert page.headers["content-type"].startswith("text/html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for name in re.findall(r'(?:href|src)="(\w[\w.]+)"', page.text):
        assert client.get(f"/playground/{name}").status_code == 200, name
    evil = client.get("/playground/", headers={"Host": "evil.example"})
    assert (evil.status_code, evil.json()["field"]) == (421, "Host")
    # What no route of the playground is, stays the deployment's.
    assert "/v1/prerank" in client.get("/playgrounds").json()["detail"]
