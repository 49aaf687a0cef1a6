"""Experiments: what is refused, who gets which variant, and how two rankings are drafted."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prerank.core.errors import ConfigError
from prerank.serving.experiment import Experiment, Variant, experiment_of
from prerank.serving.interleaving import team_draft

USERS = [f"user {n}" for n in range(4_000)]


def configured(*shares: float, **other: Any) -> dict[str, Any]:
    variants = [
        {"name": f"v{n}", "version": str(n + 1), "share": share} for n, share in enumerate(shares)
    ]
    return {"experiment": {"name": "first", "variants": variants} | other}


def experiment(*shares: float, **other: Any) -> Experiment:
    found = experiment_of(configured(*shares, **other))
    assert found is not None
    return found


@pytest.mark.parametrize("nothing", [None, {}, {"experiment": None}])
def test_without_an_experiment_there_is_none(nothing: Any) -> None:
    assert experiment_of(nothing) is None


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (configured(0.5, 0.4), "the shares sum to 0.9; make them sum to 1"),
        (configured(1.0), "experiment.variants"),
        (configured(0.5, 0.5, mode="abc"), "experiment.mode"),
        (configured(0.5, 0.5, name="a name"), "experiment.name"),
        (configured(1.5, -0.5), "experiment.variants[0].share"),
        (configured(0.5, 0.5, until="May"), "unknown key `experiment.until`"),
        ({"experiments": None}, "did you mean `experiment`"),
    ],
)
def test_what_is_wrong_is_named(wrong: Any, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        experiment_of(wrong)
    assert said in str(error.value)


def test_two_variants_of_one_name_are_refused() -> None:
    wrong = configured(0.5, 0.5)
    wrong["experiment"]["variants"][1]["name"] = "v0"
    with pytest.raises(ConfigError, match="a name of its own"):
        experiment_of(wrong)


def test_a_version_may_be_written_as_a_number() -> None:
    wrong = configured(0.5, 0.5)
    wrong["experiment"]["variants"][1]["version"] = 7
    found = experiment_of(wrong)
    assert found is not None
    assert found.variants[1] == Variant("v1", 7, 0.5)


@pytest.mark.parametrize("shares", [(0.5, 0.5), (0.7, 0.0, 0.3), (0.0, 1.0)])
def test_users_are_dealt_by_the_shares_and_stay_where_they_are(shares: tuple[float, ...]) -> None:
    one = experiment(*shares)
    drawn = np.array([one.draw(user, f"r{n}") for n, user in enumerate(USERS)])
    again = np.array([one.draw(user, "another request") for user in USERS])
    assert np.array_equal(drawn, again)
    found = np.bincount(drawn, minlength=len(shares)) / len(USERS)
    # Four standard errors of a share.
    assert np.abs(found - shares).max() < 4 * 0.5 / len(USERS) ** 0.5
    assert not found[np.array(shares) == 0].any()


def test_another_salt_deals_the_users_anew() -> None:
    first, second = experiment(0.5, 0.5), experiment(0.5, 0.5, salt="another")
    both = np.array([[e.draw(user, "r") for user in USERS] for e in (first, second)])
    assert abs(np.corrcoef(both)[0, 1]) < 4 / len(USERS) ** 0.5
    renamed = experiment(0.5, 0.5, name="second", salt="first")
    assert [renamed.draw(user, "r") for user in USERS] == both[0].tolist()


def test_who_is_not_known_is_dealt_by_the_request() -> None:
    one = experiment(0.5, 0.5)
    drawn = [one.draw("", request) for request in USERS]
    assert 0.4 < np.mean(drawn) < 0.6
    assert drawn == [one.draw("", request) for request in USERS]


RANKINGS = st.integers(0, 12).flatmap(
    lambda n: st.tuples(st.permutations(range(n)), st.permutations(range(n)), st.integers(0, n + 2))
)


@given(RANKINGS, st.integers(0, 2**64 - 1))
def test_a_draft_takes_the_best_that_is_left_in_turns(
    rankings: tuple[list[int], list[int], int], seed: int
) -> None:
    first, second, k = rankings
    drafted = team_draft(first, second, k, seed)
    items = [(first, second)[team][at] for team, at in drafted]
    assert len(items) == len(set(items)) == min(k, len(first))
    for n, (team, at) in enumerate(drafted):
        # Everything that its team likes better was taken before.
        assert set((first, second)[team][:at]) <= set(items[:n])
    teams = [team for team, _ in drafted]
    for n in range(0, len(teams) - 1, 2):
        assert teams[n] != teams[n + 1], "each round has one of both"


def test_each_team_begins_as_often_as_the_other() -> None:
    begins = [team_draft([1, 2], [2, 1], 1, seed)[0][0] for seed in range(2_000)]
    assert abs(np.mean(begins) - 0.5) < 4 * 0.5 / 2_000**0.5


def test_equal_rankings_stay_as_they_are_and_short_ones_are_filled_up() -> None:
    assert [at for _, at in team_draft([5, 6, 7], [5, 6, 7], 3, 1)] == [0, 1, 2]
    items = {(i, t) for t, i in team_draft([1], [2, 3, 4], 4, 3)}
    assert items == {(0, 0), (0, 1), (1, 1), (2, 1)}
