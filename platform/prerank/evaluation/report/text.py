"""The tables of a report as plain text, its result in a few sentences, and facts of the data."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from prerank.evaluation.report.numbers import (
    best_of,
    interval,
    is_finite,
    ordered,
    p_value,
    percent,
    share,
    spread,
)
from prerank.evaluation.results import (
    BASELINE,
    COMPARED,
    LEAD,
    METRICS,
    Comparisons,
    Difference,
    Results,
)

FITTED_ON = (
    "Validation requests chose what is measured here, and in part trained it: compare rankers on "
    "the test split."
)


def metrics_table(results: Results) -> str:
    """Models × metrics as aligned plain ASCII text; the 95% interval stands under each mean.

    Beneath it, of a model that was trained with several seeds, the spread over these.
    Best models first, ``*`` marks the best value of a column; oracles and the reachable ceiling
    follow, unmarked.
    """
    models, oracles = results.models, results.oracles
    best = {metric: best_of([*models.values()], metric) for metric in METRICS}
    rows = [["", *METRICS]]
    for name in [*ordered(models), *ordered(oracles)]:
        model = models.get(name) or oracles[name]
        means = {metric: share(model.mean(metric)) for metric in METRICS}
        wins = {m: name in models and v == best[m] != "-" for m, v in means.items()}
        rows.append([name, *(v + "*" * wins[m] for m, v in means.items())])
        rows.append(["", *(interval(model.ci.get(metric)) for metric in METRICS)])
        rows.append(["", *(spread(results.seeds.get(name, {}).get(m)) for m in METRICS)])
    if ceiling := results.reachable_ceiling:
        rows.append(["reachable ceiling", *(share(ceiling.get(metric)) for metric in METRICS)])
    return _aligned(rows)


def seeds_note(results: Results) -> str:
    """What several trainings are shown as, and which is the version's; nothing of one."""
    if not results.seeds:
        return ""
    said = "Means of trainings that differ by their seed; +- is the standard deviation over seeds."
    if len(results.trainings) > 1:
        best, *others = results.trainings
        found = ", ".join(f"{share(results.trainings[s])} for seed {s}" for s in others)
        said += (
            f" The version is that of seed {best}, which was best on validation: MRR "
            f"{share(results.trainings[best])}, against {found}."
        )
    return said


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines, the first column to the left; rows without a word are left out."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        row[0].ljust(widths[0])
        + "".join(f"  {c:>{w}}" for c, w in zip(row[1:], widths[1:], strict=True))
        for row in rows
        if any(row)
    )
    return "\n".join(line.rstrip() for line in lines)


def versus_table(results: Results) -> str:
    """What LEAD gains on each other ranker, paired over requests, as plain text."""
    if not results.versus:
        return ""
    rows = [[f"{LEAD} against", *COMPARED]]
    for name in ordered(results.models):
        if own := results.versus.get(name):
            rows.append([name, *(_paired(own.get(metric)) for metric in COMPARED)])
    return _aligned(rows) + f"\n{FITTED_ON}" * (results.split == "validation")


def _paired(found: Difference | None) -> str:
    if found is None or not is_finite(found.p):
        return "-"
    mean, low, high = (f"{x:+.3f}".replace("0.", ".", 1) for x in (found.difference, *found.ci))
    return f"{mean} ({low} to {high}), p {p_value(found.p)}"


def headline(results: Results) -> str:
    """The result in a few plain sentences, about LEAD or else the best model."""
    models = results.models
    best = ordered(models)[0]
    lead = LEAD if LEAD in models else best
    said = _kept(results, lead) + _first_three(results, lead)
    if best != lead:
        pair = f"{share(models[best].mean('mrr'))} against {share(models[lead].mean('mrr'))}"
        said.append(f"{best} ranks better by MRR: {pair}.")
    if results.split == "validation":
        said.append(FITTED_ON)
    return " ".join(said) or f"{lead} has no measured value."


def _first_three(results: Results, lead: str) -> list[str]:
    """Hits@3 of the lead, beside the others and the best possible."""
    model = results.models[lead]
    if not is_finite(hits := model.mean("hits@3")):
        return []
    first = f"{lead} places an engaged item among its three best in {percent(hits)} of requests"
    if (ci := model.ci.get("hits@3")) and is_finite(ci[0]):
        first += f" (95% interval {percent(ci[0])} to {percent(ci[1])})"
    said = [first + "."]
    if (found := results.paired.get(lead, {}).get("hits@3")) and is_finite(found.p):
        said.append(_against_baseline(found))
    if lead == LEAD:
        said += _against_all(results.versus)
    if (ceiling := _ceiling(results, "hits@3")) < 1:
        said.append(f"A perfect order of the same candidates would reach {percent(ceiling)}.")
    return said


def _kept(results: Results, lead: str) -> list[str]:
    """Recall of the lead's cut."""
    if not is_finite(kept := results.models[lead].mean("recall@cut")):
        return []
    most = _ceiling(results, "recall@cut")
    at_most = f" ({percent(most)} at most)" if most < 1 else ""
    return [
        f"Cut to the best tenth, the candidates keep {percent(kept)} of engaged items{at_most}."
    ]


def _against_baseline(found: Difference) -> str:
    """The paired comparison in words; an interval around zero is called that."""
    difference, (low, high) = found.difference, found.ci
    span = f"95% interval {_points(low)} to {_points(high)} points"
    if low <= 0 <= high:
        return f"That cannot be told apart from {BASELINE} ({_points(difference)} points, {span})."
    word = "more" if difference > 0 else "fewer"
    points = f"{abs(100 * difference):.1f} points {word}"
    return f"That is {points} than {BASELINE} ({span}, p {p_value(found.p)})."


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}".replace("-", "−")


def _against_all(versus: Comparisons) -> list[str]:
    """How many of the others the lead beats by MRR beyond doubt."""
    found = [own["mrr"] for own in versus.values() if "mrr" in own and is_finite(own["mrr"].p)]
    if len(found) < 2:
        return []
    won = sum(test.difference > 0 and test.p < 0.01 for test in found)
    which = f"each of the {len(found)}" if won == len(found) else f"{won} of the {len(found)}"
    return [f"By MRR it is better than {which} other rankers with p < .01."]


def _ceiling(results: Results, metric: str) -> float:
    """The reachable ceiling; 1 where it is not known or prints as 100%."""
    value = results.reachable_ceiling.get(metric)
    return value if is_finite(value) and value < 0.9995 else 1.0


def facts(results: Results) -> dict[str, str]:
    """What was evaluated on, as far as it is known."""
    own = results.dataset
    counts = {
        "users": own.users,
        "queries": own.queries,
        "items": own.items,
        f"engaged candidates in {results.split}": own.positives,
    }
    said = {"log": own.name}
    if own.requests:
        said["requests"] = " · ".join(f"{part} {n:,}" for part, n in own.requests.items())
    said |= {name: f"{count:,}" for name, count in counts.items() if count is not None}
    if is_finite(own.reachable_share):
        said["engaged items reachable"] = percent(own.reachable_share)
    if own.time_span:
        said["time span"] = " to ".join(map(_minute, own.time_span))
    if own.candidates:
        said["candidates"] = own.candidates
    return said


def _minute(moment: str) -> str:
    """An ISO time to the minute; anything else, a bare date too, as it is."""
    try:
        at = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    if len(moment) <= len("2011-08-11"):
        return moment
    return f"{at:%Y-%m-%d %H:%M}" + (f" {at.tzname()}" if at.tzinfo else "")
