"""Neighbours by two steps of a walk, against matrices."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from interactrank.features.neighbours import CODES
from interactrank.features.schema import NEIGHBOURS
from interactrank.graph.walk import Relation, walked


def relation(edges: NDArray[np.float32]) -> Relation:
    """Of a dense matrix [keys, items]."""
    key, item = np.nonzero(edges)
    of_item, items_keys = np.nonzero(edges.T)
    keys, items = edges.shape
    return Relation(
        items_keys.astype(np.int32),
        edges.T[of_item, items_keys],
        np.searchsorted(of_item, np.arange(items + 1)).astype(np.int64),
        item.astype(np.int32),
        edges[key, item],
        np.searchsorted(key, np.arange(keys + 1)).astype(np.int64),
        edges.sum(1),
        edges.sum(0),
    )


def random_edges(rng: np.random.Generator, keys: int, items: int) -> NDArray[np.float32]:
    weights = rng.integers(1, 4, (keys, items)) * (rng.random((keys, items)) < 0.3)
    return weights.astype(np.float32)


def by_matrices(matrices: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    total = np.zeros((matrices[0].shape[1],) * 2)
    for m in matrices:
        with np.errstate(invalid="ignore"):
            back, forth = m / m.sum(1, keepdims=True), m / m.sum(0)
        total += np.nan_to_num(forth).T @ np.nan_to_num(back)
    np.fill_diagonal(total, 0.0)
    return total


@pytest.mark.parametrize("items", [1, 9, 2 * NEIGHBOURS])
def test_neighbours_are_those_of_the_matrices(items: int) -> None:
    rng = np.random.default_rng(items)
    matrices = [random_edges(rng, keys, items) for keys in (30, 7)]
    graph = walked(np.arange(items) * 5 - 2, [relation(m) for m in matrices])
    expected = by_matrices(matrices)
    for i in range(items):
        rows = graph.rows[i][graph.rows[i] >= 0]
        assert len(rows) == min((expected[i] > 0).sum(), NEIGHBOURS)
        assert (graph.rows[i][len(rows) :] == -1).all()
        found = graph.scale[i] * graph.codes[i, : len(rows)] / CODES
        assert found == pytest.approx(
            expected[i, rows], rel=1e-3, abs=float(2 * graph.scale[i] / CODES)
        )
        assert (np.diff(expected[i, rows]) <= 1e-6).all(), "not nearest first"
        left = np.setdiff1d(np.arange(items), rows)
        assert not len(rows) or expected[i, left].max(initial=0) <= expected[i, rows].min() + 1e-6


def test_equals_are_kept_by_their_place() -> None:
    """A key that led to every item: all others are equally near."""
    n = NEIGHBOURS + 10
    graph = walked(np.arange(n), [relation(np.ones((1, n), np.float32))])
    assert graph.rows[0].tolist() == list(range(1, NEIGHBOURS + 1))
    assert graph.rows[n - 1].tolist() == list(range(NEIGHBOURS))
    assert (graph.codes == CODES).all()


def test_no_edges_are_no_neighbours() -> None:
    for relations in ([], [relation(np.zeros((2, 3), np.float32))]):
        graph = walked(np.arange(3), relations)
        assert (graph.rows == -1).all()
        assert not graph.codes.any()
        assert not graph.scale.any()
