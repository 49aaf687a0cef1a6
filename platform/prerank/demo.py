"""`prerank demo`: the whole way on a simulated world, ending with live requests.

Everything it starts (Ray, Serve, the MLflow server, and Redis where it is installed) runs on
loopback at free ports and is stopped by its own handle at the end; the work folder stays, so that
the UIs can be opened on it.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow.parquet as pq

from prerank.config import JobConfig
from prerank.core import environment
from prerank.core.errors import NotReadyError
from prerank.core.home import ENV, Home
from prerank.core.manifest import LogManifest
from prerank.core.processes import DURABLE, RedisServer, free_port, mlflow_server, redis_server
from prerank.core.quiet import muted
from prerank.core.ray_tasks import start_local
from prerank.core.times import DAY_US
from prerank.evaluation.live import open_client
from prerank.ingest.mapping import LogMapping
from prerank.online.store import REDIS_ENV
from prerank.playground.beside import until_enter
from prerank.preflight import check_home, check_services

READY_SECONDS = 120.0
PAUSED_ASKED = 5
"""Requests while the online store is paused: the first few wait for it, the others do not."""
MINUTE_US = 60_000_000
PROBES = 30
SEGMENTS = ("country", "device")


@dataclass(frozen=True)
class LiveRequest:
    """A request taken from the log's end, asked again a minute after it."""

    body: dict[str, Any]
    titles: dict[int, str]


@contextmanager
def ray_cluster() -> Iterator[None]:
    """A local Ray, with Serve's HTTP on loopback if an application is deployed."""
    # Behind HAProxy a replica drains for half a minute, for load balancers to look elsewhere;
    # here nobody else calls. Read when Serve is imported.
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")
    import ray
    from ray import serve

    os.environ.setdefault("RAY_DEDUP_LOGS", "1")
    start_local()
    try:
        yield
    finally:
        # Serve's controller is asked to stop, killed, and then reported as dead.
        with muted():
            serve.shutdown()
            ray.shutdown()


@contextmanager
def deployed(arguments: dict[str, Any]) -> Iterator[str]:
    """Deploy the pre-ranking application; yields its URL once it is ready.

    Raises:
        NotReadyError: it did not become ready in time.
    """
    from ray import serve

    from prerank.serving.deployment import app

    port = free_port()
    url = f"http://127.0.0.1:{port}"
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(app(arguments), name="prerank", route_prefix="/")
    deadline = time.monotonic() + READY_SECONDS
    while True:
        answer = httpx.get(f"{url}/ready", timeout=10.0)
        if answer.status_code == 200:
            break
        if time.monotonic() > deadline:
            raise NotReadyError(f"the deployment is not ready: {answer.text}")
        time.sleep(0.5)
    yield url


def live_request(home: Home) -> LiveRequest:
    """The log's last request with a history behind it, as a request to the server."""
    day = sorted(home.events.glob("day=*"))[-1]
    events = pq.read_table(day, partitioning=None).to_pandas().sort_values("request_time")
    manifest = LogManifest.load(home)
    items = pq.read_table(home.items, columns=["item_id", "title"])
    titles = dict(zip(items["item_id"].to_pylist(), items["title"].to_pylist(), strict=True))
    sizes = events.groupby("request_id")["item_id"].nunique()
    last = events[events["request_id"].isin(sizes[sizes >= 20].index)].iloc[-1]
    shown = events[events["request_id"] == last["request_id"]]["item_id"].unique()
    body = {
        "user_id": last["user_id"],
        "query": last["query"],
        "candidates": [int(i) for i in shown],
        "k": 5,
        "time": manifest.last_time,
        "context": {name: last[name] for name in manifest.segments},
    }
    return LiveRequest(body, titles)


def shifted(iso: str, micros: int) -> str:
    """An ISO time some microseconds later."""
    import pandas as pd

    moved: str = (pd.Timestamp(iso) + pd.Timedelta(micros, "us")).isoformat()
    return moved


def show(request: LiveRequest, answer: dict[str, Any]) -> None:
    """Print an answer with titles."""
    for place, item in enumerate(answer["items"], 1):
        title = request.titles.get(int(item["id"]), "")
        print(f"   {place}. {item['score']:7.3f}  {item['id']:>6}  {title}")


def changed(before: dict[str, Any], after: dict[str, Any]) -> str:
    """What an event changed of one explained item: features, dot product and score."""
    old, new = before["features"], after["features"]
    moved = [
        f"{name} {old.get(name, 0.0):.3g} → {new.get(name, 0.0):.3g}"
        for name in sorted(old.keys() | new.keys())
        if abs(old.get(name, 0.0) - new.get(name, 0.0)) > 5e-4
    ]
    return (
        f"features that changed: {', '.join(moved) or 'none'}\n"
        f"   dot product {before['dot']:.3f} → {after['dot']:.3f}; "
        f"score {before['score']:.3f} → {after['score']:.3f}"
    )


def converse(client: httpx.Client, request: LiveRequest) -> None:
    """Ask and time a request; then ask one of two days later without and with an engagement.

    Those two are asked as of the same moment: what differs is the event's doing, not time's.
    """

    def asked(body: dict[str, Any]) -> dict[str, Any]:
        answer: dict[str, Any] = client.post("/v1/prerank", json=body).raise_for_status().json()
        return answer

    body = request.body | {"time": shifted(request.body["time"], MINUTE_US)}
    answer = asked(body)
    times = []
    for _ in range(PROBES):
        began = time.perf_counter()
        asked(body)
        times.append(1e3 * (time.perf_counter() - began))
    size = len(body["candidates"])
    print(
        f"\nPOST /v1/prerank  user {body['user_id']}, query '{body['query']}', "
        f"{size} candidates, model version {answer['model_version']}; "
        f"median {statistics.median(times):.1f} ms of {PROBES}"
    )
    show(request, answer)
    later = body | {"time": shifted(body["time"], 2 * DAY_US), "k": size, "explain": True}
    before = asked(later)["items"]
    last = before[-1]
    event = {
        "user_id": body["user_id"],
        "item_id": last["id"],
        "action": "save",
        "event_time": body["time"],
        "query": body["query"],
    }
    client.post("/v1/events", json={"events": [event]}).raise_for_status()
    after = asked(later)["items"]
    place, now = next((i, x) for i, x in enumerate(after, 1) if x["id"] == last["id"])
    print(
        f"\nPOST /v1/events   the user saves {last['id']} "
        f"({request.titles.get(int(last['id']), '')})\n"
        f"   asked two days later: place {len(before)} of {len(before)} without the save, "
        f"{place} with it\n   {changed(last, now)}\n"
        "   The history is read as it stands, so the save is seen at once; counts over all "
        "users wait for the\n   next snapshot. What a touch weighs, and so the sign, was "
        "learned from the log."
    )


def interrupt(client: httpx.Client, request: LiveRequest, store: RedisServer) -> None:
    """Ask while the online store is paused, and until its features are back.

    Raises:
        NotReadyError: they did not come back.
    """

    def asked() -> tuple[float, list[str]]:
        began = time.perf_counter()
        answer = client.post("/v1/prerank", json=request.body).raise_for_status().json()
        return 1e3 * (time.perf_counter() - began), answer["degraded"]

    with store.paused():
        found = [asked() for _ in range(PAUSED_ASKED)]
    took = ", ".join(f"{ms:.0f}" for ms, _ in found)
    print(
        f"\nthe online store (Redis) is paused: {len(found)} requests are answered in {took} ms, "
        f"without its features: degraded {found[-1][1]}"
    )
    began = time.perf_counter()
    while asked()[1]:
        if time.perf_counter() - began > READY_SECONDS:
            raise NotReadyError("the features of the online store did not come back")
        time.sleep(0.05)
    print(f"   it goes on: {time.perf_counter() - began:.1f} s later answers have them all again")


@contextmanager
def online_store(home: Home) -> Iterator[RedisServer | None]:
    """A Redis of the demo's own; None where one is named, or none is installed."""
    if os.environ.get(REDIS_ENV):
        yield None
        return
    with redis_server(home.root / "redis", *DURABLE) as found:
        if found is not None:
            os.environ[REDIS_ENV] = found.address
        yield found


def demo(workdir: Path | None = None) -> Home:
    """Simulate, run the pipeline, deploy, converse; print what happened and stop everything.

    Returns:
        The home, which stays.
    """
    from prerank.pipeline import run
    from prerank.simulate import simulate

    root = workdir or Path(tempfile.mkdtemp(prefix="prerank-demo-"))
    home = Home.at(root)
    check_home(home)
    check_services(home, online=True)
    began = time.perf_counter()
    world = root / "world"
    if not (world / "summary.json").exists():
        simulate(world, "demo", 7)
    # Another home's variables may be set: what is kept of them must not be its place.
    os.environ[ENV] = str(home.root)
    environment.adopt(home)
    with online_store(home) as store, mlflow_server(home) as uri:
        os.environ["MLFLOW_TRACKING_URI"] = uri
        with ray_cluster():
            mapping = LogMapping(name="a simulated pin board", segments=SEGMENTS)
            results, _ = run(
                home,
                world / "events",
                world / "items.parquet",
                mapping,
                JobConfig.load(None),
                oracles=world,
            )
            ready = time.perf_counter()
            arguments = {"clock": "replay", "allow_unpromoted": True}
            with deployed(arguments) as url:
                deploy = time.perf_counter() - ready
                with open_client(url) as client:
                    request = live_request(home)
                    converse(client, request)
                    if store is not None:
                        interrupt(client, request, store)
                    else:
                        print("\nwith a redis-server of its own, the demo would now pause it")
                    # Where nobody sits before it, nobody would end it.
                    if sys.stdin.isatty():
                        until_enter(client, arguments)
    print(
        "\nstages: "
        + ", ".join(f"{k} {v:.0f} s" for k, v in results.stages.items())
        + f", deploy {deploy:.0f} s; {time.perf_counter() - began:.0f} s in all"
    )
    return home
