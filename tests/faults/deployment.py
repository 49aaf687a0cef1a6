"""The installation that faults befall: Redis, MLflow, Ray and the deployment, on loopback."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import orjson
import psutil
from tests import online_log
from tests.cluster import own_processes
from tests.installation import Installation
from tests.load import Load, same_items
from tests.online_events import wait_until
from tests.online_log import CANDIDATES, DAY, ITEMS, MANIFEST, UNTIL
from tests.redis_server import RedisServer
from tests.serve_status import ready
from tests.small_versions import build_index, save_model

from interactrank.features.schema import FeatureSchema
from prerank.core.home import Home
from prerank.core.ids import given_event_id
from prerank.online.history import read_histories
from prerank.online.logs import acknowledged_events
from prerank.online.materialise import materialise
from prerank.online.store import REDIS_ENV, open_store
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import Version
from prerank.registry.registration import register
from prerank.serving.api import parse_json
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine

REPLICAS, USERS, BODIES = 2, 1_000, 24
WITHOUT = ("engagement", "user_history")
"""What an answer lacks that was made while the online store did not answer."""


def rankings() -> list[dict[str, Any]]:
    """Bodies of rankings as of one moment: live events change no answer to them."""
    found: Any = online_log.searches().head(BODIES).to_dict("records")
    fixed = {"candidates": CANDIDATES.tolist(), "k": 30, "time": UNTIL}
    return [row | fixed for row in found]


def event(tag: str) -> Callable[[int], dict[str, Any]]:
    """The n-th event of users for whom nobody ranks."""

    def made(n: int) -> dict[str, Any]:
        return {
            "user_id": f"new{n % USERS}",
            "item_id": n % ITEMS,
            "action": "click",
            "event_time": UNTIL + DAY + n,
            "event_id": f"{tag}-{n}",
        }

    return made


class Oracle:
    """What each version answers, by the library alone, over that version's own files.

    Args:
        home: whose champion is looked at.
    """

    def __init__(self, home: Home) -> None:
        self._engine = Engine(
            ServeConfig(home=str(home.root), clock="replay", timeout_ms=10_000, require_gate=False)
        )
        self.bodies = rankings()
        self._expected: dict[tuple[str, tuple[str, ...]], list[dict[str, Any]]] = {}

    def learn(self) -> str:
        """Compute what the champion answers, with and without its features; its number."""
        self._engine.refresh()
        version = self._engine.current().wanted.version.number
        self._expected[version, ()] = self.answers()
        self._expected[version, WITHOUT] = self.answers(timeout_ms=1e-6)
        return version

    def allow_what_is_there(self) -> None:
        """Expect of what has lost some rows what is left in the online store."""
        version = self._engine.current().wanted.version.number
        self._expected[version, ("online_store",)] = self.answers()

    def allow_what_is_told(self) -> None:
        """Expect nothing in particular of answers that say that the online store lost rows."""
        version = self._engine.current().wanted.version.number
        del self._expected[version, ("online_store",)]

    def answers(self, **fields: Any) -> list[dict[str, Any]]:
        """The library's answer to each body."""
        limits = self._engine.limits()
        requests = [parse_json(orjson.dumps(body | fields), limits, 0) for body in self.bodies]
        return [self._engine.answer(request).body for request in requests]

    def check(self, place: int, answer: dict[str, Any]) -> str:
        """What is wrong with a live answer."""
        key = answer["model_version"], tuple(answer["degraded"])
        if expected := self._expected.get(key):
            return same_items(answer, expected[place])
        if "online_store" in key[1] and (key[0], ()) in self._expected:
            # It says that it may lack anything; what it then lacks depends on the moment.
            return "" if len(answer["items"]) == self.bodies[place]["k"] else "items are missing"
        return f"nobody knows version {key[0]} with {key[1]}"


class Deployment(Installation):
    """The installation of all faults, with two versions and Redis.

    Args:
        root: an empty folder.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root, clock="replay", replicas=REPLICAS, require_gate=False)
        (root / "redis").mkdir()
        self.redis = RedisServer(root / "redis", "--appendonly", "yes")
        self.variables[REDIS_ENV] = self.redis.address

    def start(self) -> None:
        """Fill a home, register two versions, and deploy the first one."""
        self.redis.start()
        online_log.build(self.home)
        materialise(self.home, UNTIL, progress=False)
        self.start_mlflow()
        tracking.connect(self.home)
        self.versions = [self.new_version(seed) for seed in (1, 2)]
        self.oracle = Oracle(self.home)
        for version in reversed(self.versions):
            registry.promote(self.home, version)
            self.oracle.learn()
        self.start_ray()
        self.deploy()
        self.steady()

    def stop(self) -> None:
        """End every process of it."""
        self.redis.kill()
        super().stop()

    def new_version(
        self, seed: int, schema: FeatureSchema = MANIFEST.schema, index: bool = True
    ) -> Version:
        """Register another model, with its index."""
        with tracking.job_run(self.home, "train", {}, {}) as run_id:
            pass
        folder = save_model(self.root / "models" / f"{seed}-{run_id}", seed, schema)
        version = register(folder, run_id, {}, {})
        if index:
            build_index(self.home, registry.download(self.home, version), version)
        return version

    def steady(self, replicas: int = REPLICAS, version: Version | None = None) -> None:
        """Wait until every replica serves a version, by default the first, and lacks nothing."""
        number = (version or self.versions[0]).number
        self.serve.wait_for(replicas, besides=lambda: ready(self.url))
        body = self.oracle.bodies[0]

        def is_whole() -> bool:
            # As many in a row as would find another replica.
            for _ in range(10 * replicas):
                answer = httpx.post(f"{self.url}/v1/prerank", json=body, timeout=30)
                if answer.status_code != 200:
                    return False
                found = answer.json()
                if (found["model_version"], found["degraded"]) != (number, []):
                    return False
            return not self.health()["notes"]

        wait_until(is_whole, f"the deployment is not what it was: {self.health()}")

    def restore(self) -> None:
        """Bring every part back, and wait until the deployment is steady."""
        if self.redis.process is None:
            self.redis.start()
        if self._mlflow is None:
            self.start_mlflow()
        if registry.alias_version(registry.CHAMPION) != self.versions[0]:
            registry.promote(self.home, self.versions[0])
        self.deploy()
        self.steady()

    def load(self, tag: str, **how: Any) -> Load:
        """Load whose answers the oracle looks at; ``tag`` names its events."""
        bodies = [{"json": body} for body in self.oracle.bodies]
        return Load(self.url, bodies, self.oracle.check, event(tag), **how)

    def lost(self, acknowledged: Sequence[str]) -> list[str]:
        """Events of these that are not in the journal."""
        there = {e.event_id for batch in acknowledged_events(self.home) for e in batch}
        return [id for id in acknowledged if given_event_id(id) not in there]

    def missing(self, acknowledged: Sequence[str]) -> list[str]:
        """Events of these that are not in the online histories of their users."""
        users = [f"new{n}" for n in range(USERS)]
        found = read_histories(open_store(self.home), MANIFEST.schema.history_view, users)
        there = {int(id) for history in found.values() for id in history.event_ids}
        return [id for id in acknowledged if given_event_id(id) not in there]

    def haproxy(self) -> list[psutil.Process]:
        """Processes of the proxy before the replicas."""
        return [p for p in own_processes(self.root) if "haproxy" in p.name()]


@contextmanager
def installed(deployment: Deployment) -> Iterator[Deployment]:
    """Runs an installation until the block ends."""
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.stop()


def until(holds: Callable[[], bool], seconds: float) -> float:
    """Seconds until something holds; infinite where it does not by then."""
    began = time.monotonic()
    while time.monotonic() < began + seconds:
        if holds():
            return time.monotonic() - began
        time.sleep(0.1)
    return float("inf")
