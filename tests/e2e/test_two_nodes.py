"""Two Ray nodes that share no folder run the README's job and serve; `make nodes` starts this.

Each has its own HOME and cache folder. The state is in S3, the online store in Redis, runs and
versions in an MLflow server. Not part of `make test`: it takes minutes on two cores.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import yaml
from tests.cluster import ROOT, environment, stop
from tests.forgetting import mentions
from tests.redis_server import DURABLE, RedisServer
from tests.s3 import VARIABLES, s3_server

from prerank.core.files import REMOTES
from prerank.core.home import ENV, Home
from prerank.core.manifest import LogManifest
from prerank.core.processes import free_port, mlflow_server
from prerank.core.storage import CACHE_ENV
from prerank.online.store import REDIS_ENV
from prerank.registry.tracking import URI_ENV
from prerank.serving.api import PrerankRequest
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.simulate import simulate

URI = "s3://bucket/home"
CONFIG = "train: {epochs: 2}\nbaselines: [linear]\n"


@pytest.fixture
def services(tmp_path: Path) -> Iterator[dict[str, str]]:
    """What all nodes are told; the log is in the bucket."""
    with ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        url = stack.enter_context(s3_server(patch))
        redis = RedisServer(tmp_path / "redis", *DURABLE)
        redis.start()
        stack.callback(redis.kill)
        tracking = stack.enter_context(mlflow_server(Home.at(tmp_path / "mlflow")))
        simulate(tmp_path / "world", "tiny", requests=1_500, progress=False)
        pafs.copy_files(
            str(tmp_path / "world"),
            "bucket/world",
            destination_filesystem=pafs.S3FileSystem(endpoint_override=url),
        )
        told = {
            **VARIABLES,
            "AWS_ENDPOINT_URL": url,
            ENV: URI,
            REDIS_ENV: redis.address,
            URI_ENV: tracking,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN": secrets.token_hex(32),
            "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{free_port()}",
            # Unlike on a user's machine, tests run beside it: workers must not give way.
            "RAY_worker_niceness": "0",
        }
        for name, value in told.items():
            patch.setenv(name, value)
        yield told


class Node:
    """A machine, as far as what it has of its own goes."""

    def __init__(self, folder: Path, told: dict[str, str]) -> None:
        self.home, self.cache = folder / "home", folder / "cache"
        self.home.mkdir(parents=True)
        # Ray's own files, too: a node removes what it thinks nobody on it needs. A short path, for
        # its sockets.
        self.ray = Path(tempfile.mkdtemp(prefix="ray-"))
        self._told = told | {CACHE_ENV: str(self.cache)}

    def run(self, command: str, timeout_s: float = 120) -> str:
        """What a command of this node prints."""
        done = subprocess.run(
            ["bash", "-c", f'set -e; source .venv/bin/activate; eval "$(prerank env)"; {command}'],
            cwd=ROOT,
            env=environment(self.home) | self._told,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:]
        return done.stdout

    def kept(self) -> set[str]:
        """Files of the home that it has, by their path there."""
        found = set()
        for path in self.cache.rglob("*"):
            parts = path.relative_to(self.cache).parts[1:]
            if path.is_file() and not any(part.startswith(".") for part in parts):
                found.add("/".join(parts))
        return found


def started(node: Node, *options: str) -> None:
    """Ray on a node. Two nodes of one machine must not want the same ports."""
    words = [
        "ray start",
        *options,
        f"--temp-dir {node.ray}",
        "--num-cpus 1",
        "--object-store-memory 400000000",
        "--min-worker-port 0 --max-worker-port 0",
        f"--dashboard-agent-listen-port {free_port()}",
        "--disable-usage-stats",
    ]
    node.run(" ".join(words))


@contextmanager
def cluster(folder: Path, told: dict[str, str]) -> Iterator[list[Node]]:
    nodes = [Node(folder / name, told) for name in ("head", "other")]
    port, dashboard = free_port(), told["RAY_DASHBOARD_ADDRESS"].rpartition(":")[2]
    try:
        started(
            nodes[0],
            f"--head --port {port} --dashboard-host 127.0.0.1 --dashboard-port {dashboard}",
            f"--ray-client-server-port {free_port()}",
        )
        started(nodes[1], f"--address 127.0.0.1:{port}")
        yield nodes
    finally:
        for node in nodes:
            stop(node.home)
            shutil.rmtree(node.ray, ignore_errors=True)


@pytest.mark.nodes
@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_the_job_runs_on_two_nodes_and_others_serve(
    services: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(CONFIG)
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "replica" / "cache"))
    with cluster(tmp_path, services) as (head, other):
        head.run(
            f"ray job submit --address {services['RAY_DASHBOARD_ADDRESS']} --working-dir . "
            "-- python platform/train.py "
            "--events s3://bucket/world/events --items s3://bucket/world/items.parquet "
            f"--config {config}",
            timeout_s=1_200,
        )
        # Both worked, each from its own folder, and nobody keeps what was only being written.
        for node in (head, other):
            assert any(name.startswith("log/") for name in node.kept()), node.home
            left = [p for p in node.cache.rglob("*.arrow") if p.is_file()]
            assert not left, node.home
        third = Node(tmp_path / "third", services)
        third.run("prerank promote", timeout_s=300)
        REMOTES.clear()
        home = Home.at(URI)
        home.create()
        home.look()
        body = asked(home)
        served_here(home, body)
        port = free_port()
        head.run(f"serve deploy {serving(tmp_path, port)}")
        served_over_http(port, body, services)
        # What was served comes back on a node that did not serve it.
        update = f"prerank update --served --through {datetime.now(UTC):%Y-%m-%d}"
        told = third.run(update, timeout_s=900)
        assert "1 answer, 1 event, 1 of them of these answers" in told, told
        url = f"--url http://127.0.0.1:{port}"
        assert "equal within tolerance" in third.run(f"prerank parity --requests 20 {url}", 300)
        # A user leaves on a node that has nothing yet, beside the deployment.
        fourth = Node(tmp_path / "fourth", services)
        told = fourth.run(f"prerank forget --user {body['user_id']}", timeout_s=900)
        assert re.search(r"served log +\d+ answers, 1 events", told), told
        home.look()
        assert body["user_id"] not in users_of(home)
        # Where a replica or a writer runs, nobody has to do anything; elsewhere, a look does it.
        user = body["user_id"]
        wait_for(lambda: not all(holding(node, user) for node in (head, other)))
        for node in (head, other, third):
            node.run("python -c 'from prerank.core.home import Home; Home.from_env().look()'")
        assert not any(holding(node, user) for node in (head, other, third, fourth))
    REMOTES.clear()
    names = {path for path, _ in objects(services["AWS_ENDPOINT_URL"])}
    assert {"metrics.json", "report.html", "job.json", "feast/registry.db"} <= names
    assert any(name.startswith("runs/") for name in names), "checkpoints are in the store"
    assert os.environ[ENV] == URI


def served_here(home: Home, body: dict[str, Any]) -> None:
    """A replica in this process, from a cache folder of its own."""
    engine = Engine(ServeConfig(home=URI, clock="replay", golden_ms=1e5))
    try:
        engine.refresh()
        assert engine.ready() == (True, "")
        assert engine.health()["notes"] == []
        answer = engine.answer(request(body, engine, LogManifest.load(home).last_us + 1)).body
        assert len(answer["items"]) == 10
        assert answer["degraded"] == []
    finally:
        engine.stop()


def serving(folder: Path, port: int) -> Path:
    """The Serve configuration, at another port, and writing down what it serves."""
    config = yaml.safe_load((ROOT / "deployments" / "prerank.yaml").read_text())
    config["http_options"]["port"] = port
    # How long something takes on one busy machine is no matter here.
    own = {"log_share": 1.0, "golden_ms": 1e5, "timeout_ms": 1e4, "replicas": 1}
    config["applications"][0]["args"] |= own
    path = folder / "serve.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def served_over_http(port: int, body: dict[str, Any], services: dict[str, str]) -> None:
    """Ask and tell a deployment, and wait until it has sent to the store what it wrote down."""
    with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
        wait_for(lambda: is_ready(client))
        answer = client.post("/v1/prerank", json=body | {"request_id": "r1"}).raise_for_status()
        (first, *_) = answer.json()["items"]
        assert answer.json()["degraded"] == []
        event = {
            "request_id": "r1",
            "user_id": body["user_id"],
            "item_id": first["id"],
            "action": "click",
            "event_time": datetime.now(UTC).isoformat(),
        }
        client.post("/v1/events", json={"events": [event]}).raise_for_status()
    url = services["AWS_ENDPOINT_URL"]
    wait_for(
        lambda: all(
            any(path.startswith(f"served/{kind}/") for path, _ in objects(url))
            for kind in ("requests", "events")
        )
    )


def is_ready(client: httpx.Client) -> bool:
    try:
        return client.get("/ready").status_code == 200
    except httpx.HTTPError:
        return False


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not done():
        assert time.monotonic() < deadline
        time.sleep(1)


def asked(home: Home) -> dict[str, Any]:
    """The log's last request, over items of the catalogue."""
    home.fetch(home.log)
    event = pq.read_table(home.files(home.events)[-1], partitioning=None).to_pylist()[-1]
    items = pq.read_table(home.items, columns=["item_id"])["item_id"].to_pylist()[:200]
    return {"user_id": event["user_id"], "query": event["query"], "candidates": items, "k": 10}


def holding(node: Node, text: str) -> list[str]:
    """Files of a node's cache folder that hold a text."""
    (root,) = node.cache.iterdir()
    return mentions(Home(root), text)


def users_of(home: Home) -> set[str]:
    home.fetch(home.log)
    return {
        user
        for file in home.files(home.events)
        for user in pq.read_table(file, columns=["user_id"], partitioning=None)[0].to_pylist()
    }


def request(body: dict[str, Any], engine: Engine, time_us: int) -> PrerankRequest:
    limits = engine.limits()
    return PrerankRequest(
        request_id="r",
        user_id=body["user_id"],
        query=body["query"],
        keys=np.sort(np.array(body["candidates"], np.int64)),
        originals=None,
        k=10,
        weights=np.eye(1, len(limits.schema.heads), dtype=np.float32)[0],
        explain=False,
        time_us=time_us,
    )


def objects(url: str) -> list[tuple[str, int]]:
    system = pafs.S3FileSystem(endpoint_override=url)
    found = system.get_file_info(pafs.FileSelector("bucket/home", recursive=True))
    return [(f.path.removeprefix("bucket/home/"), f.size or 0) for f in found]
