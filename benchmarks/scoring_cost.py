"""What a candidate costs on a log of your own: the served scorer beside the trees.

    python benchmarks/scoring_cost.py --home HOME [--candidates 10000] [--requests 50]

HOME is an absolute path that `prerank run` has filled; nothing but the registered model's bundle is
written there, and the trees are fitted in a temporary folder. Requests are of the later half of
validation, each with the same candidates: the first of the catalogue. Both rankers get one thread
and one request at a time. InteractRank's time is all of a request but reading its rows, the query
tower included. The trees need every feature of every candidate, which is timed apart.
``benchmarks/scorer.py`` measures large catalogues.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from interactrank.features.engagement import cross_features
from interactrank.model.scorer import Scorer
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.candidates import catalogue_candidates
from prerank.dataset.examples import request_arrays
from prerank.evaluation.baselines.suite import FITTED
from prerank.evaluation.baselines.trees import TreesRanker
from prerank.evaluation.budget import measured_requests
from prerank.features.offline import offline_inputs
from prerank.registry import tracking
from prerank.registry import versions as registry
from prerank.registry.bundle import Version, load_bundle
from prerank.registry.index import load_index
from prerank.serving.fields import weights_of

REPEATS = 5
PARTS = ("cross features of all", "trees", "InteractRank", "of which query side")


def microseconds(work: Callable[[], object]) -> float:
    """The least of a few repeats, which the machine's other work disturbed least."""
    taken = []
    for _ in range(REPEATS):
        began = time.perf_counter()
        work()
        taken.append(1e6 * (time.perf_counter() - began))
    return min(taken)


def measure(home: Home, version: Version, requests: int, candidates: int) -> np.ndarray:
    """Microseconds of each of PARTS, [requests, 4]."""
    bundle = load_bundle(registry.download(home, version))
    index = load_index(home, version, bundle.digest)
    scorer = Scorer(bundle.model, bundle.catalogue, index.ids, index.vectors).record()
    with tempfile.TemporaryDirectory() as folder:
        FITTED["trees"](home, bundle.schema, Path(folder), 0)
        trees = TreesRanker("trees", Path(folder))
    asked = measured_requests(home, "validation", requests)
    inputs, ids = offline_inputs(home, asked), bundle.catalogue.ids[:candidates]
    bounds, rows = np.array([0, len(ids)]), scorer.table.rows(ids)
    weights, created = weights_of(None, bundle.schema), scorer.created[rows]

    def parts(b: int) -> list[float]:
        one, text = inputs.slice(b, b + 1), asked["query"][b].as_py()
        chosen = catalogue_candidates(asked.slice(b, 1), ids)
        arrays = request_arrays(bundle.schema, [text], one, chosen, bundle.catalogue, trees.table)
        return [
            microseconds(lambda: cross_features(bundle.schema, one, ids, bounds, created)),
            microseconds(lambda: trees.score(arrays, [text])),
            microseconds(lambda: scorer.score(text, one, ids, weights)),
            microseconds(lambda: scorer.query_side(text, one, weights)),
        ]

    return np.array([parts(b) for b in range(len(asked))])


def main() -> None:
    """Print a line a part, and the ratio."""
    ask = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    ask.add_argument("--home", type=Path, required=True)
    ask.add_argument("--candidates", type=int, default=10_000)
    ask.add_argument("--requests", type=int, default=50)
    args = ask.parse_args()
    torch.set_num_threads(1)
    home = Home.at(args.home.resolve())
    tracking.connect(home)
    version = registry.alias_version(registry.CHALLENGER)
    assert version is not None, "no model is registered: `prerank run` first"
    found = measure(home, version, args.requests, args.candidates)
    items = LogManifest.load(home).items
    n = min(args.candidates, items)
    print(
        f"{len(found)} requests of {n:,} candidates, one thread; microseconds per candidate: "
        "median (5% to 95% of requests)"
    )
    for name, own in zip(PARTS, found.T / n, strict=True):
        low, middle, high = np.quantile(own, (0.05, 0.5, 0.95))
        print(f"{name:<26}{middle:8.4f} ({low:.4f} to {high:.4f})")
    for name, trees in (("alone", found[:, 1]), ("with their features", found[:, :2].sum(1))):
        low, middle, high = np.quantile(trees / found[:, 2], (0.05, 0.5, 0.95))
        print(f"trees {name} / InteractRank: {middle:.1f} ({low:.1f} to {high:.1f})")


if __name__ == "__main__":
    main()
