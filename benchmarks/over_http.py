"""Load on the deployment over HTTP, with features in Redis, beside a plain FastAPI service.

    python benchmarks/over_http.py [--quick] [--candidates 1000 10000 100000] [--out table.md]

Everything is started here and stopped at the end: a Redis server, the Ray Serve application with
one replica behind HAProxy (as `prerank env` sets it up), and `plain_service.py`, one process that
reads the same rows from the same Redis. A synthetic index of --items items is made first. Both
services take the same bytes.

What is measured, of each number of candidates and each form of the body:

- alone: one request after the other. The median is set beside the scorer in one process, which is
  given rows and history: the difference is what HTTP, Ray, the store and JSON cost.
- peak: answers per second to callers that wait for their answers, as fast as they come.
- saturation: the highest rate at which 99% of the requests are answered within a second and p99
  stays below ten times the median alone. Rates go down from the peak in steps of a tenth of it.
- at half of saturation: p50, p99 and p99.9. With Poisson arrivals and a constant time of service,
  queueing alone makes p99 4.3 times p50 there (M/D/1), of what one thread does.
- at twice saturation: answers within a second, of those that came back while requests were sent
  (goodput), refusals (503), answers that came late or not at all, answers that lack features, and
  the memory of the service before and after.

The load is open: `open_loop.py`, a process of its own, sends each request when it is due, whatever
became of those before, and counts its latency from then. Generator, services and Redis share the
cores; the share of each is printed. A percentile that too few requests were made for is left out.
Medians of the repeats, (lowest to highest). The services take turns within a repeat.

--quick is a smoke run: a small index, little load, figures that mean nothing.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from numpy.typing import NDArray
from over_http_tables import OURS, PLAIN, Cell, Found, tables
from printed import show
from scorer_world import NOW, SCHEMA
from served_world import VERSION, Asked, as_http, asked, build

from interactrank.model.scorer import Scorer
from prerank.core import environment
from prerank.core.home import Home
from prerank.core.processes import RedisServer, free_port, redis_server
from prerank.demo import deployed, ray_cluster
from prerank.online.reader import OnlineFeatures
from prerank.online.store import REDIS_ENV
from prerank.registry.bundle import load_bundle
from prerank.registry.index import load_index

FOLDER = Path(__file__).parent
FORMS = ("JSON", "int64")
IN_TIME_MS, BOUND, HOLDS = 1_000.0, 10.0, 0.99
STEPS = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""Of the peak: rates that are tried, the highest first."""
FILES, WORKERS, IN_PROCESS = 16, 4, 31
START_S = 120.0
Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Load:
    """What became of the requests of one run of the generator."""

    seconds: float
    due: Numbers
    ms: Numbers
    status: NDArray[np.int64]
    degraded: int
    generator_cores: float
    sent_late_ms: float

    @property
    def in_time(self) -> NDArray[np.bool_]:
        """Which requests were answered, and soon enough to be of use."""
        return (self.status == 200) & (self.ms <= IN_TIME_MS)

    @property
    def goodput(self) -> float:
        """Answers in time per second, of those that came while requests were due."""
        return (
            float((self.in_time & (self.due + self.ms / 1e3 <= self.seconds)).sum()) / self.seconds
        )

    def percentile(self, q: float) -> float:
        """Of the latencies; a request without an answer took for ever."""
        ms = np.where(self.status == 200, self.ms, np.inf)
        return float(np.quantile(ms, q, method="higher")) if len(ms) else np.inf


def load(port: int, files: Sequence[str], seconds: float, **more: Any) -> Load:
    """Run the generator in a process of its own."""
    job = json.dumps({"port": port, "files": list(files), "seconds": seconds, **more})
    command = [sys.executable, str(FOLDER / "open_loop.py"), job]
    told = json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    return Load(
        seconds,
        np.array(told["due_s"]),
        np.array(told["latency_ms"]),
        np.array(told["status"], np.int64),
        told["degraded"],
        told["cpu_s"] / max(told["wall_s"], seconds),
        told["sent_late_p99_ms"],
    )


@dataclass
class Service:
    """A service, its processes, and what was found of it."""

    name: str
    port: int
    processes: list[psutil.Process]
    found: dict[str, list[float]] = field(default_factory=dict)

    def note(self, **values: float) -> None:
        """Add the values of a repeat."""
        for name, value in values.items():
            self.found.setdefault(name, []).append(value)

    def memory_mb(self) -> float:
        """Resident memory of its processes."""
        return float(sum(p.memory_info().rss for p in self.processes) / 1e6)

    def once(self, files: Sequence[str], seconds: float) -> None:
        """Alone and at its peak."""
        load(self.port, files, seconds / 4, workers=WORKERS)
        self.note(alone=load(self.port, files, seconds).percentile(0.5))
        peak = load(self.port, files, seconds, workers=WORKERS)
        self.note(peak=peak.goodput)

    def repeat(
        self, files: Sequence[str], seconds: float, redis: psutil.Process, seed: int
    ) -> None:
        """Saturation, half of it and twice it."""
        (alone,), (peak,) = self.found["alone"], self.found["peak"]
        rate = peak * STEPS[-1]
        for step in STEPS:
            tried = load(self.port, files, seconds, rate=max(step * peak, 1.0), seed=seed)
            if tried.in_time.mean() >= HOLDS and tried.percentile(0.99) <= BOUND * alone:
                rate = step * peak
                break
        before, began = cpu_seconds([*self.processes, redis]), time.perf_counter()
        half = load(self.port, files, seconds, rate=max(rate / 2, 1.0), seed=seed)
        wall = time.perf_counter() - began
        cores = [b - a for a, b in zip(before, cpu_seconds([*self.processes, redis]), strict=True)]
        memory = self.memory_mb()
        double = load(self.port, files, seconds, rate=2 * max(rate, 1.0), seed=seed)
        self.found.setdefault("half", []).extend(half.ms[half.status == 200])
        self.note(
            saturation=rate,
            half_p50=half.percentile(0.5),
            service_cores=sum(cores[:-1]) / wall,
            redis_cores=cores[-1] / wall,
            generator_cores=half.generator_cores,
            sent_late=half.sent_late_ms,
            goodput=double.goodput,
            degraded=double.degraded / max(int((double.status == 200).sum()), 1),
            refused=float((double.status == 503).mean()),
            late=float(1 - double.in_time.mean() - (double.status == 503).mean()),
            memory_before=memory,
            memory_after=self.memory_mb(),
        )
        time.sleep(0.5)  # what still waits is worked off


def cpu_seconds(processes: Sequence[psutil.Process]) -> list[float]:
    """Processor time of each, so far."""
    return [sum(p.cpu_times()[:2]) for p in processes]


@contextmanager
def plain(home: Home, redis_port: int) -> Iterator[Service]:
    """The plain service, once it answers."""
    port = free_port()
    command = [sys.executable, str(FOLDER / "plain_service.py"), str(home.root), str(redis_port)]
    with subprocess.Popen([*command, str(port)]) as process:
        try:
            until = time.monotonic() + START_S
            while not _ready(port):
                if process.poll() is not None or time.monotonic() > until:
                    raise SystemExit("the plain service did not start")
                time.sleep(0.2)
            yield Service(PLAIN, port, [psutil.Process(process.pid)])
        finally:
            process.terminate()


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 200
    except httpx.HTTPError:
        return False


def our_processes() -> list[psutil.Process]:
    """The replica and the proxy; what else Ray runs does not grow with the requests."""
    found = []
    for process in psutil.Process().children(recursive=True):
        words = " ".join(process.cmdline())
        if "PreRanker" in words or "haproxy" in process.name():
            found.append(process)
    return found


def in_process(home: Home, requests: Sequence[Asked], scorer: Scorer) -> dict[str, float]:
    """Medians: milliseconds of scoring alone, and with the store read before; keys and bytes."""
    features = OnlineFeatures(home, SCHEMA, timeout_s=10.0)
    weights = np.eye(1, len(SCHEMA.heads), dtype=np.float32)[0]
    told: dict[str, list[float]] = {"score": [], "both": [], "keys": [], "bytes": []}
    try:
        for request in itertools.islice(itertools.cycle(requests), IN_PROCESS + 3):
            began = time.perf_counter()
            found = features.read(request.query, request.user, NOW)
            read = time.perf_counter()
            scorer.score(request.query, found.inputs, request.candidates, weights).top(100)
            done = time.perf_counter()
            values = 1e3 * (done - read), 1e3 * (done - began), found.keys, found.bytes
            for name, value in zip(told, values, strict=True):
                told[name].append(value)
    finally:
        features.close()
    return {name: float(np.median(values[3:])) for name, values in told.items()}


def machine() -> str:
    """What it ran on."""
    about = Path("/proc/cpuinfo")
    names = (
        [x for x in about.read_text().splitlines() if "model name" in x] if about.exists() else []
    )
    name = names[0].partition(": ")[2] if names else platform.processor()
    load_1, *_ = os.getloadavg()
    return f"{os.cpu_count()} cores ({name}), torch {torch.__version__}, load {load_1:.1f} before"


def main() -> None:
    """Measure, and print the tables."""
    shown_as_is = argparse.RawDescriptionHelpFormatter
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=shown_as_is)
    ask.add_argument("--items", type=int, default=1_000_000, help="of the index")
    ask.add_argument("--candidates", type=int, nargs="+", default=[1000, 10_000, 100_000])
    ask.add_argument("--forms", nargs="+", choices=FORMS, default=list(FORMS))
    ask.add_argument("--seconds", type=float, default=2.5, help="of each load")
    ask.add_argument("--repeats", type=int, default=3)
    ask.add_argument("--without-plain", action="store_true", help="our deployment alone")
    ask.add_argument("--quick", action="store_true", help="smoke run; its figures mean nothing")
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    ask.add_argument("--json", type=Path, help="file for benchmarks/capacity.py")
    args = ask.parse_args()
    if args.quick:
        args.items, args.candidates, args.seconds, args.repeats = 20_000, [200], 0.5, 1
    about = machine()
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder) / "redis") as redis:
        if redis is None:
            raise SystemExit("there is no redis-server here: apt-get install redis-server")
        found, scorer = measured(args, Path(folder), redis)
    text = (
        f"{args.items:,} items, one replica, {about}; {args.repeats} repeats of "
        f"{args.seconds:g} s\n\n{tables(found, scorer)}\n"
    )
    show(text, args.out)
    if args.json:
        told = [
            {"candidates": n, "form": form, "service": name, "in_process": scorer[n]}
            | {key: float(np.median(values)) for key, values in f.items()}
            for (n, form), services in found.items()
            for name, f in services.items()
        ]
        args.json.write_text(json.dumps({"machine": about, "items": args.items, "found": told}))


def measured(
    args: argparse.Namespace, folder: Path, redis: RedisServer
) -> tuple[Found, dict[int, dict[str, float]]]:
    """Start everything, and measure each cell."""
    torch.set_num_threads(1)
    rng, home = np.random.default_rng(7), Home.at(folder / "home")
    assert redis.process is not None
    server = psutil.Process(redis.process.pid)
    os.environ |= {REDIS_ENV: redis.address, "PRERANK_HOME": str(home.root)}
    # Nobody listens there: the version that was served last is served, and nothing is tried twice.
    os.environ |= {
        "MLFLOW_TRACKING_URI": f"http://127.0.0.1:{free_port()}",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    environment.adopt(home)
    ids = build(home, args.items, rng)
    bundle = load_bundle(home.models / VERSION.name)
    index = load_index(home, VERSION, bundle.digest)
    scorer = Scorer(bundle.model, bundle.catalogue, index.ids, index.vectors).record()
    requests = {n: asked(n, ids, FILES, rng) for n in args.candidates}
    alone = {n: in_process(home, requests[n], scorer) for n in args.candidates}
    del scorer, index, bundle
    found: dict[Cell, dict[str, dict[str, list[float]]]] = {}
    config = {"clock": "replay", "home": str(home.root), "replicas": 1}
    with ray_cluster(), deployed(config) as url, plain(home, redis.port) as other:
        our_port = int(url.rpartition(":")[2])
        for n, form in itertools.product(args.candidates, args.forms):
            files = as_http(requests[n], form, folder)
            services = [Service(OURS, our_port, our_processes())]
            if not args.without_plain:
                services.append(Service(PLAIN, other.port, other.processes))
            for service in services:
                service.once(files, args.seconds)
            for seed in range(args.repeats):
                for service in services:
                    service.repeat(files, args.seconds, server, seed)
            found[n, form] = {service.name: service.found for service in services}
            print(f"{n:,} candidates as {form} done", file=sys.stderr, flush=True)
    return found, alone


if __name__ == "__main__":
    main()
