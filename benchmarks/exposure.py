"""What exposure-aware counts are worth, and what they cost.

    python benchmarks/exposure.py [--preset demo] [--events E --items I --mapping M] [--seeds 3]
        [--requests 3000] [--models linear interactrank] [--out TABLE.md]

Features, a training set and models are made of the log twice: as if its positions were not known,
and as they are. Measured are requests of the later half of validation, all with their candidates
as shown; the earlier half stops the training. The seed draws the training sample of the linear
model, and weights and batches of InteractRank (8,000 requests, two epochs). Of the simulated world
also the true relevance (P(engage | examined)) of an order's first three items, over that of the
best three. Differences are of the same requests, means over seeds, with 95% intervals.

Everything runs in this process.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from printed import markdown, show

from interactrank.metrics.ranking import request_metrics
from interactrank.model.config import ModelConfig
from interactrank.training.trainer import TrainConfig
from prerank.core.feature_sets import manifest_of_log
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset import build as dataset
from prerank.evaluation.baselines import linear
from prerank.evaluation.baselines.neural import TorchRanker
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.budget import Budget, chunks, measured_requests
from prerank.evaluation.trials import Trial, fitted
from prerank.features import build as features
from prerank.features.config import FeatureConfig
from prerank.features.offline import offline_inputs
from prerank.ingest import run as ingestion
from prerank.ingest.mapping import LogMapping, load_mapping
from prerank.simulate import simulate
from prerank.simulate.oracles import Oracle, load_oracles

METRICS = ("mrr", "hits@3", "true@3")


def in_process(function: Callable[[Any], Any], tasks: Sequence[Any], _: str) -> list[Any]:
    """What Ray does elsewhere."""
    return [function(task) for task in tasks]


def best_three(
    scores: NDArray[np.floating[Any]], truth: NDArray[np.float64], offsets: NDArray[np.int64]
) -> NDArray[np.float64]:
    """True relevance of the first three items of each request, over that of the best three."""
    found = np.empty(len(offsets) - 1)
    for request in range(len(found)):
        own = slice(offsets[request], offsets[request + 1])
        order = np.argsort(-scores[own], kind="stable")[:3]
        found[request] = truth[own][order].sum() / np.sort(truth[own])[-3:].sum()
    return found


@dataclass
class Measure:
    """One log, measured without and with exposure.

    Attributes:
        home: of the log; ``oracle`` of a simulated one.
        requests: to measure at most.
        costs: rows of a table.
    """

    home: Home
    oracle: Oracle | None
    requests: int
    costs: list[list[str]] = field(default_factory=list)

    def build(self, name: str, manifest: LogManifest) -> None:
        """Features and training set of the log of a manifest."""
        manifest.save(self.home)
        began = time.process_time()
        made = features.build_features(self.home, FeatureConfig())
        took = time.process_time() - began
        dataset.build_training_set(self.home)
        asked = measured_requests(self.home, "validation", self.requests)
        inputs = offline_inputs(self.home, asked)
        there = inputs.key_block[inputs.key_block >= 0]
        request = np.repeat(np.arange(len(asked)), np.diff(inputs.key_offsets))
        request = request[inputs.key_block >= 0]
        read = np.bincount(request, inputs.block_size[there], len(asked))
        rows = made["rows"]
        folder = self.home.features_of(made["schema_hash"])
        stored = sum(f.stat().st_size for f in folder.rglob("*.parquet"))
        self.costs.append(
            [
                name,
                f"{took:.1f} s",
                f"{rows['engagement_rows']:,}",
                f"{rows['engagement_bytes'] / rows['engagement_rows']:.0f}",
                f"{stored / 2**20:.0f} MiB",
                f"{read.mean() / 1024:.0f} / {np.quantile(read, 0.99) / 1024:.0f} / "
                f"{read.max() / 1024:.0f} KiB",
            ]
        )
        print(*self.costs[-1], flush=True)

    def __call__(self, ranker: Ranker) -> NDArray[np.float64]:
        """Metrics of a ranker [METRICS, requests]."""
        asked = measured_requests(self.home, "validation", self.requests)
        ids, at = asked["request_id"].to_pylist(), 0
        found = []
        for arrays, queries, _, unreachable in chunks(self.home, asked):
            scores, offsets = ranker.score(arrays, queries), arrays.offsets
            metrics = request_metrics(scores, arrays.labels & 1 > 0, offsets, unreachable)
            own = np.full(len(queries), np.nan)
            if self.oracle is not None:
                named = zip(ids[at : at + len(queries)], offsets[:-1], offsets[1:], strict=True)
                truth = [self.oracle.score(r, arrays.candidates[a:b]) for r, a, b in named]
                own = best_three(scores, np.concatenate(truth), offsets)
            found.append(np.array([metrics["mrr"], metrics["hits@3"], own]))
            at += len(queries)
        return np.concatenate(found, axis=1)

    def fitted(self, model: str, seed: int, root: Path) -> Ranker:
        """A model that was fitted on the training set that is there."""
        schema = LogManifest.load(self.home).schema
        if model == "linear":
            folder = root / f"linear-{schema.hash()}-{seed}"
            linear.fit(self.home, schema, folder, seed)
            return linear.LinearRanker(model, folder)
        trial = Trial(model, ModelConfig(), TrainConfig(seed=seed))
        trainer, reader, _ = fitted(self.home, trial, Budget())
        return TorchRanker(model, trainer.model, reader.catalogue)


def table(values: dict[tuple[str, str], list[NDArray[np.float64]]], models: list[str]) -> str:
    """Means without and with exposure, and their difference."""
    rows = []
    for model in models:
        without, with_it = (np.mean(values[name, model], axis=0) for name in ("without", "with"))
        cells = [model]
        for metric in range(len(METRICS)):
            one, other = without[metric], with_it[metric]
            apart = other - one
            some = ~np.isnan(apart)
            if not some.any():
                cells.append("")
                continue
            half = 1.96 * apart[some].std() / np.sqrt(some.sum())
            cells.append(
                f"{np.nanmean(one):.4f} → {np.nanmean(other):.4f} "
                f"({apart[some].mean():+.4f} ± {half:.4f})"
            )
        rows.append(cells)
    return markdown(["", *METRICS], rows)


def measured(root: Path, args: argparse.Namespace) -> str:
    """Both tables."""
    events, items, oracle = args.events, args.items, None
    if events is None:
        simulate(root / "simulated", args.preset, seed=7)
        events, items = root / "simulated" / "events", root / "simulated" / "items.parquet"
        oracle = load_oracles(root / "simulated")["oracle_relevance"]
    mapping = load_mapping(args.mapping) if args.mapping else LogMapping()
    home = Home.at(root / "home")
    ingestion.ingest(events.resolve(), items.resolve(), home, mapping)
    manifest = LogManifest.load(home)
    measure = Measure(home, oracle, args.requests)
    values: dict[tuple[str, str], list[NDArray[np.float64]]] = {}
    for name, known in (("without", False), ("with", True)):
        measure.build(name, replace(manifest, exposure=known))
        for model in args.models:
            for seed in range(args.seeds):
                began = time.perf_counter()
                found = measure(measure.fitted(model, seed, root))
                values.setdefault((name, model), []).append(found)
                took = time.perf_counter() - began
                print(name, model, seed, *np.nanmean(found, axis=1).round(4), f"{took:.0f} s")
    told = manifest_of_log(home)["exposure"]
    count = values["with", args.models[0]][0].shape[1]
    rows = sum(pq.read_metadata(f).num_rows for f in home.events.rglob("*.parquet"))
    head = ["", "build", "rows", "bytes a row", "tables", "read a request: mean / 99% / most"]
    return (
        f"{manifest.dataset}: {rows:,} events, {count:,} requests, {args.seeds} seeds; "
        f"{told['shown']:,} shown items, {len(told['propensities'])} estimates\n\n"
        f"{table(values, args.models)}\n\n{markdown(head, measure.costs)}\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", default="demo")
    parser.add_argument("--events", type=Path)
    parser.add_argument("--items", type=Path)
    parser.add_argument("--mapping", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=3000)
    parser.add_argument("--models", nargs="+", default=["linear", "interactrank"])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for module in (features, dataset, ingestion):
            stack.enter_context(patch.object(module, "ray_map", in_process))
        stack.enter_context(patch.object(ingestion, "cluster_cpus", lambda: 1))
        show(measured(Path(folder), args), args.out)


if __name__ == "__main__":
    main()
