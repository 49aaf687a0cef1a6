"""Vectors of items: a truncated SVD of their mutual information with what led to them.

With A[k, i] the weight of the edge between key k (a user, a query, a word) and item i, the positive
pointwise mutual information is

    M[k, i] = max(0, log(A[k, i] sum_j c_j^0.75 / (a_k c_i^0.75))),   a_k = sum_i A[k, i],
                                                                      c_i = sum_k A[k, i]

in each relation by itself. With the relations one below the other, M = U diag(s) V', an item's
vector is its row of V diag(s)^0.5, of length 1 (Levy, Goldberg and Dagan 2015 for both exponents).
Items are alike that the same keys led to, and such as these. Directions of two snapshots do not
compare; angles within one do.

V is found by subspace iteration on M'M from a seeded start (Halko, Martinsson and Tropp 2011): each
pass reads every edge of the pruned lists once (``Relation``), so the cost is linear in the edges.
Sums are in a fixed order, so one machine makes the same bytes however many threads it has.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from interactrank.features.schema import VECTOR_WIDTH
from interactrank.graph.walk import Relation
from interactrank.kernels import kernel

SPARE = 16
"""Directions beyond those that are kept: with them the last ones are found as well as the first."""
PASSES = 8
"""Over the edges. With more of them vectors find what they find with these."""
SMOOTHING = 0.75
NOTHING = 1e-6
"""A part of the greatest eigenvalue that counts as none."""


def embedded(n: int, relations: Sequence[Relation]) -> NDArray[np.float32]:
    """Unit vectors float32 [n, VECTOR_WIDTH] of n items under some relations.

    An item that nothing says anything of has zeros. Columns are ordered by eigenvalue, and signed
    so that the greatest entry is positive.
    """
    found = np.zeros((n, VECTOR_WIDTH), np.float32)
    parts = tuple((r.items, information(r), r.key_offsets) for r in relations)
    if not n or not parts:
        return found
    start = np.random.default_rng(0).standard_normal((n, min(VECTOR_WIDTH + SPARE, n)))
    basis = _orthonormal(start.astype(np.float32))
    for _ in range(PASSES - 1):
        basis = _orthonormal(_passed(parts, basis))
    squares, turn = _spectrum(_products(basis, _passed(parts, basis)))
    kept = min(VECTOR_WIDTH, len(squares))
    # The singular values are the squares' roots.
    vectors = _turned(basis, (turn * squares**0.25)[:, :kept].astype(np.float32))
    greatest = np.abs(vectors).argmax(0)
    vectors *= np.where(vectors[greatest, np.arange(kept)] < 0, np.float32(-1), np.float32(1))
    length = np.sqrt(np.square(vectors, dtype=np.float64).sum(1, keepdims=True))
    least = NOTHING * length.max(initial=0.0)
    found[:, :kept] = np.where(length > least, vectors / np.maximum(length, least or 1.0), 0.0)
    return found


def information(r: Relation) -> NDArray[np.float32]:
    """M of the edges by key, float32, in the order of the items."""
    key = np.repeat(np.arange(len(r.key_totals)), np.diff(r.key_offsets))
    smooth = r.item_totals.astype(np.float64) ** SMOOTHING
    ratio = r.item_weights * smooth.sum() / (r.key_totals[key] * smooth[r.items])
    return np.maximum(np.log(ratio), 0.0).astype(np.float32)


def _orthonormal(y: NDArray[np.float32]) -> NDArray[np.float32]:
    """A basis of the columns of ``y``, with a column of zeros for each that says nothing new."""
    squares, turn = _spectrum(_products(y, y))
    scale = np.where(squares > 0, 1 / np.sqrt(np.where(squares > 0, squares, 1.0)), 0.0)
    return _turned(y, (turn * scale).astype(np.float32))


def _spectrum(gram: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues of a symmetric matrix from the greatest on, those of noise as 0; and vectors."""
    squares, turn = np.linalg.eigh((gram + gram.T) / 2)
    squares, turn = squares[::-1], turn[:, ::-1]
    return np.where(squares > NOTHING**2 * squares[0], squares, 0.0), turn


@kernel
def _passed(parts, basis):  # type: ignore[no-untyped-def]
    """M'M of a basis float32 [n, k]."""
    out = np.zeros_like(basis)
    width = basis.shape[1]
    of_key = np.empty(width, np.float32)
    for items, values, offsets in parts:
        for key in range(offsets.size - 1):
            of_key[:] = 0.0
            for e in range(offsets[key], offsets[key + 1]):
                value, row = values[e], basis[items[e]]
                if value > 0.0:
                    # By row: with both places looked up anew it takes four times as long.
                    for d in range(width):
                        of_key[d] += value * row[d]
            for e in range(offsets[key], offsets[key + 1]):
                value, row = values[e], out[items[e]]
                if value > 0.0:
                    for d in range(width):
                        row[d] += value * of_key[d]
    return out


@kernel
def _products(a: NDArray[np.float32], b: NDArray[np.float32]) -> NDArray[np.float64]:
    """a'b, float64 [k, k]."""
    width = a.shape[1]
    out = np.zeros((width, width), np.float64)
    for i in range(a.shape[0]):
        for j in range(width):
            for d in range(width):
                out[j, d] += np.float64(a[i, j]) * np.float64(b[i, d])
    return out


@kernel
def _turned(a: NDArray[np.float32], by: NDArray[np.float32]) -> NDArray[np.float32]:
    """A product of [n, k] and [k, m], row by row."""
    out = np.zeros((a.shape[0], by.shape[1]), np.float32)
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            for d in range(by.shape[1]):
                out[i, d] += a[i, j] * by[j, d]
    return out
