"""An engine that holds the item vectors rebuilds every score from a request's parts."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from tests.contracts.test_sweep import IDS, RETRIEVED, WEIGHTS, scorer_of
from tests.plain_requests import DAY, NOW, SCHEMA, SEEDS, as_inputs, random_request

from interactrank.model.query_parts import query_parts
from interactrank.model.scorer import Scorer


@pytest.fixture(scope="module", params=["default", "linear-g", "no-cross", "retrieved"])
def scorer(request: pytest.FixtureRequest) -> Scorer:
    if request.param == "retrieved":
        return scorer_of("default", RETRIEVED, torch.float32)
    return scorer_of(request.param, SCHEMA, torch.float32)


@settings(max_examples=30)
@given(SEEDS)
def test_scores_are_rebuilt_from_the_parts(scorer: Scorer, seed: int) -> None:
    inputs = as_inputs([random_request(seed)])
    parts = query_parts(scorer, "red shoe", inputs, WEIGHTS)
    scored = scorer.score("red shoe", inputs, IDS, WEIGHTS)
    listed = dict(zip(parts.items.tolist(), parts.weights.tolist(), strict=True))
    born = scorer.created
    for row, (item, score) in enumerate(zip(IDS.tolist(), scored.scores, strict=True)):
        known = 0 < born[row] <= NOW
        cross = listed.get(item, parts.others((NOW - born[row]) / DAY if known else None))
        rebuilt = float(parts.vector @ scorer.vectors[row].numpy()) + cross + parts.constant
        assert rebuilt == pytest.approx(float(score), abs=1e-4), item
    assert np.all(np.diff(parts.others.old[:, 0]) >= 0)
