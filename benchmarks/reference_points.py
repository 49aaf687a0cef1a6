"""Reference points of the design, recomputed under the final protocol, in one run.

    python benchmarks/reference_points.py --home HOME [--home HOME2] [--sample N]

HOME is an absolute path that `prerank run` has filled; nothing is written there. The test split is
streamed as ``prerank.evaluation.run`` does it (same candidates, as-of features and metrics), so
single counts, fitted combinations of them and the trained bundles all see the same requests.
Everything that is fitted uses the stored training examples, chooses on validation and reads test
once.

The figures beside ours are those of throw-away prototypes, copied from the design; they were
measured under other protocols and are no result of this run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from prototypes import PROTOTYPES, Prototypes

from interactrank.features.batch import RequestArrays
from interactrank.features.inputs import FeatureInputs
from interactrank.features.packed_rows import unpack
from interactrank.features.schema import LEVELS, FeatureSchema
from interactrank.features.searches import level_code
from interactrank.metrics.ranking import bootstrap_ci, paired_test, request_metrics
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.catalogue import load_catalogue, load_titles
from prerank.evaluation.baselines.neural import TorchRanker
from prerank.evaluation.baselines.samples import stored
from prerank.evaluation.baselines.simple import Bm25Ranker, ColumnRanker
from prerank.evaluation.baselines.suite import FITTED, fitted
from prerank.evaluation.budget import chunks, measured_requests
from prerank.evaluation.run import rankers as evaluated

SEED = 7
RULE = {
    "q:engage:all": 1.0,
    "t:engage:all": 1.0,
    "g:engage:all": 1.0,
    "user:rank_recency": 1.0,
}
"""The hand-weighted rule: equal weights on standardised columns, fixed before any measurement."""
COLUMNS = {"token": "t:engage:all", "subword": "g:engage:all"}
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
    "trees": "LambdaMART, all features",
    "two_tower": "two-tower",
    "two_tower_sequence": "two-tower with the user's sequence",
    "inttower": "IntTower-style early interaction",
    "interactrank": "InteractRank",
    "cross_score": "InteractRank's g(x) alone, no towers",
    CEILING: "ceiling: in the user's last 100 or the query's row",
}


def trained(home: Home) -> dict[str, Path]:
    """InteractRank's registered version, by name; empty if there is none.

    It is looked for among the downloaded ones, then among the registry's artifacts; a job that has
    not registered yet gives its newest run's best checkpoint by validation MRR.
    """
    versions = [p.parent for p in home.root.glob("models/*/model.json")]
    artifacts = list(home.root.glob("**/artifacts/models/*/artifacts/data/bundle/model.json"))
    if versions:
        return {"interactrank": max(versions, key=lambda p: int(p.name))}
    if artifacts:
        return {"interactrank": max(artifacts, key=lambda p: p.stat().st_mtime).parent}
    found = _checkpoints(home)
    return {"interactrank": max(found)[-1]} if found else {}


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


def cross_score_of(ranker: TorchRanker) -> Score:
    """What a trained model says without its towers: g(x) of the cross features."""
    fusion = ranker.model.fusion

    def score(arrays: RequestArrays, _: list[str]) -> NDArray[np.float32]:
        request = fusion.coefficients(torch.from_numpy(arrays.request))
        of = torch.from_numpy(np.repeat(np.arange(len(arrays)), np.diff(arrays.offsets)))
        cross_score: NDArray[np.float32] = fusion.cross_score(
            torch.from_numpy(arrays.x), request, of
        ).numpy()
        return cross_score

    return score


def rankers(home: Home, schema: FeatureSchema, folder: Path) -> dict[str, Score]:
    """Every ranker by name; what ``home`` lacks of the fitted ones is fitted in ``folder``."""
    own = fitted(home) | trained(home)
    for name, fit in FITTED.items():
        if name not in own:
            began = time.perf_counter()
            trials = fit(home, schema, folder / name, SEED)
            best = max(trials, key=lambda t: t["validation_mrr"])
            print(f"{name}: {best}, of {len(trials)} trials, {time.perf_counter() - began:.0f} s")
            own[name] = folder / name
    std = stored(home, schema, "train", 5_000, SEED).x.std(axis=0)
    rule = np.zeros(len(schema.cross), np.float32)
    for name, weight in RULE.items():
        at = schema.cross.index(name)
        rule[at] = weight / std[at] if std[at] > 1e-9 else 0.0
    bm25 = Bm25Ranker.fit(load_catalogue(home), load_titles(home))
    everything = {r.name: r for r in evaluated(schema, bm25, own)}
    out: dict[str, Score] = {name: ranker.score for name, ranker in everything.items()}
    for name, column in COLUMNS.items():
        out[name] = ColumnRanker(name, schema, column).score
    out["rule"] = lambda arrays, _: arrays.x @ rule
    model = everything.get("interactrank")
    if isinstance(model, TorchRanker):
        out["cross_score"] = cross_score_of(model)
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


def measure(home: Home, sample: int | None) -> None:
    """Measure one home and print its table."""
    manifest = LogManifest.load(home)
    schema = manifest.schema
    requests = measured_requests(home, "test", sample or 1 << 62)
    print(f"\n## {manifest.dataset}\n")
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        scorers = rankers(home, schema, Path(folder))
    values: dict[str, dict[str, list[NDArray[np.float64]]]] = {n: {} for n in scorers}
    coverage, seen = [], 0
    with torch.inference_mode():
        for arrays, queries, inputs, unreachable in chunks(home, requests):
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
    print_table(manifest.dataset, joined, np.concatenate(coverage))


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
    for ours, other in (
        ("interactrank", "linear"),
        ("interactrank", "trees"),
        ("interactrank", "two_tower"),
        ("interactrank", "cross_score"),
        ("trees", "linear"),
    ):
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
