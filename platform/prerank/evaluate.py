"""Evaluation on a held-out split: every ranker on the same requests, candidates and features.

Nothing is stored but per-request metrics: a Ray Data task joins its days' requests, scores them
chunk by chunk with every ranker, and throws the candidates away, so a whole catalogue can be
ranked for each request in constant memory.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from interactrank.batch import RequestArrays
from interactrank.metrics import (
    METRICS,
    paired_test,
    reachable_ceiling,
    request_metrics,
    summarise,
)
from interactrank.schema import REQUEST_NUMERIC, FeatureSchema
from prerank.catalogue import load_catalogue
from prerank.errors import DataError
from prerank.examples import catalogue_candidates, offline_inputs, request_arrays, shown_candidates
from prerank.features import schema_of
from prerank.home import Home, replaced
from prerank.rayrun import ray_map
from prerank.requests import Splits
from prerank.rivals import Bm25Ranker, ColumnRanker, Ranker, TorchRanker
from prerank.training_set import event_days, requests_between

CANDIDATES_PER_CHUNK = 600_000
REQUESTS_PER_TASK = 2_000
"""Fewer than a training-set task takes: a whole catalogue a request is more work than its join."""
CEILING = "ceiling"
RIVAL = "two_tower"
SLICE_METRICS = ("hits@3", "hits@10", "mrr", "recall@cut")
NEW_ITEM_DAYS = 7.0
HEAD_QUERY, TORSO_QUERY = 100.0, 10.0
"""Engagements of the query so far: head from 100, torso from 10, tail below."""


def rankers(home: Home, schema: FeatureSchema, models: dict[str, str]) -> list[Ranker]:
    """The rankers of a report; ``models`` maps a name to its bundle folder."""
    items = pq.read_table(home.items, columns=["title"])
    manifest = home.read_json(home.manifest, "prerank ingest")
    return [
        ColumnRanker("popularity", schema, "a:engage:all"),
        Bm25Ranker(load_catalogue(home, manifest), items["title"].to_pylist()),
        ColumnRanker("iqp", schema, "q:engage:all"),
        *(TorchRanker(name, Path(folder)) for name, folder in models.items()),
    ]


def slices_of(schema: FeatureSchema, arrays: RequestArrays) -> dict[str, NDArray[np.bool_]]:
    """Which requests belong to which slice, from as-of features alone: name -> bool [B]."""
    total = np.expm1(arrays.request[:, REQUEST_NUMERIC.index("query:log_total")])
    popularity = arrays.x[:, schema.cross.index("a:engage:all")]
    unknown_age = arrays.x[:, schema.cross.index("item:age_unknown")] > 0
    young = np.expm1(arrays.x[:, schema.cross.index("item:log_age_days")]) < NEW_ITEM_DAYS
    new = (arrays.labels > 0) & np.where(unknown_age, popularity <= 0, young)
    request = np.repeat(np.arange(len(arrays)), np.diff(arrays.offsets))
    return {
        "head query": total >= HEAD_QUERY,
        "torso query": (total >= TORSO_QUERY) & (total < HEAD_QUERY),
        "tail query": total < TORSO_QUERY,
        "new user": np.diff(arrays.hist_offsets) == 0,
        "new item": np.bincount(request, weights=new, minlength=len(arrays)) > 0,
    }


def _evaluate_task(piece: dict[str, Any]) -> dict[str, Any]:
    torch.set_num_threads(1)
    home = Home.at(piece["home"])
    manifest = home.read_json(home.manifest, "prerank ingest")
    schema, catalogue = schema_of(manifest), load_catalogue(home, manifest)
    table = catalogue.table()
    requests = requests_between(piece["files"], manifest, piece["from_us"], piece["to_us"])
    all_rankers = rankers(home, schema, piece["models"])
    oracles = _oracles(piece["oracles"])
    shown = manifest["has_impressions"]
    per_request = 64 if shown else len(catalogue)
    step = max(CANDIDATES_PER_CHUNK // max(per_request, 1), 1)
    frames, seconds, candidates_seen = [], dict.fromkeys((r.name for r in all_rankers), 0.0), 0
    # Joined once: a join scans the feature table, however few requests it is for.
    joined = offline_inputs(home, requests)
    for start in range(0, requests.num_rows, step):
        chunk = requests.slice(start, step)
        candidates = shown_candidates(chunk) if shown else catalogue_candidates(
            chunk, catalogue.ids)  # fmt: skip
        queries = chunk["query"].to_pylist()
        inputs = joined.slice(start, start + chunk.num_rows)
        arrays = request_arrays(schema, queries, inputs, candidates, catalogue, table)
        positive = arrays.labels & 1 > 0
        ids = chunk["request_id"].to_pylist()
        scores: dict[str, NDArray[Any]] = {}
        if start == 0:
            for ranker in all_rankers:
                # The first call pays for allocation and threads; it is no cost per candidate.
                ranker.score(arrays, queries)
        for ranker in all_rankers:
            began = time.perf_counter()
            scores[ranker.name] = ranker.score(arrays, queries)
            seconds[ranker.name] += time.perf_counter() - began
        for name, oracle in oracles.items():
            scores[name] = np.concatenate(
                [oracle.score(i, arrays.candidates[arrays.offsets[b] : arrays.offsets[b + 1]])
                 for b, i in enumerate(ids)])  # fmt: skip
        columns: dict[str, Any] = {"request_id": ids}
        columns |= slices_of(schema, arrays)
        for name, score in scores.items():
            measured = request_metrics(score, positive, arrays.offsets, candidates.unreachable)
            columns |= {f"{name}|{m}": v for m, v in measured.items()}
        ceiling = reachable_ceiling(positive, arrays.offsets, candidates.unreachable)
        columns |= {f"{CEILING}|{m}": v for m, v in ceiling.items()}
        columns["positives"] = np.add.reduceat(positive, arrays.offsets[:-1])
        columns["unreachable"] = candidates.unreachable
        candidates_seen += len(arrays.candidates)
        frames.append(pd.DataFrame(columns))
    if frames:
        pd.concat(frames).to_parquet(Path(piece["out"]) / f"part-{piece['task']:05d}.parquet")
    costs = {f"seconds|{k}": v for k, v in seconds.items()}
    return {"requests": requests.num_rows, "candidates": candidates_seen, **costs}


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
        Parts of :class:`prerank.report.Results`: models, paired, slices, reachable_ceiling, …

    Raises:
        DataError: no request of the split has a positive.
    """
    manifest = home.read_json(home.manifest, "prerank ingest")
    training = home.read_json(home.training_set / "manifest.json", "prerank training-set")
    splits = Splits(**training["splits"])
    low = splits.test_from if split == "test" else splits.validation_from
    high = splits.closed_before if split == "test" else splits.test_from
    folder = home.root / "evaluation" / split
    folder.parent.mkdir(parents=True, exist_ok=True)
    with replaced(folder) as out:
        common = {
            "home": str(home.root), "models": {k: str(v) for k, v in models.items()},
            "oracles": str(oracles) if oracles else None, "out": str(out),
            "from_us": low, "to_us": high,
        }  # fmt: skip
        groups = event_days(home, low, high, REQUESTS_PER_TASK)
        pieces = [common | {"files": f, "task": i} for i, f in enumerate(groups)]
        done = ray_map(_evaluate_task, pieces, "evaluate")
        tables = [pd.read_parquet(p) for p in sorted(out.glob("*.parquet"))]
    frame = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()
    if not len(frame) or not frame["positives"].sum():
        raise DataError(f"no request of the {split} split has an engagement: nothing to measure.")
    return _results(home, manifest, training, frame, done, models, split)


def _values(frame: pd.DataFrame, name: str) -> dict[str, NDArray[np.float64]]:
    return {m: frame[f"{name}|{m}"].to_numpy(np.float64) for m in METRICS}


def _results(
    home: Home, manifest: dict[str, Any], training: dict[str, Any], frame: pd.DataFrame,
    done: list[dict[str, Any]], models: dict[str, Path], split: str,
) -> dict[str, Any]:  # fmt: skip
    schema = schema_of(manifest)
    candidates = max(sum(d["candidates"] for d in done), 1)
    summaries: dict[str, Any] = {}
    for ranker in rankers(home, schema, {k: str(v) for k, v in models.items()}):
        spent = sum(d[f"seconds|{ranker.name}"] for d in done)
        summaries[ranker.name] = summarise(_values(frame, ranker.name)) | {
            "cost": {
                "flops_per_candidate": ranker.flops,
                "bytes_per_candidate": ranker.bytes,
                "us_per_candidate": 1e6 * spent / candidates,
            }
        }
    measured = {c.split("|")[0] for c in frame.columns if c.endswith("|mrr")} - {CEILING}
    oracles = {n: summarise(_values(frame, n)) for n in sorted(measured - set(summaries))}
    return {
        "split": split,
        "models": summaries,
        "oracles": oracles,
        "paired": _paired(frame, [n for n in summaries if n != RIVAL]),
        "slices": _slices(frame, list(summaries)),
        "reachable_ceiling": {m: float(np.nanmean(frame[f"{CEILING}|{m}"])) for m in METRICS},
        "dataset": _facts(manifest, training, frame, split),
    }


def _paired(frame: pd.DataFrame, names: list[str]) -> dict[str, Any]:
    if f"{RIVAL}|mrr" not in frame:
        return {}
    out: dict[str, Any] = {}
    for name in names:
        out[name] = {}
        for metric in ("hits@3", "mrr"):
            test = paired_test(
                frame[f"{name}|{metric}"].to_numpy(), frame[f"{RIVAL}|{metric}"].to_numpy()
            )
            out[name][metric] = {
                "difference": test.mean_difference, "ci": list(test.ci), "p": test.p_value,
            }  # fmt: skip
    return out


def _slices(frame: pd.DataFrame, names: list[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for slice_name in ("head query", "torso query", "tail query", "new user", "new item"):
        own = frame[frame[slice_name] & (frame["positives"] > 0)]
        if len(own):
            out[slice_name] = {"requests": len(own)} | {
                n: {m: float(np.nanmean(own[f"{n}|{m}"])) for m in SLICE_METRICS} for n in names
            }
    return out


def _facts(
    manifest: dict[str, Any], training: dict[str, Any], frame: pd.DataFrame, split: str
) -> dict[str, Any]:
    engaged = frame["positives"].sum() + frame["unreachable"].sum()
    policy = ("what the log shows was impressed" if manifest["has_impressions"]
              else "the whole catalogue")  # fmt: skip
    return {
        "name": manifest["dataset"],
        "requests": {"train": training["train_requests"],
                     "validation": training["validation_requests"], split: len(frame)},
        "users": manifest["users"], "queries": manifest["queries"], "items": manifest["items"],
        "time_span": (manifest["first_time"], manifest["last_time"]),
        "positives": int(frame["positives"].sum()),
        "candidates": policy,
        "truth_coverage": float(frame["positives"].sum() / max(engaged, 1)),
    }  # fmt: skip
