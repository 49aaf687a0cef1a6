"""Intervals that hold however often one looks, for users who come again.

**Intervals** are asymptotic confidence sequences (I. Waudby-Smith, D. Arbour, R. Sinha, E. H.
Kennedy, A. Ramdas: Time-uniform central limit theory and asymptotic confidence sequences, Annals
of Statistics 52(6), 2024, theorem 2.2): with probability 1 - alpha the truth is inside at every
look at once, as soon as the central limit theorem holds at the first. Time is the number of
requests.

**Users** are the units that chance deals out, and requests of one user are alike. A rate is a ratio
of sums over users, and its standard error is that of the users' residuals, so it stays right
however alike they are. The theorem wants increments that are independent of the past; those of a
user who clicks more than others are not, but correlate positively with their past. Two looks are
then *more* alike than the theorem assumes, and by Slepian's inequality the chance that one of many
looks fails is smaller. Tests measure it on simulated users.

**Split.** Users are dealt one by one, so a mixture of multinomials is an exact e-process against
the shares (M. Lindon, A. Malek: Anytime-valid inference for multinomial count data, NeurIPS 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """An estimate and where the truth is, at every look at once. NaN: not known."""

    value: float
    low: float
    high: float

    @property
    def is_above(self) -> bool:
        """Whether all of it is above 0."""
        return self.low > 0

    @property
    def is_below(self) -> bool:
        """Whether all of it is below 0."""
        return self.high < 0


UNKNOWN = Interval(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Rate:
    """A ratio of sums over users.

    Attributes:
        value: the ratio. error: its standard error. count: what it is a ratio to: requests.
    """

    value: float
    error: float
    count: float


def ratio(totals: Floats, counts: Floats, axis: int = -1) -> tuple[Any, Any]:
    """Sum of ``totals`` per sum of ``counts`` along an axis of users, and its standard error.

    Args:
        totals: of each user. counts: likewise; of users without any, 0.
        axis: of the users.

    Returns:
        The ratio, and its error by the users' residuals; NaN where fewer than two users count.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        whole = counts.sum(axis)
        value = totals.sum(axis) / whole
        residuals = totals - np.expand_dims(value, axis) * counts
        users = (counts > 0).sum(axis)
        variance = np.square(residuals).sum(axis) * (users / (users - 1)) / np.square(whole)
    return value, np.where(users > 1, np.sqrt(variance), np.nan)


def rate(totals: Floats, counts: Floats) -> Rate:
    """``ratio`` of the users of one variant: two float64 [users]."""
    value, error = ratio(totals, counts)
    return Rate(float(value), float(error), float(counts.sum()))


def half_width(error: Any, count: Any, alpha: float, planned: float) -> Any:
    """Of a confidence sequence.

    Args:
        error: standard error of the estimate.
        count: requests that it is of, which is the time.
        alpha: chance that the truth is ever outside.
        planned: requests at which the interval is to be as narrow as it can be. To be fixed before
            the first look; the interval holds whatever it is.
    """
    # At `planned`, (rho^2 of the paper) * count is what makes the interval narrowest.
    best = -2 * math.log(alpha) + math.log(1 - 2 * math.log(alpha))
    time = best * np.maximum(count, 1) / planned
    return error * np.sqrt(2 * (1 + 1 / time) * (np.log1p(time) / 2 - math.log(alpha)))


def interval(found: Rate, alpha: float, planned: float) -> Interval:
    """Of a rate."""
    half = float(half_width(found.error, found.count, alpha, planned))
    return Interval(found.value, found.value - half, found.value + half)


def difference(of: Rate, control: Rate, alpha: float, planned: float) -> Interval:
    """Of two rates whose users are others: ``of`` less ``control``."""
    error = math.hypot(of.error, control.error)
    return interval(Rate(of.value - control.value, error, of.count + control.count), alpha, planned)


def lift(of: Rate, control: Rate, alpha: float, planned: float) -> Interval:
    """By how much of the control's a rate is higher; unknown where one of them is not above 0."""
    if not (of.value > 0 and control.value > 0):
        return UNKNOWN
    error = math.hypot(of.error / of.value, control.error / control.value)
    logarithm = Rate(math.log(of.value / control.value), error, of.count + control.count)
    found = interval(logarithm, alpha, planned)
    return Interval(*(math.expm1(end) for end in (found.value, found.low, found.high)))


def chi_square(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The p-value of a split by the chi-square test; it holds for one look, which was planned.

    Args:
        counts: of users. shares: that were configured, each above 0.
    """
    total, freedom = sum(counts), len(counts) - 1
    if not total or not freedom:
        return 1.0
    expected = [total * share / sum(shares) for share in shares]
    found = sum((n - e) ** 2 / e for n, e in zip(counts, expected, strict=True))
    return _above(found, freedom)


def _above(value: float, freedom: int) -> float:
    """Chance that a chi-square variable is above a value: the regularised upper gamma function."""
    half = value / 2
    if freedom % 2:
        found, term = math.erfc(math.sqrt(half)), math.sqrt(half) * math.exp(-half) * 2
        term, first = term / math.sqrt(math.pi), 3
    else:
        found, term, first = math.exp(-half), half * math.exp(-half), 4
    for degree in range(first, freedom + 1, 2):
        found += term
        term *= half / (degree / 2)
    return min(found, 1.0)


def split(counts: Sequence[int], shares: Sequence[float]) -> float:
    """The p-value of a split that holds at every look: 1 by the e-value of a Dirichlet mixture.

    Args:
        counts: of users. shares: that were configured, each above 0.
    """
    # The prior is uniform over all splits.
    log_e = math.lgamma(len(counts)) - math.lgamma(len(counts) + sum(counts))
    for n, share in zip(counts, shares, strict=True):
        log_e += math.lgamma(1 + n) - n * math.log(share / sum(shares))
    return min(1.0, math.exp(min(-log_e, 0.0)))


def sign_test(won: int, lost: int) -> float:
    """Two-sided p-value of so many heads and tails of a fair coin; ties were left out."""
    total, fewer = won + lost, min(won, lost)
    if not total:
        return 1.0
    logs = [
        math.lgamma(total + 1) - math.lgamma(n + 1) - math.lgamma(total - n + 1)
        for n in range(fewer + 1)
    ]
    return min(1.0, 2 * sum(math.exp(log - total * math.log(2)) for log in logs))
