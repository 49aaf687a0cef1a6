"""The compiled sweep over a request's candidates: gather, dot and g(x), in blocks kept in cache.

Most candidates stand in no packed row and in no history of the request. Their cross features are
all the same but for a few columns: the item's age, cosines, and what the caller gave. ``sweep``
computes g(x) from one base x and those columns. For the candidates that may stand somewhere
(``Reached``) the caller computes x in full, and ``add_up_rows`` g.

Work per candidate: the line(s) of its vector, D multiplications, and (V + 1) (J + 1) for g, where V
columns vary and J are the hidden units. It is bound by memory beyond a few thousand candidates, so
lines are asked for ahead, candidate by candidate: a whole block at once took half as long again.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numba.extending import overload
from numpy.typing import NDArray

from interactrank.features.engagement import FRESH_DAYS
from interactrank.features.prefetch import prefetch
from interactrank.kernels import kernel

BLOCK = 64
"""Candidates whose g is computed at once."""
AHEAD = 64
"""Candidates whose memory is on its way at a time."""
DAY_US = 86_400e6
FRESH_US = int(FRESH_DAYS * DAY_US)
FAST = {"reassoc", "contract", "nsz", "arcp"}
"""What the compiler may do to sums, so that they are vectorised; NaN and infinity stay."""
LINE = 64


class Affine(NamedTuple):
    """g(x) of candidates that differ from a base x in V columns only, as a function of how far.

    ``linear`` [1 + V]: w . x of the base, and the weights of the columns. ``units`` [1 + V, J]: the
    same of the hidden units, before the relu; ``unit_weight`` [J]. float32. A model without cross
    features has no column.
    """

    linear: NDArray[np.float32]
    units: NDArray[np.float32]
    unit_weight: NDArray[np.float32]


class Base(NamedTuple):
    """What all candidates of a request share that stand nowhere.

    ``affine`` is g as a function of their own columns. ``fresh_value``: what the fresh column of x
    holds for a fresh item. ``own`` float32 [V - 3]: what else of x is a candidate's own, cosines
    and what a caller gives, of an item of which neither is known.
    """

    affine: Affine
    fresh_value: float
    own: NDArray[np.float32]


def widened(value: Any) -> Any:
    """A stored element of an item vector as float32; bf16 is stored as uint16."""
    return (np.uint32(value) << np.uint32(16)).view(np.float32) if value.itemsize == 2 else value


@overload(widened, inline="always", strict=False)
def _widened(value: Any) -> Any:
    if value == nb.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


@kernel(inline="always", fastmath=FAST)
def log1p_f32(value: np.float32) -> np.float32:
    """log(1 + value) for value >= 0, within 2e-7 (Cephes' logf), in a form that is vectorised."""
    one = np.float32(np.float32(1.0) + value)
    bits = np.int32(one.view(np.int32))
    # The mantissa in [sqrt 1/2, sqrt 2): 0x3f3504f3 is sqrt 1/2.
    shifted = np.int32(bits - np.int32(0x3F3504F3))
    exponent = np.float32(shifted >> np.int32(23))
    kept = np.int32(np.int32(shifted & np.int32(0x007FFFFF)) + np.int32(0x3F3504F3))
    z = np.float32(kept.view(np.float32) - np.float32(1.0))
    y = np.float32(7.0376836292e-2)
    y = y * z + np.float32(-1.1514610310e-1)
    y = y * z + np.float32(1.1676998740e-1)
    y = y * z + np.float32(-1.2420140846e-1)
    y = y * z + np.float32(1.4249322787e-1)
    y = y * z + np.float32(-1.6668057665e-1)
    y = y * z + np.float32(2.0000714765e-1)
    y = y * z + np.float32(-2.4999993993e-1)
    y = y * z + np.float32(3.3333331174e-1)
    tail = y * z * z * z - np.float32(0.5) * z * z
    return z + tail + np.float32(0.69314718056) * exponent


@kernel(inline="always", fastmath=FAST)
def _add_up(
    affine: Affine, columns: NDArray[np.float32], pre: NDArray[np.float32], g: NDArray[np.float32]
) -> None:
    """g(x) [BLOCK] of candidates with ``columns`` [V, BLOCK], V of 3 or more; overwrites ``pre``.

    A candidate is a lane of its own, and the loops are over whole blocks, so that a score depends
    on nobody else, to the last digit: a product of matrices rounds a row by how many others there
    are. The first three columns go with the relu, so that most requests write ``pre`` once a unit.
    """
    a, b, c = affine.linear[1], affine.linear[2], affine.linear[3]
    for i in range(BLOCK):
        g[i] = affine.linear[0] + a * columns[0, i] + b * columns[1, i] + c * columns[2, i]
    for v in range(3, columns.shape[0]):
        weight = affine.linear[1 + v]
        for i in range(BLOCK):
            g[i] += weight * columns[v, i]
    for j in range(affine.unit_weight.size):
        a, b, c = affine.units[1, j], affine.units[2, j], affine.units[3, j]
        start, weight = affine.units[0, j], affine.unit_weight[j]
        for i in range(BLOCK):
            pre[i] = start
        for v in range(3, columns.shape[0]):
            of_column = affine.units[1 + v, j]
            for i in range(BLOCK):
                pre[i] += of_column * columns[v, i]
        for i in range(BLOCK):
            p = pre[i] + a * columns[0, i] + b * columns[1, i] + c * columns[2, i]
            # Not max, which would make a zero of a NaN.
            g[i] += np.float32(0.0) if p < 0.0 else weight * p


@kernel(fastmath=FAST)
def add_up_rows(affine: Affine, x: NDArray[np.float32], cross_scores: NDArray[np.float32]) -> None:
    """g(x) of rows of x [n, V], written to ``cross_scores`` float32 [n]."""
    n, width = x.shape
    columns = np.zeros((width, BLOCK), np.float32)
    pre, g = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    for begin in range(0, n, BLOCK):
        size = min(BLOCK, n - begin)
        for i in range(size):
            for v in range(width):
                columns[v, i] = x[begin + i, v]
        _add_up(affine, columns, pre, g)
        for i in range(size):
            cross_scores[begin + i] = g[i]


@kernel(inline="always")
def _ask_for(vectors: Any, created: Any, row: int) -> None:
    width, step = vectors.shape[1], LINE // vectors.itemsize
    for at in range(0, width, step):
        prefetch(vectors, row * width + at)
    prefetch(created, row)


@kernel(fastmath=FAST)
def sweep(
    rows: NDArray[np.int64],
    vectors: NDArray[Any],
    created: NDArray[np.int64],
    query: NDArray[np.float32],
    now: int,
    affine: Affine,
    fresh_value: float,
    own: NDArray[np.float32],
    dots: NDArray[np.float32],
    cross_scores: NDArray[np.float32],
) -> None:
    """Dots and g(x) of candidates that stand nowhere.

    Args:
        rows: int64 [n], rows of the index, none negative.
        vectors: [items, D], float32, or bf16 as uint16.
        created: int64 [items], microseconds since 1970, 0 where unknown.
        query: float32 [D]. now: the request's time, microseconds since 1970.
        affine: its V columns are those of ``engagement.own_columns``, less the base's.
        fresh_value: what the fresh column of x holds for an item that is fresh.
        own: float32 [n, V - 3], what else is a candidate's own, less the base's; [0, 0] for
            nothing.
        dots, cross_scores: float32 [n], written.
    """
    n, width = rows.size, vectors.shape[1]
    crossed, others = affine.linear.size > 1, own.shape[1]
    columns = np.zeros((affine.linear.size - 1, BLOCK), np.float32)
    pre, g = np.empty(BLOCK, np.float32), np.empty(BLOCK, np.float32)
    days, born = np.empty(BLOCK, np.float32), np.zeros(BLOCK, np.int64)
    for i in range(min(AHEAD, n)):
        _ask_for(vectors, created, rows[i])
    for begin in range(0, n, BLOCK):
        size = min(BLOCK, n - begin)
        for i in range(size):
            # One after the other: many at once would wait for each other.
            if begin + i + AHEAD < n:
                _ask_for(vectors, created, rows[begin + i + AHEAD])
            row = rows[begin + i]
            dot = np.float32(0.0)
            for d in range(width):
                dot += widened(vectors[row, d]) * query[d]
            dots[begin + i] = dot
            born[i] = created[row]
        if not crossed:
            cross_scores[begin : begin + size] = affine.linear[0]
            continue
        for i in range(BLOCK):
            known = (born[i] > 0) & (born[i] <= now)
            age = now - born[i] if known else 0
            days[i] = np.float32(np.float64(age) * (1.0 / DAY_US))
            columns[1, i] = np.float32(-1.0 if known else 0.0)
            columns[2, i] = fresh_value if known & (age < FRESH_US) else np.float32(0.0)
        for i in range(BLOCK):
            columns[0, i] = log1p_f32(days[i])
        for v in range(others):
            for i in range(size):
                columns[3 + v, i] = own[begin + i, v]
        _add_up(affine, columns, pre, g)
        for i in range(size):
            cross_scores[begin + i] = g[i]
