"""The parts of a cross score: they add up, and are exact where g is linear."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from tests import samples
from tests.plain_requests import Request, as_inputs

from interactrank.model.contributions import contributions
from interactrank.model.cross_part import cross_scores_of
from interactrank.model.interactrank import InteractRank
from interactrank.model.query_side import QuerySide
from interactrank.model.scorer import Scorer

SCHEMA = replace(samples.SCHEMA, candidate_features=("price", "distance"))
WEIGHTS = np.eye(1, len(SCHEMA.heads), dtype=np.float32)[0]
X = np.random.default_rng(4).random(len(SCHEMA.cross)).astype(np.float32)


def made(units: int, cross: bool = True) -> tuple[InteractRank, QuerySide]:
    """A model with a fusion that was fitted to nothing in particular, and a request."""
    torch.manual_seed(3)
    config = replace(samples.SHIPPED, fusion_hidden=units, cross=cross)
    model = InteractRank(config, SCHEMA, samples.CATALOGUE).eval()
    if cross:
        rng = np.random.default_rng(5)
        x = rng.random((200, len(SCHEMA.cross))).astype(np.float32)
        x[:, -3::2] = x[:, -3::2] < 0.3
        with torch.no_grad():
            model.fusion.fit(torch.from_numpy(x), torch.randn(50, 8))
            model.fusion.weight.normal_()
            if model.fusion.gate is not None:
                model.fusion.gate.weight.normal_(std=0.1)
    vectors = torch.zeros(samples.N_ITEMS, config.width)
    scorer = Scorer(model, samples.CATALOGUE, samples.CATALOGUE.ids, vectors)
    return model, scorer.query_side("red", as_inputs([Request()]), WEIGHTS)


@pytest.mark.parametrize("units", [0, 5])
def test_parts_add_up_to_the_cross_score(units: int) -> None:
    model, side = made(units)
    found = contributions(model, side, X)
    (whole,) = cross_scores_of(model, side, X[None])
    assert found.typical + found.parts.sum() + found.together == pytest.approx(whole, abs=1e-3)
    assert found.additive == (units == 0) == (found.together == 0)


def test_a_part_of_a_linear_g_is_weight_times_distance_from_the_mean() -> None:
    model, side = made(0)
    found = contributions(model, side, X)
    weights = side.cross * side.coefficients.weights[0].numpy()
    expected = weights * (X - model.fusion.x_mean.numpy())
    first = model.fusion.first_optional
    assert found.names[:first] == SCHEMA.cross[:first]
    np.testing.assert_allclose(found.parts[:first], expected[:first], atol=1e-3)


def test_an_absent_value_counts_as_the_typical_one_and_its_absence_as_its_own() -> None:
    model, side = made(0)
    first = model.fusion.first_optional
    assert contributions(model, side, X).names[first:] == ("candidate:price", "candidate:distance")
    x = X.copy()
    x[first], x[first + 1] = model.fusion.x_mean[first], 0.0
    assert contributions(model, side, x).parts[first] == pytest.approx(0, abs=1e-4)
    x[first], x[first + 1] = 0.0, 1.0
    with torch.no_grad():
        model.fusion.weight[first + 1] = 0.0
        if model.fusion.gate is not None:
            model.fusion.gate.weight[1 + first + 1] = 0.0
    side = replace(
        side, coefficients=model.fusion.coefficients(torch.from_numpy(side.request[None]))
    )
    assert contributions(model, side, x).parts[first] == pytest.approx(0, abs=1e-4)


def test_a_model_without_cross_features_has_no_parts() -> None:
    found = contributions(*made(0, cross=False), X)
    assert (found.names, found.typical, found.together) == ((), 0.0, 0.0)
