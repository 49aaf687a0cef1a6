"""What ``/v1/query`` answers, and scores put together from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from prerank.client.answers import Json, id_array, time_of, trial_of


@dataclass(frozen=True, eq=False)
class AgeWeights:
    """Weights of items that a request's rows and history do not name, by age.

    Attributes:
        age_unknown: of an item whose age is not known, or that is yet to come.
        fresh_days: items that are younger are fresh.
        fresh, old: float64 [points, 2], t = log(1 + age in days) and weight; linear in between.
    """

    age_unknown: float
    fresh_days: float
    fresh: NDArray[np.float64]
    old: NDArray[np.float64]

    def __call__(self, days: NDArray[np.float64]) -> NDArray[np.float64]:
        """Weights float64 [n] of items ``days`` float64 [n] old; NaN: not known."""
        known = days >= 0
        t = np.log1p(np.where(known, days, 0.0))
        fresh, old = (np.interp(t, *points.T) for points in (self.fresh, self.old))
        of_age: NDArray[np.float64] = np.where(days < self.fresh_days, fresh, old)
        return np.where(known, of_age, self.age_unknown)


@dataclass(frozen=True, eq=False)
class QueryParts:
    """What the scores of one request are put together from.

    score(item) = <vector, item vector> + weight + constant

    Attributes:
        vector: float32 [D], as wide as the item vectors of the index.
        items: int64 [n] items with a weight of their own; on a log with text ids, their keys.
        weights: float32 [n] of those.
        others: weights of all others, by age.
        constant: the same for every item.
        left_out: features that only rankings have; ``others`` is without them.
        request_id, model_version, degraded, snapshot_cutoff: as in
            ``prerank.client.answers.Ranking``.
    """

    request_id: str
    model_version: str
    vector: NDArray[np.float32]
    items: NDArray[np.int64]
    weights: NDArray[np.float32]
    others: AgeWeights
    constant: float
    left_out: tuple[str, ...]
    degraded: tuple[str, ...]
    snapshot_cutoff: datetime | None
    experiment: str | None = None
    variant: str | None = None
    fallback: bool = False

    @classmethod
    def from_json(cls, data: Json) -> QueryParts:
        """Read an answer."""
        others = data["others"]
        return cls(
            data["request_id"],
            data["model_version"],
            np.array(data["vector"], np.float32),
            id_array(data["items"], as_int=True),
            np.array(data["weights"], np.float32),
            AgeWeights(
                others["age_unknown"],
                others["fresh_days"],
                np.array(others["fresh"], np.float64),
                np.array(others["old"], np.float64),
            ),
            data["constant"],
            # A deployment of before it was told has none.
            tuple(data.get("left_out", ())),
            tuple(data["degraded"]),
            time_of(data["snapshot_cutoff"]),
            **trial_of(data),
        )

    def scores(
        self,
        ids: NDArray[np.int64],
        vectors: NDArray[np.float32],
        days: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """Scores of items, as ``/v1/prerank`` gives them.

        Args:
            ids: int64 [n] of the items, as in ``items``.
            vectors: float32 [n, D], theirs in the index.
            days: float64 [n], their age; NaN: not known.

        Returns:
            float64 [n].
        """
        weights, order = self.others(days), np.argsort(self.items)
        listed = self.items[order]
        at = np.minimum(np.searchsorted(listed, ids), max(len(listed) - 1, 0))
        if len(listed):
            weights = np.where(listed[at] == ids, self.weights[order][at], weights)
        return vectors @ self.vector + weights + self.constant
