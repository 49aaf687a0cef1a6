"""A replica with two versions, and experiments between them: HTTP in, served log out."""

from __future__ import annotations

from typing import Any

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
from tests.http_calls import client_of, no_writers
from tests.local_shards import shards_of
from tests.online_log import CANDIDATES

from prerank.core.home import Home
from prerank.core.served import REQUESTS, requests_folder
from prerank.registry.bundle import Version
from prerank.serving import metrics
from prerank.serving.config import ServeConfig
from prerank.serving.engine import Engine
from prerank.serving.http import HttpApi
from prerank.serving.routes import ARROW
from prerank.serving.served_log import LogConfig, ServedLog
from prerank.serving.shard import Shard
from prerank.serving.shards import Shards

ASKED = {
    "query": "red shoe",
    "candidates": CANDIDATES.tolist(),
    "context": {"country": "de"},
    "k": 8,
    "timeout_ms": 20_000,
}
BOTH = {"a": 0.5, "b": 0.5}


def experiment(mode: str = "ab", second: str = "2", **shares: float) -> dict[str, Any]:
    """Variant "a" is the champion's, "b" that of version ``second``."""
    variants = [
        {"name": name, "version": version, "share": share}
        for (name, share), version in zip(
            (shares or BOTH).items(), ("champion", second), strict=True
        )
    ]
    return {"experiment": {"name": "test", "mode": mode, "variants": variants}}


class Replica:
    """Serves version 1, knows of version 2, and writes everything down.

    Args:
        home: of both.
        shards: that the index is divided among, all in this process.
    """

    def __init__(self, home: Home, shards: int = 1) -> None:
        self.home = home
        self.shards = [Shard(home, at, shards) for at in range(shards if shards > 1 else 0)]
        config = ServeConfig(
            home=home.place,
            poll_seconds=25.0,
            golden_ms=1e5,
            timeout_ms=60_000,
            require_gate=False,
            shards=shards,
        )
        self.engine = Engine(config, self._front() if self.shards else None)
        self.engine.refresh()
        self.log = ServedLog(home, LogConfig(share=1.0, items=5, days=None))
        self.api = HttpApi(config, self.engine, no_writers, log=self.log)
        self.client: httpx.Client = client_of(self.api)

    def _front(self) -> Shards:
        def load(version: Version) -> None:
            for shard in self.shards:
                shard.load(version)

        return shards_of([shard.score for shard in self.shards], load)

    def follow(self, user_config: Any) -> None:
        """Give it an experiment, and wait until it runs or is refused."""
        self.api.variants.follow(user_config).join()

    def ask(self, user: str, **other: Any) -> dict[str, Any]:
        body = ASKED | {"user_id": user, "request_id": f"r-{user}"} | other
        got = self.client.post("/v1/prerank", json=body)
        assert got.status_code == 200, got.text
        found: dict[str, Any] = got.json()
        return found

    def ask_in_arrow(self, users: list[str], **other: Any) -> list[dict[str, Any]]:
        """As ``ask``, of several users in one batch."""
        got = self.client.post(
            "/v1/prerank", content=stream_of(users, **other), headers={"Content-Type": ARROW}
        )
        assert got.status_code == 200, got.text
        found: list[dict[str, Any]] = pa.ipc.open_stream(got.content).read_all().to_pylist()
        return found

    def health(self) -> dict[str, Any]:
        found: dict[str, Any] = self.client.get("/health").json()
        return found

    def written(self) -> dict[str, dict[str, Any]]:
        """What was written down, by request."""
        self.api.variants.stop()
        self.log.close()
        files = requests_folder(self.home).glob("day=*/*.parquet")
        rows = [row for file in files for row in pq.read_table(file, schema=REQUESTS).to_pylist()]
        return {row["request_id"]: row for row in rows}

    def second(self) -> Engine:
        """The engine of version 2."""
        running = self.api.variants._running
        assert running is not None
        engine = running.followed["2"].engine
        assert engine is not None
        return engine

    def counted(self, variant: str, fallback: str = "false") -> float:
        return self.api.metrics.value(metrics.VARIANT, variant, fallback)

    def close(self) -> None:
        self.api.variants.stop()
        self.log.close()
        self.engine.stop()


def stream_of(users: list[str], **other: Any) -> bytes:
    """A batch that asks what ``Replica.ask`` does of each user."""
    asked = {name: [ASKED[name]] * len(users) for name in ("query", "candidates", "k", "context")}
    asked |= {name: [value] * len(users) for name, value in other.items()}
    table = pa.table(asked | {"user_id": users, "request_id": [f"r-{user}" for user in users]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    found: bytes = sink.getvalue().to_pybytes()
    return found


def ids(answer: dict[str, Any]) -> list[int]:
    return [item["id"] for item in answer["items"]]
