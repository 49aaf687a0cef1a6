"""Ranking metrics per request over ragged candidates, and what may be concluded from them.

Ragged: candidates of all requests lie end to end; request r owns ``offsets[r]:offsets[r + 1]``.

Definitions
    rank            1 + number of better candidates + half the number of *others* that tie
    hits@k, mrr     from the best-ranked positive: its rank <= k; 1 / its rank
    ndcg@10         binary gains; each of t tied candidates gets the mean discount of the t places
                    they share (McSherry & Najork 2008). The discount *at* the mean rank would let
                    nineteen tied positives score 1.2. Without ties: trec_eval's ndcg_cut_10
    auc             share of (positive, negative) pairs in the right order, a tie counts half
    recall@cut      share of the positives that survive a cut to the best ceil(10% of candidates);
                    a tie across the cut survives by the share of its places that do
    unreachable     positives that were not among the candidates: missed by every metric

ndcg@10, auc and recall@cut are thus the expectation over random orders of the ties. A request
without any positive, reachable or not, has nothing to find: all its metrics are NaN and it is left
out of means, intervals and tests. So is, for auc alone, a request without a negative.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from interactrank.kernels import kernel

METRICS: tuple[str, ...] = ("hits@1", "hits@3", "hits@10", "mrr", "ndcg@10", "auc", "recall@cut")
"""Keys of ``request_metrics``, in the order of the kernel's columns."""

NDCG_DEPTH = 10
_GAINS = np.concatenate([[0.0], np.cumsum(1.0 / np.log2(np.arange(2, NDCG_DEPTH + 2)))])
_CHUNK_VALUES = 1 << 22
"""Resampled values held at once: 32 MiB, whatever the number of requests and resamples."""


class MetricError(ValueError):
    """Scores, labels or per-request values cannot be measured; the message says which and why."""


@kernel
def tie_groups(scores: NDArray[np.float64], labels: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Places of the positives: int64 [distinct positive scores, 3], lowest score first.

    Columns: candidates better than the score, candidates at the score, positives at the score.
    One row of -1 when a score is NaN. Only the positives are sorted: O(candidates x log positives).
    """
    broken = np.full((1, 3), -1, np.int64)
    found = np.sort(scores[labels != 0])
    # NaN sorts last, and an unchecked one would misguide the search below.
    if found.size == 0 or np.isnan(found[-1]):
        return broken if np.isnan(scores).any() else np.zeros((0, 3), np.int64)
    groups = np.zeros((found.size, 3), np.int64)
    size = 0
    for i in range(found.size):
        if i == 0 or found[i] != found[i - 1]:
            found[size] = found[i]
            size += 1
        groups[size - 1, 2] += 1
    for score in scores:
        # Most candidates fall below every positive; a NaN does not pass for one of them.
        if score < found[0]:
            continue
        if np.isnan(score):
            return broken
        # Halving without a branch on the data: half of all guesses would be wrong.
        at, width = 0, size
        while width > 1:
            half = width >> 1
            at += half * (found[at + half] <= score)
            width -= half
        groups[at, np.int64(found[at] == score)] += 1
    for g in range(size - 2, -1, -1):
        groups[g, 0] += groups[g + 1, 0] + groups[g + 1, 1]
    return groups[:size]


@kernel
def _measure(
    groups: NDArray[np.int64],
    candidates: int,
    unreachable: int,
    gains: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Fill ``out`` [7], in the order of METRICS, from the tie groups of one request."""
    positives = groups[:, 2].sum()
    negatives = candidates - positives
    wanted = positives + unreachable
    out[:] = np.nan if wanted == 0 else 0.0
    if wanted == 0:
        return
    cut = (candidates + 9) // 10
    depth = gains.size - 1
    better_positives = positives
    for better, tied, mine in groups:
        better_positives -= mine
        worse_negatives = negatives - (better - better_positives) - (tied - mine)
        share = mine / tied
        out[4] += share * (gains[min(better + tied, depth)] - gains[min(better, depth)])
        out[5] += mine * (worse_negatives + 0.5 * (tied - mine))
        out[6] += share * min(max(cut - better, 0), tied)
    if positives > 0:
        rank = 1.0 + groups[-1, 0] + 0.5 * (groups[-1, 1] - 1)
        out[0], out[1], out[2], out[3] = rank <= 1, rank <= 3, rank <= 10, 1.0 / rank
    out[4] /= gains[min(wanted, depth)]
    out[5] = out[5] / (wanted * negatives) if negatives > 0 else np.nan
    out[6] /= wanted


@kernel
def _measure_all(
    scores: NDArray[np.float64],
    labels: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    unreachable: NDArray[np.int64],
    gains: NDArray[np.float64],
    out: NDArray[np.float64],
) -> int:
    """Fill ``out`` [R, 7]; return the first request with a NaN score, or -1."""
    for r in range(offsets.size - 1):
        low, high = offsets[r], offsets[r + 1]
        groups = tie_groups(scores[low:high], labels[low:high])
        if groups.shape[0] > 0 and groups[0, 2] < 0:
            return r
        _measure(groups, high - low, unreachable[r], gains, out[r])
    return -1


class Ragged(NamedTuple):
    """What ``checked`` has looked at, as the kernels take it.

    ``scores`` float32 or float64 [N], ``flags`` uint8 [N], ``offsets`` int64 [R + 1],
    ``unreachable`` int64 [R].
    """

    scores: NDArray[Any]
    flags: NDArray[np.uint8]
    offsets: NDArray[np.int64]
    unreachable: NDArray[np.int64]


def checked(
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.bool_] | NDArray[np.int8],
    offsets: NDArray[np.int64],
    unreachable: NDArray[np.int64] | None = None,
) -> Ragged:
    """The arguments of a metric, fit for a kernel, which checks nothing.

    Raises:
        MetricError: shapes or offsets do not fit together.
    """
    if scores.dtype not in (np.float32, np.float64):
        scores = scores.astype(np.float64)
    marks = np.ascontiguousarray(labels if labels.dtype == np.bool_ else labels != 0)
    bounds = np.ascontiguousarray(offsets, np.int64)
    if scores.ndim != 1 or marks.shape != scores.shape:
        raise MetricError(f"scores {scores.shape} and labels {marks.shape} must both be [N]")
    if bounds.ndim != 1 or not bounds.size or bounds[0] != 0 or bounds[-1] != scores.size:
        raise MetricError(f"offsets must be [R + 1], from 0 to the {scores.size} candidates")
    falls = bounds[1:] < bounds[:-1]
    if falls.any():
        raise MetricError(f"offsets fall after request {int(np.argmax(falls))}")
    requests = bounds.size - 1
    missed = np.zeros(requests, np.int64) if unreachable is None else unreachable.astype(np.int64)
    if missed.shape != (requests,) or (missed < 0).any():
        raise MetricError(f"unreachable must be {requests} counts, none negative")
    return Ragged(np.ascontiguousarray(scores), marks.view(np.uint8), bounds, missed)


def request_metrics(
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.bool_] | NDArray[np.int8],
    offsets: NDArray[np.int64],
    unreachable: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """Every metric of every request: name -> float64 [R], NaN where it is not defined.

    MetricError when shapes or offsets do not fit together, or when a score is NaN.

    Args:
        scores: float32 or float64 [N], higher is better; infinities are legal.
        labels: bool or int8 [N], non-zero where the candidate was engaged with.
        offsets: int64 [R + 1], from 0 to N, never falling.
        unreachable: int64 [R], engaged items that were not among the candidates; None means none.
    """
    held = checked(scores, labels, offsets, unreachable)
    bounds = held.offsets
    out = np.empty((bounds.size - 1, len(METRICS)))
    bad = _measure_all(*held, _GAINS, out)
    if bad >= 0:
        raise MetricError(
            f"request {bad} has a NaN score (candidates {bounds[bad]} to {bounds[bad + 1]}): "
            "a ranking with NaN has no order; find the feature or weight it comes from"
        )
    return {name: out[:, column].copy() for column, name in enumerate(METRICS)}


def reachable_ceiling(
    labels: NDArray[np.bool_] | NDArray[np.int8],
    offsets: NDArray[np.int64],
    unreachable: NDArray[np.int64] | None = None,
) -> dict[str, NDArray[np.float64]]:
    """``request_metrics`` of a perfect order of the same candidates.

    Labels do not serve as its scores: tied positives would share a mean rank worse than 1.
    """
    places = np.arange(labels.size, 0, -1, dtype=np.float64)
    return request_metrics(np.where(labels != 0, places, 0.0), labels, offsets, unreachable)


def bootstrap_ci(
    values: NDArray[np.float64], n: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Percentile interval (low, high) of the mean of ``values`` [R], requests being resampled.

    NaN is left out; (NaN, NaN) when nothing remains. Memory is bounded, time is O(n x R).
    """
    kept = np.asarray(values, np.float64)
    kept = kept[~np.isnan(kept)]
    if not kept.size:
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    means = np.empty(n)
    step = max(1, _CHUNK_VALUES // kept.size)
    for at in range(0, n, step):
        drawn = rng.integers(0, kept.size, (min(step, n - at), kept.size), dtype=np.int32)
        means[at : at + step] = kept[drawn].mean(axis=1)
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class PairedTest:
    """``mean_difference`` of a - b over requests, its bootstrap ``ci``, two-sided ``p_value``."""

    mean_difference: float
    ci: tuple[float, float]
    p_value: float


def paired_test(
    a: NDArray[np.float64], b: NDArray[np.float64], n: int = 2000, seed: int = 0
) -> PairedTest:
    """Compare two rankers on the same requests: ``a`` and ``b`` are one metric, float64 [R].

    The p-value is a permutation test's: under no difference each request's a - b is as likely to
    have the other sign. It never falls below 1 / (n + 1). The interval (95%) is a bootstrap's.

    MetricError when the two differ in length or in the requests they leave out.
    """
    if a.shape != b.shape or (np.isnan(a) != np.isnan(b)).any():
        raise MetricError("paired values must cover the same requests, NaN in the same places")
    difference = (a - b)[~np.isnan(a)]
    if not difference.size:
        return PairedTest(float("nan"), (float("nan"), float("nan")), float("nan"))
    observed = float(difference.mean())
    moving = difference[difference != 0]
    rng = np.random.default_rng(seed)
    step = max(1, _CHUNK_VALUES // max(moving.size, 1))
    extreme = 0
    # Equal sums reached in another order of addition must count as equal.
    bar = abs(moving.sum()) - 1e-9 * np.abs(moving).sum()
    for at in range(0, n, step):
        shape = (min(step, n - at), (moving.size + 7) // 8)
        bits = rng.integers(0, 256, shape, dtype=np.uint8)
        signs = 1.0 - 2.0 * np.unpackbits(bits, axis=1, count=moving.size)
        extreme += int((np.abs(signs @ moving) >= bar).sum())
    interval = bootstrap_ci(difference, n, seed)
    return PairedTest(observed, interval, (1 + extreme) / (n + 1))


def mean(values: NDArray[np.float64]) -> float:
    """Mean over the requests where a metric is defined; NaN where it is defined nowhere."""
    kept = values[~np.isnan(values)]
    return float(kept.mean()) if kept.size else float("nan")


def summarise(
    per_request: Mapping[str, NDArray[np.float64]], n: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """``{metric: mean, …, "ci": {metric: [low, high]}}`` of per-request values float64 [R].

    NaN requests are left out; a metric that is NaN everywhere has a NaN mean and interval.
    """
    summary: dict[str, Any] = {name: mean(values) for name, values in per_request.items()}
    summary["ci"] = {name: list(bootstrap_ci(v, n, seed)) for name, v in per_request.items()}
    return summary


def expected_calibration_error(
    logits: NDArray[np.floating[Any]], labels: NDArray[np.bool_] | NDArray[np.int8], bins: int = 15
) -> float:
    """Mean distance between predicted probability and observed rate over ``bins`` equal-mass bins.

    ``logits`` [N] and ``labels`` [N], non-zero = engaged. Bins hold equal numbers of candidates,
    not equal spans of probability: engagement is rare and equal spans would put nearly every
    candidate in the first bin. Equal logits share a bin. NaN without candidates.

    MetricError when shapes differ, a logit is NaN, or ``bins`` < 1.
    """
    x = np.asarray(logits, np.float64)
    if x.ndim != 1 or x.shape != labels.shape or bins < 1 or np.isnan(x).any():
        raise MetricError("calibration needs logits [N] without NaN, labels [N] and bins >= 1")
    if not x.size:
        return float("nan")
    edges = np.quantile(x, np.arange(1, bins) / bins, method="inverted_cdf")
    at = np.searchsorted(edges, x, side="left")
    # exp of a non-positive number never overflows: sigmoid(x) = e^min(x,0) / (1 + e^-|x|).
    predicted = np.exp(np.minimum(x, 0)) / (1 + np.exp(-np.abs(x)))
    gap = np.bincount(at, predicted - (labels != 0), minlength=bins)
    return float(np.abs(gap).sum() / x.size)
