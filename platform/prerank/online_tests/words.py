"""The verdict of an experiment in words, and its tables as text."""

from __future__ import annotations

from prerank.online_tests.results import (
    DEGRADED,
    FULFILMENT,
    LATENCY,
    LEAST_USERS,
    MEANINGS,
    SLOWER,
    Compared,
    Preference,
    Results,
)
from prerank.online_tests.statistics import Interval


def verdicts(results: Results) -> list[str]:
    """A sentence or two for each variant that is compared."""
    if results.split.is_wrong:
        return [
            "Do not read this result: users are not split as configured "
            f"(p = {results.split.p:.2g}). Look for requests of one variant that are not written "
            "down, or users whose ids change."
        ]
    others = [name for name in results.variants if name != results.control]
    found = []
    for name in others:
        if results.mode == "shadow":
            found.append(_shadowed(results, name))
        elif name in results.preferences:
            found.append(_preferred(name, results.preferences[name], results.control))
        elif name in results.compared:
            found.append(_better(results, name))
        else:
            found.append(f"{name} has no requests yet, or {results.control} has none.")
    return found


def _few(results: Results, name: str) -> bool:
    both = results.variants[name], results.variants[results.control]
    return any(one.users < LEAST_USERS for one in both)


def _better(results: Results, name: str) -> str:
    two = results.compared[name]
    lift, difference = two.lifts[FULFILMENT], two.differences[FULFILMENT]
    if _few(results, name):
        return f"{name}: too few users to say anything yet."
    measured = f"{percent(lift)} fulfilled searches against {results.control}"
    worse = _worse(results, name, two)
    if difference.is_above:
        told = f"{name} is better: {measured}."
    elif difference.is_below:
        told = f"{name} is worse: {measured}. Stop it."
    else:
        told = f"{name}: no difference shown yet ({measured}). Go on, or stop at a planned end."
    return " ".join([told, *worse])


def _worse(results: Results, name: str, two: Compared) -> list[str]:
    """Guardrails that a variant breaks."""
    found = []
    if two.differences[DEGRADED].is_above:
        found.append(f"More of its answers are degraded: {points(two.differences[DEGRADED])}.")
    if slower := two.differences.get(LATENCY):
        control = results.variants[results.control].rates[LATENCY].value
        if slower.low > max(SLOWER * control, results.slower_ms):
            found.append(
                f"It is too slow: {number(slower)} ms in the mean, and {SLOWER:.0%} or "
                f"{results.slower_ms:g} ms are allowed, whichever is more."
            )
    return found


def _preferred(name: str, preference: Preference, control: str) -> str:
    if preference.users < LEAST_USERS:
        return f"{name}: too few users to say anything yet."
    margin = preference.margin
    told = (
        f"{preference.won:,} requests were won and {preference.lost:,} lost, a margin of "
        f"{points(margin)}"
    )
    if margin.is_above:
        return f"{name} is preferred to {control}: {told}."
    if margin.is_below:
        return f"{control} is preferred to {name}: {told}. Stop it."
    return f"{name}: no preference shown yet ({told}). Go on, or stop at a planned end."


def _shadowed(results: Results, name: str) -> str:
    one = results.variants[name]
    if one.overlap is None or one.difference is None:
        return f"{name}: no shadow has scored yet."
    return (
        f"{name} would have answered with {one.overlap.value:.1%} of the items that were answered; "
        f"the scores of those differ by {one.difference.value:.3g} in the mean. Nobody has seen "
        "its ranking, so nothing is said of how good it is."
    )


def percent(found: Interval) -> str:
    """A relative difference."""
    return f"{found.value:+.1%} ({found.low:+.1%} to {found.high:+.1%})"


def points(found: Interval) -> str:
    """A difference of shares, in percentage points."""
    return f"{100 * found.value:+.2f} points ({100 * found.low:+.2f} to {100 * found.high:+.2f})"


def number(found: Interval) -> str:
    """A difference of numbers."""
    return f"{found.value:+.3g} ({found.low:+.3g} to {found.high:+.3g})"


def meaning(rate: str) -> str:
    """What a rate is."""
    return MEANINGS.get(rate, f"share of the requests with the action {rate}")


def table(results: Results) -> str:
    """For a terminal."""
    lines = [
        f"{results.experiment} ({results.mode}), requests from {results.first} to {results.last}",
        f"{'':<24}{'users':>9}{'requests':>10}  {'fulfilment':<26}difference",
    ]
    for name, one in results.variants.items():
        rate, two = one.rates.get(FULFILMENT), results.compared.get(name)
        shown = "-" if rate is None else f"{rate.value:.2%} ({rate.low:.2%} to {rate.high:.2%})"
        apart = points(two.differences[FULFILMENT]) if two else ""
        lines.append(f"{name:<24}{one.users:>9,}{one.requests:>10,}  {shown:<26}{apart}".rstrip())
    for name, preference in results.preferences.items():
        lines.append(
            f"{name} against {results.control}, interleaved: won {preference.won:,}, lost "
            f"{preference.lost:,}; users {preference.users_won:,} to {preference.users_lost:,}, "
            f"sign test p = {preference.sign_p:.2g} for one planned look"
        )
    lines.append(
        f"split: p = {results.split.p:.2g} at every look (chi-square, for one planned look: "
        f"{results.split.chi_square_p:.2g})"
    )
    told = ", ".join(f"{count:,} {reason}" for reason, count in results.events.items() if count)
    lines.append(f"events: {told or 'none'}")
    lines += [f"! {problem}" for problem in results.problems]
    return "\n".join([*lines, "", *verdicts(results)])
