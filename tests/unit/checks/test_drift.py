"""The population stability index, and what is said of a feature that moved."""

from __future__ import annotations

import numpy as np
import pytest

from prerank.checks.drift import drift, psi


def counts(rng: np.random.Generator, share: float, scale: float = 1.0) -> np.ndarray:
    """Values of which a share is not 0."""
    there = rng.random(20_000) < share
    return np.where(there, rng.lognormal(0, 1, 20_000) * scale, 0.0)


def test_the_same_distribution_has_hardly_any_drift() -> None:
    rng = np.random.default_rng(0)
    assert psi(counts(rng, 0.3), counts(rng, 0.3)) < 0.01


def test_drift_grows_with_what_has_moved() -> None:
    rng = np.random.default_rng(0)
    train = counts(rng, 0.3)
    slightly, much = psi(train, counts(rng, 0.3, 1.5)), psi(train, counts(rng, 0.3, 10.0))
    assert 0.01 < slightly < much
    assert much > 0.25


def test_a_feature_that_is_gone_has_drifted_much() -> None:
    rng = np.random.default_rng(0)
    train = counts(rng, 0.3)
    assert psi(train, np.zeros(1_000)) > 1
    assert psi(train, np.where(train == 0, 0, np.nan)) > 1


def test_a_known_value() -> None:
    """Zero and not zero alone: .5 against .25 is .25 ln 2 + .25 ln 1.5 = .275."""
    train, later = np.array([0.0, 1.0] * 50), np.array([0.0] * 75 + [1.0] * 25)
    assert psi(train, later) == pytest.approx(0.25 * np.log(2) + 0.25 * np.log(1.5), abs=2e-3)


def test_nothing_to_compare_is_no_drift() -> None:
    assert psi(np.zeros(0), np.ones(3)) == psi(np.ones(3), np.zeros(0)) == 0.0
    assert psi(np.zeros(5), np.zeros(9)) == 0.0


def test_features_come_with_coverage_and_the_most_drifted_first() -> None:
    rng = np.random.default_rng(0)
    same, moved = counts(rng, 0.5), counts(rng, 0.5)
    later = np.stack([counts(rng, 0.5), counts(rng, 0.1)], axis=1)
    found = drift(["same", "moved"], np.stack([same, moved], axis=1), later)
    assert [d.name for d in found] == ["moved", "same"]
    assert found[0].coverage == pytest.approx(0.5, abs=0.02)
    assert found[0].coverage_later == pytest.approx(0.1, abs=0.02)
    assert found[0].mean_later < found[0].mean
