"""What is near to a request, and what becomes of it in x, against a plain reading."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.plain_requests import ITEMS, NOW, SCHEMA, Request, as_inputs, offsets, random_block

from interactrank.features.engagement import cross_features
from interactrank.features.inputs import FeatureInputs, check_inputs
from interactrank.features.near import Near
from interactrank.features.neighbours import ANCHORS, CODES, Neighbours
from interactrank.features.reached import Reached
from interactrank.features.schema import GRAPH_CROSS, LEVELS, NEIGHBOURS
from interactrank.features.top_items import top_items_of

GRAPH = replace(SCHEMA, graph=True)
SEEDS = st.integers(0, 2**32 - 1)
COLUMNS = [GRAPH.cross.index(name) for name in GRAPH_CROSS]
OF_GRAPH = [GRAPH.cross.index(name) for name in GRAPH.graph_cross]


def random_graph(rng: np.random.Generator, ids: list[int] = ITEMS) -> Neighbours:
    n = len(ids)
    rows = np.full((n, NEIGHBOURS), -1, np.int32)
    codes = np.zeros((n, NEIGHBOURS), np.uint16)
    for i in range(n):
        some = rng.permutation(n)[: rng.integers(0, n)]
        rows[i, : len(some)] = some
        codes[i, : len(some)] = np.sort(rng.integers(1, CODES + 1, len(some)))[::-1]
    order = rng.permutation(n)
    return Neighbours(np.array(ids, np.int64)[order], rows, codes, rng.random(n, np.float32))


def random_request(rng: np.random.Generator) -> Request:
    events = [(int(rng.choice(ITEMS)), 1, NOW - n - 1, 5) for n in range(int(rng.integers(0, 30)))]
    rows: dict[str, bytes | None] = {
        "q:red": random_block(rng, LEVELS[0]),
        "t:red": random_block(rng, LEVELS[3]),
    }
    return Request(rows, events[::-1], candidates=[int(i) for i in rng.permutation(ITEMS)[:9]])


def reference(graph: Neighbours, inputs: FeatureInputs) -> list[dict[int, list[float]]]:
    """By request: item -> how near by the user, and by the query."""
    at = {int(i): row for row, i in enumerate(graph.ids)}
    top, counts, bounds = top_items_of(GRAPH, inputs)
    found = []
    for b in range(len(inputs.time)):
        near: dict[int, list[float]] = defaultdict(lambda: [0.0, 0.0])
        own = inputs.hist_items[inputs.hist_offsets[b] : inputs.hist_offsets[b + 1]][-ANCHORS:]
        share = counts[bounds[b] : bounds[b + 1]]
        anchors = [(item, 0, 1.0) for item in own.tolist()]
        tops = top[bounds[b] : bounds[b + 1]].tolist()
        anchors += [(i, 1, float(s)) for i, s in zip(tops, share / share.sum(), strict=True)]
        for item, side, weight in anchors:
            for row, code in zip(graph.rows[at[item]], graph.codes[at[item]], strict=True):
                if row >= 0:
                    part = float(graph.scale[at[item]]) * int(code) / CODES
                    near[int(graph.ids[row])][side] += weight * part
        found.append(near)
    return found


def with_near(inputs: FeatureInputs, near: Near) -> FeatureInputs:
    return replace(inputs, **near._asdict())


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_near_is_the_sum_over_neighbours(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph, requests = random_graph(rng), [random_request(rng) for _ in range(3)]
    inputs = as_inputs(requests)
    near = graph.near(GRAPH, inputs)
    for b, expected in enumerate(reference(graph, inputs)):
        own = slice(near.near_offsets[b], near.near_offsets[b + 1])
        items = near.near_items[own].tolist()
        assert len(items) == len(set(items))
        assert set(items) == set(expected)
        for column, values in enumerate((near.near_user[own], near.near_query[own])):
            assert values == pytest.approx([expected[i][column] for i in items], rel=1e-5, abs=1e-9)


@settings(max_examples=30, deadline=None)
@given(SEEDS)
def test_cross_features_say_how_near_a_candidate_is_and_else_nothing_new(seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph, requests = random_graph(rng), [random_request(rng) for _ in range(3)]
    inputs = as_inputs(requests)
    ids = np.array([c for r in requests for c in r.candidates], np.int64)
    bounds, born = offsets([len(r.candidates) for r in requests]), np.zeros(len(ids), np.int64)
    plain = cross_features(SCHEMA, inputs, ids, bounds, born)
    near = graph.near(GRAPH, inputs)
    x = cross_features(GRAPH, with_near(inputs, near), ids, bounds, born)
    others = [c for c in range(x.shape[1]) if c not in OF_GRAPH]
    assert np.array_equal(x[:, others], plain)
    expected = reference(graph, inputs)
    for b in range(3):
        for c in range(bounds[b], bounds[b + 1]):
            told = expected[b].get(int(ids[c]), [0.0, 0.0])
            of = np.log1p(1e3 * np.array(told)) / np.log1p(1e3)
            assert x[c, COLUMNS] == pytest.approx(of, rel=1e-4, abs=1e-6)
    assert not cross_features(GRAPH, inputs, ids, bounds, born)[:, COLUMNS].any()


def test_a_request_reaches_what_is_near_to_it() -> None:
    rng = np.random.default_rng(1)
    request = Request(history=[(3, 1, NOW - 1, 5)])
    inputs = as_inputs([request])
    graph = random_graph(rng)
    near = graph.near(GRAPH, inputs)
    assert len(near.near_items)
    reached = Reached(GRAPH, with_near(inputs, near))
    assert set(near.near_items.tolist()) <= set(reached.items().tolist())
    assert len(reached.among(near.near_items)) == len(near.near_items)


def test_a_part_of_the_requests_keeps_what_is_near_to_it() -> None:
    rng = np.random.default_rng(2)
    inputs = as_inputs([random_request(rng) for _ in range(4)])
    graph = random_graph(rng)
    whole = with_near(inputs, graph.near(GRAPH, inputs))
    for name, values in graph.near(GRAPH, inputs.slice(1, 3))._asdict().items():
        assert np.array_equal(getattr(whole.slice(1, 3), name), values)


def test_inputs_of_before_there_were_graphs_are_read() -> None:
    arrays = as_inputs([Request()]).arrays()
    old = {name: array for name, array in arrays.items() if name not in Near._fields}
    assert FeatureInputs.restored(old).near.near_offsets.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"near_offsets": np.array([0, 2])}, "near_offsets"),
        ({"near_user": np.zeros(2, np.float32)}, "near_user"),
        ({"near_query": np.full(1, np.nan, np.float32)}, "near_query"),
    ],
)
def test_what_does_not_fit_is_named(changes: dict[str, Any], named: str) -> None:
    one = np.ones(1, np.float32)
    good = Near(np.array([3]), one, one, np.array([0, 1]))
    inputs = with_near(as_inputs([Request()]), good)
    check_inputs(GRAPH, inputs)
    with pytest.raises(ValueError, match=named):
        check_inputs(GRAPH, replace(inputs, **changes))


def test_neighbours_that_do_not_fit_are_refused() -> None:
    graph = random_graph(np.random.default_rng(3))
    with pytest.raises(ValueError, match="build the graph again"):
        replace(graph, codes=graph.codes[1:]).near(GRAPH, as_inputs([Request()]))
