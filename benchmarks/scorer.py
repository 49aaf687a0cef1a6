"""What scoring a request costs, in one run beside its alternatives and the floor.

    python benchmarks/scorer.py [--items 1000000] [--candidates 1000 10000 100000 1000000]

One core, no HTTP, no store: packed rows and history are at hand, candidates are ids. Every route
ranks the same requests of a synthetic index (``scorer_world``):

    ours         the compiled sweep, as it is served
    dense        the same formula, every feature of every candidate (``Scorer.score_dense``)
    two-tower    the same sweep without cross features: what those cost
    plain        pandas joins of the same packed rows, then fp32 PyTorch
    trees        100 LightGBM trees over the same features and the dot
    floor        one pass that reads slot, key and vector of each candidate, and sums

The index's vectors are mapped from a file, as they are served; the plain route has a copy of them
in fp32. Medians of requests, the 5th and 95th percentile in brackets; candidates differ from
request to request, so that no cache knows them. Ratios are of the same request. That all routes
score alike is checked first. ``shared_index.py`` measures the memory of replicas.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import torch
from numpy.typing import NDArray
from printed import markdown, show
from scorer_world import (
    QUERY,
    SCHEMA,
    PlainRoute,
    candidates,
    floor,
    request,
    scorer_of,
)

from interactrank.features.inputs import FeatureInputs
from interactrank.model.config import ModelConfig
from interactrank.model.scorer import Scorer

SEED, TREES = 7, 100
WEIGHTS = np.array([1.0, 0.0, 0.0], np.float32)
Route = Callable[[FeatureInputs, NDArray[np.int64]], object]


def trees_of(rng: np.random.Generator) -> lightgbm.Booster:
    """Trees of the usual size; what they learned costs nothing to apply, so it is noise."""
    x = rng.random((20_000, len(SCHEMA.cross) + 1)).astype(np.float32)
    told = {"objective": "binary", "num_leaves": 31, "num_threads": 1, "verbose": -1}
    target = (x[:, 0] + rng.normal(0, 0.3, len(x)) > 0.5).astype(int)
    return lightgbm.train(told, lightgbm.Dataset(x, target), TREES)


def routes_of(scorer: Scorer, two_tower: Scorer, rng: np.random.Generator) -> dict[str, Route]:
    """Each route: a request's inputs and candidates in, scores out."""
    plain, trees = PlainRoute.of(scorer), trees_of(rng)

    def ranked_by_trees(inputs: FeatureInputs, wanted: NDArray[np.int64]) -> object:
        scored = scorer.score_dense(QUERY, inputs, wanted, WEIGHTS)
        x = scored.x(np.arange(len(scored.ids)))
        return trees.predict(np.column_stack((x, scored.dots)), num_threads=1)

    return {
        "ours": lambda i, c: scorer.score(QUERY, i, c, WEIGHTS).top(1000),
        "dense": lambda i, c: scorer.score_dense(QUERY, i, c, WEIGHTS).top(1000),
        "two-tower": lambda i, c: two_tower.score(QUERY, i, c, WEIGHTS).top(1000),
        "plain": lambda i, c: plain.score(i, c, WEIGHTS),
        "trees": ranked_by_trees,
        "floor": lambda i, c: floor(scorer.table, scorer.items.vector_bits, c),
        "query side": lambda i, c: scorer.query_side(QUERY, i, WEIGHTS),
    }


def check(scorer: Scorer, asked: FeatureInputs, wanted: NDArray[np.int64]) -> None:
    """See that the routes that give scores give the same ones."""
    ours = scorer.score(QUERY, asked, wanted, WEIGHTS)
    dense = scorer.score_dense(QUERY, asked, wanted, WEIGHTS)
    plain = PlainRoute.of(scorer).score(asked, wanted, WEIGHTS)
    np.testing.assert_allclose(ours.scores, dense.scores, atol=1e-4)
    np.testing.assert_allclose(ours.scores, plain, atol=2e-3)


def measured(
    routes: dict[str, Route], asked: Sequence[tuple[FeatureInputs, NDArray[np.int64]]]
) -> dict[str, NDArray[np.float64]]:
    """Milliseconds of every request, the routes taking turns."""
    found: dict[str, list[float]] = {name: [] for name in routes}
    for i, (inputs, wanted) in enumerate(asked):
        for name, route in routes.items():
            began = time.perf_counter()
            route(inputs, wanted)
            if i:  # the first one compiles
                found[name].append(1e3 * (time.perf_counter() - began))
    return {name: np.array(values) for name, values in found.items()}


def spread(values: NDArray[np.float64], digits: int) -> str:
    """Median (5% to 95%)."""
    low, middle, high = (f"{v:.{digits}f}" for v in np.quantile(values, (0.05, 0.5, 0.95)))
    return f"{middle} ({low} to {high})"


def main() -> None:
    """Print a row for each number of candidates, then the ratios."""
    shown_as_is = argparse.RawDescriptionHelpFormatter
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=shown_as_is)
    ask.add_argument("--items", type=int, default=1_000_000, help="of the index")
    ask.add_argument(
        "--candidates", type=int, nargs="+", default=[1000, 10_000, 100_000, 1_000_000]
    )
    ask.add_argument("--requests", type=int, default=21, help="of each size; the first is left out")
    ask.add_argument(
        "--slow", type=int, default=5, help="requests of the plain route and the trees"
    )
    ask.add_argument("--out", type=Path, help="Markdown file to write")
    args = ask.parse_args()
    torch.set_num_threads(1)
    rng = np.random.default_rng(SEED)
    scorer = scorer_of(args.items, ModelConfig(), rng)
    bare = replace(ModelConfig(), cross=False)
    two_tower = scorer_of_same_index(scorer, bare)
    routes = routes_of(scorer, two_tower, rng)
    ids = scorer.table.ids
    check(scorer, request(ids, rng), candidates(1000, ids, rng))
    times, ratios = [], []
    for n in args.candidates:
        asked = [(request(ids, rng), candidates(n, ids, rng)) for _ in range(args.requests)]
        quick = {k: v for k, v in routes.items() if k not in ("plain", "trees", "dense")}
        slow = {k: v for k, v in routes.items() if k not in quick} | {"ours": routes["ours"]}
        found, beside = measured(quick, asked), measured(slow, asked[: args.slow + 1])
        print(f"{n:,} candidates done", flush=True)
        times.append([f"{n:,}", *(spread(found[r], 2) for r in quick)])
        times[-1] += [spread(beside[r], 1) for r in ("dense", "plain", "trees")]
        own = found["ours"]
        least = found["floor"] + found["query side"]
        ratios.append(
            [
                f"{n:,}",
                spread(own / least, 2),
                spread(own / found["two-tower"], 2),
                *(spread(beside[r] / beside["ours"], 1) for r in ("dense", "plain", "trees")),
            ]
        )
    head = ["candidates", *quick, "dense", "plain", "trees"]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    text = (
        f"Vectors {scorer.vectors.nbytes / 1e9:.2f} GB; memory of the benchmark, with all routes, "
        f"at most {peak / 1e6:.1f} GB.\n\n"
        f"{args.items:,} items, {len(SCHEMA.cross)} cross features, one core; milliseconds\n\n"
        f"{markdown([f'{h}, ms' if i else h for i, h in enumerate(head)], times)}\n\n"
    )
    head = ["candidates", "ours / (floor + query side)", "ours / two-tower"]
    head += [f"{other} / ours" for other in ("dense", "plain", "trees")]
    show(text + markdown(head, ratios) + "\n", args.out)


def scorer_of_same_index(scorer: Scorer, config: ModelConfig) -> Scorer:
    """Another model over the same ids and vectors."""
    from interactrank.model.interactrank import InteractRank

    model = InteractRank(config, SCHEMA, scorer.catalogue).eval()
    return Scorer(model, scorer.catalogue, scorer.table.ids, scorer.vectors).record()


if __name__ == "__main__":
    main()
