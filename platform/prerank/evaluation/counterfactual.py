"""What an order would have earned had it been shown: an estimate from a log of clicks.

A logged engagement says as much about the place as about the item. **Propensities**, how likely a
place is looked at, come from the training part of the log (``prerank.core.propensities``). Where
they rest on items instead of pairs of a query and an item, the report says so.

**SNIPS** (Swaminathan & Joachims 2015): engagements weighted by 1 / p_k, clipped, and divided by
the sum of weights. The value of an order is the weighted mean over engagements of
1 / log2(1 + rank) (DCG) or 1 / rank (MRR) at the rank that the order gives the engaged item.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from interactrank.kernels import kernel
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.propensities import ROWS, Propensities, learned

GAINS = ("dcg", "mrr")
AS_SHOWN = "as shown"


def estimate(home: Home, manifest: LogManifest, before_us: int) -> Propensities | str:
    """Propensities from the log before ``before_us`` (microseconds), or why there are none."""
    if not manifest.has_impressions:
        return "The log has no impressions: what was shown, and where, is not known."
    files = _newest_files(home, before_us)
    return learned(files, manifest, before_us, by="request_time")


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
