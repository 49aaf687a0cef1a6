"""Parts of the live deployment are killed under load: what callers see of it, and what is lost."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import yaml
from tests.cluster import ROOT, URL, live_user

CALLERS, LOAD_S = 4, 12.0
DASHBOARD, APPLICATIONS = "http://127.0.0.1:8265", "/api/serve/applications/"


class Load:
    """Callers that rank without a pause.

    ``answers`` counts what they got, by status. ``closed`` counts the connections that the proxy
    closed while a caller kept them open, as HTTP allows at any time: the request is then sent again
    on another one. ``longest`` is the longest wait for an answer in seconds, with that.

    Args:
        ranking: body of a request.
        raw: bytes of candidate ids, sent in the fast form as well.
    """

    def __init__(self, ranking: dict[str, Any], raw: bytes) -> None:
        self.answers: Counter[int] = Counter()
        self.longest, self.closed = 0.0, 0
        self._bodies: list[dict[str, Any]] = [
            {"json": ranking},
            {
                "content": raw,
                "params": {"user_id": ranking["user_id"], "query": ranking["query"], "k": 10},
                "headers": {"Content-Type": "application/octet-stream"},
            },
        ]
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._threads = [threading.Thread(target=self._call) for _ in range(CALLERS)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        with httpx.Client(base_url=URL, timeout=60) as client:
            while not self._stop.is_set():
                for body in self._bodies:
                    began = time.monotonic()
                    try:
                        status = client.post("/v1/prerank", **body).status_code
                    except httpx.RemoteProtocolError:
                        with self._lock:
                            self.closed += 1
                        status = client.post("/v1/prerank", **body).status_code
                    with self._lock:
                        self.answers[status] += 1
                        self.longest = max(self.longest, time.monotonic() - began)


def running(dashboard: httpx.Client) -> list[psutil.Process]:
    """The processes of the ranking deployment, once Serve calls the application running."""
    found = dashboard.get(APPLICATIONS).raise_for_status().json()["applications"]["prerank"]
    if found["status"] != "RUNNING":
        return []
    replicas = found["deployments"]["PreRanker"]["replicas"]
    return [psutil.Process(r["pid"]) for r in replicas if r["state"] == "RUNNING"]


@pytest.fixture
def two_replicas(cluster: tuple[Path, str]) -> list[psutil.Process]:
    config = yaml.safe_load((ROOT / "deployments" / "prerank.yaml").read_text())
    config["applications"][0]["args"]["replicas"] = 2
    token = (cluster[0] / ".ray" / "auth_token").read_text().strip()
    # What `serve deploy` and `serve status` ask, without the seconds in which each starts.
    with httpx.Client(
        base_url=DASHBOARD, headers={"Authorization": f"Bearer {token}"}, timeout=60
    ) as dashboard:
        dashboard.put(APPLICATIONS, json=config).raise_for_status()
        deadline = time.monotonic() + 240
        while len(found := running(dashboard)) < 2:
            assert time.monotonic() < deadline, dashboard.get(APPLICATIONS).text
            time.sleep(0.5)
        return found


@pytest.mark.slow
def test_a_killed_replica_costs_no_request(
    cluster: tuple[Path, str], two_replicas: list[psutil.Process]
) -> None:
    body = live_user(cluster[0]) | {"k": 10}
    # Larger than the proxy's own buffer: what it may have to send again must fit.
    with Load(body, np.arange(30_000, dtype=np.int64).tobytes()) as load:
        time.sleep(LOAD_S / 4)
        two_replicas[0].kill()
        time.sleep(LOAD_S)
    print(f"{load.answers}, {load.closed} closed, longest wait {load.longest:.2f} s")
    assert set(load.answers) == {200}
    assert load.closed <= CALLERS
    assert load.answers[200] > 100
    # The wait of a request that is sent again is that of two; a busy machine's may be longer.
    assert load.longest < 5
