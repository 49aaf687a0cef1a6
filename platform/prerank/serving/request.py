"""A request as the scorer wants it, and what every route reads of one alike."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from prerank.core.ids import JSON_SAFE
from prerank.serving.fields import (
    Limits,
    context_of,
    only_known,
    query_of,
    request_id_of,
    request_time_of,
    timeout_of,
    weights_of,
)
from prerank.serving.retriever import RetrieverFeatures

COMMON_FIELDS = frozenset(
    ("request_id", "user_id", "query", "time", "timeout_ms", "weights", "context")
)
"""What every route takes that scores."""


@dataclass(frozen=True)
class PrerankRequest:
    """A request as the scorer wants it.

    Attributes:
        query: normalised.
        keys: int64 [n] distinct candidates, in the order of first appearance.
        whole: every item of the index is a candidate, and ``keys`` is empty.
        exclude: int64 [m], items that are not to be returned.
        exclude_engaged: nor are the items of the user's history.
        originals: int64 key -> the id as the caller sent it; None when the keys are those.
        as_text: the caller sent integer ids as text.
        time_us: microseconds since 1970, of this deployment's clock.
        weights: float32 [H], summing to 1.
        context: value of every segment column in the schema's order, "" where missing.
        retriever_features: what the caller gave of each of ``keys``, of ``FeatureSchema.given``.
        timeout_ms: time from ``arrived`` in which the answer is wanted; what cannot be read by
            then is left out.
        arrived: when the request was whole, by ``time.monotonic()``.
    """

    request_id: str
    user_id: str
    query: str
    keys: NDArray[np.int64]
    originals: dict[int, int | str] | None
    k: int
    time_us: int
    weights: NDArray[np.float32]
    explain: bool
    as_text: bool = False
    whole: bool = False
    exclude: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    exclude_engaged: bool = False
    context: Mapping[str, str] = field(default_factory=dict)
    retriever_features: RetrieverFeatures = None
    timeout_ms: float = math.inf
    arrived: float = field(default_factory=time.monotonic)

    @property
    def deadline(self) -> float:
        """By when the answer is wanted, by ``time.monotonic()``."""
        return self.arrived + self.timeout_ms / 1e3

    def shown(self, keys: NDArray[np.int64]) -> list[int | str]:
        """``keys`` in the caller's form; as text where JSON would lose digits."""
        found: list[int] = keys.tolist()
        if self.originals is not None:
            return [self.originals[k] for k in found]
        safe = not self.as_text
        return [k if safe and -JSON_SAFE <= k <= JSON_SAFE else str(k) for k in found]


class Common(TypedDict):
    """What every route that scores reads alike, as attributes of ``PrerankRequest``."""

    request_id: str
    query: str
    time_us: int
    weights: NDArray[np.float32]
    context: dict[str, str]
    timeout_ms: float


def opened(data: dict[str, Any], known: Collection[str]) -> dict[str, Any]:
    """The fields of a request, all of them ``known``, with its id: the caller's or a new one.

    The id is read before any other field, so that a refusal of that one names the request.

    Raises:
        RequestError: naming the field and the fix.
    """
    data["request_id"] = request_id_of(data.get("request_id"))
    only_known(data, known)
    return data


def common_of(data: Mapping[str, Any], limits: Limits, now_us: int) -> Common:
    """Read the fields that are everybody's, but for the user, whom not every route asks for.

    Args:
        data: fields by their names, with an id (``opened``).
        limits: of the deployment.
        now_us: its clock, microseconds since 1970.

    Raises:
        RequestError: naming the field and the fix.
    """
    return Common(
        request_id=data["request_id"],
        query=query_of(data.get("query")),
        time_us=request_time_of(data.get("time"), limits, now_us),
        weights=weights_of(data.get("weights"), limits.schema),
        context=context_of(data.get("context"), limits.schema),
        timeout_ms=timeout_of(data.get("timeout_ms"), limits),
    )
