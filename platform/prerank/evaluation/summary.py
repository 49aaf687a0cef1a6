"""Per-request measurements of a split, made into a report's results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from interactrank.metrics.calibration import calibration_error, curve
from interactrank.metrics.ranking import METRICS, mean, paired_test, summarise
from prerank.core.manifest import LogManifest
from prerank.core.propensities import Propensities
from prerank.evaluation.counterfactual import AS_SHOWN, GAINS, effective_size, snips
from prerank.evaluation.done import Done
from prerank.evaluation.over_seeds import averaged, by_ranker, of_first, seed_metrics
from prerank.evaluation.per_request import CEILING, REFERENCE, REFERENCE_TOP
from prerank.evaluation.results import (
    BASELINE,
    COMPARED,
    LEAD,
    Calibration,
    Comparisons,
    Cost,
    Counterfactual,
    Cut,
    DatasetFacts,
    Difference,
    Examination,
    Measured,
    NotMeasured,
    Reference,
    Reliability,
    Results,
    Slice,
)

SLICES = ("head query", "torso query", "tail query", "new user", "new item")
SLICE_METRICS = ("hits@3", "hits@10", "mrr", "recall@cut")


def results_of(
    frame: pd.DataFrame,
    done: Sequence[Done],
    names: Sequence[str],
    manifest: LogManifest,
    training: Mapping[str, Any],
    split: str,
    propensities: Propensities | str,
) -> Results:
    """What was measured on a split; what is known of the job is not in it.

    Args:
        frame: one row per request, columns of ``prerank.evaluation.per_request``.
        done: what each task returned.
        names: the rankers, by seed where there are several (``prerank.evaluation.over_seeds``);
            whatever else was measured is an oracle.
        manifest: of the log. training: of the training set.
        split: that was measured.
        propensities: used for the counterfactual columns, or why there are none.
    """
    seeds, frame = seed_metrics(frame, names), averaged(frame, names)
    done, names = of_first(done, names), [*by_ranker(names)]
    measured = {c.split("|")[0] for c in frame.columns if c.endswith("|mrr")} - {CEILING}
    return Results(
        dataset=_facts(manifest, training, frame, split),
        models={n: _measured(frame, n, METRICS, _cost(done, n)) for n in names},
        split=split,
        oracles={n: _measured(frame, n, METRICS) for n in sorted(measured - set(names))},
        reachable_ceiling={m: mean(frame[f"{CEILING}|{m}"].to_numpy()) for m in METRICS},
        paired=paired(frame, {n: (n, BASELINE) for n in names}),
        versus=paired(frame, {n: (LEAD, n) for n in names}),
        cut=_cut(frame, names),
        calibration=_calibration(done, names, manifest),
        counterfactual=_counterfactual(frame, names, propensities),
        slices=_slices(frame, names),
        seeds=seeds,
    )


def _measured(
    frame: pd.DataFrame, name: str, metrics: Sequence[str], cost: Cost | None = None
) -> Measured:
    values = {m: frame[f"{name}|{m}"].to_numpy(np.float64) for m in metrics}
    return Measured.from_flat(summarise(values), cost)


def _cost(done: Sequence[Done], name: str) -> Cost:
    candidates = max(sum(d.candidates for d in done), 1)
    return Cost(
        flops_per_candidate=done[0].costs[name].flops,
        bytes_per_candidate=done[0].costs[name].bytes,
        us_per_candidate=1e6 * sum(d.costs[name].seconds for d in done) / candidates,
    )


def paired(frame: pd.DataFrame, pairs: Mapping[str, tuple[str, str]]) -> Comparisons:
    """Paired comparison a - b of each named pair (a, b), request by request.

    A ranker with itself, or with one that was not measured, is left out.
    """
    out: dict[str, dict[str, Difference]] = {}
    for name, (a, b) in pairs.items():
        if a == b or not {f"{a}|mrr", f"{b}|mrr"} <= set(frame.columns):
            continue
        out[name] = {}
        for metric in COMPARED:
            test = paired_test(frame[f"{a}|{metric}"].to_numpy(), frame[f"{b}|{metric}"].to_numpy())
            out[name][metric] = Difference(test.mean_difference, test.ci, test.p_value)
    return out


def _slices(frame: pd.DataFrame, names: Sequence[str]) -> dict[str, Slice]:
    out: dict[str, Slice] = {}
    for slice_name in SLICES:
        own = frame[frame[slice_name] & (frame["positives"] > 0)]
        if len(own):
            means = {n: {m: mean(own[f"{n}|{m}"].to_numpy()) for m in SLICE_METRICS} for n in names}
            out[slice_name] = Slice(len(own), means)
    return out


def _cut(frame: pd.DataFrame, names: Sequence[str]) -> Cut:
    """Set metrics by ranker, with what they were measured against."""
    wanted = ("recall@cut", "recall@100", "recall@1000", "agreement")
    models = {n: _measured(frame, n, [m for m in wanted if f"{n}|{m}" in frame]) for n in names}
    return Cut(Reference(REFERENCE, REFERENCE_TOP) if REFERENCE in names else None, models)


def _calibration(
    done: Sequence[Done], names: Sequence[str], manifest: LogManifest
) -> Calibration | NotMeasured:
    if not manifest.has_impressions:
        return NotMeasured(
            "The log has no impressions. Candidates that nobody was shown are no evidence against "
            "an item, so a predicted probability has nothing to be compared with."
        )
    models: dict[str, dict[str, Reliability]] = {}
    for name in names:
        for head in manifest.head_order:
            if (name, head) not in done[0].histograms:
                continue
            total = np.asarray(sum(d.histograms[name, head] for d in done))
            if total[:, 0].sum():
                models.setdefault(name, {})[head] = _reliability(total)
    if not models:
        return NotMeasured("No ranker of this report gives probabilities.")
    return Calibration(models)


def _reliability(total: NDArray[np.float64]) -> Reliability:
    """From the histogram of all impressions: float64 [CELLS, 3]."""
    shares = total[:, 1:].sum(axis=0) / total[:, 0].sum()
    return Reliability(
        ece=calibration_error(total),
        predicted=float(shares[0]),
        observed=float(shares[1]),
        impressions=int(total[:, 0].sum()),
        curve=curve(total).tolist(),
    )


def _counterfactual(
    frame: pd.DataFrame, names: Sequence[str], propensities: Propensities | str
) -> Counterfactual | NotMeasured:
    if isinstance(propensities, str):
        return NotMeasured(propensities)
    weight = frame["snips|weight"].to_numpy()
    if not weight.sum():
        return NotMeasured("No engagement of this split stood at a known place.")
    models: dict[str, Measured] = {}
    for name in (*names, AS_SHOWN):
        found = {g: snips(frame[f"{name}|snips_{g}"].to_numpy(), weight) for g in GAINS}
        models[name] = Measured(
            {gain: value for gain, (value, _) in found.items()},
            {gain: ci for gain, (_, ci) in found.items()},
        )
    examination = Examination(
        propensities.first, propensities.value, propensities.engagements, propensities.strata
    )
    effective = effective_size(weight, frame["snips|weight2"].to_numpy())
    return Counterfactual(models, examination, int((weight > 0).sum()), effective)


def _facts(
    manifest: LogManifest, training: Mapping[str, Any], frame: pd.DataFrame, split: str
) -> DatasetFacts:
    engaged = frame["positives"].sum() + frame["unreachable"].sum()
    policy = (
        "what the log shows was impressed" if manifest.has_impressions else "the whole catalogue"
    )
    return DatasetFacts(
        name=manifest.dataset + f" (restated: {manifest.restated})" * bool(manifest.restated),
        requests={
            "train": training["train_requests"],
            "validation": training["validation_requests"],
            split: len(frame),
        },
        users=manifest.users,
        queries=manifest.queries,
        items=manifest.items,
        time_span=(manifest.first_time, manifest.last_time),
        positives=int(frame["positives"].sum()),
        candidates=policy,
        reachable_share=float(frame["positives"].sum() / max(engaged, 1)),
    )
