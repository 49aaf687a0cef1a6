"""benchmarks/online_lifts.py: worlds are put together, and what is undecided is said to be."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prerank.online_tests.statistics import Rate

FOLDER = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture
def lifts(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.syspath_prepend(str(FOLDER))
    import online_lifts

    yield online_lifts
    sys.modules.pop("online_lifts", None)


def world(lifts: Any, seed: int, **values: float) -> Any:
    def of(value: float) -> dict[str, Rate]:
        return dict.fromkeys((lifts.FULFILMENT, lifts.ENGAGEMENTS), Rate(value, 0.01, 1_000.0))

    known = values | {lifts.ORACLE: 0.9}
    chances = {
        variant: {control: Rate(value / known[control], 0.001, 3_000.0) for control in known}
        for variant, value in known.items()
    }
    return lifts.World(seed, 3_000, {name: of(value) for name, value in values.items()}, chances)


def test_the_interval_of_several_worlds_holds_their_mean_lift(lifts: Any) -> None:
    rng, covered = np.random.default_rng(1), 0
    found: Any = None
    for _ in range(400):
        # Each world has its own level and its own lift; the mean of the lifts is 10%.
        each = []
        for level, log in ((0.5, 0.0), (0.6, np.log(1.1)), (0.7, 2 * np.log(1.1))):
            values = rng.normal((level * np.exp(log), level), 0.01)
            drawn = world(lifts, 1, of=float(values[0]), control=float(values[1]))
            each.append(drawn.lift(lifts.FULFILMENT, "of", "control"))
        found = lifts.Lift.mean(each)
        covered += abs(found.log - np.log(1.1)) < lifts.CERTAIN * found.error
        assert found.is_decided
    assert 0.91 < covered / 400 < 0.99


def test_so_many_searches_as_are_needed_find_it_four_times_of_five(lifts: Any) -> None:
    of_now = lifts.Lift(0.02, 0.02)
    assert not of_now.is_decided
    times = of_now.needed(1_000) / 1_000
    rng = np.random.default_rng(2)
    logs = rng.normal(0.02, 0.02 / np.sqrt(times), 4_000)
    decided = np.mean([lifts.Lift(log, 0.02 / np.sqrt(times)).is_decided for log in logs])
    assert decided == pytest.approx(0.8, abs=0.02)


def test_the_table_says_what_is_undecided_and_how_many_searches_would_do(lifts: Any) -> None:
    worlds = [world(lifts, s, bm25=0.5, two_tower=0.6, interactrank=0.605) for s in (1, 2)]
    told = lifts.table(worlds)
    assert "2 worlds, 6,000 searches" in told
    assert "+21.0% (" in told
    assert "the paper: +6.5%" in told
    assert "interactrank against two_tower is undecided" in told
    assert "interactrank against bm25 is undecided" not in told
    # In the same searches, the same lift is known ten times better.
    assert f"  {lifts.CHANCE:18}{'+0.8% (+0.7% to +1.0%)':>28}" in told
    assert "+50.0% (+49.9% to +50.1%) against two_tower" in told
    assert "1 world, 3,000 searches" in lifts.table(worlds[:1])


def test_a_world_is_read_as_it_was_written(lifts: Any) -> None:
    made = world(lifts, 1, bm25=0.5, two_tower=0.6)
    assert lifts.World.of(json.loads(json.dumps(made.to_dict()))) == made
