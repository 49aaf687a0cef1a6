"""The statistics of online tests: on simulated users who come again, and against other ways."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats

from prerank.online_tests.results import FEWER, LEAST_USERS
from prerank.online_tests.statistics import (
    Rate,
    chi_square,
    difference,
    half_width,
    interval,
    lift,
    rate,
    ratio,
    sign_test,
    split,
)

Floats = NDArray[np.float64]
RUNS, USERS, LOOKS, PLANNED = 400, 400, 25, 8_000
ALPHA = 0.05


def experiments(
    rng: np.random.Generator, effect: float, alike: float
) -> tuple[Floats, Floats, NDArray[np.bool_]]:
    """Simulated A/B tests whose users come again and again.

    Args:
        effect: what the treatment adds to a rate of 30%.
        alike: of the requests of one user; 0 for independent ones.

    Returns:
        Engagements and requests of each user until each look [RUNS, LOOKS, USERS], and who is
        treated [USERS].
    """
    treated = np.arange(USERS) % 2 == 1
    own = np.broadcast_to(0.3 + effect * treated, (RUNS, USERS))
    if alike:
        shape = (1 - alike) / alike
        own = rng.beta(own * shape, (1 - own) * shape)
    # Some search often, some seldom.
    often = rng.gamma(1.0, 1.0, (RUNS, 1, USERS))
    requests = rng.poisson(often * PLANNED / USERS / LOOKS, (RUNS, LOOKS, USERS))
    engaged = rng.binomial(requests, own[:, None])
    return engaged.cumsum(1).astype(float), requests.cumsum(1).astype(float), treated


def intervals(engaged: Floats, requests: Floats, treated: NDArray[np.bool_]) -> Floats:
    """Low and high ends of the difference at each look [2, RUNS, LOOKS]."""
    (a, of_a), (b, of_b) = (ratio(engaged[..., w], requests[..., w]) for w in (~treated, treated))
    half = half_width(np.hypot(of_a, of_b), requests.sum(-1), ALPHA, PLANNED)
    return np.array([b - a - half, b - a + half])


@pytest.mark.parametrize("alike", [0.0, 0.1, 0.4])
def test_with_no_difference_none_is_found_however_often_one_looks(alike: float) -> None:
    low, high = intervals(*experiments(np.random.default_rng(1), 0.0, alike))
    wrong = ((low > 0) | (high < 0)).any(1).mean()
    # Three standard errors of a share of 5% in so many runs.
    assert wrong <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


@pytest.mark.parametrize("alike", [0.0, 0.4])
def test_of_equal_rankings_none_is_preferred_from_the_first_look_on(alike: float) -> None:
    # Margins of interleaved requests, a few of each user, at intervals that are narrow early.
    rng = np.random.default_rng(6)
    own = np.broadcast_to(0.5, (RUNS, USERS))
    if alike:
        own = rng.beta(*[np.full((RUNS, USERS), 0.5 * (1 - alike) / alike)] * 2)
    often = rng.gamma(1.0, 1.0, (RUNS, USERS))
    won, decided, wrong = np.zeros_like(own), np.zeros_like(own), np.zeros(RUNS, bool)
    for more in np.diff(np.geomspace(50, PLANNED, 30), prepend=0):
        requests = rng.poisson(often * more / USERS)
        won, decided = won + rng.binomial(requests, own), decided + requests
        margin, error = ratio(2 * won - decided, decided)
        half = half_width(error, decided.sum(-1), ALPHA, PLANNED / FEWER)
        wrong |= (np.abs(margin) > half) & ((decided > 0).sum(-1) >= LEAST_USERS)
    assert wrong.mean() <= ALPHA + 3 * math.sqrt(ALPHA * (1 - ALPHA) / RUNS)


@pytest.mark.parametrize("effect", [0.12, -0.12])
def test_a_planted_difference_is_inside_at_every_look_and_found(effect: float) -> None:
    low, high = intervals(*experiments(np.random.default_rng(2), effect, 0.1))
    assert ((low <= effect) & (effect <= high)).all(1).mean() >= 1 - ALPHA - 0.03
    found = (low[:, -1] > 0) if effect > 0 else (high[:, -1] < 0)
    assert found.mean() > 0.9


def test_who_looks_again_and_again_at_a_plain_interval_is_misled() -> None:
    # Why there is more than a plain interval: at 25 looks it is wrong far more often than promised.
    engaged, requests, treated = experiments(np.random.default_rng(1), 0.0, 0.1)
    (a, of_a), (b, of_b) = (ratio(engaged[..., w], requests[..., w]) for w in (~treated, treated))
    wrong = (np.abs(b - a) > 1.96 * np.hypot(of_a, of_b)).any(1).mean()
    assert wrong > 3 * ALPHA


def test_requests_of_a_user_who_searches_often_are_not_taken_for_independent_ones() -> None:
    engaged, requests, treated = experiments(np.random.default_rng(3), 0.0, 0.4)
    value, error = ratio(engaged[:, -1, treated], requests[:, -1, treated])
    naive = np.sqrt(value * (1 - value) / requests[:, -1, treated].sum(-1))
    assert error.mean() == pytest.approx(value.std(), rel=0.15)
    assert naive.mean() < 0.5 * value.std()


def test_one_user_or_none_gives_no_error() -> None:
    assert math.isnan(rate(np.array([1.0]), np.array([2.0])).error)
    assert math.isnan(rate(np.zeros(0), np.zeros(0)).value)


def test_the_interval_is_narrowest_for_its_length_at_the_planned_number() -> None:
    # Multiplied with the root of the count, an interval without price for looking would be flat.
    counts = np.array([250.0, 1_000.0, 4_000.0, 16_000.0, 64_000.0])
    price = half_width(1 / np.sqrt(counts), counts, ALPHA, 4_000) * np.sqrt(counts)
    assert price.argmin() == 2
    assert 2.5 < price[2] < 3.2, "a plain interval's is 1.96"


def test_differences_and_lifts_add_the_errors_of_both() -> None:
    of, control = Rate(0.33, 0.003, 5_000), Rate(0.30, 0.004, 5_000)
    found = difference(of, control, ALPHA, 10_000)
    alone = interval(Rate(0.03, 0.005, 10_000), ALPHA, 10_000)
    assert (found.value, found.low, found.high) == pytest.approx(
        (alone.value, alone.low, alone.high)
    )
    relative = lift(of, control, ALPHA, 10_000)
    assert relative.value == pytest.approx(0.1)
    assert relative.is_above
    assert not relative.is_below
    assert math.isnan(lift(of, Rate(0.0, 0.0, 10), ALPHA, 10_000).value)


@pytest.mark.parametrize("counts", [[480, 520], [300, 350, 340], [10, 20, 30, 25], [7, 7, 1, 3, 9]])
def test_the_chi_square_test_is_scipys(counts: list[int]) -> None:
    shares = [1 / len(counts)] * len(counts)
    assert chi_square(counts, shares) == pytest.approx(stats.chisquare(counts).pvalue)


@pytest.mark.parametrize(("won", "lost"), [(0, 0), (5, 5), (9, 3), (0, 12), (180, 140)])
def test_the_sign_test_is_scipys(won: int, lost: int) -> None:
    expected = stats.binomtest(won, won + lost).pvalue if won + lost else 1.0
    assert sign_test(won, lost) == pytest.approx(expected)


def test_a_right_split_is_seldom_called_wrong_however_often_one_looks() -> None:
    rng = np.random.default_rng(4)
    runs = rng.binomial(50, 0.3, (300, 40)).cumsum(1)
    lowest = [
        min(split([n, 50 * (look + 1) - n], [0.3, 0.7]) for look, n in enumerate(run.tolist()))
        for run in runs
    ]
    assert np.mean(np.array(lowest) < 0.05) <= 0.05


def test_a_wrong_split_is_noticed() -> None:
    assert split([5_300, 4_700], [0.5, 0.5]) < 0.001
    assert split([5_020, 4_980], [0.5, 0.5]) > 0.5
    assert split([10], [1.0]) == 1.0
