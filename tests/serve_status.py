"""What Ray Serve's dashboard says of a deployment, and a configuration that it is given."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import psutil

APPLICATIONS, APPLICATION = "/api/serve/applications/", "prerank"


class ServeStatus:
    """What ``serve deploy`` and ``serve status`` ask, without the seconds in which each starts.

    Args:
        home: HOME of the cluster, where its token lies.
        dashboard: address.
    """

    def __init__(self, home: Path, dashboard: str = "http://127.0.0.1:8265") -> None:
        token = (home / ".ray" / "auth_token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        self._client = httpx.Client(base_url=dashboard, headers=headers, timeout=60)

    def __enter__(self) -> ServeStatus:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def deploy(self, config: dict[str, Any]) -> None:
        """Have a configuration deployed; returns before it is."""
        self._client.put(APPLICATIONS, json=config).raise_for_status()

    def application(self) -> dict[str, Any]:
        """What is known of the application."""
        found = self._client.get(APPLICATIONS).raise_for_status().json()["applications"]
        application: dict[str, Any] = found.get(APPLICATION, {"status": "NONE", "deployments": {}})
        return application

    def replicas(self, deployment: str = "PreRanker") -> list[psutil.Process]:
        """Processes of a deployment's running replicas."""
        of = self.application()["deployments"].get(deployment, {"replicas": []})["replicas"]
        found = [r["pid"] for r in of if r["state"] == "RUNNING" and r["pid"]]
        return [psutil.Process(pid) for pid in found if psutil.pid_exists(pid)]

    def wait_for(
        self, replicas: int, seconds: float = 240, besides: Callable[[], bool] = lambda: True
    ) -> list[psutil.Process]:
        """The scorers' processes, once Serve calls the application running and has so many."""
        deadline = time.monotonic() + seconds
        while True:
            running = self.application()["status"] == "RUNNING"
            if running and len(found := self.replicas()) == replicas and besides():
                return found
            assert time.monotonic() < deadline, self.application()
            time.sleep(0.5)


def ready(url: str) -> bool:
    """Whether a deployment is ready, and lacks nothing."""
    try:
        with closing(httpx.get(f"{url}/ready", timeout=5)) as answer:
            return answer.status_code == 200 and "degraded" not in answer.json()
    except httpx.HTTPError:
        return False
