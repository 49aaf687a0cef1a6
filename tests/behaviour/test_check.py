"""`prerank check` on a log: what stays is no drift, and what is broken is found."""

from __future__ import annotations

from datetime import datetime

import numpy as np
import pytest

from prerank.checks.run import check
from prerank.core.errors import ConfigError
from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.dataset.splits import plan_splits


@pytest.fixture(autouse=True)
def _without_leaks(monkeypatch: pytest.MonkeyPatch) -> None:
    """They build features three times, and have tests of their own."""
    monkeypatch.setattr("prerank.checks.run.find_leaks", lambda home, manifest: None)


def since(home: Home) -> datetime:
    begin = plan_splits(home, LogManifest.load(home)).validation_from
    return datetime.fromisoformat(f"{np.datetime64(begin, 'us')}+00:00")


def test_a_later_window_is_compared_feature_by_feature(tiny_world: Home) -> None:
    found = check(tiny_world, since(tiny_world))
    names = [d.name for d in found.features]
    assert set(LogManifest.load(tiny_world).schema.cross) < set(names)
    assert len(names) == len(set(names))
    assert found.compared > 0
    assert found.trained > found.compared
    assert found.missing == ()
    assert found.busy == ()


def test_scores_are_compared_where_a_model_is_given(tiny_world: Home) -> None:
    moved = check(tiny_world, since(tiny_world), score=lambda arrays, _: arrays.x[:, 0])
    assert {d.name: d.psi for d in moved.features}["score"] == pytest.approx(
        {d.name: d.psi for d in moved.features}[LogManifest.load(tiny_world).schema.cross[0]]
    )


def test_a_window_of_the_training_data_is_refused(tiny_world: Home) -> None:
    with pytest.raises(ConfigError, match="when the training data ends"):
        check(tiny_world, datetime.fromisoformat("2025-01-02T00:00+00:00"))
