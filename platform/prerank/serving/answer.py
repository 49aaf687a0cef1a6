"""The answer to one request: features read online, candidates scored, the best k told."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from interactrank.features.inputs import MISSING_BLOCK, FeatureInputs, Histories, HistoryError
from interactrank.features.packed_rows import RowError
from interactrank.features.schema import REQUEST_NUMERIC
from interactrank.model.scorer import Scored, Scorer
from prerank.core.times import iso
from prerank.online.reader import OnlineFeatures, OnlineRead
from prerank.registry import versions as registry
from prerank.serving.api import Limits, PrerankRequest, RequestError, named
from prerank.serving.experiment import Trial
from prerank.serving.shards import Gathered, Missing, Shards
from prerank.serving.stages import FEATURES, SCORE, TOP_K, Ends, Stages

T = TypeVar("T")
_EMPTY = np.zeros(0, np.int64)

logger = logging.getLogger(__name__)


Stamp = tuple[int, int] | None
"""Tells one content of a file from another; None where there is no file."""


@dataclass(frozen=True)
class OfIndex:
    """What a scorer was made of: stamps of the index, and of what was added to it.

    ``problem`` says why what was added is not scored; empty where it is.
    """

    built: Stamp = None
    added: Stamp = None
    problem: str = ""


@dataclass(frozen=True)
class Loaded:
    """A version that is being served. Never changed, only exchanged.

    ``features`` reads the online features of the version's own schema, which is ``limits.schema``.
    ``note`` says what is not certain of the version; empty where nothing is. ``index`` tells what
    its scorer was made of. ``shards`` hold the item vectors, where the index has several.
    """

    wanted: registry.Wanted
    scorer: Scorer
    limits: Limits
    features: OnlineFeatures
    note: str = ""
    index: OfIndex = OfIndex()
    shards: Shards | None = None


@dataclass(frozen=True)
class Answer:
    """``body`` for the caller; for the metrics, what reading the features cost, how many scores
    were no finite number, how many candidates there were, how many of them are unknown, and when
    each stage ended. ``missing`` are shards of the index that did not answer. ``ids`` int64 are the
    items of the answer, ``run_id`` is the MLflow run of the version that gave it. ``trial`` is what
    an experiment made of the request, and ``latency_ms`` how long the whole of it took.
    """

    body: dict[str, Any]
    read: OnlineRead
    non_finite: int = 0
    candidates: int = 0
    unknown: int = 0
    ends: Ends = ()
    missing: tuple[Missing, ...] = ()
    ids: NDArray[np.int64] = field(default_factory=lambda: _EMPTY)
    run_id: str = ""
    trial: Trial | None = None
    latency_ms: float | None = None


def answer(request: PrerankRequest, loaded: Loaded) -> Answer:
    """Score a request with ``loaded``; without what is damaged or of another schema.

    Raises:
        RequestError: the whole index is asked for, and has more items than may be scored.
        NotReadyError: no shard of the index answered.
    """
    scorer, features, stages = loaded.scorer, loaded.features, Stages()
    if request.whole:
        _check_size(loaded)
    read = features.read(
        request.query, request.user_id, request.time_us, request.context, request.deadline
    )
    stages.end(FEATURES)
    scored, read = sound(read, lambda inputs: _scored(request, loaded, inputs))
    missing = scored.missing if isinstance(scored, Gathered) else ()
    if scored.non_finite:
        read = _degraded(read, "scores")
    if missing:
        read = _degraded(read, "shards")
    stages.end(SCORE)
    top = _best(request, scored, read.inputs)
    stages.end(TOP_K)
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
        "model_version": loaded.wanted.version.number,
        "items": items,
        "k": request.k,
        "unknown_ids": request.shown(scored.unknown),
        "degraded": list(read.degraded),
        "snapshot_cutoff": iso(read.cutoff_us),
    }
    if scored.non_finite:
        body["non_finite"] = scored.non_finite
    if missing:
        body["missing_shards"] = [dataclasses.asdict(shard) for shard in missing]
    if request.explain:
        # What `prerank parity` needs to compute the same answer from the offline tables.
        body |= {
            "time": iso(request.time_us),
            "request_features": named(REQUEST_NUMERIC, scored.request),
        }
    asked = len(scorer.table) if request.whole else len(request.keys)
    counts = scored.non_finite, asked, len(scored.unknown)
    run_id = loaded.wanted.version.run_id
    return Answer(body, read, *counts, stages.ends, missing, scored.ids[top], run_id)


def _scored(request: PrerankRequest, loaded: Loaded, inputs: FeatureInputs) -> Scored:
    """The candidates' scores, here or in the shards; of those, the best that may be needed."""
    if loaded.shards is not None:
        k = request.k + len(_unwanted(request, inputs))
        return loaded.shards.score(loaded.wanted.version, loaded.scorer, request, inputs, k)
    keys = None if request.whole else request.keys
    return loaded.scorer.score(
        request.query, inputs, keys, request.weights, request.retriever_features
    )


def _check_size(loaded: Loaded) -> None:
    """Refuse to score the whole index where that is more than a request may ask for."""
    items, most = len(loaded.scorer.table), loaded.limits.max_candidates
    if items > most:
        raise RequestError(
            "candidates",
            f"missing: without them all {items} items of the index are scored, and at most {most} "
            "are allowed a request (max_candidates)",
            413,
        )


def _unwanted(request: PrerankRequest, inputs: FeatureInputs) -> NDArray[np.int64]:
    """Items that are not to be returned."""
    if not request.exclude_engaged:
        return request.exclude
    return np.concatenate((request.exclude, inputs.hist_items))


def _best(request: PrerankRequest, scored: Scored, inputs: FeatureInputs) -> NDArray[np.int64]:
    """Positions of the best k that are not excluded."""
    unwanted = _unwanted(request, inputs)
    top = scored.top(request.k + len(unwanted))
    return top[~np.isin(scored.ids[top], unwanted)][: request.k] if len(unwanted) else top


def sound(read: OnlineRead, work: Callable[[FeatureInputs], T]) -> tuple[T, OnlineRead]:
    """What ``work`` makes of the inputs, and the read they are of: what is damaged is left out, and
    said to be.
    """
    for _ in _WITHOUT:
        try:
            return work(read.inputs), read
        except tuple(_WITHOUT) as error:
            feature, without = _WITHOUT[type(error)]
            logger.error("scoring without %s: %s", feature, error)
            read = _degraded(dataclasses.replace(read, inputs=without(read.inputs)), feature)
    return work(read.inputs), read


def _degraded(read: OnlineRead, what: str) -> OnlineRead:
    return dataclasses.replace(read, degraded=tuple(dict.fromkeys((*read.degraded, what))))


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


def without_history(inputs: FeatureInputs) -> FeatureInputs:
    """The same request as if its user had never engaged."""
    nothing = Histories(_EMPTY, _EMPTY, _EMPTY, _EMPTY, np.zeros(len(inputs.time) + 1, np.int64))
    return dataclasses.replace(inputs, **nothing._asdict())


_WITHOUT: Mapping[type[Exception], tuple[str, Callable[[FeatureInputs], FeatureInputs]]] = {
    RowError: ("engagement", without_rows),
    HistoryError: ("user_history", without_history),
}
"""What an answer lacks, by what is damaged, and how it is left out."""


def _parts(scorer: Scorer, scored: Scored, top: NDArray[np.int64]) -> list[dict[str, Any]]:
    """Dot, cross_score and non-zero cross features of the items ``top``, as they were scored."""
    return [
        {
            "dot": float(scored.dots[at]),
            "cross_score": float(scored.cross_scores[at]),
            "features": named(scorer.model.schema.cross, x),
        }
        for at, x in zip(top, scored.x(top), strict=True)
    ]
