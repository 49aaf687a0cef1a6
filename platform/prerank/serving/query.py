"""``POST /v1/query``: a request's scores in parts, for an engine that holds the item vectors.

The answer's size depends on the request's rows, not on how many items there are. With the vectors
of the index (bf16) an engine rebuilds every score exactly, but for features that only a ranking can
have: what a caller gives, and cosines. ``left_out`` names them.

The parts are of one model version and fit that one's vectors alone. A caller that holds the vectors
of several says so; only then may an experiment answer with another version than the champion.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from interactrank.model.query_parts import AgeCurve, query_parts
from prerank.core.times import iso
from prerank.serving.answer import Answer, Loaded, sound
from prerank.serving.fields import Limits, RequestError, json_object, name_of, shown
from prerank.serving.request import COMMON_FIELDS, PrerankRequest, common_of, opened
from prerank.serving.stages import FEATURES, SCORE, Stages

MAX_VERSIONS = 16


@dataclass(frozen=True)
class Query:
    """A request for parts.

    Attributes:
        request: without candidates.
        versions: numbers of the model versions whose vectors the caller holds; empty where it does
            not say.
    """

    request: PrerankRequest
    versions: frozenset[str]


def parse_query(body: bytes, limits: Limits, now_us: int) -> Query:
    """Read a request that names no candidates.

    Raises:
        RequestError: naming the field and the fix.
    """
    data = opened(json_object(body), COMMON_FIELDS | {"versions"})
    versions = _versions_of(data.get("versions"))
    request = PrerankRequest(
        user_id=name_of(data.get("user_id"), "user_id"),
        **common_of(data, limits, now_us),
        keys=np.zeros(0, np.int64),
        originals=None,
        k=1,
        explain=False,
    )
    return Query(request, versions)


def _versions_of(value: Any) -> frozenset[str]:
    if value is None:
        return frozenset()
    if not isinstance(value, list):
        raise RequestError("versions", 'send a list of model versions, such as ["3", "4"]')
    if len(value) > MAX_VERSIONS:
        raise RequestError("versions", f"{len(value)} versions; at most {MAX_VERSIONS} are allowed")
    for at, one in enumerate(value):
        if not (isinstance(one, str) and one.isascii() and one.isdecimal()):
            raise RequestError(
                f"versions[{at}]", f"{shown(one)} is no model version; send its number as a string"
            )
    return frozenset(value)


def query_answer(request: PrerankRequest, loaded: Loaded) -> Answer:
    """The parts of the scores of ``request``; see ``interactrank.model.query_parts``."""
    stages = Stages()
    read = loaded.features.read(
        request.query, request.user_id, request.time_us, request.context, request.deadline
    )
    stages.end(FEATURES)
    parts, read = sound(
        read, lambda inputs: query_parts(loaded.scorer, request.query, inputs, request.weights)
    )
    if not np.isfinite(parts.weights).all():
        read = replace(read, degraded=(*read.degraded, "scores"))
    stages.end(SCORE)
    body: dict[str, Any] = {
        "request_id": request.request_id,
        "model_version": loaded.wanted.version.number,
        "vector": parts.vector.tolist(),
        "items": request.shown(parts.items),
        "weights": parts.weights.tolist(),
        "others": _curve(parts.others),
        "constant": parts.constant,
        "left_out": list(parts.left_out),
        "degraded": list(read.degraded),
        "snapshot_cutoff": iso(read.cutoff_us),
    }
    return Answer(body, read, ends=stages.ends)


def _curve(curve: AgeCurve) -> dict[str, Any]:
    return {
        "age_unknown": curve.unknown,
        "fresh_days": curve.fresh_days,
        "fresh": curve.fresh.tolist(),
        "old": curve.old.tolist(),
    }
