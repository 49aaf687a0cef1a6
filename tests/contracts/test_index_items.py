"""Items that join an index score as in an index that was built with them, to the last digit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.plain_requests import DAY, ITEMS, NOW, SCHEMA, SEEDS, as_inputs, random_request
from tests.samples import SHIPPED

from interactrank.features.catalogue import Catalogue
from interactrank.model.index_items import Added
from interactrank.model.interactrank import InteractRank
from interactrank.model.scorer import Scored, Scorer

IDS = np.array(sorted([*ITEMS, *range(1000, 1300)]), np.int64)
NEW = np.array(sorted([-77, 77, 1_000_000, 2**61, *range(2000, 2150)]), np.int64)
"""Before, among and after the index's ids."""
WEIGHTS = np.array([0.6, 0.4], np.float32)
RNG = np.random.default_rng(4)
BIRTHS = [0, NOW - 30 * DAY, NOW - 3 * DAY, NOW, NOW - 3000 * DAY]


def vectors_of(n: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(n, SHIPPED.width), dim=1).to(dtype)


class World:
    """An index, what is added to it, and an index of both."""

    def __init__(self, dtype: torch.dtype) -> None:
        torch.manual_seed(3)
        n = len(IDS)
        none = np.zeros((n, 0), np.float32)
        catalogue = Catalogue.build(IDS, ["x"] * n, [""] * n, none, RNG.choice(BIRTHS, n))
        model = InteractRank(SHIPPED, SCHEMA, catalogue)
        model.fusion.fit(torch.rand(100, len(SCHEMA.cross)), torch.randn(100, 8))
        torch.nn.init.normal_(model.fusion.weight, std=0.3)
        changed = RNG.choice(IDS, 40, replace=False)
        ids = np.concatenate((changed, NEW))
        self.base = Scorer(model, catalogue, IDS, vectors_of(n, dtype))
        self.added = Added(ids, vectors_of(len(ids), dtype), RNG.choice(BIRTHS, len(ids)))
        self.joined = self.base.joined(self.added)
        every = np.union1d(IDS, NEW)
        at = {key: row for row, key in enumerate(IDS.tolist())}
        at |= {key: n + row for row, key in enumerate(ids.tolist())}
        rows = [at[key] for key in every.tolist()]
        vectors = torch.cat((self.base.vectors, self.added.vectors))[rows]
        born = np.concatenate((self.base.created, self.added.created))[rows]
        self.full = Scorer(model, catalogue, every, vectors, born)


@pytest.fixture(scope="module", params=[torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
def world(request: pytest.FixtureRequest) -> World:
    return World(request.param)


def score(scorer: Scorer, seed: int, candidates: NDArray[np.int64] | None, **how: Any) -> Scored:
    return scorer.score("red shoe", as_inputs([random_request(seed)]), candidates, WEIGHTS, **how)


def assert_equal(one: Scored, two: Scored) -> None:
    for name in ("ids", "unknown", "dots", "cross_scores", "scores"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), name)
    every = np.arange(len(one.ids))
    np.testing.assert_array_equal(one.x(every), two.x(every))
    np.testing.assert_array_equal(one.top(10), two.top(10))


@settings(max_examples=30)
@given(SEEDS, st.integers(0, 500))
def test_joined_items_score_as_those_of_a_full_index(world: World, seed: int, n: int) -> None:
    pool = np.concatenate((IDS, NEW, [3_000_000, -3_000_000]))
    candidates = np.random.default_rng(seed).permutation(pool)[:n]
    assert_equal(score(world.joined, seed, candidates), score(world.full, seed, candidates))


def test_without_candidates_the_whole_is_scored(world: World) -> None:
    found = score(world.joined, 5, None)
    assert_equal(found, score(world.full, 5, None))
    np.testing.assert_array_equal(found.ids, np.union1d(IDS, NEW))


def test_it_equals_the_dense_reference(world: World) -> None:
    asked = ("red shoe", as_inputs([random_request(5)]), np.concatenate((NEW, IDS)), WEIGHTS)
    swept, dense = world.joined.score(*asked), world.joined.score_dense(*asked)
    np.testing.assert_allclose(swept.scores, dense.scores, rtol=0, atol=1e-4)


def test_what_joined_before_goes_when_something_else_joins(world: World) -> None:
    own = world.added
    one = Added(own.ids[:1], own.vectors[:1], own.created[:1])
    again = world.joined.joined(one)
    assert len(again.table) == len(IDS)
    assert len(score(again, 1, NEW).unknown) == len(NEW)
    assert_equal(score(again.joined(own), 1, None), score(world.joined, 1, None))


def test_the_index_itself_is_neither_copied_nor_changed(world: World) -> None:
    before = score(world.base, 3, None)
    assert world.joined.vectors.data_ptr() == world.base.vectors.data_ptr()
    assert len(before.ids) == len(IDS)
    assert_equal(score(world.base, 3, None), before)


def test_vectors_of_another_width_are_refused(world: World) -> None:
    own = world.added
    with pytest.raises(ValueError, match="another width"):
        world.base.joined(Added(own.ids, own.vectors[:, 1:], own.created))
