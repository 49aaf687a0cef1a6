"""What an order would have earned had it been shown: an estimate from a log of clicks.

A logged engagement says as much about the place as about the item: what stands first is looked at
most. The position-based model (Craswell et al. 2008) has P(engage | item at place k) = p_k r, and
the propensity p_k is how often place k is examined, relative to the best place.

**Propensities** come from the training part of the log. A (query, item) pair that was shown at
several places is an experiment that the log made by itself (intervention harvesting, Agarwal et
al. 2019): within the pair r is the same. They are the maximum-likelihood p of a Poisson model with
one r per pair, over all pairs and places together. Pairs at one place only, or without engagement,
say nothing and drop out. Neighbouring places are pooled until each group has enough engagements.
Where too few pairs moved, items alone take the place of pairs: that overstates the bias where
items are shown higher for the queries they fit, and the report says so.

**SNIPS** (Swaminathan & Joachims 2015): engagements weighted by 1 / p_k, clipped, and divided by
the sum of weights. The value of an order is the weighted mean over engagements of
1 / log2(1 + rank) (DCG) or 1 / rank (MRR) at the rank that the order gives the engaged item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.kernels import kernel
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.sql import connection

GAINS = ("dcg", "mrr")
AS_SHOWN = "as shown"
CELL = ("stratum", "place", "shown", "engaged")
FLOOR = 0.05
"""Least propensity: no engagement counts more than 20 times another."""
ROWS = 5_000_000
"""Events read for the propensities, the newest days of the training part first."""
MIN_ENGAGEMENTS = 100
"""Engagements of moved items that a group of places must have."""


@dataclass(frozen=True)
class Propensities:
    """Relative examination by place.

    Attributes:
        first: first place of each group of places, ascending.
        value: propensity of each group, in [FLOOR, 1].
        engagements: how many engagements the estimate rests on.
        strata: "query and item", or "item" where too few pairs moved.
    """

    first: tuple[int, ...]
    value: tuple[float, ...]
    engagements: int
    strata: str

    def at(self, places: NDArray[np.int64]) -> NDArray[np.float64]:
        """Propensity of each of ``places``."""
        at = np.searchsorted(np.array(self.first), places, side="right") - 1
        return np.array(self.value)[np.maximum(at, 0)]


def fit(
    stratum: NDArray[np.int64],
    place: NDArray[np.int64],
    shown: NDArray[np.int64],
    engaged: NDArray[np.int64],
    strata: str = "query and item",
) -> Propensities | None:
    """Propensities from counts per (stratum, place): int64 [C] each, ``stratum`` from 0 up.

    None when fewer than two groups of places have enough engagements of items that moved.
    """
    first = _groups(place, engaged)
    group = np.searchsorted(first, place, side="right") - 1
    if len(first) < 2:
        return None
    p = np.ones(len(first))
    of_stratum = np.bincount(stratum, engaged)
    of_group = np.bincount(group, engaged, minlength=len(first))
    for _ in range(2_000):
        rate = of_stratum / np.bincount(stratum, shown * p[group])
        new = of_group / np.bincount(group, shown * rate[stratum], minlength=len(first))
        new /= new[0]
        done = np.abs(new / p - 1).max() < 1e-7
        p = new
        if done:
            break
    value = np.clip(p / p.max(), FLOOR, 1.0)
    return Propensities(tuple(first.tolist()), tuple(value.tolist()), int(engaged.sum()), strata)


def _groups(place: NDArray[np.int64], engaged: NDArray[np.int64]) -> NDArray[np.int64]:
    """First places of groups of neighbouring places with MIN_ENGAGEMENTS each."""
    places, index = np.unique(place, return_inverse=True)
    first: list[int] = []
    mass = float(MIN_ENGAGEMENTS)
    for at, more in zip(places, np.bincount(index.reshape(-1), engaged), strict=True):
        if mass >= MIN_ENGAGEMENTS:
            first.append(int(at))
            mass = 0.0
        mass += more
    if mass < MIN_ENGAGEMENTS and first:
        first.pop()
    return np.array(first, np.int64)


def estimate(home: Home, manifest: LogManifest, before_us: int) -> Propensities | str:
    """Propensities from the log before ``before_us`` (microseconds), or why there are none."""
    if not manifest.has_impressions:
        return "The log has no impressions: what was shown, and where, is not known."
    files = _newest_files(home, before_us)
    for strata in ("query and item", "item"):
        cells = _cells(files, manifest, before_us, strata)
        if cells is None:
            return "The log has no positions: where an impression stood is not known."
        stratum, place, shown, engaged = (cells[c].to_numpy() for c in CELL)
        found = fit(stratum, place, shown, engaged, strata)
        if found is not None:
            return found
    return "Too few items were shown at several places: examination cannot be told from relevance."


def _newest_files(home: Home, before_us: int) -> list[str]:
    files: list[str] = []
    rows = 0
    home.fetch(home.events)
    for day in sorted(home.events.glob("day=*"), reverse=True):
        start = int(np.datetime64(day.name.removeprefix("day="), "us").astype(np.int64))
        if start >= before_us:
            continue
        own = sorted(day.glob("*.parquet"))
        rows += sum(pq.read_metadata(f).num_rows for f in own)
        files += [str(f) for f in own]
        if rows >= ROWS:
            break
    return files


def _cells(files: list[str], manifest: LogManifest, before_us: int, strata: str) -> pa.Table | None:
    """Columns of ``fit``, of the strata that moved and were engaged; None without positions."""
    engaging = manifest.heads[manifest.head_order[0]]
    key = "query, item_id" if strata == "query and item" else "item_id"
    with connection(threads=2) as db:
        db.execute(
            """CREATE TEMP TABLE shown AS SELECT min(query) AS query, item_id,
                min(position)::BIGINT AS place,
                bool_or(list_contains($engaging, action) AND event_time <= request_time
                    + to_microseconds($window))::BIGINT AS engaged
            FROM read_parquet($files) WHERE epoch_us(request_time) < $before
            GROUP BY request_id, item_id
            HAVING bool_or(action = 'impression') AND min(position) IS NOT NULL""",
            {
                "engaging": list(engaging),
                "files": files,
                "before": before_us,
                "window": manifest.label_window_us,
            },
        )
        row = db.sql("SELECT count(*) FROM shown").fetchone()
        if row is None or not row[0]:
            return None
        return db.sql(
            f"""WITH cell AS (
                SELECT {key}, place, count(*) AS shown, sum(engaged)::BIGINT AS engaged
                FROM shown GROUP BY {key}, place),
            moved AS (SELECT * FROM cell
                QUALIFY count(*) OVER (PARTITION BY {key}) > 1
                    AND sum(engaged) OVER (PARTITION BY {key}) > 0)
            SELECT dense_rank() OVER (ORDER BY {key}) - 1 AS stratum, place, shown, engaged
            FROM moved ORDER BY stratum, place"""
        ).to_arrow_table()


@kernel
def _ranks(
    scores: NDArray[np.float64],
    offsets: NDArray[np.int64],
    at: NDArray[np.int64],
    request: NDArray[np.int64],
    out: NDArray[np.float64],
) -> None:
    for i in range(at.size):
        score = scores[at[i]]
        better, tied = 0, 0
        for j in range(offsets[request[i]], offsets[request[i] + 1]):
            better += scores[j] > score
            tied += scores[j] == score
        out[i] = 1.0 + better + 0.5 * (tied - 1)


@dataclass(frozen=True)
class Engagements:
    """Engagements at known places of a chunk of requests, with their weights 1 / propensity.

    ``at`` int64 [E] indexes the candidates, ``request`` int64 [E] the requests.
    """

    at: NDArray[np.int64]
    request: NDArray[np.int64]
    weight: NDArray[np.float64]
    offsets: NDArray[np.int64]

    @classmethod
    def of(
        cls,
        engaged: NDArray[np.bool_],
        places: NDArray[np.float64],
        offsets: NDArray[np.int64],
        propensities: Propensities,
    ) -> Engagements:
        """``engaged`` bool [N]; ``places`` float64 [N], NaN where a candidate was not shown."""
        at = np.flatnonzero(engaged & ~np.isnan(places))
        request = np.searchsorted(offsets, at, side="right") - 1
        weight = 1.0 / propensities.at(places[at].astype(np.int64))
        return cls(at, request, weight, offsets)

    def weights(self) -> dict[str, NDArray[np.float64]]:
        """Per request [B]: sum of weights and of their squares."""
        return {"weight": self._summed(self.weight), "weight2": self._summed(self.weight**2)}

    def gains(self, scores: NDArray[np.floating[Any]]) -> dict[str, NDArray[np.float64]]:
        """Per request [B]: weighted gain of the order that ``scores`` [N] gives, by GAINS."""
        rank = np.empty(len(self.at))
        _ranks(np.ascontiguousarray(scores), self.offsets, self.at, self.request, rank)
        gain = {"dcg": 1.0 / np.log2(1.0 + rank), "mrr": 1.0 / rank}
        return {g: self._summed(self.weight * gain[g]) for g in GAINS}

    def _summed(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        sums: NDArray[Any] = np.bincount(self.request, values, minlength=len(self.offsets) - 1)
        return sums


def effective_size(weight: NDArray[np.float64], weight2: NDArray[np.float64]) -> float:
    """Engagements of equal weight that would vary as little: (sum w)^2 / sum w^2."""
    return float(weight.sum() ** 2 / max(weight2.sum(), 1e-300))


def snips(
    gain: NDArray[np.float64], weight: NDArray[np.float64], n: int = 1000, seed: int = 0
) -> tuple[float, tuple[float, float]]:
    """Self-normalised value and its 95% bootstrap interval over requests.

    ``gain`` and ``weight`` float64 [R]; requests without an engagement (weight 0) say nothing.
    """
    some = weight > 0
    gain, weight = gain[some], weight[some]
    if not len(weight):
        return float("nan"), (float("nan"), float("nan"))
    rng = np.random.default_rng(seed)
    values = np.empty(n)
    for i in range(n):
        drawn = rng.integers(0, len(weight), len(weight))
        values[i] = gain[drawn].sum() / weight[drawn].sum()
    low, high = np.quantile(values, [0.025, 0.975])
    return float(gain.sum() / weight.sum()), (float(low), float(high))
