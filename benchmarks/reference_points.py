"""Reference points of the design, recomputed under the final protocol, in one run.

    python benchmarks/reference_points.py --home HOME [--home HOME2] [--sample N]

HOME is an absolute path that `prerank run` has filled; nothing is written there. The test split is
streamed as :mod:`prerank.evaluate` does it (same candidates, as-of features and metrics), so single
counts, fitted combinations of them and the trained bundles all see the same requests. Everything
that is fitted uses the stored training examples, chooses on validation and reads test once.

The figures beside ours are those of throw-away prototypes, copied from the design; they were
measured under other protocols and are no result of this run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from interactrank.batch import RequestArrays
from interactrank.engagement import FeatureInputs, level_code
from interactrank.losses import LossConfig, listwise_loss
from interactrank.metrics import bootstrap_ci, paired_test, request_metrics
from interactrank.rows import unpack
from interactrank.schema import LEVELS, REQUEST_NUMERIC, FeatureSchema
from prerank.catalogue import load_catalogue
from prerank.evaluate import CANDIDATES_PER_CHUNK
from prerank.examples import catalogue_candidates, offline_inputs, request_arrays, shown_candidates
from prerank.features import schema_of
from prerank.home import Home
from prerank.requests import Splits
from prerank.rivals import Bm25Ranker, ColumnRanker, TorchRanker
from prerank.training_set import event_days, read_split, requests_between, to_arrays

SEED = 7
FIT_REQUESTS = 20_000
"""Training requests that the linear model and LambdaMART see at most, a seeded sample."""
L2 = (1e-2, 1e-3, 1e-4, 1e-5)
"""Ridge strengths tried by the linear model, on standardised columns."""
RULE = {
    "q:engage:all": 1.0,
    "t:engage:all": 1.0,
    "g:engage:all": 1.0,
    "user:rank_recency": 1.0,
}
"""The hand-weighted rule: equal weights on standardised columns, fixed before any measurement."""
TREES = {
    "objective": "lambdarank", "learning_rate": 0.1, "num_leaves": 31, "min_data_in_leaf": 200,
    "metric": "None", "num_threads": 1, "seed": SEED, "deterministic": True,
    "force_row_wise": True, "verbosity": -1,
}  # fmt: skip
ROUNDS, PATIENCE = 150, 15
CEILING = "ceiling"

Score = Callable[[RequestArrays, list[str]], NDArray[Any]]

TITLES = {
    "popularity": "popularity",
    "bm25": "BM25",
    "iqp": "IQP alone (q:engage:all)",
    "token": "token back-off alone (t:engage:all)",
    "subword": "sub-word back-off alone (g:engage:all)",
    "rule": "hand-weighted rule",
    "linear": "linear model, all cross features",
    "lambdamart": "LambdaMART, all cross features",
    "two_tower": "two-tower",
    "interactrank": "InteractRank",
    "prior": "InteractRank's g(x) alone, no towers",
    CEILING: "ceiling: in the user's last 100 or the query's row",
}


@dataclass(frozen=True)
class Prototypes:
    """What the design's throw-away prototypes measured: name -> (HITS@k, MRR)."""

    metric: str
    about: str
    figures: dict[str, tuple[float, float | None]] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)


PROTOTYPES = {
    "bestbuy": Prototypes(
        "hits@3",
        "by request with exact counts of strictly earlier clicks, unless marked",
        {
            "popularity": (0.031, 0.110),
            "bm25": (0.687, 0.514),
            "iqp": (0.863, 0.762),
            "token": (0.881, 0.769),
            "subword": (0.899, 0.788),
            "linear": (0.911, 0.801),
            "lambdamart": (0.898, 0.812),
            "two_tower": (0.836, 0.723),
            "two-tower with IQP, tokens and sequence": (0.867, 0.752),
        },
        {
            "popularity": "by click",
            "bm25": "by click",
            "linear": "ten features",
            "lambdamart": "ten features",
            "two_tower": "by click",
            "two-tower with IQP, tokens and sequence": "by click",
        },
    ),
    "movielens_tags": Prototypes(
        "hits@10",
        "by event, counts of strictly earlier times",
        {
            "popularity": (0.015, 0.009),
            "bm25": (0.022, 0.013),
            "iqp": (0.200, 0.112),
            "rule": (0.415, 0.261),
            "two_tower": (0.053, 0.026),
            "two-tower with sequence": (0.063, 0.031),
            CEILING: (0.508, None),
        },
        {"rule": "weights by hand"},
    ),
}
"""The prototypes' figures, not ours. A name that is no ranker of ours gets a row of its own."""


@dataclass
class Examples:
    """Stored examples of a split: x float32 [N, X], positive bool [N], log_q [N], offsets."""

    x: NDArray[np.float32]
    positive: NDArray[np.bool_]
    log_q: NDArray[np.float32]
    offsets: NDArray[np.int64]

    def mrr(self, score: NDArray[Any]) -> float:
        """Mean reciprocal rank among the stored candidates."""
        return float(np.nanmean(request_metrics(score, self.positive, self.offsets)["mrr"]))


def stored_examples(home: Home, schema: FeatureSchema, split: str, most: int) -> Examples:
    """At most ``most`` requests of a stored split, a seeded sample in time order.

    Candidates are shuffled within their request: they are stored positives first, and LightGBM
    breaks ties by position.
    """
    folder = home.training_set / split
    total = sum(pq.read_metadata(p).num_rows for p in sorted(folder.glob("*.parquet")))
    chosen = np.ones(total, bool)
    if total > most:
        chosen[:] = False
        chosen[np.random.default_rng(SEED).choice(total, most, replace=False)] = True
    parts, at = [], 0
    for table in read_split(home, split):
        mine = chosen[at : at + table.num_rows]
        at += table.num_rows
        if mine.any():
            own = table.filter(pa.array(mine))
            parts.append(to_arrays(own, len(schema.cross), len(REQUEST_NUMERIC)))
    sizes = np.concatenate([np.diff(p.offsets) for p in parts])
    request = np.repeat(np.arange(len(sizes)), sizes)
    order = np.lexsort((np.random.default_rng(SEED).random(len(request)), request))
    return Examples(
        np.concatenate([p.x for p in parts])[order],
        np.concatenate([p.labels & 1 > 0 for p in parts])[order],
        np.concatenate([p.log_q for p in parts])[order],
        np.concatenate((np.zeros(1, np.int64), np.cumsum(sizes))),
    )


def deviations(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Standard deviation of each column; 1 where a column is constant."""
    std = x.std(axis=0, dtype=np.float64)
    return np.where(std > 1e-9, std, 1.0).astype(np.float32)


def fit_linear(
    train: Examples, validation: Examples, std: NDArray[np.float32]
) -> tuple[NDArray[np.float32], str]:
    """Weights of raw x under the library's listwise loss, and how validation chose the ridge.

    Centring is left out: a constant added to all candidates of a request changes no softmax.
    """
    x = torch.from_numpy(train.x / std)
    shift = torch.from_numpy(LossConfig().log_q_power * train.log_q)
    labels = torch.from_numpy(train.positive.astype(np.float32))
    requests = len(train.offsets) - 1
    request = torch.from_numpy(np.repeat(np.arange(requests), np.diff(train.offsets)))
    w = torch.zeros(x.shape[1], requires_grad=True)
    best: tuple[float, float, NDArray[np.float32]] | None = None
    tried = []
    for strength in L2:
        solver = torch.optim.LBFGS([w], max_iter=60, history_size=10, tolerance_change=1e-7,
                                   line_search_fn="strong_wolfe")  # fmt: skip

        def closure(solver: Any = solver, strength: float = strength) -> Any:
            solver.zero_grad()
            loss = listwise_loss(x @ w - shift, labels, request, requests)
            loss = loss + strength * (w * w).sum()
            loss.backward()
            return loss

        solver.step(closure)
        weights = w.detach().numpy() / std
        mrr = validation.mrr(validation.x @ weights)
        tried.append(f"{strength:g} → {mrr:.4f}")
        if best is None or mrr > best[0]:
            best = (mrr, strength, weights)
    assert best is not None
    return best[2], f"L2 {best[1]:g} (validation MRR: {', '.join(tried)})"


def fit_trees(train: Examples, validation: Examples, names: tuple[str, ...]) -> Any:
    """A LambdaMART of bounded size, stopped on validation; None where lightgbm is missing."""
    try:
        import lightgbm
    except ImportError:
        print("lightgbm is not installed, so the LambdaMART row is left out: pip install lightgbm")
        return None
    sets = [
        lightgbm.Dataset(e.x, e.positive.astype(np.float32), group=np.diff(e.offsets),
                         feature_name=[n.replace(":", "_") for n in names])
        for e in (train, validation)
    ]  # fmt: skip
    # Its own NDCG breaks ties by position; ours shares the mean rank.
    return lightgbm.train(
        TREES, sets[0], ROUNDS, valid_sets=[sets[1]],
        feval=lambda score, _: ("mrr", validation.mrr(score), True),
        callbacks=[lightgbm.early_stopping(PATIENCE, verbose=False)],
    )  # fmt: skip


def bundles(home: Home) -> dict[str, Path]:
    """Trained bundles of a home: the neural rival, and InteractRank's registered version.

    The version is looked for among the downloaded ones, then among the registry's artifacts; a job
    that has not registered yet gives its newest run's best checkpoint by validation MRR.
    """
    out = {}
    rival = home.root / "rivals" / "two_tower"
    if (rival / "model.json").exists():
        out["two_tower"] = rival
    versions = [p.parent for p in home.root.glob("models/*/model.json")]
    artifacts = list(home.root.glob("**/artifacts/models/*/artifacts/data/bundle/model.json"))
    if versions:
        out["interactrank"] = max(versions, key=lambda p: int(p.name))
    elif artifacts:
        out["interactrank"] = max(artifacts, key=lambda p: p.stat().st_mtime).parent
    elif found := _checkpoints(home):
        out["interactrank"] = max(found)[-1]
    return out


def _checkpoints(home: Home) -> list[tuple[float, float, Path]]:
    """(time of the run, validation MRR, bundle folder) of every checkpoint kept."""
    found = []
    for path in home.runs.glob("*/checkpoint_manager_snapshot.json"):
        for kept in json.loads(path.read_text())["checkpoint_results"]:
            folder = path.parent / kept["checkpoint_dir_name"] / "bundle"
            if (folder / "model.json").exists():
                began = path.stat().st_mtime
                found.append((began, float(kept["metrics"]["validation_mrr"]), folder))
    return found


def prior_of(ranker: TorchRanker) -> Score:
    """What a trained model says without its towers: g(x) of the cross features."""
    fusion = ranker.bundle.model.fusion
    return lambda arrays, _: fusion.prior(torch.from_numpy(arrays.x)).numpy()


def rankers(home: Home, schema: FeatureSchema, manifest: dict[str, Any]) -> dict[str, Score]:
    """Every ranker by name, the fitted ones fitted here."""
    train = stored_examples(home, schema, "train", FIT_REQUESTS)
    validation = stored_examples(home, schema, "validation", FIT_REQUESTS)
    std = deviations(train.x)
    rule = np.zeros(len(schema.cross), np.float32)
    for name, weight in RULE.items():
        rule[schema.cross.index(name)] = weight / std[schema.cross.index(name)]
    began = time.perf_counter()
    linear, ridge = fit_linear(train, validation, std)
    heavy = np.argsort(-np.abs(linear * std))[:8]
    print(
        f"linear: {len(train.offsets) - 1:,} training requests, {len(train.x):,} candidates, "
        f"{ridge}, {time.perf_counter() - began:.0f} s; heaviest: "
        + ", ".join(f"{schema.cross[i]} {linear[i] * std[i]:+.2f}" for i in heavy)
    )
    out: dict[str, Score] = {
        "popularity": ColumnRanker("popularity", schema, "a:engage:all").score,
        "bm25": Bm25Ranker(
            load_catalogue(home, manifest),
            pq.read_table(home.items, columns=["title"])["title"].to_pylist(),
        ).score,
        "iqp": ColumnRanker("iqp", schema, "q:engage:all").score,
        "token": ColumnRanker("token", schema, "t:engage:all").score,
        "subword": ColumnRanker("subword", schema, "g:engage:all").score,
        "rule": lambda arrays, _: arrays.x @ rule,
        "linear": lambda arrays, _: arrays.x @ linear,
    }
    began = time.perf_counter()
    booster = fit_trees(train, validation, schema.cross)
    if booster is not None:
        mrr = validation.mrr(booster.predict(validation.x, num_threads=1))
        print(
            f"LambdaMART: {booster.best_iteration} trees (validation MRR: {mrr:.4f}), "
            f"{time.perf_counter() - began:.0f} s"
        )
        out["lambdamart"] = lambda arrays, _: booster.predict(arrays.x, num_threads=1)
    for name, folder in bundles(home).items():
        ranker = TorchRanker(name, folder)
        out[name] = ranker.score
        if ranker.bundle.model.config.cross:
            out["prior"] = prior_of(ranker)
    return out


def covered(
    schema: FeatureSchema, inputs: FeatureInputs, arrays: RequestArrays
) -> NDArray[np.float64]:
    """Whether a positive stands in the user's last 100 or in the query's row: 0 or 1, [B]."""
    touched = arrays.x[:, schema.cross.index("user:touched")] > 0
    out = np.zeros(len(arrays))
    query = level_code("q:")
    columns = schema.columns(LEVELS[query])
    for i in np.flatnonzero(arrays.labels & 1):
        b = int(np.searchsorted(arrays.offsets, i, side="right")) - 1
        found = bool(touched[i])
        for k in range(inputs.key_offsets[b], inputs.key_offsets[b + 1]):
            block = inputs.key_block[k]
            if not found and block >= 0 and inputs.key_level[k] == query:
                low = inputs.block_start[block]
                row = inputs.blocks[low : low + inputs.block_size[block]]
                found = arrays.candidates[i] in unpack(row.tobytes(), columns).ids
        out[b] = max(out[b], float(found))
    return out


def test_requests(home: Home, manifest: dict[str, Any], sample: int | None) -> pa.Table:
    """Requests of the test split in time order, or a seeded sample of them."""
    training = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    splits = Splits(**training["splits"])
    low, high = splits.test_from, splits.closed_before
    requests = pa.concat_tables(
        requests_between(files, manifest, low, high) for files in event_days(home, low, high)
    )
    if sample is None or sample >= len(requests):
        return requests
    drawn = np.random.default_rng(SEED).choice(len(requests), sample, replace=False)
    return requests.take(pa.array(np.sort(drawn)))


def chunks(
    home: Home, schema: FeatureSchema, manifest: dict[str, Any], requests: pa.Table
) -> Iterator[tuple[RequestArrays, list[str], FeatureInputs, NDArray[np.int64]]]:
    """Arrays, queries, inputs and unreachable counts, chunk by chunk, as evaluation has them."""
    catalogue = load_catalogue(home, manifest)
    table, shown = catalogue.table(), manifest["has_impressions"]
    step = max(CANDIDATES_PER_CHUNK // max(64 if shown else len(catalogue), 1), 1)
    for start in range(0, len(requests), step):
        chunk = requests.slice(start, step)
        candidates = (
            shown_candidates(chunk) if shown else catalogue_candidates(chunk, catalogue.ids)
        )
        queries, inputs = chunk["query"].to_pylist(), offline_inputs(home, chunk)
        arrays = request_arrays(schema, queries, inputs, candidates, catalogue, table)
        yield arrays, queries, inputs, candidates.unreachable


def measure(home: Home, sample: int | None) -> None:
    """Measure one home and print its table."""
    manifest = home.read_json(home.manifest, "prerank ingest")
    schema = schema_of(manifest)
    requests = test_requests(home, manifest, sample)
    print(f"\n## {manifest['dataset']}\n")
    began = time.perf_counter()
    scorers = rankers(home, schema, manifest)
    values: dict[str, dict[str, list[NDArray[np.float64]]]] = {n: {} for n in scorers}
    coverage, seen = [], 0
    with torch.inference_mode():
        for arrays, queries, inputs, unreachable in chunks(home, schema, manifest, requests):
            positive = arrays.labels & 1 > 0
            for name, score in scorers.items():
                own = request_metrics(score(arrays, queries), positive, arrays.offsets, unreachable)
                for metric, column in own.items():
                    values[name].setdefault(metric, []).append(column)
            coverage.append(covered(schema, inputs, arrays))
            seen += len(arrays.candidates)
    joined = {n: {m: np.concatenate(v) for m, v in own.items()} for n, own in values.items()}
    what = f"a seeded sample of {len(requests):,}" if sample else f"all {len(requests):,}"
    print(
        f"test split: {what} requests, {seen:,} candidates; {platform.system()}, CPU, "
        f"{os.cpu_count()} cores, one thread; {date.today()}; {time.perf_counter() - began:.0f} s\n"
    )
    print_table(manifest["dataset"], joined, np.concatenate(coverage))


def _interval(values: NDArray[np.float64]) -> str:
    low, high = bootstrap_ci(values)
    return f"{np.nanmean(values):.3f} | {low:.3f}–{high:.3f}"


def print_table(
    dataset: str,
    values: dict[str, dict[str, NDArray[np.float64]]],
    coverage: NDArray[np.float64],
) -> None:
    """Ours with 95% bootstrap intervals, the prototypes' figures beside, then paired tests."""
    prototypes = PROTOTYPES.get(dataset, Prototypes("hits@3", "none"))
    k = prototypes.metric.upper()
    print(f"| | {k} | 95% | MRR | 95% | *prototype* {k} | *prototype* MRR | *its protocol* |")
    print("|---|---|---|---|---|---|---|---|")

    def beside(name: str) -> str:
        if name not in prototypes.figures:
            return "| | |"
        hits, mrr = prototypes.figures[name]
        note = prototypes.notes.get(name, "")
        return f"| *{hits:.3f}* | {'' if mrr is None else f'*{mrr:.3f}*'} | {note}"

    for name, title in TITLES.items():
        if name in values:
            own = values[name]
            cells = f"{_interval(own[prototypes.metric])} | {_interval(own['mrr'])}"
            print(f"| {title} | {cells} {beside(name)} |")
        elif name == CEILING:
            print(f"| {title} | {_interval(coverage)} | | {beside(name)} |")
    for name in prototypes.figures:
        if name not in TITLES:
            print(f"| *{name}* | | | | {beside(name)} |")
    print(f"\nPrototypes: {prototypes.about}. They are figures of the design, not of this run.\n")
    for ours, other in (("interactrank", "linear"), ("interactrank", "lambdamart"),
                        ("interactrank", "two_tower"), ("interactrank", "prior"),
                        ("lambdamart", "linear")):  # fmt: skip
        if ours in values and other in values:
            for metric in (prototypes.metric, "mrr"):
                test = paired_test(values[ours][metric], values[other][metric])
                print(
                    f"- {TITLES[ours]} − {TITLES[other]}, {metric.upper()}: "
                    f"{test.mean_difference:+.3f} ({test.ci[0]:+.3f} to {test.ci[1]:+.3f}), "
                    f"p = {test.p_value:.4f}"
                )


def main() -> None:
    """Measure every home given."""
    ask = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    ask.add_argument("--home", action="append", required=True, help="a PRERANK_HOME; repeatable")
    ask.add_argument("--sample", type=int, help="test requests to draw (default: all)")
    args = ask.parse_args()
    torch.set_num_threads(1)
    for folder in args.home:
        measure(Home.at(Path(folder).resolve()), args.sample)


if __name__ == "__main__":
    main()
