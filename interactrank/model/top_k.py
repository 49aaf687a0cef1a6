"""The best k of many scores, without sorting them all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.kernels import kernel

_BINS = 1 << 16


@kernel(inline="always")
def _bin(score: float) -> int:
    """The upper half of a number that orders as the score does; non-finite scores come last."""
    if not np.isfinite(score):
        return 0
    # Adding zero makes one zero of the two that there are.
    bits = np.float32(score + np.float32(0.0)).view(np.int32)
    at: int = ((bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> 16) + (_BINS >> 1)  # type: ignore[assignment]
    return at


@kernel
def _worth_sorting(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    counts = np.zeros(_BINS, np.int32)
    for i in range(scores.size):
        counts[_bin(scores[i])] += 1
    low, above = _BINS - 1, counts[_BINS - 1]
    while above < k:
        low -= 1
        above += counts[low]
    kept, found = np.empty(above, np.int64), 0
    for i in range(scores.size):
        if _bin(scores[i]) >= low:
            kept[found] = i
            found += 1
    return kept


def best(scores: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Positions of the best ``k`` scores, best first; ties by id, non-finite scores last.

    One pass counts the scores by their upper 16 bits, one collects those that can be among the
    best; only these are compared. Linear in the number of scores.

    Args:
        scores: float32 [n].
        ids: int64 [n], distinct.
        k: of 0 or more.

    Returns:
        int64 [min(k, n)].
    """
    n = len(scores)
    kept = np.arange(n) if k >= n else _worth_sorting(scores, k)
    own = scores[kept]
    # A NaN as the threshold would let nobody pass.
    own = np.where(np.isfinite(own), own, -np.inf)
    if 0 < k < len(kept):
        # Every candidate tied with the k-th must be seen before ids break the tie.
        threshold = np.partition(own, len(own) - k)[len(own) - k]
        passed = own >= threshold
        kept, own = kept[passed], own[passed]
    return kept[np.lexsort((ids[kept], -own))][:k]
