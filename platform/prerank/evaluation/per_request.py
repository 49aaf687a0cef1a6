"""What is measured of a chunk of scored requests: one row per request, and sums over candidates.

Columns are named ``<ranker>|<metric>``; what does not depend on the ranker has a plain name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.schema import REQUEST_NUMERIC, FeatureSchema
from interactrank.metrics.ranking import reachable_ceiling, request_metrics
from interactrank.metrics.recall import recall_at, tenth, top
from prerank.core.propensities import Propensities
from prerank.dataset.candidates import Candidates
from prerank.evaluation.counterfactual import AS_SHOWN, Engagements

CEILING = "ceiling"
CUTS = (100, 1_000)
"""Absolute sizes of a cut, measured where a request has more candidates."""
REFERENCE, REFERENCE_TOP = "trees", 10
"""The ranker that stands in for a costly full ranker, and how many of its best must survive."""
NEW_ITEM_DAYS = 7.0
HEAD_QUERY, TORSO_QUERY = 100.0, 10.0
"""Engagements of the query so far: head from 100, torso from 10, tail below."""

Scores = Mapping[str, NDArray[Any]]
Columns = dict[str, NDArray[Any]]


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


def ranking_columns(scores: Scores, positive: NDArray[np.bool_], candidates: Candidates) -> Columns:
    """Metrics of every ranker's order, and of a perfect one."""
    offsets, missed = candidates.offsets, candidates.unreachable
    columns: Columns = {}
    for name, score in scores.items():
        measured = request_metrics(score, positive, offsets, missed)
        columns |= {f"{name}|{m}": v for m, v in measured.items()}
    ceiling = reachable_ceiling(positive, offsets, missed)
    columns |= {f"{CEILING}|{m}": v for m, v in ceiling.items()}
    columns["positives"] = np.add.reduceat(positive, offsets[:-1])
    columns["unreachable"] = missed
    return columns


def cut_columns(scores: Scores, positive: NDArray[np.bool_], candidates: Candidates) -> Columns:
    """What every ranker's cut keeps of the engaged items, and of the reference's best.

    ``recall@<k>`` is NaN for requests of at most k candidates. ``agreement`` is the share of the
    reference's REFERENCE_TOP best (as many as the cut holds, if that is fewer) in the ranker's best
    tenth.
    """
    offsets, missed = candidates.offsets, candidates.unreachable
    sizes = np.diff(offsets)
    columns: Columns = {}
    for k in CUTS:
        if not (sizes > k).any():
            continue
        keep = np.full(len(sizes), k, np.int64)
        for name, score in scores.items():
            recall = recall_at(score, positive, offsets, keep, missed)
            columns[f"{name}|recall@{k}"] = np.where(sizes > k, recall, np.nan)
    if REFERENCE in scores:
        cut = tenth(offsets)
        best = top(scores[REFERENCE], offsets, np.minimum(cut, REFERENCE_TOP))
        for name, score in scores.items():
            if name != REFERENCE:
                columns[f"{name}|agreement"] = recall_at(score, best, offsets, cut)
    return columns


def counterfactual_columns(
    scores: Scores,
    positive: NDArray[np.bool_],
    places: NDArray[np.float64],
    offsets: NDArray[np.int64],
    propensities: Propensities,
) -> Columns:
    """Weighted gains of every ranker's order, and of the order that was shown."""
    engaged = Engagements.of(positive, places, offsets, propensities)
    columns: Columns = {f"snips|{k}": v for k, v in engaged.weights().items()}
    shown = np.where(np.isnan(places), -np.inf, -places)
    for name, score in {**scores, AS_SHOWN: shown}.items():
        columns |= {f"{name}|snips_{g}": v for g, v in engaged.gains(score).items()}
    return columns


def was_shown(requests: pa.Table) -> NDArray[np.bool_]:
    """Which of ``shown_candidates`` were impressed, not only engaged: bool [N]."""
    flags: NDArray[np.bool_] = (
        requests["shown"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(bool)
    )
    return flags


def places_of(requests: pa.Table) -> NDArray[np.float64]:
    """Where each of ``shown_candidates`` stood: float64 [N], NaN where it was not shown."""
    flat = requests["positions"].combine_chunks().flatten()
    places: NDArray[np.float64] = flat.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return np.where(was_shown(requests), places, np.nan)
