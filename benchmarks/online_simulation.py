"""BM25, a two-tower and InteractRank as variants of one live deployment, trained anew each night.

    python benchmarks/online_simulation.py [--searches 3000] [--days 2] [--live 3] [--seeds 3]
        [--out FOLDER]

Searchers of a simulated board search over HTTP and click what they are shown, by its true
relevance and by how far down it stands. For some days the deployment answers in BM25's order, and
writes down what is served. Then an experiment deals the users between BM25, a vanilla two-tower and
InteractRank. Each night the day becomes part of the log, and both models are trained anew on all of
it: InteractRank by `prerank retrain --served --auto-promote`, the two-tower by `prerank train`
on the same training set and for as many epochs, whereafter the alias `two_tower` is moved. The
variants follow; no replica is restarted. The last night trains nothing.

At the end `prerank online-report` compares the variants. Beside what it says stands what all of
them would have shown in the same searches (`benchmarks/online_pairs.py`). Several worlds run one
after the other and are put together; of a folder given with `--out`, worlds that are there are not
run again. InteractRank (arXiv 2504.06609) reports +6.5% search fulfilment over BM25 and +3.7% over
the two-tower, online.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray
from online_lifts import CHANCE, ENGAGEMENTS, FULFILMENT, PAPER, Lift, World, table
from online_pairs import Pairs
from tests.installation import Installation
from tests.serve_status import ready
from tests.simulated_searchers import Moment, Search, Searchers
from tests.simulated_traffic import FIRST_DAY, PAGE, Answered, Order, Traffic, begin, follows

from interactrank.features.text import normalise, tokens
from prerank.core.served import requests_folder
from prerank.dataset.catalogue import load_catalogue, load_titles
from prerank.evaluation.baselines.simple import Bm25Ranker
from prerank.online_tests.statistics import Rate, half_width
from prerank.promotion.champion import promote
from prerank.promotion.config import GateConfig
from prerank.registry import versions as registry
from prerank.simulate import PRESETS

VARIANTS = {
    "bm25": ("retriever", 0.2),
    "two_tower": ("two_tower", 0.4),
    "interactrank": ("champion", 0.4),
}
"""Version and share of the users: what differs little needs most of them."""
NOT_PASSED = 5
"""Exit code of `prerank retrain`, among others, where the new version did not pass the gate."""
JOB = """\
features: {cadence_hours: 24, lag_minutes: 60}
train: {epochs: %d, batch_requests: 64, warmup_steps: 20, seed: 7%s}
model: {%s}
baselines: []
gate: {undecided: pass, golden_ms: 10000%s}
"""
"""The gate: a day or two of traffic often cannot tell two nights' models apart within the margin,
and the machine may be busy."""
TWO_TOWER = "cross: false, history: false"
# It need not be as good as the champion, to be compared with it.
OF_TWO_TOWER = ", margin: 0.9"


class Dealt(Traffic):
    """Traffic of variants.

    Attributes:
        versions: variant -> version that is to answer; others are not looked at.
        sent: searches so far.
        pairs: sees the searches of the experiment; None before it.
    """

    def __init__(self, client: httpx.Client, searchers: Searchers, order: Order) -> None:
        super().__init__(client, searchers, order)
        self.versions: dict[str, str] = {}
        self.sent = 0
        self.pairs: Pairs | None = None

    def answered(self, moment: Moment, answers: list[Answered], pages: NDArray[np.int64]) -> None:
        """Each is of the version that its variant serves, and of no other in its place."""
        self.sent += len(answers)
        for answer in answers:
            variant, version = answer.body["variant"], answer.body["model_version"]
            assert "fallback" not in answer.body, answer.body
            assert version == self.versions.get(variant, version), (variant, version)
        if self.pairs is not None:
            self.pairs.see(moment, answers)


def by_bm25(live: Installation) -> Order:
    """Orders what was found by BM25 of the query and the titles."""
    index: Any = Bm25Ranker.fit(load_catalogue(live.home), load_titles(live.home)).index

    @lru_cache(None)
    def scores(query: str) -> NDArray[np.float32] | None:
        words = [word for word in tokens(normalise(query)) if word in index.vocab_dict]
        return np.asarray(index.get_scores(words)) if words else None

    def order(search: Search) -> NDArray[np.int64]:
        found = scores(search.query)
        if found is None:
            return search.found
        return search.found[np.argsort(-found[search.found], kind="stable")]

    return order


def until(condition: Callable[[], bool], what: Callable[[], Any], seconds: float = 600) -> None:
    """Wait for what other processes do."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what()
        time.sleep(0.2)


def run_experiment(live: Installation, name: str, variants: dict[str, tuple[str, float]]) -> None:
    """Begin an experiment of versions and shares, by `user_config`."""
    listed = [
        {"name": key, "version": version, "share": share}
        for key, (version, share) in variants.items()
    ]
    (deployment,) = live.config["applications"][0]["deployments"]
    deployment["user_config"] = {"experiment": {"name": name, "variants": listed}}
    live.deploy()
    until(lambda: live.health().get("experiment") == name, live.health)


def written(live: Installation) -> int:
    """Answers in the served log."""
    files = requests_folder(live.home).glob("day=*/*.parquet")
    return sum(int(pq.read_metadata(file).num_rows) for file in files)


def night(live: Installation, traffic: Dealt, day: int, trains: bool) -> str:
    """A day's work, once its last answers are written; what became of it, in words."""
    until(lambda: written(live) == traffic.sent, lambda: (written(live), traffic.sent))
    job = f"--config {live.root}/job.yaml"
    if not trains:
        live.run(f"prerank update --served {job}")
        until(lambda: follows(live, day), live.health)
        return "no training"
    printed = live.run(f"prerank retrain --served --auto-promote {job} || test $? = {NOT_PASSED}")
    refused = "did not pass the gate" in printed
    made, champion = map(registry.alias_version, (registry.CHALLENGER, registry.CHAMPION))
    assert (made == champion) is not refused, printed
    live.run(f"prerank train --config {live.root}/two_tower.yaml")
    two_tower = registry.alias_version(registry.CHALLENGER)
    assert champion is not None
    assert two_tower is not None
    move("two_tower", two_tower.number)
    traffic.versions = {"interactrank": champion.number, "two_tower": two_tower.number}
    until(lambda: follows(live, day), live.health)
    told = "the gate refused InteractRank's; " if refused else ""
    return f"{told}InteractRank {champion}, two-tower {two_tower}"


def await_versions(live: Installation, versions: dict[str, str]) -> None:
    """Wait until each variant serves the version that it is to serve."""
    until(lambda: live.health().get("variants") == versions, live.health)


def move(alias: str, version: str) -> None:
    """Move an alias, as a person does in MLflow's UI."""
    from mlflow import MlflowClient

    MlflowClient().set_registered_model_alias(registry.MODEL_NAME, alias, version)


def simulate(live: Installation, args: argparse.Namespace, seed: int, out: Path) -> World:
    """All the days of a world; prints what `prerank online-report` says."""
    searchers, began = Searchers(PRESETS[args.preset], seed), time.monotonic()

    def told(what: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {what}", flush=True)

    untrained = begin(live, searchers, JOB % (args.epochs, "", "", ""))
    (live.root / "two_tower.yaml").write_text(
        JOB % (args.epochs, ", loss: {softmax: 1.0}", TWO_TOWER, OF_TWO_TOWER)
    )
    promote(live.home, untrained, GateConfig(), without_gate=True)
    told("a champion that knows nothing is promoted")
    live.start_ray()
    live.deploy()
    replicas = live.serve.wait_for(1, besides=lambda: ready(live.url))
    told("it is served")
    last = FIRST_DAY + args.days + args.live - 1
    with httpx.Client(base_url=live.url, timeout=60) as client:
        traffic = Dealt(client, searchers, by_bm25(live))
        run_experiment(live, "before", {"bm25": ("retriever", 1.0), "champion": ("champion", 0.0)})
        for day in range(FIRST_DAY, last + 1):
            if day == FIRST_DAY + args.days:
                run_experiment(live, "headline", VARIANTS)
                traffic.pairs = Pairs(live, searchers)
            if traffic.pairs is not None:
                await_versions(live, traffic.versions | {"bm25": "retriever"})
                traffic.pairs.load(traffic.versions)
            traffic.day(day, args.searches)
            told(f"day {day - FIRST_DAY + 1}: {args.searches:,} searches")
            if traffic.pairs is not None:
                told(f"{CHANCE}, so far: {in_words(traffic.pairs.ratios())}")
            trains = FIRST_DAY + args.days - 1 <= day < last
            told(f"its night: {night(live, traffic, day, trains)}")
    assert live.serve.replicas() == replicas, "a replica was restarted"
    planned = args.live * args.searches
    print(live.run(f"prerank online-report --experiment headline --planned {planned} --out {out}"))
    told("the report")
    rates = reported(json.loads((out / "online-headline.json").read_text()))
    assert traffic.pairs is not None
    return World(seed, planned, rates, traffic.pairs.ratios())


def in_words(ratios: Mapping[str, Mapping[str, Rate]]) -> str:
    """Each pair of variants."""
    return "; ".join(
        f"{of} against {control} {Lift.of(ratios[of][control]).text()}" for of, control in PAPER
    )


def reported(report: dict[str, Any]) -> dict[str, dict[str, Rate]]:
    """Rates of each variant, with their standard errors, from a report."""
    alpha, planned = report["alpha"], report["planned"]

    def of(measured: dict[str, Any], name: str) -> Rate:
        one, count = measured["rates"][name], measured["requests"]
        unit = float(half_width(1.0, count, alpha, planned))
        return Rate(one["value"], (one["high"] - one["low"]) / 2 / unit, count)

    return {
        variant: {name: of(measured, name) for name in (FULFILMENT, ENGAGEMENTS)}
        for variant, measured in report["variants"].items()
    }


def world(args: argparse.Namespace, seed: int, out: Path) -> World:
    """A world with an installation of its own; as it was written down, where it was."""
    path = out / "world.json"
    if path.exists():
        return World.of(json.loads(path.read_text()))
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        live = Installation(
            Path(folder),
            clock="replay",
            replicas=1,
            log_share=1.0,
            log_items=PAGE,
            # The machine may be busy: what is late would be degraded.
            timeout_ms=20_000,
            golden_ms=10_000,
        )
        os.environ |= live.variables
        try:
            found = simulate(live, args, seed, out)
        finally:
            live.stop()
    path.write_text(json.dumps(found.to_dict()))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--searches", type=int, default=3_000, help="of a day")
    parser.add_argument("--days", type=int, default=2, help="in BM25's order")
    parser.add_argument("--live", type=int, default=3, help="of the experiment")
    parser.add_argument("--epochs", type=int, default=3, help="of each training")
    parser.add_argument("--seeds", type=int, default=3, help="worlds, one after the other")
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--out", type=Path, help="folder for the reports")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        out: Path = (args.out or Path(folder)).resolve()
        worlds = []
        for seed in range(7, 7 + args.seeds):
            print(f"world {seed}", flush=True)
            worlds.append(world(args, seed, out / f"world-{seed}"))
        print(table(worlds))


if __name__ == "__main__":
    main()
