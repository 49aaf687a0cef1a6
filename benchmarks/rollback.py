"""Seconds from a rollback, and from a promotion, until every replica serves the other version.

    python benchmarks/rollback.py --workdir W [--replicas 2] [--times 10] [--rows 80000]

A whole small installation on this machine, on loopback: a simulated log, two trainings that differ
by their seed, MLflow's server, and a live deployment with several replicas that is asked all the
time. Time runs from before the command's work (``prerank.promotion.champion``) until the last
answer of the version of before; then as many answers in a row are of the other one as would find
another replica. What the gate said of both versions is printed too. In W, what was made is kept:
called again, only the deployment is measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from interactrank.training.trainer import TrainConfig
from prerank.config import JobConfig
from prerank.core import environment
from prerank.core.home import ENV, Home
from prerank.core.processes import mlflow_server
from prerank.core.quiet import hush
from prerank.core.ray_tasks import start_local
from prerank.demo import deployed, live_request
from prerank.ingest.mapping import LogMapping
from prerank.pipeline import Stages, run, train_and_evaluate
from prerank.promotion.champion import promote, rollback
from prerank.promotion.config import GateConfig
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import Version
from prerank.simulate import simulate

GATE = GateConfig(golden_ms=1e4)
"""How fast a golden request is on a busy machine is not what is measured."""


def prepare(home: Home, rows: int) -> None:
    """A log and two versions, both promoted in turn."""
    world = home.root / "world"
    simulate(world, "demo", 7, rows=rows)
    mapping = LogMapping(name="rollback", segments=("country", "device"))
    train = TrainConfig(epochs=2)
    config = JobConfig(baselines=(), train=train, gate=GATE)
    _, first = run(home, world / "events", world / "items.parquet", mapping, config)
    promote(home, first, GATE)
    other = replace(config, train=replace(train, seed=train.seed + 1))
    _, second = train_and_evaluate(home, other, Stages(3), "train")
    verdict = promote(home, second, GATE, without_gate=True)
    assert verdict is None


def follow(url: str, body: dict[str, Any], wanted: str, streak: int) -> tuple[float, int]:
    """When the last answer of another version than ``wanted`` came, and how many answers did."""
    last, asked, row = time.perf_counter(), 0, 0
    while row < streak:
        # A new connection each time, which finds either replica.
        answer = httpx.post(f"{url}/v1/prerank", json=body, timeout=30).raise_for_status().json()
        asked += 1
        if answer["model_version"] == wanted:
            row += 1
        else:
            last, row = time.perf_counter(), 0
    return last, asked


def main() -> None:
    """Prepare what is missing, deploy, go back and forth, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--rows", type=int, default=80_000)
    args = parser.parse_args()
    hush()
    home = Home.at(args.workdir.resolve() / "home")
    home.create()
    os.environ[ENV] = home.place
    os.environ.setdefault("RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S", "1")
    environment.adopt(home)
    with mlflow_server(home) as uri:
        os.environ["MLFLOW_TRACKING_URI"] = uri
        start_local(num_cpus=args.replicas + 4)
        tracking.connect(home)
        if registry.alias_version(registry.CHAMPION) is None:
            prepare(home, args.rows)
        champion = registry.alias_version(registry.CHAMPION)
        assert champion is not None
        config = {"clock": "replay", "replicas": args.replicas}
        with deployed(config) as url:
            body, streak = live_request(home).body, 40 * args.replicas
            follow(url, body, champion.number, streak)
            for name, seconds in measured(home, url, body, streak, args.times).items():
                print(
                    f"{name}: median {statistics.median(seconds):.2f} s, "
                    f"{min(seconds):.2f} to {max(seconds):.2f} s, {len(seconds)} times, "
                    f"{args.replicas} replicas"
                )


def measured(
    home: Home, url: str, body: dict[str, Any], streak: int, times: int
) -> dict[str, list[float]]:
    """Seconds of each rollback, and of each promotion back."""
    found: dict[str, list[float]] = {"rollback": [], "promotion": []}

    def back() -> str:
        return rollback(home)[1].number

    def forth(left: Version) -> str:
        promote(home, left, GATE, without_gate=True)
        return left.number

    for _ in range(times):
        champion = registry.alias_version(registry.CHAMPION)
        assert champion is not None
        moves: dict[str, Callable[[], str]] = {
            "rollback": back,
            "promotion": partial(forth, champion),
        }
        for name, move in moves.items():
            began = time.perf_counter()
            last, _ = follow(url, body, move(), streak)
            found[name].append(last - began)
    return found


if __name__ == "__main__":
    main()
