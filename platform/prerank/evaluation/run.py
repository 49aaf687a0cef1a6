"""Evaluation on a held-out split: every ranker on the same requests, candidates and features.

Nothing is stored but per-request metrics: a Ray Data task joins its days' requests, scores them
chunk by chunk with every ranker, and throws the candidates away, so a whole catalogue can be
ranked for each request in constant memory.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.catalogue import Catalogue
from interactrank.features.schema import FeatureSchema
from interactrank.metrics.calibration import CELLS, histogram
from prerank.core.errors import DataError
from prerank.core.home import Home, replaced
from prerank.core.manifest import schema_of
from prerank.core.ray_tasks import ray_map
from prerank.dataset.candidates import catalogue_candidates, shown_candidates
from prerank.dataset.catalogue import load_catalogue
from prerank.dataset.examples import request_arrays
from prerank.dataset.requests import event_days, requests_between
from prerank.dataset.splits import Splits
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.baselines.simple import Bm25Ranker, ColumnRanker
from prerank.evaluation.baselines.suite import load_ranker
from prerank.evaluation.counterfactual import Propensities, estimate
from prerank.evaluation.per_request import (
    counterfactual_columns,
    cut_columns,
    places_of,
    ranking_columns,
    slices_of,
    was_shown,
)
from prerank.evaluation.summary import results_of
from prerank.features.offline import offline_inputs

CANDIDATES_PER_CHUNK = 600_000
REQUESTS_PER_TASK = 2_000
"""Fewer than a training-set task takes: a whole catalogue a request is more work than its join."""


def rankers(
    home: Home, schema: FeatureSchema, catalogue: Catalogue, models: dict[str, str]
) -> list[Ranker]:
    """The rankers of a report; ``models`` maps a name to the folder of what was fitted."""
    items = pq.read_table(home.items, columns=["title"])
    return [
        ColumnRanker("popularity", schema, "a:engage:all"),
        Bm25Ranker(catalogue, items["title"].to_pylist()),
        ColumnRanker("iqp", schema, "q:engage:all"),
        *(load_ranker(name, Path(folder)) for name, folder in models.items()),
    ]


def _evaluate_task(task: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    home = Home.at(task["home"])
    manifest = home.read_json(home.manifest, "prerank ingest")
    schema, catalogue = schema_of(manifest), load_catalogue(home, manifest)
    table = catalogue.table()
    requests = requests_between(task["files"], manifest, task["from_us"], task["to_us"])
    all_rankers = rankers(home, schema, catalogue, task["models"])
    oracles = _oracles(task["oracles"])
    propensities = Propensities(**task["propensities"]) if task["propensities"] else None
    shown = manifest["has_impressions"]
    per_request = 64 if shown else len(catalogue)
    step = max(CANDIDATES_PER_CHUNK // max(per_request, 1), 1)
    frames, candidates_seen = [], 0
    seconds = dict.fromkeys((r.name for r in all_rankers), 0.0)
    histograms = _no_histograms(all_rankers, schema)
    # Joined once: a join scans the feature table, however few requests it is for.
    joined = offline_inputs(home, requests)
    for start in range(0, requests.num_rows, step):
        chunk = requests.slice(start, step)
        candidates = (
            shown_candidates(chunk) if shown else catalogue_candidates(chunk, catalogue.ids)
        )
        queries = chunk["query"].to_pylist()
        inputs = joined.slice(start, start + chunk.num_rows)
        arrays = request_arrays(schema, queries, inputs, candidates, catalogue, table)
        positive = arrays.labels & 1 > 0
        ids = chunk["request_id"].to_pylist()
        if start == 0:
            for ranker in all_rankers:
                # The first call pays for allocation and threads; it is no cost per candidate.
                ranker.score(arrays, queries)
        scores: dict[str, NDArray[Any]] = {}
        for ranker in all_rankers:
            began = time.perf_counter()
            scores[ranker.name] = ranker.score(arrays, queries)
            seconds[ranker.name] += time.perf_counter() - began
        for name, oracle in oracles.items():
            scores[name] = np.concatenate(
                [
                    oracle.score(i, arrays.candidates[arrays.offsets[b] : arrays.offsets[b + 1]])
                    for b, i in enumerate(ids)
                ]
            )
        columns: dict[str, Any] = {"request_id": ids}
        columns |= slices_of(schema, arrays)
        columns |= ranking_columns(scores, positive, candidates)
        columns |= cut_columns(scores, positive, candidates)
        if shown:
            _add_to_histograms(histograms, all_rankers, schema, arrays, queries, was_shown(chunk))
        if propensities:
            columns |= counterfactual_columns(
                scores, positive, places_of(chunk), arrays.offsets, propensities
            )
        candidates_seen += len(arrays.candidates)
        frames.append(pd.DataFrame(columns))
    if frames:
        pd.concat(frames).to_parquet(Path(task["out"]) / f"part-{task['number']:05d}.parquet")
    costs = {f"seconds|{r.name}": seconds[r.name] for r in all_rankers}
    costs |= {f"flops|{r.name}": float(r.flops) for r in all_rankers}
    costs |= {f"bytes|{r.name}": float(r.bytes) for r in all_rankers}
    flat = {f"histogram|{key}": cells.reshape(-1).tolist() for key, cells in histograms.items()}
    return {"requests": requests.num_rows, "candidates": candidates_seen, **costs, **flat}


def _no_histograms(
    all_rankers: list[Ranker], schema: FeatureSchema
) -> dict[str, NDArray[np.float64]]:
    """Empty histograms "<ranker>|<head>" of the rankers that give probabilities."""
    able = [r.name for r in all_rankers if hasattr(r, "probabilities")]
    return {f"{n}|{h}": np.zeros((CELLS, 3)) for n in able for h in schema.heads}


def _add_to_histograms(
    histograms: dict[str, NDArray[np.float64]],
    all_rankers: list[Ranker],
    schema: FeatureSchema,
    arrays: RequestArrays,
    queries: list[str],
    shown: NDArray[np.bool_],
) -> None:
    """Add the predictions for what was shown, against what was engaged, head by head."""
    for ranker in all_rankers:
        if not hasattr(ranker, "probabilities"):
            continue
        predicted = ranker.probabilities(arrays, queries)[shown]
        for h, head in enumerate(schema.heads):
            engaged = (arrays.labels[shown] >> h) & 1 > 0
            histograms[f"{ranker.name}|{head}"] += histogram(predicted[:, h], engaged)


def _oracles(folder: str | None) -> dict[str, Any]:
    if folder is None:
        return {}
    from prerank.simulate import load_oracles

    return dict(load_oracles(Path(folder)))


def evaluate(
    home: Home, models: dict[str, Path], split: str = "test", oracles: Path | None = None
) -> dict[str, Any]:
    """Measure every ranker on a split.

    Args:
        home: with a log, features and a training set.
        models: name -> bundle folder of each trained model.
        split: "validation" or "test".
        oracles: folder of a simulated world, whose two oracles are then measured beside.

    Returns:
        Parts of :class:`prerank.evaluation.report.text.Results`: models, paired, slices, cut,
        calibration, …

    Raises:
        DataError: no request of the split has a positive.
    """
    manifest = home.read_json(home.manifest, "prerank ingest")
    training = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    splits = Splits(**training["splits"])
    low = splits.test_from if split == "test" else splits.validation_from
    high = splits.closed_before if split == "test" else splits.test_from
    propensities = estimate(home, manifest, splits.validation_from)
    folder = home.root / "evaluation" / split
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replaced(folder) as out:
        common = {
            "home": str(home.root),
            "models": {k: str(v) for k, v in models.items()},
            "oracles": str(oracles) if oracles else None,
            "out": str(out),
            "from_us": low,
            "to_us": high,
            "propensities": None if isinstance(propensities, str) else asdict(propensities),
        }
        groups = event_days(home, low, high, REQUESTS_PER_TASK)
        tasks = [common | {"files": f, "number": i} for i, f in enumerate(groups)]
        done = ray_map(_evaluate_task, tasks, "evaluate")
        tables = [pd.read_parquet(p) for p in sorted(out.glob("*.parquet"))]
    frame = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if not len(frame) or not frame["positives"].sum():
        raise DataError(f"no request of the {split} split has an engagement: nothing to measure.")
    names = [key.removeprefix("seconds|") for key in done[0] if key.startswith("seconds|")]
    return results_of(frame, done, names, manifest, training, split, propensities)
