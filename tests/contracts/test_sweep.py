"""The compiled sweep scores as the formula does, whatever stands where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.plain_requests import (
    BY_PREFIX,
    DAY,
    ITEMS,
    NOW,
    SCHEMA,
    SEEDS,
    Request,
    as_inputs,
    random_request,
)
from tests.samples import SHIPPED, VARIANTS, some_absent

from interactrank.features.catalogue import Catalogue
from interactrank.features.item_vectors import ItemVectors, narrowed
from interactrank.features.near import Near
from interactrank.features.packed_rows import unpack
from interactrank.features.reached import Reached
from interactrank.features.schema import (
    COSINE_CROSS,
    GRAPH_CROSS,
    HISTORY_LENGTH,
    REQUEST_NUMERIC,
    VECTOR_WIDTH,
    FeatureSchema,
)
from interactrank.model.interactrank import InteractRank
from interactrank.model.scorer import Scorer

UNLISTED = 40
"""Items of the index that no row and no history ever names."""
IDS = np.array([*ITEMS, *range(1000, 1000 + UNLISTED)], np.int64)
RETRIEVED = replace(SCHEMA, retriever=("score", "rank"))
PRICED = replace(RETRIEVED, candidate_features=("price", "distance"))
OWN = replace(SCHEMA, candidate_features=("price",))
SHOWN = replace(PRICED, exposure=True)
BIRTHS = [0, NOW - 30 * DAY, NOW - 30 * DAY + 1, NOW - 3 * DAY, NOW, NOW + DAY, NOW - 3000 * DAY]


def scorer_of(name: str, schema: FeatureSchema, dtype: torch.dtype) -> Scorer:
    rng = np.random.default_rng(4)
    n = len(IDS)
    catalogue = Catalogue.build(
        IDS, ["red shoe"] * n, [""] * n, np.zeros((n, 0), np.float32), rng.choice(BIRTHS, n)
    )
    torch.manual_seed(3)
    model = InteractRank(VARIANTS[name], schema, catalogue)
    model.fusion.slope.copy_(torch.tensor([0.8, 1.5]))
    if model.fusion.crosses:
        x = some_absent(torch.rand(100, len(schema.cross)), schema)
        model.fusion.fit(x, torch.randn(100, len(REQUEST_NUMERIC)))
        torch.nn.init.normal_(model.fusion.weight, std=0.3)
        if model.fusion.gate is not None:
            torch.nn.init.normal_(model.fusion.gate.weight, std=0.1)
    vectors = torch.nn.functional.normalize(torch.randn(n, SHIPPED.width), dim=1).to(dtype)
    return Scorer(model, catalogue, IDS, vectors)


@pytest.fixture(scope="module", params=["default", "ungated", "linear-g", "no-cross"])
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module", params=[torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def plain(request: pytest.FixtureRequest, name: str) -> Scorer:
    return scorer_of(name, SCHEMA, request.param)


TOLD = {"retrieved": RETRIEVED, "both": PRICED, "own": OWN, "exposure": SHOWN}


@pytest.fixture(scope="module", params=[*TOLD.values()], ids=[*TOLD])
def told(request: pytest.FixtureRequest, name: str) -> Scorer:
    return scorer_of(name, request.param, torch.bfloat16)


@pytest.fixture(scope="module")
def near(name: str) -> Scorer:
    return scorer_of(name, replace(SCHEMA, graph=True), torch.bfloat16)


WEIGHTS = np.array([0.6, 0.4], np.float32)


def assert_equal(scorer: Scorer, asked: Request, *given: Any) -> None:
    rng = np.random.default_rng(0)
    candidates = rng.permutation(np.append(IDS, [77, 78]))
    arguments = ("red shoe", as_inputs([asked]), candidates, WEIGHTS, *given)
    with torch.no_grad():
        swept, dense = scorer.score(*arguments), scorer.score_dense(*arguments)
    np.testing.assert_array_equal(swept.ids, dense.ids)
    np.testing.assert_array_equal(swept.unknown, dense.unknown)
    assert (swept.scale, swept.constant) == (dense.scale, dense.constant)
    np.testing.assert_allclose(swept.dots, dense.dots, rtol=0, atol=1e-5)
    size = max(1.0, float(np.abs(dense.cross_scores).max(initial=0)))
    np.testing.assert_allclose(swept.cross_scores, dense.cross_scores, rtol=0, atol=1e-5 * size)
    size = max(size, swept.scale)
    np.testing.assert_allclose(swept.scores, dense.scores, rtol=0, atol=1e-5 * size)
    every = np.arange(len(swept.ids))
    np.testing.assert_array_equal(swept.x(every), dense.x(every))


@settings(max_examples=40)
@given(SEEDS)
def test_equals_the_dense_reference(plain: Scorer, seed: int) -> None:
    assert_equal(plain, random_request(seed))


@settings(max_examples=14)
@given(SEEDS, st.floats(0, 1))
def test_equals_it_with_what_is_given_of_candidates(
    told: Scorer, seed: int, missing: float
) -> None:
    rng = np.random.default_rng(seed)
    said, n = len(told.schema.retriever), len(IDS) + 2
    size = (n, len(told.schema.candidate_features))
    own = rng.choice([-1, 1], size) * np.exp(rng.normal(3, 4, size))
    both = np.concatenate((rng.random((n, 2))[:, :said] * [4, 900][:said], own), axis=1)
    given_: NDArray[np.float32] = both.astype(np.float32)
    given_[rng.random(given_.shape) < missing] = np.nan
    assert_equal(told, random_request(seed, told.schema), given_)
    assert_equal(told, random_request(seed, told.schema))


@settings(max_examples=14)
@given(SEEDS)
def test_equals_it_with_what_is_near_to_the_request(near: Scorer, seed: int) -> None:
    """Items too that no row and no history names."""
    rng = np.random.default_rng(seed)
    items = rng.permutation(np.append(IDS, [77, 99]))[:20].astype(np.int64)
    user, query = rng.random((2, 20)).astype(np.float32)
    units = rng.standard_normal((22, VECTOR_WIDTH)).astype(np.float32)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    told = Near(items, user, query, np.array([0, 20]), units[:1], units[1:2], np.array([3]))
    # Vectors are known of others too than of what is near.
    known = ItemVectors(IDS[rng.permutation(len(IDS))[:20]], narrowed(units[2:]))
    inputs = as_inputs([random_request(seed)])
    inputs = replace(inputs, **told._asdict(), snapshots={3: known})
    with torch.no_grad():
        swept, dense = (
            score("red shoe", inputs, IDS, WEIGHTS) for score in (near.score, near.score_dense)
        )
    np.testing.assert_allclose(swept.scores, dense.scores, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(swept.x(np.arange(len(IDS))), dense.x(np.arange(len(IDS))))
    if near.model.fusion.crosses:
        x = swept.x(np.arange(len(IDS)))
        for names, moved in ((GRAPH_CROSS, items), (COSINE_CROSS, known.ids)):
            columns = [near.schema.cross.index(name) for name in names]
            found = IDS[x[:, columns].all(axis=1)]
            assert set(found.tolist()) == set(moved.tolist()) & set(IDS.tolist())


def test_a_candidate_feature_moves_the_score_of_its_own_candidate() -> None:
    scorer, inputs = scorer_of("default", OWN, torch.float32), as_inputs([random_request(2)])
    prices = np.full((len(IDS), 1), 20, np.float32)
    before = scorer.score("red shoe", inputs, IDS, WEIGHTS, prices).scores
    prices[7] = 90
    after = scorer.score("red shoe", inputs, IDS, WEIGHTS, prices).scores
    assert np.flatnonzero(before != after).tolist() == [7]


@settings(max_examples=8)
@given(SEEDS, st.booleans())
def test_equals_it_where_the_index_lacks_items_that_stand_somewhere(
    told: Scorer, seed: int, gives: bool
) -> None:
    half = Scorer(told.model, told.catalogue, IDS[::2], told.vectors[::2])
    size = len(IDS) + 2, len(told.schema.given)
    values = np.random.default_rng(seed).random(size).astype(np.float32)
    assert_equal(half, random_request(seed, told.schema), *([values] if gives else []))


@pytest.mark.parametrize("n", [0, 1, 63, 64, 65, 128, 129])
def test_blocks_of_every_size(n: int) -> None:
    scorer = scorer_of("default", SCHEMA, torch.bfloat16)
    asked = as_inputs([random_request(5)])
    rng = np.random.default_rng(n)
    candidates = rng.permutation(np.append(IDS, np.arange(5000, 5100)))[:n]
    with torch.no_grad():
        swept = scorer.score("red shoe", asked, candidates, WEIGHTS)
        dense = scorer.score_dense("red shoe", asked, candidates, WEIGHTS)
    np.testing.assert_allclose(swept.scores, dense.scores, rtol=0, atol=1e-3)
    assert len(swept.ids) == n


@given(SEEDS)
def test_who_stands_somewhere_is_reached_and_others_seldom(seed: int) -> None:
    asked = random_request(seed)
    somewhere = Reached(SCHEMA, as_inputs([asked]))
    found = set(IDS[somewhere.among(IDS)].tolist())
    expected = {item for item, *_ in asked.history[-HISTORY_LENGTH:]}
    for key, block in asked.rows.items():
        if block is not None:
            expected |= set(unpack(block, SCHEMA.columns(BY_PREFIX[key[0]])).ids.tolist())
    assert expected <= found
    assert len(found - expected) <= 3
    assert len(somewhere.among(np.array([somewhere.nobody()]))) == 0


def test_no_candidates_are_the_whole_index(plain: Scorer) -> None:
    inputs = as_inputs([random_request(3)])
    every = plain.score("red shoe", inputs, None, WEIGHTS)
    named = plain.score("red shoe", inputs, IDS, WEIGHTS)
    np.testing.assert_array_equal(every.ids, IDS)
    np.testing.assert_array_equal(every.scores, named.scores)
    assert len(every.unknown) == 0
