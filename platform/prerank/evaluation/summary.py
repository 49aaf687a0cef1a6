"""Per-request measurements of a split, made into a report's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interactrank.metrics.calibration import calibration_error, curve
from interactrank.metrics.ranking import METRICS, mean, paired_test, summarise
from prerank.evaluation.counterfactual import AS_SHOWN, GAINS, Propensities, effective_size, snips
from prerank.evaluation.per_request import CEILING, REFERENCE, REFERENCE_TOP
from prerank.evaluation.results import COMPARED

LEAD, BASELINE = "interactrank", "two_tower"
SLICES = ("head query", "torso query", "tail query", "new user", "new item")
SLICE_METRICS = ("hits@3", "hits@10", "mrr", "recall@cut")

Histograms = dict[tuple[str, str], NDArray[np.float64]]
"""(ranker, head) -> float64 [CELLS, 3] of :func:`interactrank.metrics.calibration.histogram`."""


@dataclass(frozen=True)
class Cost:
    """Seconds that a ranker took for a task's candidates; its operations and bytes for one."""

    seconds: float
    flops: float
    bytes: float


@dataclass(frozen=True)
class Done:
    """What one task measured, beside its requests' metrics; ``costs`` by ranker."""

    requests: int
    candidates: int
    costs: Mapping[str, Cost]
    histograms: Histograms


def results_of(
    frame: pd.DataFrame,
    done: Sequence[Done],
    names: Sequence[str],
    manifest: Mapping[str, Any],
    training: Mapping[str, Any],
    split: str,
    propensities: Propensities | str,
) -> dict[str, Any]:
    """Parts of :class:`prerank.evaluation.results.Results`.

    Args:
        frame: one row a request, columns of :mod:`prerank.evaluation.per_request`.
        done: what each task returned.
        names: the rankers; whatever else was measured is an oracle.
        manifest: of the log. training: of the training set.
        split: that was measured.
        propensities: used for the counterfactual columns, or why there are none.
    """
    summaries = {n: summarise(_values(frame, n, METRICS)) | {"cost": _cost(done, n)} for n in names}
    measured = {c.split("|")[0] for c in frame.columns if c.endswith("|mrr")} - {CEILING}
    return {
        "split": split,
        "models": summaries,
        "oracles": {
            n: summarise(_values(frame, n, METRICS)) for n in sorted(measured - set(names))
        },
        "paired": paired(frame, {n: (n, BASELINE) for n in names}),
        "versus": paired(frame, {n: (LEAD, n) for n in names}),
        "slices": _slices(frame, names),
        "reachable_ceiling": {m: mean(frame[f"{CEILING}|{m}"].to_numpy()) for m in METRICS},
        "cut": _cut(frame, names),
        "calibration": _calibration(done, names, manifest),
        "counterfactual": _counterfactual(frame, names, propensities),
        "dataset": _facts(manifest, training, frame, split),
    }


def _values(
    frame: pd.DataFrame, name: str, metrics: Sequence[str]
) -> dict[str, NDArray[np.float64]]:
    return {m: frame[f"{name}|{m}"].to_numpy(np.float64) for m in metrics}


def _cost(done: Sequence[Done], name: str) -> dict[str, float]:
    candidates = max(sum(d.candidates for d in done), 1)
    return {
        "flops_per_candidate": done[0].costs[name].flops,
        "bytes_per_candidate": done[0].costs[name].bytes,
        "us_per_candidate": 1e6 * sum(d.costs[name].seconds for d in done) / candidates,
    }


def paired(frame: pd.DataFrame, pairs: Mapping[str, tuple[str, str]]) -> dict[str, Any]:
    """Paired comparison a - b of each named pair (a, b), request by request.

    A ranker with itself, or with one that was not measured, is left out.
    """
    out: dict[str, Any] = {}
    for name, (a, b) in pairs.items():
        if a == b or not {f"{a}|mrr", f"{b}|mrr"} <= set(frame.columns):
            continue
        out[name] = {}
        for metric in COMPARED:
            test = paired_test(frame[f"{a}|{metric}"].to_numpy(), frame[f"{b}|{metric}"].to_numpy())
            out[name][metric] = {
                "difference": test.mean_difference,
                "ci": list(test.ci),
                "p": test.p_value,
            }
    return out


def _slices(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    out: dict[str, Any] = {}
    for slice_name in SLICES:
        own = frame[frame[slice_name] & (frame["positives"] > 0)]
        if len(own):
            out[slice_name] = {"requests": len(own)} | {
                n: {m: mean(own[f"{n}|{m}"].to_numpy()) for m in SLICE_METRICS} for n in names
            }
    return out


def _cut(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, Any]:
    """Set metrics by ranker, with what they were measured against."""
    models: dict[str, Any] = {}
    for name in names:
        wanted = ("recall@cut", "recall@100", "recall@1000", "agreement")
        found = [m for m in wanted if f"{name}|{m}" in frame]
        models[name] = summarise(_values(frame, name, found))
    reference = {"name": REFERENCE, "top": REFERENCE_TOP} if REFERENCE in names else None
    return {"reference": reference, "models": models}


def _calibration(
    done: Sequence[Done], names: Sequence[str], manifest: Mapping[str, Any]
) -> dict[str, Any]:
    if not manifest["has_impressions"]:
        return {
            "absent": "The log has no impressions. Candidates that nobody was shown are no "
            "evidence against an item, so a predicted probability has nothing to be compared with."
        }
    models: dict[str, Any] = {}
    for name in names:
        for head in manifest["head_order"]:
            if (name, head) not in done[0].histograms:
                continue
            total = np.asarray(sum(d.histograms[name, head] for d in done))
            if total[:, 0].sum():
                shares = total[:, 1:].sum(axis=0) / total[:, 0].sum()
                models.setdefault(name, {})[head] = {
                    "ece": calibration_error(total),
                    "predicted": float(shares[0]),
                    "observed": float(shares[1]),
                    "impressions": int(total[:, 0].sum()),
                    "curve": curve(total).tolist(),
                }
    if not models:
        return {"absent": "No ranker of this report gives probabilities."}
    return {"models": models}


def _counterfactual(
    frame: pd.DataFrame, names: Sequence[str], propensities: Propensities | str
) -> dict[str, Any]:
    if isinstance(propensities, str):
        return {"absent": propensities}
    weight = frame["snips|weight"].to_numpy()
    if not weight.sum():
        return {"absent": "No engagement of this split stood at a known place."}
    models: dict[str, Any] = {}
    for name in (*names, AS_SHOWN):
        models[name] = {"ci": {}}
        for gain in GAINS:
            value, ci = snips(frame[f"{name}|snips_{gain}"].to_numpy(), weight)
            models[name][gain] = value
            models[name]["ci"][gain] = list(ci)
    return {
        "models": models,
        "propensities": {
            "first_place": list(propensities.first),
            "value": list(propensities.value),
            "engagements": propensities.engagements,
            "strata": propensities.strata,
        },
        "requests": int((weight > 0).sum()),
        "effective_engagements": effective_size(weight, frame["snips|weight2"].to_numpy()),
    }


def _facts(
    manifest: Mapping[str, Any], training: Mapping[str, Any], frame: pd.DataFrame, split: str
) -> dict[str, Any]:
    engaged = frame["positives"].sum() + frame["unreachable"].sum()
    policy = (
        "what the log shows was impressed" if manifest["has_impressions"] else "the whole catalogue"
    )
    return {
        "name": manifest["dataset"],
        "requests": {
            "train": training["train_requests"],
            "validation": training["validation_requests"],
            split: len(frame),
        },
        "users": manifest["users"],
        "queries": manifest["queries"],
        "items": manifest["items"],
        "time_span": (manifest["first_time"], manifest["last_time"]),
        "positives": int(frame["positives"].sum()),
        "candidates": policy,
        "reachable_share": float(frame["positives"].sum() / max(engaged, 1)),
    }
