"""Evaluation on a held-out split: every ranker on the same requests, candidates and features.

Nothing is stored but per-request metrics: a Ray Data task joins its days' requests, scores them
chunk by chunk with every ranker, and throws the candidates away, so a whole catalogue can be
ranked for each request in constant memory.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.schema import FeatureSchema
from interactrank.metrics.calibration import CELLS, histogram
from prerank.core.errors import DataError
from prerank.core.feature_sets import require_features
from prerank.core.files import fetch, remove, replaced
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.propensities import Propensities
from prerank.core.ray_tasks import ray_map
from prerank.core.travel import Carried
from prerank.dataset.candidates import Candidates, catalogue_candidates, shown_candidates
from prerank.dataset.catalogue import load_catalogue, load_titles
from prerank.dataset.examples import request_arrays
from prerank.dataset.requests import event_days, requests_between
from prerank.dataset.splits import Splits
from prerank.evaluation.baselines.ranker import Ranker
from prerank.evaluation.baselines.simple import Bm25Ranker, ColumnRanker, LastTouchedRanker
from prerank.evaluation.baselines.suite import load_ranker
from prerank.evaluation.counterfactual import estimate
from prerank.evaluation.done import Done, Histograms, RankerCost
from prerank.evaluation.per_request import (
    counterfactual_columns,
    cut_columns,
    places_of,
    ranking_columns,
    slices_of,
    was_shown,
)
from prerank.evaluation.results import Results
from prerank.evaluation.summary import results_of
from prerank.features.offline import offline_inputs

CANDIDATES_PER_CHUNK = 600_000
REQUESTS_PER_TASK = 2_000
"""Fewer than a training-set task takes: a whole catalogue a request is more work than its join."""


@dataclass(frozen=True)
class EvaluateTask:
    """Some days of events to be measured on, in [from_us, to_us).

    Attributes:
        number: the task's own.
        home: of the log.
        files: event files.
        from_us, to_us: request times, microseconds since 1970.
        models: name -> folder of what was fitted.
        bm25: folder of BM25's index.
        oracles: folder of the simulated world, or None.
        propensities: None where the log has none.
        out: folder for the requests' metrics.
    """

    number: int
    home: Home
    files: list[str]
    from_us: int
    to_us: int
    models: Mapping[str, Path]
    bm25: Path
    oracles: Path | None
    propensities: Propensities | None
    out: Path

    def reads(self) -> list[Path]:
        """What was fitted."""
        return [self.bm25, *self.models.values()]

    def writes(self) -> list[Path]:
        """The requests' metrics, where there are requests."""
        return [self.out / f"part-{self.number:05d}.parquet"]


def rankers(schema: FeatureSchema, bm25: Bm25Ranker, models: Mapping[str, Path]) -> list[Ranker]:
    """The rankers of a report; ``models`` maps a name to the folder of what was fitted."""
    return [
        ColumnRanker("popularity", schema, "a:engage:all"),
        bm25,
        ColumnRanker("iqp", schema, "q:engage:all"),
        *((LastTouchedRanker(schema),) if "rank" in schema.retriever else ()),
        *(load_ranker(name, folder) for name, folder in models.items()),
    ]


def evaluate_task(task: EvaluateTask) -> Done:
    """Score the requests of some days with every ranker; writes their metrics, returns the sums."""
    torch.set_num_threads(1)
    home = task.home
    home.fetch(*map(Path, task.files))
    manifest = LogManifest.load(home)
    schema, catalogue = manifest.schema, load_catalogue(home)
    table = catalogue.table()
    requests = requests_between(task.files, manifest, task.from_us, task.to_us)
    all_rankers = rankers(schema, Bm25Ranker.load(catalogue, task.bm25), task.models)
    oracles = _oracles(task.oracles)
    shown = manifest.has_impressions
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
        if start == 0:
            for ranker in all_rankers:
                # The first call pays for allocation and threads; it is no cost per candidate.
                ranker.score(arrays, queries)
        scores = _scores(all_rankers, arrays, queries, seconds)
        scores |= _oracle_scores(oracles, arrays, chunk["request_id"].to_pylist())
        frames.append(_request_metrics(chunk, schema, arrays, candidates, scores, task))
        if shown:
            _add_to_histograms(histograms, all_rankers, schema, arrays, queries, was_shown(chunk))
        candidates_seen += len(arrays.candidates)
    if frames:
        pd.concat(frames).to_parquet(task.writes()[0])
    costs = {
        r.name: RankerCost(seconds[r.name], float(r.flops), float(r.bytes)) for r in all_rankers
    }
    return Done(requests.num_rows, candidates_seen, costs, histograms)


def _scores(
    all_rankers: Sequence[Ranker],
    arrays: RequestArrays,
    queries: list[str],
    seconds: dict[str, float],
) -> dict[str, NDArray[Any]]:
    """Each ranker's scores of the candidates; the time that it took is added to ``seconds``."""
    scores = {}
    for ranker in all_rankers:
        began = time.perf_counter()
        scores[ranker.name] = ranker.score(arrays, queries)
        seconds[ranker.name] += time.perf_counter() - began
    return scores


def _oracle_scores(
    oracles: Mapping[str, Any], arrays: RequestArrays, request_ids: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """Each oracle's scores of the candidates, request by request."""
    own = np.split(arrays.candidates, arrays.offsets[1:-1])
    return {
        name: np.concatenate([oracle.score(i, c) for i, c in zip(request_ids, own, strict=True)])
        for name, oracle in oracles.items()
    }


def _request_metrics(
    chunk: pa.Table,
    schema: FeatureSchema,
    arrays: RequestArrays,
    candidates: Candidates,
    scores: Mapping[str, NDArray[Any]],
    task: EvaluateTask,
) -> pd.DataFrame:
    """A row per request of ``chunk``: its slices, and the metrics of each ranking in ``scores``."""
    positive = arrays.labels & 1 > 0
    columns: dict[str, Any] = {"request_id": chunk["request_id"].to_pylist()}
    columns |= slices_of(schema, arrays)
    columns |= ranking_columns(scores, positive, candidates)
    columns |= cut_columns(scores, positive, candidates)
    if task.propensities:
        columns |= counterfactual_columns(
            scores, positive, places_of(chunk), arrays.offsets, task.propensities
        )
    return pd.DataFrame(columns)


def _no_histograms(all_rankers: list[Ranker], schema: FeatureSchema) -> Histograms:
    """Empty histograms of the rankers that give probabilities."""
    able = [r.name for r in all_rankers if hasattr(r, "probabilities")]
    return {(name, head): np.zeros((CELLS, 3)) for name in able for head in schema.heads}


def _add_to_histograms(
    histograms: Histograms,
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
            histograms[ranker.name, head] += histogram(predicted[:, h], engaged)


def _oracles(folder: Path | None) -> dict[str, Any]:
    if folder is None:
        return {}
    from prerank.simulate import load_oracles

    return dict(load_oracles(folder))


def evaluate(
    home: Home, models: dict[str, Path], split: str = "test", oracles: Path | None = None
) -> Results:
    """Measure every ranker on a split.

    Args:
        home: with a log, features and a training set.
        models: name -> bundle folder of each trained model; of one with several seeds, a name for
            each (``prerank.evaluation.over_seeds.label``).
        split: "validation" or "test".
        oracles: folder of a simulated world, whose two oracles are then measured beside.

    Returns:
        What was measured; what is known of the job is not in it.

    Raises:
        DataError: no request of the split has a positive, or the features are of another log.
    """
    home = home.pin()
    manifest = LogManifest.load(home)
    require_features(home, manifest)
    training = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    splits = Splits(**training["splits"])
    home.fetch(home.log)
    low = splits.test_from if split == "test" else splits.validation_from
    high = splits.closed_before if split == "test" else splits.test_from
    propensities = estimate(home, manifest, splits.validation_from)
    folder = home.root / "evaluation" / split
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replaced(folder) as out:
        # Once for all tasks, which map it.
        bm25 = out / "bm25"
        Bm25Ranker.fit(load_catalogue(home), load_titles(home)).save(bm25)
        tasks = [
            EvaluateTask(
                number=number,
                home=home,
                files=files,
                from_us=low,
                to_us=high,
                models=models,
                bm25=bm25,
                oracles=oracles,
                propensities=propensities if isinstance(propensities, Propensities) else None,
                out=out,
            )
            for number, files in enumerate(event_days(home, low, high, REQUESTS_PER_TASK))
        ]
        done = ray_map(
            Carried(evaluate_task, EvaluateTask.reads, EvaluateTask.writes), tasks, "evaluate"
        )
        fetch(out)
        remove(bm25)
        tables = [pd.read_parquet(p) for p in sorted(out.glob("*.parquet"))]
    frame = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if not len(frame) or not frame["positives"].sum():
        raise DataError(f"no request of the {split} split has an engagement: nothing to measure.")
    return results_of(frame, done, list(done[0].costs), manifest, training, split, propensities)
