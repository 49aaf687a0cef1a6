"""Two Ray nodes that share no folder run the README's job; `make nodes` starts this.

Each has its own HOME and cache folder. The state is in S3, the online store in Redis, runs and
versions in an MLflow server. Not part of `make test`: it takes four to five minutes on two cores.
"""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from tests.cluster import ROOT, environment, stop
from tests.redis_server import DURABLE, RedisServer
from tests.s3 import VARIABLES, s3_server

from prerank.core.files import REMOTES
from prerank.core.home import ENV, Home
from prerank.core.processes import free_port, mlflow_server
from prerank.core.storage import CACHE_ENV
from prerank.online.store import REDIS_ENV
from prerank.registry.tracking import URI_ENV
from prerank.serving.api import PrerankRequest
from prerank.serving.engine import Engine, ServeConfig
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
@pytest.mark.timeout(1500)
def test_the_job_runs_on_two_nodes_and_a_third_serves(
    services: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "job.yaml"
    config.write_text(CONFIG)
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
    monkeypatch.setenv(CACHE_ENV, str(tmp_path / "replica" / "cache"))
    REMOTES.clear()
    home = Home.at(URI)
    home.create()
    engine = Engine(ServeConfig(home=URI, clock="replay", golden_ms=1e5))
    try:
        engine.refresh()
        assert engine.ready() == (True, "")
        assert engine.health()["notes"] == []
        body = engine.answer(request(home, engine)).body
        assert len(body["items"]) == 10
        assert body["degraded"] == []
    finally:
        engine.stop()
        REMOTES.clear()
    names = {path for path, _ in objects(services["AWS_ENDPOINT_URL"])}
    assert {"metrics.json", "report.html", "job.json", "feast/registry.db"} <= names
    assert any(name.startswith("runs/") for name in names), "checkpoints are in the store"
    assert os.environ[ENV] == URI


def request(home: Home, engine: Engine) -> PrerankRequest:
    """The log's last request, over items of the index."""
    home.fetch(home.events)
    events = pq.read_table(home.files(home.events)[-1], partitioning=None).to_pylist()
    limits = engine.limits()
    return PrerankRequest(
        request_id="r",
        user_id=events[-1]["user_id"],
        query=events[-1]["query"],
        keys=np.sort(engine.current().scorer.table.ids)[:200],
        originals=None,
        k=10,
        weights=np.eye(1, len(limits.schema.heads), dtype=np.float32)[0],
        explain=False,
        time_us=int(events[-1]["request_time"].timestamp() * 1e6) + 1,
    )


def objects(url: str) -> list[tuple[str, int]]:
    system = pafs.S3FileSystem(endpoint_override=url)
    found = system.get_file_info(pafs.FileSelector("bucket/home", recursive=True))
    return [(f.path.removeprefix("bucket/home/"), f.size or 0) for f in found]
