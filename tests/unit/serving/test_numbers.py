"""How many replicas a deployment has, and how they are replaced."""

from __future__ import annotations

import pytest

from prerank.core.errors import ConfigError
from prerank.serving.config import ServeConfig
from prerank.serving.deployment import numbers


@pytest.mark.parametrize(
    ("replicas", "cores", "expected"), [(None, 2, 1), (None, 4, 2), (3, 2, 3), (1, 16, 1)]
)
def test_replicas_follow_from_the_cores_unless_they_are_given(
    replicas: int | None, cores: float, expected: int
) -> None:
    assert numbers(ServeConfig(replicas=replicas), cores)["num_replicas"] == expected


@pytest.mark.parametrize(
    ("replicas", "cores", "surge"), [(1, 2, True), (2, 2, False), (2, 3, True)]
)
def test_a_replica_is_replaced_before_it_ends_where_there_is_a_core_for_both(
    replicas: int, cores: float, surge: bool
) -> None:
    assert bool(numbers(ServeConfig(replicas=replicas), cores)["max_surge_percent"]) == surge


def test_more_are_started_while_requests_wait_where_that_is_asked_for() -> None:
    found = numbers(ServeConfig(replicas=2, max_replicas=5, ongoing_per_replica=3.0), 8)
    assert "num_replicas" not in found
    scaling = found["autoscaling_config"]
    assert (scaling.min_replicas, scaling.max_replicas) == (2, 5)
    assert scaling.target_ongoing_requests == 3.0


def test_fewer_at_most_than_at_least_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"max_replicas: 1 is less than the 2 of `replicas`"):
        numbers(ServeConfig(replicas=2, max_replicas=1), 8)
