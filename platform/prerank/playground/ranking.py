"""One search as a ranker orders it: a model version, or a baseline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interactrank.features.batch import RequestArrays
from interactrank.features.inputs import FeatureInputs
from interactrank.model.candidates import Found
from interactrank.model.top_k import best
from prerank.core.times import iso
from prerank.evaluation.baselines.ranker import Ranker
from prerank.serving.answer import Loaded, answer, sound
from prerank.serving.api import PrerankRequest


@dataclass(frozen=True)
class Ranked:
    """Candidates in a ranker's order.

    Attributes:
        keys: int64 [n], the best first; scores: float32 [n].
        unknown: how many of them the index does not hold.
        degraded: which features were missing.
        snapshot_cutoff: of the counts that were read, ISO 8601.
        version: number of the model version; of a baseline, of that whose features it read.
    """

    keys: NDArray[np.int64]
    scores: NDArray[np.float32]
    unknown: int
    degraded: tuple[str, ...]
    snapshot_cutoff: str | None
    version: str


def by_version(request: PrerankRequest, loaded: Loaded) -> Ranked:
    """The order of a model version, as a replica that serves it answers."""
    found = answer(replace(request, k=_all(request, loaded)), loaded)
    scores = np.array([item["score"] for item in found.body["items"]], np.float32)
    return Ranked(
        found.ids,
        scores,
        found.unknown,
        tuple(found.body["degraded"]),
        found.body["snapshot_cutoff"],
        loaded.wanted.version.number,
    )


def by_baseline(request: PrerankRequest, ranker: Ranker, loaded: Loaded) -> Ranked:
    """The order of a baseline, from the features that ``loaded`` reads."""
    read = loaded.features.read(
        request.query, request.user_id, request.time_us, request.context, request.deadline
    )
    work: Callable[[FeatureInputs], Any] = partial(_baseline_scores, request, ranker, loaded)
    (ids, scores), read = sound(read, work)
    top = best(scores, ids, len(ids))
    return Ranked(
        ids[top],
        scores[top],
        int((loaded.scorer.table.rows(ids) < 0).sum()),
        read.degraded,
        iso(read.cutoff_us),
        loaded.wanted.version.number,
    )


def _baseline_scores(
    request: PrerankRequest, ranker: Ranker, loaded: Loaded, inputs: FeatureInputs
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    found = found_of(request, loaded, inputs)
    arrays = arrays_of(request, loaded, inputs, found, np.arange(len(found.ids)))
    return found.ids, ranker.score(arrays, [request.query])


def found_of(request: PrerankRequest, loaded: Loaded, inputs: FeatureInputs) -> Found:
    """The candidates of a request; of one for the whole index, all of its items."""
    keys = None if request.whole else request.keys
    return loaded.scorer.find(inputs, keys, request.retriever_features)


def arrays_of(
    request: PrerankRequest,
    loaded: Loaded,
    inputs: FeatureInputs,
    found: Found,
    at: NDArray[np.int64],
) -> RequestArrays:
    """The candidates at the places ``at`` int64 [n], as a baseline reads them."""
    return RequestArrays.of(
        loaded.limits.schema,
        [request.query],
        inputs,
        candidates=found.ids[at],
        offsets=np.array([0, len(at)]),
        x=found.x(at),
        labels=np.zeros(len(at), np.int64),
    )


def _all(request: PrerankRequest, loaded: Loaded) -> int:
    """K of a request that wants every candidate's place."""
    return max(len(loaded.scorer.table) if request.whole else len(request.keys), 1)
