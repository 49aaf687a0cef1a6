"""The serving path of the model: what it serves is what was trained, for its own candidate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.samples import (
    CATALOGUE,
    CONTEXT,
    HOUR,
    N_ITEMS,
    NOW,
    SCHEMA,
    TABLE,
    batch,
    item_vectors,
)

from interactrank.features.batch import RequestArrays
from interactrank.features.engagement import cross_features
from interactrank.features.inputs import FeatureInputs
from interactrank.features.packed_rows import pack
from interactrank.features.schema import LEVELS
from interactrank.features.searches import level_code
from interactrank.features.text import engagement_keys, segment_bucket, tokens
from interactrank.model.interactrank import InteractRank
from interactrank.model.scorer import Scored, Scorer

UNKNOWN = 77
"""An item that is counted, and stands in no catalogue and no index."""


def request_inputs(query: str, events: int, seed: int = 0) -> FeatureInputs:
    rng = np.random.default_rng(seed)
    keys = engagement_keys(query, CONTEXT)
    blocks = []
    for key in keys:
        level = LEVELS[level_code(key)]
        columns = SCHEMA.columns(level)
        ids = np.append(UNKNOWN, np.sort(rng.choice(CATALOGUE.ids, 9, replace=False)))
        counts = rng.integers(0, 9, (10, len(columns))).astype(np.float64)
        blocks.append(pack(ids, counts, columns, level))
    sizes = np.array([len(b) for b in blocks])
    return FeatureInputs(
        time=np.array([NOW]),
        blocks=np.frombuffer(b"".join(blocks), np.uint8),
        block_start=np.cumsum(sizes) - sizes,
        block_size=sizes,
        key_block=np.arange(len(keys)),
        key_level=np.array([level_code(k) for k in keys]),
        key_offsets=np.array([0, len(keys)]),
        hist_items=rng.choice(CATALOGUE.ids, events),
        hist_actions=rng.integers(1, 3, events),
        hist_times=NOW - np.arange(events, 0, -1) * HOUR,
        hist_queries=rng.integers(0, 3, events),
        hist_offsets=np.array([0, events]),
        query=np.array([2]),
        tokens=np.array([len(tokens(query))]),
        segments=np.array([[segment_bucket(v) for v in CONTEXT.values()]]),
    )


def scorer_of(model: InteractRank) -> Scorer:
    vectors = item_vectors(model, CATALOGUE)[1:].to(torch.bfloat16)
    return Scorer(model, CATALOGUE, CATALOGUE.ids, vectors)


WEIGHTS = np.array([0.6, 0.4], np.float32)


@pytest.mark.parametrize(("query", "events"), [("red shoe", 5), ("", 0)])
def test_served_scores_are_the_models(model: InteractRank, query: str, events: int) -> None:
    inputs = request_inputs(query, events)
    candidates = np.append(UNKNOWN, CATALOGUE.ids[::-1][:19])
    created = CATALOGUE.created_at(TABLE.rows(candidates))
    offsets = np.array([0, len(candidates)])
    told = np.random.default_rng(3).random((20, len(SCHEMA.given))).astype(np.float32)
    told[::3] = np.nan
    told[1::4, -1] = np.nan
    source = RequestArrays.of(
        SCHEMA,
        [query],
        inputs,
        candidates=candidates,
        offsets=offsets,
        x=cross_features(SCHEMA, inputs, candidates, offsets, created, told),
        labels=np.zeros(20, np.int64),
    )
    expected = model(batch(source)).logits @ torch.from_numpy(WEIGHTS)
    scored = scorer_of(model).score(query, inputs, candidates, WEIGHTS, told)
    np.testing.assert_array_equal(scored.x(np.arange(20)), source.x)
    np.testing.assert_array_equal(scored.request, source.request[0])
    assert scored.ids.tolist() == candidates.tolist()
    assert scored.unknown.tolist() == [UNKNOWN]
    # Within 2e-2 of the dot, which bf16 rounds; g(x) and the bias are exact.
    assert np.abs(scored.scores - expected.numpy()).max() <= 2e-2 * scored.scale
    assert np.abs(scored.dots).max() <= 1.01 * float(model.fusion.slope.max())
    parts = scored.scale * scored.dots + scored.cross_scores + scored.constant
    np.testing.assert_allclose(scored.scores, parts, atol=1e-5)


def test_a_served_score_depends_on_its_candidate_only(model: InteractRank) -> None:
    scorer, inputs = scorer_of(model), request_inputs("red shoe", 5)
    whole = scorer.score("red shoe", inputs, CATALOGUE.ids, WEIGHTS)
    order = np.random.default_rng(0).permutation(N_ITEMS)
    permuted = scorer.score("red shoe", inputs, CATALOGUE.ids[order], WEIGHTS)
    np.testing.assert_array_equal(permuted.scores, whole.scores[order])
    for size in (1, 2, 7):
        for i in range(0, N_ITEMS, 5):
            some = scorer.score("red shoe", inputs, CATALOGUE.ids[i : i + size], WEIGHTS)
            np.testing.assert_array_equal(some.scores, whole.scores[i : i + size])
            np.testing.assert_array_equal(some.cross_scores, whole.cross_scores[i : i + size])


def test_unknown_and_no_candidates_are_answered(model: InteractRank) -> None:
    scorer, inputs = scorer_of(model), request_inputs("red shoe", 5)
    mixed = np.array([UNKNOWN, 1003, -5, 1001])
    scored = scorer.score("red shoe", inputs, mixed, WEIGHTS)
    assert scored.ids.tolist() == mixed.tolist()
    assert scored.unknown.tolist() == [UNKNOWN, -5]
    strange = scorer.score("red shoe", inputs, scored.unknown, WEIGHTS)
    np.testing.assert_array_equal(strange.scores, scored.scores[[0, 2]])
    # Nothing is known of either, so that their counts alone tell them apart.
    assert strange.dots[0] == strange.dots[1]
    assert strange.cross_scores[0] != strange.cross_scores[1] or not model.fusion.crosses
    empty = scorer.score("red shoe", inputs, mixed[:0], WEIGHTS)
    assert len(empty.scores) == len(empty.ids) == len(empty.top(10)) == 0


def scored_as(ids: list[int], scores: list[float]) -> Scored:
    values, none = np.array(scores, np.float32), np.zeros(0, np.int64)

    def x(at: NDArray[np.int64]) -> NDArray[np.float32]:
        return np.zeros((len(at), 0), np.float32)

    return Scored(np.array(ids), values, values, values, none, 1.0, 0.0, x, values[:0])


@pytest.mark.parametrize("k", [1, 2, 3, 4, 5, 6, 50])
def test_top_is_a_stable_sort_with_ties_by_id(k: int) -> None:
    ids, scores = [5, 3, 9, 1, 7, 2], [1.0, 2.0, 2.0, 1.0, 1.0, 0.5]
    expected = sorted(range(6), key=lambda i: (-scores[i], ids[i]))[:k]
    assert scored_as(ids, scores).top(k).tolist() == expected


def test_top_of_many_ties() -> None:
    rng = np.random.default_rng(0)
    ids, scores = rng.permutation(500).tolist(), rng.integers(0, 5, 500).astype(float).tolist()
    expected = sorted(range(500), key=lambda i: (-scores[i], ids[i]))
    for k in (1, 99, 100, 250, 499, 500, 501):
        assert scored_as(ids, scores).top(k).tolist() == expected[:k]
