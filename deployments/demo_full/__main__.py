"""`make demo-full`: the platform of compose.yaml without containers, from a log to an alert.

PostgreSQL, Redis, SeaweedFS (S3), the MLflow server, Prometheus and Ray run on loopback, at free
ports and in a folder of their own. A simulated log becomes a served model: state in S3, features
and journal in Redis, runs in PostgreSQL. Then Redis is paused until Prometheus knows of it.
Everything that is started is ended by its own handle.

Grafana is in no package registry and is left out; its dashboard asks the same Prometheus.
"""

from __future__ import annotations

import json
import secrets
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml
from deployments.demo_full import services
from deployments.demo_full.services import BUCKET, ROOT, Platform, answers, s3

from prerank import Client, RankRequest
from prerank.core.errors import NotReadyError
from prerank.core.processes import RedisServer, free_port

ROWS = 80_000
REQUESTS, PROBES = 50, 20
EVERY_S = 2
"""How often Prometheus looks, in seconds."""
WAIT_S = 120.0
ALERT = 'ALERTS{alertname="PrerankStoreAway"}'


def job(platform: Platform) -> None:
    """From a simulated log in the store to a promoted version."""
    platform.told["PRERANK_HOME"] = f"s3://{BUCKET}/home"
    platform.told["PRERANK_CACHE"] = str(platform.root / "cache")
    world = platform.root / "world"
    platform.run("prerank", "simulate", f"--out={world}", "--preset=demo", f"--rows={ROWS}")
    upload = (
        "import sys, pyarrow.fs as fs; "
        "fs.copy_files(sys.argv[1], sys.argv[2], destination_filesystem="
        "fs.S3FileSystem(endpoint_override=sys.argv[3]))"
    )
    place = f"{BUCKET}/log"
    endpoint = platform.told["AWS_ENDPOINT_URL"]
    platform.run(sys.executable, "-c", upload, str(world), place, endpoint)
    began = time.monotonic()
    log = f"s3://{place}"
    printed = platform.run(
        "prerank", "run", f"--events={log}/events", f"--items={log}/items.parquet"
    )
    print(best_two(printed))
    platform.run("prerank", "promote")
    print(f"  log, features, training, report, promotion: {time.monotonic() - began:.0f} s")


def best_two(printed: str) -> str:
    """Of what `prerank run` printed: the head of the table, and the best two rankers."""
    lines = printed.splitlines()
    # The gate, whose lines come before, judges recall@cut too.
    head = next(n for n, line in enumerate(lines) if line.split()[:2] == ["recall@cut", "hits@3"])
    # Below each ranker are its intervals.
    return "\n".join(lines[n] for n in (head, head + 1, head + 3))


def deployment(platform: Platform) -> tuple[str, int]:
    """Ray's head with the application, by the script of compose.yaml; its URL and metrics port."""
    config = yaml.safe_load((ROOT / "deployments" / "compose" / "serve.yaml").read_text())
    port, metrics, dashboard = free_port(), free_port(), free_port()
    config["http_options"] |= {"host": "127.0.0.1", "port": port}
    own = platform.root / "serve.yaml"
    own.write_text(yaml.safe_dump(config))
    # Ray's sockets need a short path.
    folder = platform.stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-"))
    url = f"http://127.0.0.1:{port}"
    platform.told |= {
        "PRERANK_URL": url,
        "PRERANK_TOKEN": secrets.token_hex(services.PASSWORD_SIZE),
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_DASHBOARD_ADDRESS": f"http://127.0.0.1:{dashboard}",
    }
    platform.told |= image_variables()
    words = [str(ROOT / "deployments" / "compose" / "head.sh"), str(own), f"--temp-dir={folder}"]
    words += ["--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}"]
    words += [f"--metrics-export-port={metrics}", f"--port={free_port()}"]
    words += [f"--ray-client-server-port={free_port()}"]
    words += [f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=400000000"]
    platform.start("Ray Serve", words, lambda: answers(f"{url}/ready"))
    # What the probes of the image and of KubeRay's pods ask, without a token.
    for probe in (f"{url}/-/healthz", f"http://127.0.0.1:{dashboard}/api/gcs_healthz"):
        if not answers(probe):
            raise NotReadyError(f"{probe} does not answer with 200: a probe would find it unwell")
    return url, metrics


def image_variables() -> dict[str, str]:
    """What the image sets for Ray Serve, as `prerank env` does."""
    from prerank.core.environment import variables
    from prerank.core.home import Home

    with tempfile.TemporaryDirectory() as folder:
        found = variables(Home.at(Path(folder)))
    return {k: v for k, v in found.items() if k.startswith("RAY_") and k != "RAY_DASHBOARD_ADDRESS"}


def prometheus(platform: Platform, metrics: int) -> str:
    """Prometheus with the alert rules; its URL."""
    shipped = ROOT / "deployments" / "prometheus"
    config = yaml.safe_load((shipped / "prometheus.yaml").read_text())
    config["global"] = {"scrape_interval": f"{EVERY_S}s", "evaluation_interval": f"{EVERY_S}s"}
    config["rule_files"] = [str(shipped / "alerts.yaml")]
    config["scrape_configs"][0]["static_configs"] = [{"targets": [f"127.0.0.1:{metrics}"]}]
    own = platform.root / "prometheus.yaml"
    own.write_text(yaml.safe_dump(config))
    url = f"http://127.0.0.1:{free_port()}"
    words = [str(services.binary("prometheus")), f"--config.file={own}"]
    words += [f"--storage.tsdb.path={platform.root / 'tsdb'}"]
    words += [f"--web.listen-address={url.removeprefix('http://')}"]
    platform.start("Prometheus", words, lambda: answers(f"{url}/-/ready"))
    return url


def until(wanted: Any, ask: Any, what: str) -> float:
    """Seconds until ``ask`` says ``wanted``.

    Raises:
        NotReadyError: it did not in time; the message has ``what`` and what it said last.
    """
    began = time.monotonic()
    while (found := ask()) != wanted:
        if time.monotonic() - began > WAIT_S:
            raise NotReadyError(f"{what}: {found!r}, not {wanted!r}")
        time.sleep(0.5)
    return time.monotonic() - began


def asked(url: str, question: str) -> list[dict[str, Any]]:
    """What Prometheus answers."""
    answer = httpx.get(f"{url}/api/v1/query", params={"query": question}).raise_for_status().json()
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


def answers_counted(url: str) -> int:
    """Rankings of all replicas, as Prometheus knows them."""
    found = asked(url, "sum(ray_prerank_latency_ms_count)")
    return int(found[0]["value"][1]) if found else 0


def searched(query: str, user: str, items: list[int]) -> RankRequest:
    """A user's search over some items."""
    return RankRequest(query=query, user_id=user, candidates=items)


def converse(platform: Platform, url: str) -> None:
    """Rankings and an event of a live caller, and the same scores from the offline tables."""
    import pyarrow.parquet as pq

    world = platform.root / "world"
    day = sorted((world / "events").rglob("*.parquet"))[-1]
    row = pq.read_table(day, partitioning=None).slice(0, 1).to_pylist()[0]
    items = pq.read_table(world / "items.parquet")["item_id"].to_pylist()[:200]
    with Client(url, token=platform.told["PRERANK_TOKEN"]) as client:
        began = time.monotonic()
        for _ in range(REQUESTS):
            ranking = client.rank(searched(row["query"], row["user_id"], items))
        each = 1e3 * (time.monotonic() - began) / REQUESTS
        print(f"  {REQUESTS} rankings of {len(items)} items, {each:.1f} ms each, one after another")
        print(f"  model version {ranking.model_version}, degraded {ranking.degraded}")
    for line in platform.run("prerank", "parity", f"--requests={PROBES}").splitlines():
        if line.strip().startswith(("requests compared", "equal within")):
            print(f"  {line.strip()}")


def stored(platform: Platform, backend: str) -> None:
    """Print where the state lies."""
    import psycopg

    with psycopg.connect(backend.replace("+psycopg", "")) as connection:
        versions = connection.execute("SELECT count(*) FROM model_versions").fetchone()
    pages = s3(platform.told).get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    sizes = [found["Size"] for page in pages for found in page.get("Contents", ())]
    print(f"  PostgreSQL: {versions[0] if versions else 0} model versions")
    print(f"  S3: {len(sizes)} objects, {sum(sizes) / 1e6:.0f} MB")


def interrupt(platform: Platform, url: str, watch: str, store: RedisServer) -> None:
    """Pause the online store until its alert is pending, and go on until it is gone."""

    def rank() -> list[str]:
        with Client(url, token=platform.told["PRERANK_TOKEN"]) as client:
            return list(client.rank(searched("red", "u1", [1, 2, 3])).degraded)

    def state() -> list[str]:
        rank()
        return [found["metric"]["alertstate"] for found in asked(watch, ALERT)]

    with store.paused():
        seconds = until(["pending"], state, "the alert of a store that is away")
        print(f"  Redis is paused: answers lack {rank()}, PrerankStoreAway after {seconds:.0f} s")
    seconds = until([], state, "the alert of a store that is back")
    print(f"  it goes on: the alert is gone after {seconds:.0f} s, answers lack {rank()}")


def demo(platform: Platform) -> None:
    """All of it; prints what happened."""
    print("[1/5] services …")
    services.object_store(platform)
    backend = services.database(platform)
    store = services.online_store(platform)
    services.tracking(platform, backend)
    print("[2/5] from a log to a promoted version …")
    job(platform)
    stored(platform, backend)
    print("[3/5] deploy …")
    url, metrics = deployment(platform)
    watch = prometheus(platform, metrics)
    print("[4/5] requests …")
    converse(platform, url)
    print("[5/5] metrics and alerts …")
    # Replicas tell Ray of their metrics every few seconds.
    until(True, lambda: answers_counted(watch) >= REQUESTS + PROBES, "answers that are counted")
    rules = httpx.get(f"{watch}/api/v1/rules").json()["data"]["groups"]
    count = sum(len(group["rules"]) for group in rules)
    print(f"  Prometheus has {count} alerts, and counts {answers_counted(watch)} answers")
    now = sorted(
        f"{one['metric']['alertname']} ({one['metric']['alertstate']})"
        for one in asked(watch, "ALERTS")
    )
    # The simulated log ended long ago, and so did its last snapshot.
    print(f"  alerts of a deployment that is well: {', '.join(now) or 'none'}")
    interrupt(platform, url, watch, store)


def left(root: Path) -> list[psutil.Process]:
    """Processes that have ``root`` as their HOME: none, once all was ended."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("HOME") == str(root):
                found.append(process)
        except psutil.Error:
            continue
    return found


def main() -> int:
    """The exit code: 5 where a service is missing or did not become ready."""
    if lacking := services.missing():
        print("demo-full needs, and this machine lacks:", *lacking, sep="\n  ", file=sys.stderr)
        return 5
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prerank-full-") as folder:
        root = Path(folder)
        try:
            with ExitStack() as stack:
                demo(Platform(root, stack))
        except NotReadyError as error:
            print(f"demo-full: {error}", file=sys.stderr)
            return 5
        finally:
            # Ray's workers end a moment after their node.
            _, alive = psutil.wait_procs(left(root), timeout=20)
            for process in alive:
                print(f"ended by force: {json.dumps(process.name())}", file=sys.stderr)
                process.kill()
    print(f"all services are stopped; {time.monotonic() - began:.0f} s in all")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
