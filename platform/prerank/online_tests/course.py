"""How an experiment went: its rates as they stood at the end of each step of time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np
import pandas as pd

from prerank.core.times import iso
from prerank.online_tests.statistics import (
    Interval,
    Rate,
    difference,
    interval,
    rate,
)

MOST_STEPS = 40
HOURS = (1, 2, 6, 12, 24)
"""A step takes one of these, or whole days."""


@dataclass(frozen=True)
class Course:
    """Fulfilment of all requests until the end of each step, whenever they were engaged with.

    Attributes:
        hours: that a step takes.
        times: ISO, the ends of the steps.
        requests: until then, of all variants.
        rates: of each variant. differences: to the control's, of each other one. NaN where fewer
            than two users are there.
    """

    hours: int = 24
    times: tuple[str, ...] = ()
    requests: tuple[int, ...] = ()
    rates: Mapping[str, tuple[Interval, ...]] = field(default_factory=dict)
    differences: Mapping[str, tuple[Interval, ...]] = field(default_factory=dict)


NO_COURSE = Course()


def step_of(first: datetime, last: datetime) -> timedelta:
    """The shortest step that cuts a time into no more than ``MOST_STEPS``."""
    hours = (last - first) / timedelta(hours=1)
    for step in HOURS:
        if hours <= step * (MOST_STEPS - 1):
            return timedelta(hours=step)
    return timedelta(days=int(hours / 24 / (MOST_STEPS - 1)) + 1)


def course_of(
    steps: pd.DataFrame,
    step: timedelta,
    names: Sequence[str],
    alpha: float,
    planned: float,
) -> Course:
    """The rates and differences at the end of each step.

    Args:
        steps: a row per variant, user (``who``) and step: ``ended`` (when the step does,
            microseconds since 1970), number
            of ``requests``, and of those that were ``fulfilled``.
        step: how long each takes.
        names: of the variants, the control first.
        alpha, planned: as for ``prerank.online_tests.statistics.half_width``.
    """
    ends: list[int] = np.unique(steps["ended"]).tolist()
    found = {name: _cumulative(steps[steps["variant"] == name], ends) for name in names}
    control, *others = names
    return Course(
        hours=round(step / timedelta(hours=1)),
        times=tuple(str(iso(end)) for end in ends),
        requests=tuple(int(sum(of[at].count for of in found.values())) for at in range(len(ends))),
        rates={
            name: tuple(interval(one, alpha, planned) for one in own) for name, own in found.items()
        },
        differences={
            name: tuple(
                difference(one, other, alpha, planned)
                for one, other in zip(found[name], found[control], strict=True)
            )
            for name in others
        },
    )


def _cumulative(rows: pd.DataFrame, ends: Sequence[int]) -> list[Rate]:
    """Fulfilment of one variant until each end."""
    users, who = np.unique(rows["who"].to_numpy(str), return_inverse=True)
    fulfilled, requests = np.zeros(len(users)), np.zeros(len(users))
    ended, parts = rows["ended"].to_numpy(), rows[["fulfilled", "requests"]].to_numpy(np.float64)
    found = []
    for end in ends:
        now = ended == end
        # A user has one row a step.
        fulfilled[who[now]] += parts[now, 0]
        requests[who[now]] += parts[now, 1]
        found.append(rate(fulfilled, requests))
    return found
