"""Vectors of items by subspace iteration, against whole matrices."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.unit.interactrank.graph.test_walk import random_edges, relation

from interactrank.features.schema import VECTOR_WIDTH
from interactrank.graph.vectors import embedded


def information(edges: NDArray[np.float32]) -> NDArray[np.float64]:
    """Positive pointwise mutual information, entry by entry."""
    of_item, of_key = edges.sum(0, dtype=np.float64), edges.sum(1, dtype=np.float64)
    found = np.zeros(edges.shape)
    for k, i in zip(*np.nonzero(edges), strict=True):
        smooth = of_item[i] ** 0.75 / (of_item**0.75).sum()
        found[k, i] = max(np.log(edges[k, i] / (of_key[k] * smooth)), 0.0)
    return found


def by_svd(matrices: list[NDArray[np.float32]]) -> NDArray[np.float64]:
    """Cosines of all pairs of items."""
    _, s, v = np.linalg.svd(np.concatenate([information(m) for m in matrices]))
    kept = min(VECTOR_WIDTH, int((s > 1e-4 * s[0]).sum()))
    vectors = v[:kept].T * s[:kept] ** 0.5
    units = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found: NDArray[np.float64] = units @ units.T
    return found


@pytest.mark.parametrize("items", [2, 9, VECTOR_WIDTH])
def test_vectors_are_those_of_a_whole_svd(items: int) -> None:
    rng = np.random.default_rng(items)
    matrices = [random_edges(rng, keys, items) for keys in (90, 40)]
    found = embedded(items, [relation(m) for m in matrices])
    assert found @ found.T == pytest.approx(by_svd(matrices), abs=1e-3)
    assert not found[:, items:].any()


def groups(rng: np.random.Generator, n: int, of: int) -> NDArray[np.float32]:
    """Users that each keep to one of ``n`` groups of ``of`` items."""
    mine = np.arange(n * of) // of
    chosen = mine == np.arange(n * 12)[:, None] % n
    return (chosen * (rng.random(chosen.shape) < 0.5)).astype(np.float32)


def test_items_of_one_group_are_alike_and_others_are_not() -> None:
    n, of = VECTOR_WIDTH, 6
    found = embedded(n * of, [relation(groups(np.random.default_rng(0), n, of))])
    cosines = found @ found.T
    same = np.equal.outer(np.arange(n * of) // of, np.arange(n * of) // of)
    assert cosines[same].min() > 0.8
    assert np.abs(cosines[~same]).max() < 0.2


def test_an_item_that_nothing_is_said_of_has_zeros() -> None:
    edges = random_edges(np.random.default_rng(1), 30, 10)
    edges[:, 4] = 0.0
    found = embedded(10, [relation(edges)])
    lengths = np.linalg.norm(found, axis=1)
    assert lengths == pytest.approx((np.arange(10) != 4).astype(float))
    nothing = relation(np.zeros((2, 3), np.float32))
    assert not embedded(3, [nothing]).any()
    assert not embedded(3, []).any()
    assert embedded(0, []).shape == (0, VECTOR_WIDTH)


def test_the_same_edges_make_the_same_bytes_and_signs_are_fixed() -> None:
    parts = [relation(random_edges(np.random.default_rng(2), 200, 150))]
    found = embedded(150, parts)
    assert found.tobytes() == embedded(150, parts).tobytes()
    assert (found.max(0) > 0).all()
