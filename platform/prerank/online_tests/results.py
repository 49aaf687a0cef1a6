"""What an online report says of an experiment, as plain data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from prerank.online_tests.course import NO_COURSE, Course
from prerank.online_tests.statistics import Interval

ALPHA = 0.05
"""Chance that an interval is ever wrong; divided among the variants that are compared."""
SPLIT_P = 0.01
"""Below it, users are split otherwise than configured."""
LEAST_USERS = 100
"""Of each variant, before anything is concluded: intervals rest on the central limit theorem."""
SLOWER, SLOWER_MS = 0.1, 5.0
"""A variant may be slower than the control by this part of its mean latency, or by so many
milliseconds, whichever is more. The latter is a twentieth of the time budget that a deployment has
by default: a control that scores nothing is faster by more than a tenth than anything that does."""
FEWER = 10
"""Times fewer requests than an A/B test an interleaving should need."""

FULFILMENT, ENGAGEMENTS = "fulfilment", "engagements"
LATENCY, DEGRADED = "latency_ms", "degraded"
MEANINGS = {
    FULFILMENT: "share of the requests with an engagement",
    ENGAGEMENTS: "engagements per request",
    LATENCY: "mean milliseconds of a request",
    DEGRADED: "share of the answers that lack something",
}


@dataclass(frozen=True)
class Measured:
    """One variant.

    Attributes:
        share: of the users, as configured. users, requests: that were seen.
        versions: numbers of the versions that answered; compared: that scored beside them.
        fallback: share of the answers that the champion gave in place of a version.
        rates: by name; see ``MEANINGS``. An action's is the share of the requests with it.
        latency_ms: percentiles 50, 95 and 99; empty where none were written down.
        overlap, difference: of a shadow, by request; None where none scored.
    """

    share: float
    users: int
    requests: int
    versions: tuple[str, ...]
    compared: tuple[str, ...]
    fallback: float
    rates: Mapping[str, Interval]
    latency_ms: tuple[float, ...] = ()
    overlap: Interval | None = None
    difference: Interval | None = None


@dataclass(frozen=True)
class Compared:
    """A variant against the control.

    Attributes:
        differences: of each rate, as the rates are. lifts: relative to the control's.
    """

    differences: Mapping[str, Interval]
    lifts: Mapping[str, Interval]


@dataclass(frozen=True)
class Preference:
    """Of interleaved answers: whose items were engaged with more.

    Attributes:
        requests, users: whose answers were interleaved.
        won, lost: requests in which the variant's team, or the control's, had more.
        margin: won less lost, per request in which one of them had more.
        users_won, users_lost: users of whom more requests were won than lost, or fewer.
        sign_p: of the users, by the sign test; it holds for one look, which was planned.
    """

    requests: int
    users: int
    won: int
    lost: int
    margin: Interval
    users_won: int
    users_lost: int
    sign_p: float


@dataclass(frozen=True)
class Split:
    """Whether users are split as configured.

    Attributes:
        p: holds at every look. chi_square_p: holds for one look, which was planned.
    """

    p: float
    chi_square_p: float

    @property
    def is_wrong(self) -> bool:
        """Whether no result should be read."""
        return self.p < SPLIT_P


@dataclass(frozen=True)
class Results:
    """An experiment.

    Attributes:
        first, last: ISO times of its requests.
        alpha: of each interval.
        planned: requests at which intervals are narrowest; a ``FEWER``th of it for preferences.
        slower_ms: by how many milliseconds a variant may be slower than the control.
        variants: by name, the control first.
        compared: by name of the variant. preferences: likewise, of interleaved answers.
        events: what became of the reported events, by reason.
        problems: in words; empty where nothing is wrong.
        course: how it went; of a shadow or interleavings, nothing.
    """

    experiment: str
    mode: str
    first: str
    last: str
    window_hours: float
    alpha: float
    planned: int
    slower_ms: float
    variants: Mapping[str, Measured]
    compared: Mapping[str, Compared]
    preferences: Mapping[str, Preference]
    split: Split
    events: Mapping[str, int]
    problems: tuple[str, ...] = ()
    course: Course = NO_COURSE

    @property
    def control(self) -> str:
        """Name of the control."""
        return next(iter(self.variants))

    def flat(self) -> dict[str, float]:
        """Numbers for MLflow, by a name each."""
        found: dict[str, float] = {"split.p": self.split.p}
        for name, one in self.variants.items():
            found |= {f"{name}.requests": one.requests, f"{name}.users": one.users}
            found |= {f"{name}.{rate}": i.value for rate, i in one.rates.items()}
        for name, two in self.compared.items():
            found |= _ends(f"{name}.difference", two.differences)
            found |= _ends(f"{name}.lift", two.lifts)
        for name, preference in self.preferences.items():
            found |= _ends(name, {"preference": preference.margin})
        return {name: value for name, value in found.items() if value == value}


def _ends(prefix: str, intervals: Mapping[str, Interval]) -> dict[str, Any]:
    return {
        f"{prefix}.{name}.{end}": value
        for name, one in intervals.items()
        for end, value in vars(one).items()
    }
