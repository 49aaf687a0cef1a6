"""Propensities and SNIPS on click logs whose examination is known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from prerank.core.propensities import FLOOR, Propensities, fit
from prerank.evaluation.counterfactual import Engagements, effective_size, snips

PLACES = 8
TRUTH = np.arange(1.0, PLACES + 1) ** -0.8


def click_log(seed: int, requests: int, pairs: int = 60):
    """Relevance [pairs], items and clicks [requests, PLACES]; better items stand higher."""
    rng = np.random.default_rng(seed)
    relevance = rng.beta(1, 4, pairs)
    items = np.argsort(rng.random((requests, pairs)), axis=1)[:, :PLACES]
    # A production ranker: noisy, but better than chance, so clicks and places are confounded.
    noisy = relevance[items] + rng.normal(0, 0.15, items.shape)
    items = np.take_along_axis(items, np.argsort(-noisy, axis=1), axis=1)
    clicks = rng.random(items.shape) < relevance[items] * TRUTH
    return relevance, items, clicks


def cells(items: NDArray[np.int64], clicks: NDArray[np.bool_]):
    place = np.broadcast_to(np.arange(1, PLACES + 1), items.shape)
    code = items * 100 + place
    distinct, index = np.unique(code, return_inverse=True)
    index = index.reshape(-1)
    return (
        distinct // 100,
        distinct % 100,
        np.bincount(index),
        np.bincount(index, clicks.reshape(-1)).astype(np.int64),
    )


def test_known_examination_is_found_although_better_items_stand_higher() -> None:
    _, items, clicks = click_log(0, 20_000)
    found = fit(*cells(items, clicks))
    assert found is not None
    assert found.first == tuple(range(1, PLACES + 1))
    np.testing.assert_allclose(found.value, TRUTH, rtol=0.12)
    naive = clicks.mean(axis=0) / clicks.mean(axis=0)[0]
    assert abs(naive - TRUTH).max() > 2 * abs(np.array(found.value) - TRUTH).max()


def test_items_that_never_move_say_nothing() -> None:
    stratum, place = np.arange(50), np.arange(50) % 5
    engaged = np.full(50, 100)
    # Without a pair at two places every place has its own items: any examination fits.
    only_first = place == 0
    assert (
        fit(stratum[only_first], place[only_first], engaged[only_first] * 2, engaged[only_first])
        is None
    )
    none = np.zeros(0, np.int64)
    assert fit(none, none, none, none) is None


def test_thin_places_are_pooled_with_their_neighbours() -> None:
    stratum = np.repeat(np.arange(2), 4)
    place = np.tile([1, 2, 7, 9], 2)
    engaged = np.tile([80, 60, 30, 30], 2)
    found = fit(stratum, place, engaged * 3, engaged)
    assert found is not None
    assert found.first == (1, 2, 7)
    thin = fit(stratum, place, engaged * 3, engaged // 10)
    assert thin is None


def test_no_propensity_falls_below_the_floor() -> None:
    stratum, place = np.repeat(np.arange(3), 2), np.tile([1, 2], 3)
    shown, engaged = np.tile([500, 500_000], 3), np.tile([200, 200], 3)
    found = fit(stratum, place, shown, engaged)
    assert found is not None
    assert found.value == (1.0, FLOOR)


def test_places_outside_the_known_take_the_nearest_group() -> None:
    found = Propensities((2, 4), (1.0, 0.5), 10, "item")
    np.testing.assert_array_equal(found.at(np.array([1, 2, 3, 4, 99])), [1, 1, 1, 0.5, 0.5])


def known(value: NDArray[np.float64]) -> Propensities:
    return Propensities(tuple(range(1, len(value) + 1)), tuple(value), 1, "query and item")


def estimated(clicks, scores, propensities):
    """DCG of the order that ``scores`` [requests, PLACES] give, with its interval."""
    offsets = np.arange(len(clicks) + 1) * PLACES
    places = np.tile(np.arange(1.0, PLACES + 1), len(clicks))
    engaged = Engagements.of(clicks.reshape(-1), places, offsets, propensities)
    return snips(engaged.gains(scores.reshape(-1))["dcg"], engaged.weights()["weight"], 200)


def true_value(relevance, items, scores):
    ranks = np.argsort(np.argsort(-scores, axis=1), axis=1) + 1
    weight = relevance[items]
    return float((weight / np.log2(1 + ranks)).sum() / weight.sum())


def test_snips_finds_the_value_of_an_order_that_was_not_shown() -> None:
    relevance, items, clicks = click_log(1, 20_000)
    scores = np.random.default_rng(2).random(len(relevance))[items]
    _, (low, high) = estimated(clicks, scores, known(TRUTH))
    assert low <= true_value(relevance, items, scores) <= high
    assert high - low < 0.05


def test_clicks_alone_flatter_the_order_that_was_shown() -> None:
    relevance, items, clicks = click_log(1, 20_000)
    shown = np.broadcast_to(-np.arange(1.0, PLACES + 1), items.shape)
    truth = true_value(relevance, items, shown)
    assert abs(estimated(clicks, shown, known(TRUTH))[0] - truth) < 0.01
    assert estimated(clicks, shown, known(np.ones(PLACES)))[0] > truth + 0.05


def test_ranks_gains_and_weights_by_hand() -> None:
    engaged = Engagements.of(
        np.array([True, False, True, True, False]),
        np.array([1.0, 2.0, np.nan, 2.0, 1.0]),  # the third was engaged but not shown
        np.array([0, 3, 5]),
        known(np.array([1.0, 0.25])),
    )
    weights = engaged.weights()
    assert weights["weight"].tolist() == [1.0, 4.0]
    assert weights["weight2"].tolist() == [1.0, 16.0]
    gains = engaged.gains(np.array([1.0, 2.0, 1.0, 5.0, 5.0]))
    np.testing.assert_allclose(gains["mrr"], [1 / 2.5, 4 / 1.5])
    np.testing.assert_allclose(gains["dcg"], [1 / np.log2(3.5), 4 / np.log2(2.5)])
    value, (low, high) = snips(gains["mrr"], weights["weight"])
    assert value == pytest.approx((0.4 + 4 / 1.5) / 5)
    assert low <= value <= high
    assert effective_size(weights["weight"], weights["weight2"]) == pytest.approx(25 / 17)


def test_nothing_engaged_has_no_value() -> None:
    value, interval = snips(np.zeros(3), np.zeros(3))
    assert np.isnan([value, *interval]).all()
