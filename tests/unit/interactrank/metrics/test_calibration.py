"""Tallies of predictions: additive, and as exact as the plain definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from interactrank.metrics.calibration import calibration_error, curve, histogram
from interactrank.metrics.ranking import MetricError, expected_calibration_error


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def predictions(seed: int, n: int = 30_000, shift: float = 0.0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(-2, 1.5, n)
    return logits + shift, rng.random(n) < sigmoid(logits)


@pytest.mark.parametrize("shift", [0.0, 1.0, -2.0])
def test_equals_the_error_of_the_plain_definition(shift: float) -> None:
    logits, labels = predictions(0, shift=shift)
    plain = expected_calibration_error(logits, labels)
    assert calibration_error(histogram(sigmoid(logits), labels)) == pytest.approx(plain, abs=1e-3)


@given(st.integers(0, 1000), st.integers(0, 500))
def test_tallies_of_parts_add_up(seed: int, cut: int) -> None:
    logits, labels = predictions(seed, 500)
    p = sigmoid(logits)
    whole = histogram(p[:cut], labels[:cut]) + histogram(p[cut:], labels[cut:])
    np.testing.assert_allclose(whole, histogram(p, labels))


def test_the_curve_holds_every_prediction_once() -> None:
    logits, labels = predictions(3)
    found = curve(histogram(sigmoid(logits), labels), bins=10)
    assert found[:, 0].sum() == len(logits)
    assert len(found) == 10
    assert (found[:, 0] > 2_000).all()
    assert (np.diff(found[:, 1]) > 0).all()
    np.testing.assert_allclose(found[:, 1], found[:, 2], atol=0.03)
    assert np.average(found[:, 2], weights=found[:, 0]) == pytest.approx(labels.mean())


def test_equal_predictions_share_a_bin() -> None:
    found = curve(histogram(np.full(1000, 0.5), np.arange(1000) < 250))
    np.testing.assert_allclose(found, [[1000, 0.5, 0.25]])


def test_certainty_is_legal_and_nothing_has_no_error() -> None:
    assert calibration_error(histogram(np.array([0.0, 1.0]), np.array([False, True]))) == 0.0
    assert math.isnan(calibration_error(histogram(np.zeros(0), np.zeros(0, bool))))


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.1])
def test_what_is_no_probability_is_refused(value: float) -> None:
    with pytest.raises(MetricError, match=r"\[0, 1\]"):
        histogram(np.array([value]), np.array([True]))
