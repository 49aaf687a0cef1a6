"""Vectors of users and queries from those of items, against plain loops."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests.plain_requests import ITEMS, SCHEMA, Request, as_inputs, offsets
from tests.unit.interactrank.features.test_neighbours import random_request

from interactrank.features.alike import cosines, query_vectors, user_vectors
from interactrank.features.engagement import cross_features
from interactrank.features.inputs import FeatureInputs
from interactrank.features.item_vectors import ItemVectors, narrowed, widened
from interactrank.features.near import NO_SNAPSHOT, Near
from interactrank.features.neighbours import ANCHORS
from interactrank.features.schema import COSINE_CROSS, VECTOR_WIDTH
from interactrank.features.top_items import top_items_of


def random_vectors(rng: np.random.Generator) -> ItemVectors:
    ids = np.sort(rng.choice(ITEMS, len(ITEMS) - 2, replace=False)).astype(np.int64)
    drawn = rng.standard_normal((len(ids), VECTOR_WIDTH))
    units = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return ItemVectors(ids, narrowed(units.astype(np.float32)))


def test_bits_are_those_of_bf16() -> None:
    drawn = np.random.default_rng(0).standard_normal((40, VECTOR_WIDTH)).astype(np.float32)
    # Halfway between two, which goes to the even one.
    drawn[0, :2] = np.array([0x3F808000, 0x3F818000], np.uint32).view(np.float32)
    expected = torch.from_numpy(drawn).bfloat16()
    assert narrowed(drawn).tolist() == expected.view(torch.uint16).numpy().tolist()
    assert widened(narrowed(drawn)).tolist() == expected.float().numpy().tolist()


@pytest.mark.parametrize("seed", range(5))
def test_users_and_queries_are_means_of_what_they_hold(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = random_vectors(rng)
    inputs = as_inputs([random_request(rng) for _ in range(6)] + [Request()])
    of = dict(zip(vectors.ids.tolist(), widened(vectors.bits), strict=True))
    nothing = np.zeros(VECTOR_WIDTH)
    tops, counts, bounds = top_items_of(SCHEMA, inputs)
    users, queries = user_vectors(vectors, inputs), query_vectors(vectors, SCHEMA, inputs)
    for b in range(7):
        own = inputs.hist_items[inputs.hist_offsets[b] : inputs.hist_offsets[b + 1]][-ANCHORS:]
        user = sum((of.get(item, nothing) for item in own.tolist()), nothing)
        query = nothing
        for t in range(bounds[b], bounds[b + 1]):
            query = query + counts[t] * of.get(int(tops[t]), nothing)
        for found, expected in ((users[b], user), (queries[b], query)):
            length = max(float(np.linalg.norm(expected)), 1e-9)
            assert found == pytest.approx(expected / length, abs=1e-5)
    assert not users[6].any()
    assert not queries[6].any()


def with_vectors(inputs: FeatureInputs, snapshots: dict[int, ItemVectors]) -> FeatureInputs:
    """``inputs`` of requests that take turns: of no snapshot, and of each of ``snapshots``."""
    parts, cutoffs = [], [NO_SNAPSHOT, *snapshots]
    for b in range(len(inputs.time)):
        one, near = inputs.slice(b, b + 1), Near.nothing(1)
        if of := snapshots.get(cutoff := cutoffs[b % len(cutoffs)]):
            near = near._replace(
                user_vectors=user_vectors(of, one),
                query_vectors=query_vectors(of, SCHEMA, one),
                near_cutoffs=np.array([cutoff]),
            )
        parts.append(near)
    return replace(inputs, **Near.joined(parts)._asdict(), snapshots=snapshots)


@pytest.mark.parametrize("seed", range(5))
def test_cosines_are_those_of_each_requests_own_snapshot(seed: int) -> None:
    rng = np.random.default_rng(seed)
    snapshots = {5: random_vectors(rng), 9: random_vectors(rng)}
    requests = [random_request(rng) for _ in range(7)]
    for request in requests:
        # More than a block, and items that nobody knows.
        request.candidates = [*request.candidates, *range(1_000, 1_000 + 40 * (seed % 2))]
    inputs = with_vectors(as_inputs(requests), snapshots)
    ids = np.array([c for r in requests for c in r.candidates], np.int64)
    bounds = offsets([len(r.candidates) for r in requests])
    found = cosines(inputs, ids, bounds)
    for b, cutoff in enumerate(inputs.near_cutoffs.tolist()):
        own = slice(bounds[b], bounds[b + 1])
        if cutoff == NO_SNAPSHOT:
            assert not found[own].any()
            continue
        items = snapshots[cutoff].of(ids[own])
        expected = items @ np.stack((inputs.user_vectors[b], inputs.query_vectors[b])).T
        assert found[own] == pytest.approx(expected, abs=1e-5)
        graph = replace(SCHEMA, graph=True)
        columns = [graph.cross.index(name) for name in COSINE_CROSS]
        one = np.array([0, len(ids[own])])
        x = cross_features(graph, inputs.slice(b, b + 1), ids[own], one, np.zeros_like(ids[own]))
        assert x[:, columns].tolist() == found[own].tolist()
    assert np.abs(found).max() > 0.1


def test_nearest_come_first_and_opposites_do_not_come() -> None:
    units = np.zeros((4, VECTOR_WIDTH), np.float32)
    units[:, 0], units[3, 0] = [1.0, 0.6, 0.6, 0.0], -1.0
    units[1:3, 1] = 0.8
    vectors = ItemVectors(np.array([7, 9, 8, 5]), narrowed(units))
    ids, cosines = vectors.nearest(units[0], 9)
    assert ids.tolist() == [7, 8, 9]
    assert cosines == pytest.approx([1.0, 0.6, 0.6], abs=0.01)
    assert vectors.nearest(units[0], 2)[0].tolist() == [7, 8]
    assert not len(vectors.nearest(np.zeros(VECTOR_WIDTH, np.float32), 9)[0])
    assert vectors.only(np.array([8, 6, 5])).ids.tolist() == [5, 8]
    assert vectors.of(np.array([6, 7])) == pytest.approx(np.stack([units[3] * 0, units[0]]))
