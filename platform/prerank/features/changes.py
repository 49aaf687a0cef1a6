"""When the events of a key enter its windows and leave them: compiled parts of ``counting``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from interactrank.kernels import kernel

NEVER_AGAIN = np.iinfo(np.int64).max
"""Later than any snapshot."""


@kernel(inline="always")
def missed(known: int, bucket: int, window: int) -> bool:
    """Whether a late event missed a window, and so neither enters nor leaves it."""
    return bucket + window <= known


@kernel
def next_change(
    entered: int,
    left: NDArray[np.int64],
    known: NDArray[np.int64],
    buckets: NDArray[np.int64],
    leaving: NDArray[np.int64],
    actions: NDArray[np.int8],
    moves: NDArray[np.bool_],
    windows: NDArray[np.int64],
) -> int:
    """When the next event of a key enters, or leaves a window; NEVER_AGAIN for none.

    ``entered`` events have, in their order, and ``left[w]`` in that of ``leaving``, which goes on
    past those that missed window ``w`` or are none that it counts (``moves`` [actions, W]).
    """
    soonest = known[entered] if entered < known.size else NEVER_AGAIN
    for w in range(windows.size):
        while left[w] < known.size:
            e = leaving[left[w]]
            if moves[actions[e], w] and not missed(known[e], buckets[e], windows[w]):
                soonest = min(soonest, buckets[e] + windows[w])
                break
            left[w] += 1
    return soonest


@kernel
def by_bucket(buckets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Order of events by when they happened; mostly that in which they became known."""
    for e in range(1, buckets.size):
        if buckets[e] < buckets[e - 1]:
            return np.argsort(buckets, kind="mergesort")
    return np.arange(buckets.size)


@kernel
def union(a: NDArray[np.int64], b: NDArray[np.int64]) -> NDArray[np.int64]:
    """What stands in either of two ascending arrays without repeats, ascending."""
    if not a.size:
        return b
    merged = np.empty(a.size + b.size, np.int64)
    i = j = n = 0
    while i < a.size or j < b.size:
        if j == b.size or (i < a.size and a[i] < b[j]):
            merged[n] = a[i]
            i += 1
        else:
            i += i < a.size and a[i] == b[j]
            merged[n] = b[j]
            j += 1
        n += 1
    return merged[:n]


@kernel
def longer(numbers: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """``numbers``, with room for one more than ``count``."""
    return numbers if count < numbers.size else np.concatenate((numbers, np.empty_like(numbers)))
