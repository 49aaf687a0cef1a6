"""From the served log of a home to the results of an experiment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from prerank.core.home import Home
from prerank.core.manifest import LogManifest
from prerank.core.times import iso
from prerank.online_tests.course import NO_COURSE, Course, course_of
from prerank.online_tests.credit import Credited, Period, credit
from prerank.online_tests.results import (
    ALPHA,
    DEGRADED,
    ENGAGEMENTS,
    FEWER,
    FULFILMENT,
    LATENCY,
    LEAST_USERS,
    SLOWER_MS,
    Compared,
    Measured,
    Preference,
    Results,
    Split,
)
from prerank.online_tests.statistics import (
    Interval,
    Rate,
    chi_square,
    difference,
    interval,
    lift,
    rate,
    sign_test,
    split,
)

_LIFTED = (FULFILMENT, ENGAGEMENTS)


def online_results(
    home: Home, experiment: str, period: Period, planned: int, slower_ms: float = SLOWER_MS
) -> Results:
    """Measure an experiment.

    Args:
        home: with the served log of the deployments.
        experiment: its name.
        period: of the requests to read.
        planned: requests at which intervals are narrowest, 1 or more.
        slower_ms: by how many milliseconds a variant may be slower than the control.

    Raises:
        DataError: nothing of it was written down.
    """
    actions = LogManifest.load(home).schema.engagements
    found = credit(home, experiment, actions, period)
    return results_of(experiment, found, actions, period, planned, slower_ms)


def results_of(
    experiment: str,
    found: Credited,
    actions: Sequence[str],
    period: Period,
    planned: int,
    slower_ms: float,
) -> Results:
    """The statistics of what was credited."""
    shares = found.shares[-1]
    control, *others = shares
    alpha = ALPHA / max(len(others), 1)
    rates = {name: _rates(_of(found.users, name), actions) for name in shares}
    compared = {
        name: _compared(rates[name], rates[control], alpha, planned)
        for name in others
        if rates[name] and rates[control]
    }
    drafts = {name: _of(found.drafts, name) for name in others}
    results = Results(
        experiment=experiment,
        mode=found.mode,
        first=str(iso(round(found.first.timestamp() * 1e6))),
        last=str(iso(round(found.last.timestamp() * 1e6))),
        window_hours=period.window.total_seconds() / 3600,
        alpha=alpha,
        planned=planned,
        slower_ms=slower_ms,
        variants={
            name: _measured(found, name, shares[name], rates[name], alpha, planned)
            for name in shares
        },
        compared=compared if found.mode != "shadow" else {},
        preferences={
            name: _preference(rows, alpha, planned / FEWER)
            for name, rows in drafts.items()
            if len(rows)
        },
        split=_split(found, shares),
        events=found.events,
        problems=tuple(_problems(found, shares)),
        course=_course(found, [control, *compared], alpha, planned),
    )
    return results


def _course(found: Credited, names: Sequence[str], alpha: float, planned: float) -> Course:
    """How the variants ``names``, which were compared, went."""
    if found.mode != "ab":
        return NO_COURSE
    return course_of(found.steps, found.step, names, alpha, planned)


def _of(frame: pd.DataFrame, variant: str) -> pd.DataFrame:
    return frame[frame["variant"] == variant]


def _rates(users: pd.DataFrame, actions: Sequence[str]) -> dict[str, Rate]:
    """Rates of one variant, each with its error; empty where it has no request."""
    if not len(users):
        return {}
    per_request = {FULFILMENT: "fulfilled", ENGAGEMENTS: "engagements"}
    per_request |= {action: f"did {action}" for action in actions}
    per_request |= {DEGRADED: "degraded"}
    found = {name: _rate(users, column, "requests") for name, column in per_request.items()}
    if users["timed"].any():
        found[LATENCY] = _rate(users, "latency_ms", "timed")
    return found


def _rate(users: pd.DataFrame, column: str, per: str) -> Rate:
    return rate(users[column].to_numpy(np.float64), users[per].to_numpy(np.float64))


def _measured(
    found: Credited,
    name: str,
    share: float,
    rates: Mapping[str, Rate],
    alpha: float,
    planned: float,
) -> Measured:
    def known(column: str) -> Interval | None:
        users = _of(found.users, name)
        if not users["shadowed"].any():
            return None
        return interval(_rate(users, column, "shadowed"), alpha, planned)

    if name not in found.variants.index:
        return Measured(share, 0, 0, (), (), 0.0, {})
    row: Any = found.variants.loc[name]
    return Measured(
        share=share,
        users=int(row["users"]),
        requests=int(row["requests"]),
        versions=_texts(row["versions"]),
        compared=_texts(row["compared"]),
        fallback=float(row["fallback"]),
        rates={rate: interval(value, alpha, planned) for rate, value in rates.items()},
        latency_ms=tuple(map(float, row["latency_ms"])) if LATENCY in rates else (),
        overlap=known("overlap"),
        difference=known("score_difference"),
    )


def _texts(values: Any) -> tuple[str, ...]:
    return tuple(str(value) for value in values if value is not None)


def _compared(
    rates: Mapping[str, Rate], control: Mapping[str, Rate], alpha: float, planned: float
) -> Compared:
    both = [name for name in rates if name in control]
    return Compared(
        {name: difference(rates[name], control[name], alpha, planned) for name in both},
        {name: lift(rates[name], control[name], alpha, planned) for name in both},
    )


def _preference(drafts: pd.DataFrame, alpha: float, planned: float) -> Preference:
    won, lost = (drafts[column].to_numpy(np.float64) for column in ("won", "lost"))
    margin = rate(won - lost, won + lost)
    ahead, behind = int((won > lost).sum()), int((lost > won).sum())
    return Preference(
        requests=int(drafts["requests"].sum()),
        users=len(drafts),
        won=int(won.sum()),
        lost=int(lost.sum()),
        margin=interval(margin, alpha, planned),
        users_won=ahead,
        users_lost=behind,
        sign_p=sign_test(ahead, behind),
    )


def _split(found: Credited, shares: Mapping[str, float]) -> Split:
    dealt = [name for name, share in shares.items() if share]
    users = [len(_of(found.users, name)) for name in dealt]
    expected = [shares[name] for name in dealt]
    return Split(split(users, expected), chi_square(users, expected))


def _problems(found: Credited, shares: Mapping[str, float]) -> list[str]:
    problems = []
    if len(found.shares) > 1:
        problems.append(
            "the variants or their shares changed during the experiment, so its users are not "
            "split as they are now: begin another one, under another name"
        )
    moved = found.users.groupby("who")["variant"].nunique()
    if several := int((moved > 1).sum()):
        problems.append(f"{several:,} users have requests of more than one variant")
    for name, row in found.variants.iterrows():
        if len(versions := _texts(row["versions"])) > 1 and not row["fallback"]:
            problems.append(f"{name}: several versions answered: {', '.join(versions)}")
        if row["fallback"]:
            problems.append(
                f"{name}: the champion gave {row['fallback']:.1%} of the answers in place of a "
                "version that could not; they count as the variant's"
            )
    for name, share in shares.items():
        users = len(_of(found.users, name))
        if share and users < LEAST_USERS:
            problems.append(
                f"{name}: {users} users are too few to conclude anything; intervals hold from "
                f"about {LEAST_USERS} on"
            )
    return problems
