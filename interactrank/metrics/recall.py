"""What survives a cut: the metrics of a stage that passes a set on, not an order.

A pre-ranker keeps some candidates for a costlier ranker, which orders them anew; the order inside
the cut is lost. Two questions remain: are the engaged items still there (``recall_at``), and
are those still there that the costlier ranker would have put first (the same, its ``top``
taking the place of the engaged items).

Ragged arguments are as in ``interactrank.metrics.ranking``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from interactrank.kernels import kernel
from interactrank.metrics.ranking import MetricError, checked, tie_groups


def tenth(offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Size of a cut to the best tenth of each request's candidates, rounded up: int64 [R]."""
    return (np.diff(offsets) + 9) // 10


@kernel
def _recall(
    scores: NDArray[np.float64],
    labels: NDArray[np.uint8],
    offsets: NDArray[np.int64],
    keep: NDArray[np.int64],
    wanted: NDArray[np.int64],
    out: NDArray[np.float64],
) -> int:
    for r in range(offsets.size - 1):
        low, high = offsets[r], offsets[r + 1]
        groups = tie_groups(scores[low:high], labels[low:high])
        if groups.shape[0] > 0 and groups[0, 2] < 0:
            return r
        out[r] = np.nan if wanted[r] == 0 else 0.0
        for better, tied, mine in groups:
            out[r] += mine / tied * min(max(keep[r] - better, 0), tied) / wanted[r]
    return -1


def recall_at(
    scores: NDArray[np.floating[Any]],
    labels: NDArray[np.bool_],
    offsets: NDArray[np.int64],
    keep: NDArray[np.int64],
    unreachable: NDArray[np.int64] | None = None,
) -> NDArray[np.float64]:
    """Share of each request's labelled items among its ``keep`` best: float64 [R].

    A tie across the cut survives by the share of its places that do. Without ties it is
    trec_eval's recall_k. NaN where nothing is labelled or unreachable.

    Args:
        scores: [N], higher is better.
        labels: bool [N].
        offsets: int64 [R + 1].
        keep: int64 [R], size of the cut.
        unreachable: int64 [R], labelled items that were not among the candidates.

    Raises:
        MetricError: shapes or offsets do not fit together, or a score is NaN.
    """
    held = checked(scores, labels, offsets, unreachable)
    if keep.shape != held.unreachable.shape:
        raise MetricError(f"keep must be {held.unreachable.size} sizes, one per request")
    found = np.add.reduceat(np.append(held.flags, 0), held.offsets[:-1], dtype=np.int64)
    found[np.diff(held.offsets) == 0] = 0
    out = np.empty(len(found))
    wanted = found + held.unreachable
    bad = _recall(held.scores, held.flags, held.offsets, keep, wanted, out)
    if bad >= 0:
        raise MetricError(f"request {bad} has a NaN score: a ranking with NaN has no order")
    return out


def top(
    scores: NDArray[np.floating[Any]], offsets: NDArray[np.int64], n: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Each request's ``n`` [R] best candidates: bool [N].

    A tie across the last place is left out whole: the scores do not say which of it they mean.
    """
    out = np.ones(len(scores), np.bool_)
    for r, k in enumerate(n):
        mine = scores[offsets[r] : offsets[r + 1]]
        if k < len(mine):
            # What does not beat the best that is left out ties across the edge.
            best_left_out = len(mine) - int(k) - 1
            edge = np.partition(mine, best_left_out)[best_left_out]
            out[offsets[r] : offsets[r + 1]] = mine > edge
    return out
