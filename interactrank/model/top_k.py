"""The best k of many scores, without sorting them all."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SAMPLE = 8_192
"""Scores, about, by which it is guessed where the best begin."""
MARGIN = 16
"""Places of the sample beyond twice those that are needed, so that the guess is seldom too high."""


def _worth_sorting(scores: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Positions of the best ``k`` finite scores, and of few others; of all, where few are finite.

    Every so many-th score is looked at, and the place among them found that leaves some 2 k scores
    above. If it should leave fewer than k, all are taken: a guess costs time at most.
    """
    step = max(len(scores) // SAMPLE, 1)
    sample = scores[::step]
    rank = 2 * k // step + MARGIN
    if rank < len(sample):
        # Else what is no number would count as the highest.
        sample = np.where(np.isfinite(sample), sample, -np.inf)
        kept = np.flatnonzero(scores >= np.partition(sample, -rank)[-rank])
        if np.isfinite(scores[kept]).sum() >= k:
            return kept
    return np.arange(len(scores))


def best(scores: NDArray[np.float32], ids: NDArray[np.int64], k: int) -> NDArray[np.int64]:
    """Positions of the best ``k`` scores, best first; ties by id, non-finite scores last.

    Linear in the number of scores: only those that can be among the best are compared.

    Args:
        scores: float32 [n].
        ids: int64 [n], distinct.
        k: of 0 or more.

    Returns:
        int64 [min(k, n)].
    """
    kept = _worth_sorting(scores, k)
    own = scores[kept]
    # A NaN as the threshold would let nobody pass.
    own = np.where(np.isfinite(own), own, -np.inf)
    if 0 < k < len(kept):
        # Every candidate tied with the k-th must be seen before ids break the tie.
        threshold = np.partition(own, len(own) - k)[len(own) - k]
        passed = own >= threshold
        kept, own = kept[passed], own[passed]
    return kept[np.lexsort((ids[kept], -own))][:k]
