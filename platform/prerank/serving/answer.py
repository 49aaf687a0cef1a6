"""The answer to one request: features read online, candidates scored, the best k told."""

from __future__ import annotations

import dataclasses
import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from interactrank.features.inputs import MISSING_BLOCK, FeatureInputs
from interactrank.features.packed_rows import RowError
from interactrank.features.schema import REQUEST_NUMERIC
from interactrank.model.scorer import Scored, Scorer
from prerank.core.times import iso
from prerank.online.reader import OnlineFeatures, OnlineRead
from prerank.registry import versions as registry
from prerank.serving.api import Limits, PrerankRequest, named

_EMPTY = np.zeros(0, np.int64)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Loaded:
    """A version that is being served. Never changed, only exchanged.

    ``features`` reads the online features of the version's own schema, which is ``limits.schema``.
    """

    wanted: registry.Wanted
    scorer: Scorer
    limits: Limits
    features: OnlineFeatures


@dataclass(frozen=True)
class Answer:
    """``body`` for the caller; what reading the features cost, for the metrics."""

    body: dict[str, Any]
    read: OnlineRead


def answer(request: PrerankRequest, loaded: Loaded) -> Answer:
    """Score a request with ``loaded``; without its packed rows where they are of another schema."""
    scorer, features = loaded.scorer, loaded.features
    read = features.read(request.query, request.user_id, request.time_us, request.context)
    inputs = read.inputs
    try:
        scored = scorer.score(
            request.query, inputs, request.keys, request.weights, request.retriever_features
        )
    except RowError as error:
        logger.error("scoring without engagement rows: %s", error)
        inputs = without_rows(inputs)
        degraded = tuple(dict.fromkeys((*read.degraded, "engagement")))
        read = dataclasses.replace(read, inputs=inputs, degraded=degraded)
        scored = scorer.score(
            request.query, inputs, request.keys, request.weights, request.retriever_features
        )
    top = scored.top(request.k)
    items = [
        {"id": shown, "score": score}
        for shown, score in zip(
            request.shown(scored.ids[top]), scored.scores[top].tolist(), strict=True
        )
    ]
    if request.explain:
        for item, parts in zip(items, _parts(scorer, scored, top), strict=True):
            item.update(parts)
    body = {
        "request_id": request.request_id,
        "model_version": loaded.wanted.version,
        "items": items,
        "k": request.k,
        "unknown_ids": request.shown(scored.unknown),
        "degraded": list(read.degraded),
        "snapshot_cutoff": iso(read.cutoff_us),
    }
    if request.explain:
        # What `prerank parity` needs to compute the same answer from the offline tables.
        body |= {
            "time": iso(request.time_us),
            "request_features": named(REQUEST_NUMERIC, scored.request),
        }
    return Answer(body, read)


def without_rows(inputs: FeatureInputs) -> FeatureInputs:
    """The same request as if no key had a packed row."""
    nothing = inputs.blocks[:0]
    return dataclasses.replace(
        inputs,
        blocks=nothing,
        block_start=_EMPTY,
        block_size=_EMPTY,
        key_block=np.full_like(inputs.key_block, MISSING_BLOCK),
    )


def _parts(scorer: Scorer, scored: Scored, top: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Dot, cross_score and non-zero cross features of the items ``top``, as they were scored."""
    return [
        {
            "dot": float(scored.dots[at]),
            "cross_score": float(scored.cross_scores[at]),
            "features": named(scorer.model.schema.cross, scored.x[at]),
        }
        for at in top
    ]
