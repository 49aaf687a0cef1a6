"""BM25, a two-tower and InteractRank as variants of one live deployment.

    python benchmarks/online_simulation.py [--searches 1500] [--days 3] [--live 3]

Searchers of a simulated board search over HTTP and click what they are shown, by its true
relevance and by how far down it stands. For some days the deployment answers in BM25's order, and
writes down what is served. Each night the day becomes part of the log. Then a vanilla two-tower and
InteractRank are trained of these days alone, and an experiment deals the users between all three,
while each night's work goes on: the features are those of the day before. At the end
`prerank online-report` compares them. InteractRank (arXiv 2504.06609) reports +6.5% search
fulfilment over BM25 and +3.7% over the two-tower, online.

The deployment's clock is `replay`: requests and events bring the days of the simulated world.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from tests.installation import Installation
from tests.serve_status import ready
from tests.simulated_searchers import Search, Searchers
from tests.small_versions import build_index

from interactrank.features.text import normalise, tokens
from interactrank.model.architectures import build
from interactrank.model.config import ModelConfig
from prerank.core.manifest import LogManifest
from prerank.core.times import iso
from prerank.dataset.catalogue import load_catalogue, load_titles
from prerank.evaluation.baselines.simple import Bm25Ranker
from prerank.online_tests.statistics import Rate, half_width, lift
from prerank.online_tests.words import percent
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import save_bundle
from prerank.registry.registration import register
from prerank.simulate import PRESETS
from prerank.simulate.presets import DAY, LOG_START

FIRST_DAY, SHOWN, HOURS, SEED = 10, 12, (1.5, 24.0), 7
JOB = """\
features: {cadence_hours: 24, lag_minutes: 60}
train: {batch_requests: 64, warmup_steps: 20, seed: 7%s}
model: {%s}
baselines: []
"""
MAPPING = "name: board\nsegments: [country, device]\nlabel_window_hours: 1\n"
PAPER = {
    ("interactrank", "bm25"): "; the paper: fulfilment +6.5%",
    ("interactrank", "two_tower"): "; the paper: fulfilment +3.7%",
    ("two_tower", "bm25"): "",
}
UNTRAINED = ModelConfig(width=16, mask_blocks=1, mask_width=16, hidden=(16,))


class Traffic:
    """Searches, sent by time; what is done is reported when it happens."""

    def __init__(self, client: httpx.Client, searchers: Searchers, bm25: Any) -> None:
        self.client, self.searchers, self._bm25 = client, searchers, bm25
        self._due: list[tuple[int, int, dict[str, Any]]] = []
        self._acts = 0

    def day(self, day: int, searches: int) -> None:
        """All searches of a day of the world, and what is done before its end."""
        for search in self.searchers.searches(day, searches, HOURS):
            self._report(search.time_us)
            self._search(search)
        self._report(round((LOG_START + DAY * (day + 1)) * 1e6))

    def _search(self, search: Search) -> None:
        words = [w for w in tokens(normalise(search.query)) if w in self._bm25.vocab_dict]
        scores = (
            self._bm25.get_scores(words)[search.found] if words else np.zeros(len(search.found))
        )
        found = search.found[np.argsort(-scores, kind="stable")]
        ids = self.searchers.ids[found].tolist()
        body = {
            "request_id": search.name,
            "user_id": search.user,
            "query": search.query,
            "context": search.context,
            "time": search.time_us,
            "candidates": [{"id": i, "rank": rank} for rank, i in enumerate(ids)],
            "k": len(ids),
        }
        told = self.client.post("/v1/prerank", json=body).raise_for_status().json()
        assert not told["degraded"], told
        assert "fallback" not in told, told
        order = [ids.index(item["id"]) for item in told["items"]]
        for event in self.searchers.acts(search, found[order[:SHOWN]]):
            self._acts += 1
            heapq.heappush(self._due, (event["event_time"], self._acts, event))

    def _report(self, now_us: int) -> None:
        events = []
        while self._due and self._due[0][0] < now_us:
            events.append(heapq.heappop(self._due)[2])
        if events:
            self.client.post("/v1/events", json={"events": events}).raise_for_status()


def prepare(live: Installation, searchers: Searchers) -> None:
    """A log that says what there is and nothing else, and an untrained champion."""
    at = pd.Timestamp((LOG_START + DAY * FIRST_DAY) - 3600, unit="s", tz="UTC")
    actions = ["impression", "click", "long_click", "save"]
    log = pd.DataFrame(
        {
            # What is shown is not engaged with, and what is done was not shown: it has no label.
            "request_id": ["first-shown", *(f"first-{name}" for name in actions[1:])],
            "request_time": at,
            "event_time": at,
            "user_id": "nobody",
            "query": "the first query",
            "item_id": searchers.ids[:4],
            "action": actions,
            "position": pd.array([1, None, None, None], "Int32"),
            "retriever_rank": pd.array([0, None, None, None], "Int32"),
            "country": "us",
            "device": "mobile",
        }
    )
    root = live.root
    log.to_parquet(root / "first.parquet")
    pq.write_table(searchers.items, root / "items.parquet")
    (root / "mapping.yaml").write_text(MAPPING)
    (root / "job.yaml").write_text(JOB % ("", ""))
    two_tower = "cross: false, history: false"
    (root / "two_tower.yaml").write_text(JOB % (", loss: {softmax: 1.0}", two_tower))
    live.start_mlflow()
    live.run(
        f"prerank ingest --events {root}/first.parquet --items {root}/items.parquet "
        f"--mapping {root}/mapping.yaml && prerank features --config {root}/job.yaml && "
        "prerank materialise"
    )
    tracking.connect(live.home)
    catalogue = load_catalogue(live.home)
    torch.manual_seed(1)
    model = build(UNTRAINED, LogManifest.load(live.home).schema, catalogue).eval()
    with tracking.job_run(live.home, "untrained", {}, {}) as run_id:
        pass
    save_bundle(root / "untrained", model, catalogue, {})
    version = register(root / "untrained", run_id, {}, {})
    build_index(live.home, registry.download(live.home, version), version)
    registry.promote(live.home, version)


def until(condition: Callable[[], bool], what: Callable[[], Any], seconds: float = 180) -> None:
    """Wait for what other processes do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.5)


def night(live: Installation, day: int) -> None:
    """A day's work, once its last answers are written."""
    time.sleep(35)
    live.run(f"prerank update --served --config {live.root}/job.yaml")
    cutoff = iso(round((LOG_START + DAY * (day + 1)) * 1e6))
    until(lambda: live.health().get("snapshot_cutoff") == cutoff, live.health)


def run_experiment(live: Installation, name: str, **variants: tuple[str, float]) -> None:
    """Begin an experiment of versions and shares, by `user_config`."""
    listed = [
        {"name": key, "version": version, "share": share}
        for key, (version, share) in variants.items()
    ]
    (deployment,) = live.config["applications"][0]["deployments"]
    deployment["user_config"] = {"experiment": {"name": name, "variants": listed}}
    before = {process.pid for process in live.serve.replicas()}
    live.deploy()
    until(lambda: live.health().get("experiment") == name, live.health)
    assert {process.pid for process in live.serve.replicas()} == before, "a replica was restarted"


def simulate(live: Installation, args: argparse.Namespace) -> str:
    """All the days; what `prerank online-report` prints."""
    searchers = Searchers(PRESETS[args.preset], SEED)
    began = time.monotonic()

    def told(what: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {what}", flush=True)

    prepare(live, searchers)
    told("a champion that knows nothing is promoted")
    live.start_ray()
    live.deploy()
    live.serve.wait_for(1, besides=lambda: ready(live.url))
    bm25 = Bm25Ranker.fit(load_catalogue(live.home), load_titles(live.home)).index
    with httpx.Client(base_url=live.url, timeout=60) as client:
        traffic = Traffic(client, searchers, bm25)
        run_experiment(live, "before", bm25=("retriever", 1.0), champion=("champion", 0.0))
        for day in range(FIRST_DAY, FIRST_DAY + args.days):
            traffic.day(day, args.searches)
            night(live, day)
            told(f"day {day - FIRST_DAY + 1}: {args.searches:,} searches in BM25's order")
        live.run("prerank training-set")
        live.run(f"prerank train --config {live.root}/two_tower.yaml", timeout_s=900)
        live.run(f"prerank train --config {live.root}/job.yaml && prerank promote", timeout_s=900)
        until(lambda: live.health().get("model_version") == "3", live.health)
        told("a two-tower (2) and InteractRank (3) are trained of these days")
        third = 1 / 3
        run_experiment(
            live,
            "headline",
            bm25=("retriever", third),
            two_tower=("2", third),
            interactrank=("champion", third),
        )
        for day in range(FIRST_DAY + args.days, FIRST_DAY + args.days + args.live):
            traffic.day(day, args.searches)
            night(live, day)
            told(f"day {day - FIRST_DAY + 1}: {args.searches:,} searches of the experiment")
    planned = args.live * args.searches
    out = args.out or live.root / "out"
    printed = live.run(
        f"prerank online-report --experiment headline --planned {planned} --out {out}"
    )
    return f"{printed}\n{lifts(out / 'online-headline.json')}"


def lifts(report: Path) -> str:
    """Relative differences of each pair, with what the paper reports of fulfilment."""
    found = json.loads(report.read_text())

    def rate(variant: str, name: str) -> Rate:
        measured = found["variants"][variant]
        one, count = measured["rates"][name], measured["requests"]
        unit = float(half_width(1.0, count, found["alpha"], found["planned"]))
        return Rate(one["value"], (one["high"] - one["low"]) / 2 / unit, count)

    lines = []
    for (of, control), paper in PAPER.items():
        told = []
        for name in ("fulfilment", "engagements"):
            both = rate(of, name), rate(control, name)
            told.append(f"{name} {percent(lift(*both, found['alpha'], found['planned']))}")
        lines.append(f"{of} against {control}: {', '.join(told)}{paper}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--searches", type=int, default=1_500, help="of a day")
    parser.add_argument("--days", type=int, default=3, help="in BM25's order")
    parser.add_argument("--live", type=int, default=3, help="of the experiment")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--out", type=Path, help="folder for the report")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        live = Installation(
            Path(folder),
            clock="replay",
            replicas=1,
            log_share=1.0,
            log_items=SHOWN,
            require_gate=False,
            # The machine may be busy: what is late would be degraded.
            timeout_ms=20_000,
            golden_ms=10_000,
        )
        os.environ |= live.variables
        try:
            print(simulate(live, args))
        finally:
            live.stop()


if __name__ == "__main__":
    main()
